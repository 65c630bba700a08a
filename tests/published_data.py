"""Published data sets as their archives unpack, with a picture or two of a few classes.

The colour of a picture is a function of its class's name: so a test can tell whether a reader gave
it the right one.
"""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from webssl_toolbox.compat import import_torchvision
from webssl_toolbox.data.sample import Dataset, Sample


def colour(name: str) -> tuple[int, ...]:
    """Returns what pictures of a class are filled with."""
    return tuple(zlib.crc32(name.encode()).to_bytes(4, "big")[:3])


def paint(path: Path, name: str, size: int = 12, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), colour(name)).convert(mode).save(path, quality=95)


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def folders(root: Path, named: dict[str, str], suffix: str = "jpg") -> None:
    """A folder for each class: folder to readable name."""
    for folder, name in named.items():
        paint(root / folder / f"x_1.{suffix}", name)
        paint(root / folder / f"x_2.{suffix}", name)


def food101(root: Path) -> None:
    folders(root / "food-101/images", {"apple_pie": "apple pie", "waffles": "waffles"})
    write(root / "food-101/meta/test.txt", "waffles/x_1", "apple_pie/x_2")
    write(root / "food-101/meta/train.txt", "apple_pie/x_1", "waffles/x_2")


def pets(root: Path) -> None:
    paint(root / "pets/images/Abyssinian_1.jpg", "Abyssinian")
    paint(root / "pets/images/american_bulldog_7.jpg", "american bulldog")
    for part in ("test", "trainval"):
        rows = ("Abyssinian_1 1 1 1", "american_bulldog_7 2 2 1")
        write(root / f"pets/annotations/{part}.txt", *rows)


def cub200(root: Path) -> None:
    names = {"001.Black_footed_Albatross": "Black footed Albatross"}
    names |= {"002.Laysan_Albatross": "Laysan Albatross"}
    folders(root / "CUB_200_2011/images", names)
    files = [f"{folder}/x_{i}.jpg" for folder in names for i in (1, 2)]
    for name, values in (
        ("images", files),
        ("image_class_labels", [1, 1, 2, 2]),
        ("train_test_split", [1, 0, 1, 0]),
    ):
        rows = (f"{i} {value}" for i, value in enumerate(values, 1))
        write(root / f"CUB_200_2011/{name}.txt", *rows)


def sun397(root: Path) -> None:
    names = {"a/abbey": "abbey", "a/apse/indoor": "apse indoor"}
    folders(root / "SUN397/SUN397", names)
    rows = [f"/{folder}/x_1.jpg" for folder in names]
    write(root / "SUN397/Partitions/Testing_01.txt", *rows)
    write(root / "SUN397/Partitions/Training_01.txt", *rows)


def cars(root: Path) -> None:
    """The second of the two ways in which it is published."""
    names = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]
    for part, file in (("train", "cars_train_annos"), ("test", "cars_test_annos_withlabels")):
        for i, name in enumerate(names, 1):
            paint(root / f"stanford_cars/cars_{part}/{i:05}.jpg", name)
        fields = [(f"bbox_{corner}", object) for corner in ("x1", "y1", "x2", "y2")]
        rows = np.zeros((1, 2), dtype=[*fields, ("class", object), ("fname", object)])
        for i in range(2):
            rows[0, i] = (1, 1, 9, 9, i + 1, f"{i + 1:05}.jpg")
        (root / "stanford_cars/devkit").mkdir(exist_ok=True)
        savemat(root / f"stanford_cars/devkit/{file}.mat", {"annotations": rows})


def aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b/data"
    paint(data / "images/0034309.jpg", "707-320")
    paint(data / "images/1514522.jpg", "Fokker 100")
    for part in ("test", "trainval"):
        write(data / f"images_variant_{part}.txt", "0034309 707-320", "1514522 Fokker 100")


def dtd(root: Path) -> None:
    folders(root / "dtd/images", {"banded": "banded", "blotchy": "blotchy"})
    names = [f"{name}/x_{i}.jpg" for name in ("banded", "blotchy") for i in (1, 2)]
    (root / "dtd/imdb").mkdir()
    images = dict(
        name=np.array(names, dtype=object)[None], **{"class": [1, 1, 2, 2], "set": [1, 3, 2, 3]}
    )
    savemat(root / "dtd/imdb/imdb.mat", {"images": images})


def caltech101(root: Path) -> None:
    names = {"Faces": "off-center face", "accordion": "accordion"}
    folders(root / "caltech-101/101_ObjectCategories", names)
    for part in ("train", "test"):
        rows = ("Faces/x_1.jpg 1", "accordion/x_1.jpg 5")
        write(root / f"caltech-101/meta/{part}.txt", *rows)


def flowers102(root: Path) -> None:
    names = ["canterbury bells", "pink primrose", "pink primrose", "hard-leaved pocket orchid"]
    for i, name in enumerate(names, 1):
        paint(root / f"flowers102/jpg/image_{i:05}.jpg", name)
    savemat(root / "flowers102/imagelabels.mat", {"labels": np.array([[3, 1, 1, 2]], np.uint8)})
    parts = dict(tstid=[[1, 2]], trnid=[[3, 4]], valid=[[1, 4]])
    savemat(root / "flowers102/setid.mat", {k: np.array(v, np.uint16) for k, v in parts.items()})


