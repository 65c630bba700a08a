"""What published data sets are called, how they lie on a disk, and where to get them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

Config = Mapping[str, Any]


class Recipe(NamedTuple):
    """How a data set is read.

    Attributes:
        get: what to put where; ends the message that it is missing.
        test: config of the dataset; ``{}`` in it is the folder that all data sets lie in.
        train: the same of the training images, where there are any for a probe.
        names: file in ``class_names`` that names its classes; ``'CamelCase'`` tells words in a name
            by their capitals; None takes the names as they are.
    """

    get: str
    test: Config
    train: Config | None = None
    names: str | None = None


def folders(get: str, test: str, train: str | None = None, names: str | None = None) -> Recipe:
    """A folder for each class."""

    def read(path: str) -> Config:
        return dict(type="ImageFolder", root=f"{{}}/{path}", labels="folders")

    return Recipe(get, read(test), read(train) if train else None, names)


def mmpretrain(
    get: str, name: str, folder: str, train: str = "train", names: str | None = None
) -> Recipe:
    """One that mmpretrain reads."""
    both = [
        dict(
            type="MMPretrainDataset",
            dataset=dict(type=name, data_root=f"{{}}/{folder}", split=split),
        )
        for split in ("test", train)
    ]
    return Recipe(get, both[0], both[1], names)


def cifar(get: str, folder: str) -> Recipe:
    """The binary version."""
    both = [dict(type="CIFAR", root=f"{{}}/{folder}", split=s) for s in ("test", "train")]
    return Recipe(get, both[0], both[1])


def idx(get: str, folder: str, classes: tuple[str, ...] = ()) -> Recipe:
    """MNIST's format."""
    both = [
        dict(
            type="IDX",
            images=f"{{}}/{folder}/{part}-images-idx3-ubyte",
            labels=f"{{}}/{folder}/{part}-labels-idx1-ubyte",
            classes=classes,
        )
        for part in ("t10k", "train")
    ]
    return Recipe(get, both[0], both[1])


def karpathy(get: str, file: str, folder: str) -> Recipe:
    """Images with captions, for retrieval."""
    test = dict(type="KarpathyCaptions", file=f"{{}}/{file}", root=f"{{}}/{folder}")
    return Recipe(get, test, test | dict(split="train"))