def cifar(folder: Path, names: list[str], meta: str, files: list[str], coarse: bool) -> None:
    folder.mkdir(parents=True)
    (folder / meta).write_text("\n".join(names).replace(" ", "_") + "\n\n")
    rows = b""
    for label in range(0, len(names), max(1, len(names) // 5)):
        planes = b"".join(bytes([value]) * 1024 for value in colour(names[label]))
        rows += b"\7" * coarse + bytes([label]) + planes
    for file in files:
        (folder / file).write_bytes(rows)


def cifar10(root: Path) -> None:
    names = [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]
    files = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    cifar(root / "cifar-10-batches-bin", names, "batches.meta.txt", files, coarse=False)


def cifar100(root: Path) -> None:
    import_torchvision()
    from mmpretrain.datasets.categories import CIFAR100_CATEGORIES

    names = [name.replace("_", " ") for name in CIFAR100_CATEGORIES]
    files = ["train.bin", "test.bin"]
    cifar(root / "cifar-100-binary", names, "fine_label_names.txt", files, coarse=True)


def idx(folder: Path, packed: bool = True) -> None:
    """Ten grey pictures, one of each class, as bright as ten times its number."""
    folder.mkdir(parents=True)
    for part in ("t10k", "train"):
        pixels = np.repeat(np.arange(10, dtype=np.uint8) * 10, 28 * 28).tobytes()
        head = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (10, 28, 28))
        labels = bytes([0, 0, 8, 1]) + (10).to_bytes(4, "big") + bytes(range(10))
        for name, data in (("images-idx3", head + pixels), ("labels-idx1", labels)):
            file = folder / f"{part}-{name}-ubyte{'.gz' * packed}"
            file.write_bytes(gzip.compress(data) if packed else data)


def mnist(root: Path) -> None:
    idx(root / "mnist")


def eurosat(root: Path) -> None:
    folders(root / "eurosat", {"AnnualCrop": "annual crop land", "SeaLake": "lake or sea"})


def ucf101(root: Path) -> None:
    names = {"ApplyEyeMakeup": "Apply Eye Makeup", "YoYo": "Yo Yo"}
    folders(root / "ucf101/test", names)


def country211(root: Path) -> None:
    folders(root / "country211/test", {"AD": "Andorra", "XK": "Kosovo"})


def hateful_memes(root: Path) -> None:
    names, home = ["meme", "hatespeech meme"], root / "hateful_memes"
    rows = []
    for i in range(4):
        paint(home / f"img/{i:05}.png", names[i % 2])
        row = {"id": i, "img": f"img/{i:05}.png", "label": i % 2, "text": "look"}
        rows.append(json.dumps(row))
    write(home / "dev.jsonl", *rows)
    write(home / "train.jsonl", *rows)


def imagenet(root: Path) -> None:
    folders(root / "imagenet/val", {"n01440764": "tench", "n15075141": "toilet paper"}, "JPEG")


def imagenet_a(root: Path) -> None:
    folders(root / "imagenet-a", {"n01498041": "stingray", "n12267677": "acorn"})


def imagenet_v2(root: Path) -> None:
    names = {"0": "tench", "999": "toilet paper", "10": "brambling"}
    folders(root / "imagenetv2-matched-frequency-format-val", names, "jpeg")


def objectnet(root: Path) -> None:
    home = root / "objectnet-1.0"
    named = {"alarm_clock": "Alarm clock", "air_freshener": "Air freshener", "bench": "Bench"}
    folders(home / "images", named, "png")
    for path in home.glob("images/*/*.png"):  # framed in red
        pixels = np.asarray(Image.open(path)).copy()
        pixels[[0, 1, -2, -1]] = pixels[:, [0, 1, -2, -1]] = (255, 0, 0)
        Image.fromarray(pixels).save(path)
    shared = {"Alarm clock": "analog clock; digital clock", "Bench": "park bench"}
    write(home / "mappings/folder_to_objectnet_label.json", json.dumps(named))
    write(home / "mappings/objectnet_to_imagenet_1k.json", json.dumps(shared))


def captions(root: Path, file: str, images: str, inner: str | None) -> None:
    rows = []
    for i, split in enumerate(("train", "test", "test", "restval")):
        paint(root / images / (inner or "") / f"{i}.jpg", f"image {i}")
        texts = [{"raw": f"Caption {k} of {i}. ", "tokens": []} for k in range(5)]
        row = {"filename": f"{i}.jpg", "split": split, "sentences": texts, "imgid": i}
        rows.append(row | ({"filepath": inner} if inner else {}))
    write(root / file, json.dumps({"images": rows, "dataset": "x"}))


def coco(root: Path) -> None:
    captions(root, "coco/dataset_coco.json", "coco", "val2014")


def flickr30k(root: Path) -> None:
    captions(root, "flickr30k/dataset_flickr30k.json", "flickr30k/flickr30k-images", None)


IMAGES = (
    *(food101, pets, cub200, sun397, cars, aircraft, dtd, caltech101, flowers102, cifar10),
    *(cifar100, eurosat, ucf101, country211, hateful_memes, imagenet, imagenet_a, imagenet_v2),
    objectnet,
)


def everything(root: Path) -> Path:
    """Writes all of them."""
    for put in (*IMAGES, mnist, coco, flickr30k):
        put(root)
    return root


RNG = np.random.default_rng(0)  # readers draw nothing from it


def samples(dataset: Dataset) -> list[Sample]:
    return [dataset.load(i, RNG) for i in range(len(dataset))]