SETS: dict[str, Recipe] = {
    "food101": mmpretrain(
        "unpack food-101.tar.gz of https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101, "
        "which gives food-101/images and food-101/meta",
        "Food101",
        "food-101",
    ),
    "cifar10": cifar(
        "unpack cifar-10-binary.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html, which "
        "gives cifar-10-batches-bin",
        "cifar-10-batches-bin",
    ),
    "cifar100": cifar(
        "unpack cifar-100-binary.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html, "
        "which gives cifar-100-binary",
        "cifar-100-binary",
    ),
    "cub200": mmpretrain(
        "unpack CUB_200_2011.tgz of https://www.vision.caltech.edu/datasets/cub_200_2011, "
        "which gives CUB_200_2011/images and CUB_200_2011/images.txt",
        "CUB",
        "CUB_200_2011",
    ),
    "sun397": mmpretrain(
        "make SUN397, and unpack in it SUN397.tar.gz and, into SUN397/Partitions, "
        "Partitions.zip of https://vision.princeton.edu/projects/2010/SUN",
        "SUN397",
        "SUN397",
    ),
    "cars": mmpretrain(
        "make stanford_cars, and put in it cars_train, cars_test and devkit (with "
        "cars_test_annos_withlabels.mat), or car_ims and cars_annos.mat, of "
        "https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        "StanfordCars",
        "stanford_cars",
    ),
    "aircraft": mmpretrain(
        "unpack fgvc-aircraft-2013b.tar.gz of https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft, "
        "which gives fgvc-aircraft-2013b/data",
        "FGVCAircraft",
        "fgvc-aircraft-2013b",
        train="trainval",
    ),
    "dtd": mmpretrain(
        "unpack dtd-r1.0.1.tar.gz of https://www.robots.ox.ac.uk/~vgg/data/dtd, which gives "
        "dtd/images and dtd/imdb",
        "DTD",
        "dtd",
        train="trainval",
    ),
    "pets": mmpretrain(
        "make pets, and unpack in it images.tar.gz and annotations.tar.gz of "
        "https://www.robots.ox.ac.uk/~vgg/data/pets",
        "OxfordIIITPet",
        "pets",
        train="trainval",
    ),
    "caltech101": mmpretrain(
        "make caltech-101, and put in it 101_ObjectCategories of "
        "https://data.caltech.edu/records/mzrjq-6wc02 and meta of "
        "https://mmassets.onedl.ai/mmpretrain/datasets/caltech_meta.zip",
        "Caltech101",
        "caltech-101",
        names="caltech101",
    ),
    "flowers102": mmpretrain(
        "make flowers102, and put in it jpg (of 102flowers.tgz), imagelabels.mat and "
        "setid.mat of https://www.robots.ox.ac.uk/~vgg/data/flowers/102",
        "Flowers102",
        "flowers102",
        train="trainval",
        names="flowers102",
    ),
    "mnist": idx(
        "make mnist, and put in it t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz and, "
        "for a probe, those of train, of http://yann.lecun.com/exdb/mnist",
        "mnist",
    ),
    "fashion_mnist": idx(
        "put fashion-mnist of https://github.com/zalandoresearch/fashion-mnist, or install "
        "Debian's package dataset-fashion-mnist and take /usr/share/datasets",
        "fashion-mnist",
        (
            "t-shirt",
            "trousers",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle boot",
        ),
    ),
    "fer2013": folders(
        "put fer2013/test/angry to fer2013/test/surprise, as "
        "https://www.kaggle.com/datasets/msambare/fer2013 sorts its images",
        "fer2013/test",
        "fer2013/train",
        "fer2013",
    ),
    "stl10": folders(
        "write the images of stl10_binary.tar.gz of https://cs.stanford.edu/~acoates/stl10 to "
        "stl10/test/airplane and so on",
        "stl10/test",
        "stl10/train",
    ),
    "eurosat": folders(
        "unpack EuroSAT_RGB.zip of https://zenodo.org/records/7711810, and name the folder that "
        "holds AnnualCrop and nine others eurosat",
        "eurosat",
        names="eurosat",
    ),
    "resisc45": folders(
        "unpack NWPU-RESISC45 of https://gcheng-nwpu.github.io, which gives "
        "NWPU-RESISC45/airplane and 44 others",
        "NWPU-RESISC45",
    ),
    "gtsrb": folders(
        "write the images of GTSRB_Final_Test of https://benchmark.ini.rub.de as PNG to "
        "gtsrb/test/00000 to gtsrb/test/00042",
        "gtsrb/test",
        "gtsrb/train",
        "gtsrb",
    ),
    "kitti_distance": folders(
        "sort images of KITTI of https://www.cvlibs.net/datasets/kitti by the distance of the "
        "nearest vehicle, as VTAB does, into kitti_distance/test/0 to kitti_distance/test/3",
        "kitti_distance/test",
        "kitti_distance/train",
        "kitti_distance",
    ),
    "country211": folders(
        "unpack https://openaipublic.azureedge.net/clip/data/country211.tgz, which gives "
        "country211/test/AD and so on",
        "country211/test",
        "country211/train",
        "country211",
    ),
    "patch_camelyon": folders(
        "write the images of https://github.com/basveeling/pcam to patch_camelyon/test/no_tumor "
        "and patch_camelyon/test/tumor",
        "patch_camelyon/test",
        "patch_camelyon/train",
        "patch_camelyon",
    ),
    "ucf101": folders(
        "write the middle frame of each video of UCF101 (first split, "
        "https://www.crcv.ucf.edu/data/UCF101.php) to ucf101/test/ApplyEyeMakeup and so on",
        "ucf101/test",
        "ucf101/train",
        "CamelCase",
    ),
    "kinetics700": folders(
        "write the middle frame of each video of Kinetics-700 "
        "(https://github.com/cvdfoundation/kinetics-dataset) to kinetics700/val/abseiling and so "
        "on",
        "kinetics700/val",
        "kinetics700/train",
    ),
    "clevr_counts": folders(
        "sort the images of CLEVR (https://cs.stanford.edu/people/jcjohns/clevr) by the number of "
        "objects into clevr_counts/test/3 to clevr_counts/test/10",
        "clevr_counts/test",
        "clevr_counts/train",
    ),
    "hateful_memes": Recipe(
        "put img, dev.jsonl and train.jsonl of https://hatefulmemeschallenge.com into "
        "hateful_memes",
        dict(
            type="ImageTextList",
            file="{}/hateful_memes/dev.jsonl",
            root="{}/hateful_memes",
            image="img",
            caption="text",
            label="label",
        ),
        dict(
            type="ImageTextList",
            file="{}/hateful_memes/train.jsonl",
            root="{}/hateful_memes",
            image="img",
            caption="text",
            label="label",
        ),
        "hateful_memes",
    ),
    "rendered_sst2": folders(
        "unpack https://openaipublic.azureedge.net/clip/data/rendered-sst2.tgz, which gives "
        "rendered-sst2/test/negative and rendered-sst2/test/positive",
        "rendered-sst2/test",
        "rendered-sst2/train",
    ),
    "imagenet": folders(
        "sort ILSVRC2012_img_val.tar of https://image-net.org into imagenet/val/n01440764 and 999 "
        "others",
        "imagenet/val",
        "imagenet/train",
        "imagenet",
    ),
    "imagenet_a": folders(
        "unpack imagenet-a.tar of https://github.com/hendrycks/natural-adv-examples",
        "imagenet-a",
        names="imagenet",
    ),
    "imagenet_r": folders(
        "unpack imagenet-r.tar of https://github.com/hendrycks/imagenet-r",
        "imagenet-r",
        names="imagenet",
    ),
    "imagenet_sketch": folders(
        "unpack ImageNet-Sketch.zip of https://github.com/HaohanWang/ImageNet-Sketch, which "
        "gives sketch/n01440764 and 999 others",
        "sketch",
        names="imagenet",
    ),
    "imagenet_v2": folders(
        "unpack imagenetv2-matched-frequency.tar.gz of https://github.com/modestyachts/ImageNetV2, "
        "which gives imagenetv2-matched-frequency-format-val/0 and 999 others",
        "imagenetv2-matched-frequency-format-val",
        names="imagenet",
    ),
    "objectnet": Recipe(
        "unpack objectnet-1.0.zip of https://objectnet.dev, which gives objectnet-1.0/images "
        "and objectnet-1.0/mappings",
        dict(type="ObjectNet", root="{}/objectnet-1.0"),
    ),
    "coco": karpathy(
        "put val2014 of https://cocodataset.org into coco, and beside it dataset_coco.json of "
        "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip",
        "coco/dataset_coco.json",
        "coco",
    ),
    "flickr30k": karpathy(
        "put flickr30k-images of https://shannon.cs.illinois.edu/DenotationGraph into flickr30k, "
        "and beside it dataset_flickr30k.json of "
        "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip",
        "flickr30k/dataset_flickr30k.json",
        "flickr30k/flickr30k-images",
    ),
}
