"""Published data sets in the layouts of their archives."""

import re
from pathlib import Path

import numpy as np
import pytest

from webssl_plugins.datasets._published import SETS
from webssl_plugins.datasets.cifar import CIFAR
from webssl_plugins.datasets.digits import Digits
from webssl_plugins.datasets.idx import IDX
from webssl_plugins.datasets.mmpretrain_dataset import READERS, MMPretrainDataset
from webssl_plugins.datasets.published import NAMES, Published
from webssl_toolbox.data.sample import MissingData, UnreadableSample

from . import published_data
from .published_data import RNG, colour, samples


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder with a few pictures of most data sets."""
    return published_data.everything(tmp_path_factory.mktemp("published"))


# -- readers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("put", published_data.IMAGES, ids=lambda put: put.__name__)
def test_each_picture_has_the_class_that_it_shows(put, stored):
    dataset = Published(put.__name__, str(stored))
    found = samples(dataset)
    assert len(found) >= 2 and len({sample.label for sample in found}) >= 2
    assert len(set(dataset.classes)) == len(dataset.classes)
    for sample in found:
        mean = sample.image.reshape(-1, 3).mean(0)
        assert np.abs(mean - colour(dataset.classes[sample.label])).max() < 4, sample.key


@pytest.mark.parametrize(
    ("name", "classes", "test", "train"),
    [
        ("food101", 101, 2, 2),
        ("pets", 37, 2, 2),
        ("cub200", 200, 2, 2),
        ("sun397", 397, 2, 2),
        ("cars", 196, 2, 2),
        ("aircraft", 100, 2, 2),
        ("dtd", 47, 2, 2),
        ("caltech101", 102, 2, 2),
        ("cifar10", 10, 5, 25),
        ("cifar100", 100, 5, 5),
    ],
)
def test_splits_and_numbers_of_classes(name, classes, test, train, stored):
    tested, trained = Published(name, str(stored)), Published(name, str(stored), "train")
    assert (len(tested), len(trained)) == (test, train)
    assert len(tested.classes) == classes and list(tested.classes) == list(trained.classes)


def test_flowers_of_both_parts_are_for_training(stored):
    assert [s.key for s in samples(Published("flowers102", str(stored)))] == [
        "jpg/image_00001.jpg",
        "jpg/image_00002.jpg",
    ]
    trained = samples(Published("flowers102", str(stored), "train"))
    assert [s.label for s in trained] == [0, 1, 2, 1]


def test_objectnet_is_read_of_the_classes_that_imagenet_has(stored):
    dataset = Published("objectnet", str(stored))
    assert (list(dataset.classes), len(dataset)) == (["Alarm clock", "Bench"], 4)
    assert dataset.load(0, RNG).image.shape == (8, 8, 3), "without a frame of two pixels"


def test_lists_of_class_names_are_whole_and_distinct():
    sizes = {path.stem: path.read_text("utf-8").splitlines() for path in NAMES.glob("*.txt")}
    assert {name: len(lines) for name, lines in sizes.items()} == dict(
        imagenet=1000,
        caltech101=102,
        flowers102=102,
        country211=250,
        gtsrb=43,
        eurosat=10,
        fer2013=7,
        kitti_distance=4,
        patch_camelyon=2,
        hateful_memes=2,
    )
    for name, lines in sizes.items():
        folders, words = zip(*(line.split(" ", 1) for line in lines), strict=True)
        assert len(set(folders)) == len(set(words)) == len(lines), name
        assert all(word == word.strip() for word in words)
    used = {recipe.names for recipe in SETS.values()} - {None, "CamelCase"}
    assert used == set(sizes)


def test_names_of_imagenet_stand_in_the_order_of_mmpretrain(stored):
    from mmpretrain.datasets.categories import IMAGENET_CATEGORIES, IMAGENET_SIMPLE_CATEGORIES

    lines = (NAMES / "imagenet.txt").read_text("utf-8").splitlines()
    folders, names = zip(*(line.split(" ", 1) for line in lines), strict=True)
    assert list(folders) == sorted(folders) and len(IMAGENET_CATEGORIES) == 1000
    differing = [i for i in range(1000) if names[i] != IMAGENET_SIMPLE_CATEGORIES[i]]
    assert differing == [744, 836], "those two have the names of 657 and 837 there"


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_packed_or_not(packed, tmp_path):
    published_data.idx(tmp_path / "fashion-mnist", packed)
    dataset = Published("fashion_mnist", str(tmp_path))
    assert (len(dataset), dataset.classes[9]) == (10, "ankle boot")
    for i, sample in enumerate(samples(dataset)):
        assert sample.image.shape == (28, 28, 3) and (sample.image == 10 * i).all()
        assert sample.label == i


@pytest.mark.parametrize("data", [b"", b"\0\0\x08\x03", b"\0\0\x0d\x01\0\0\0\1\0", b"PK\3\4" * 9])
def test_what_is_no_idx_file_is_refused(data, tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match="is no idx file"):
        len(IDX(str(tmp_path / "images"), str(tmp_path / "labels")))


def test_idx_files_that_do_not_belong_together(tmp_path):
    published_data.idx(tmp_path / "x")
    images, labels = (str(tmp_path / f"x/t10k-{n}-ubyte") for n in ("images-idx3", "labels-idx1"))
    with pytest.raises(ValueError, match="has the label 9; classes names 2"):
        len(IDX(images, labels, ["a", "b"]))
    Path(f"{labels}.gz").unlink()
    Path(labels).write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 1, 5]))
    with pytest.raises(ValueError, match=r"10 pictures, .* 1 labels"):
        len(IDX(images, labels))


def test_a_gzip_file_that_swells_fills_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("webssl_plugins.datasets._arrays.MAX_BYTES", 1000)
    published_data.idx(tmp_path / "mnist")
    with pytest.raises(ValueError, match="more than 1,000 bytes"):
        len(Published("mnist", str(tmp_path)))


def test_digits_are_those_of_scikit_learn():
    train, test = Digits("train"), Digits("test")
    assert (len(train), len(test), list(test.classes)) == (898, 899, list("0123456789"))
    assert [train.load(i, RNG).label for i in range(12)] == [*range(10), 0, 1]
    first = train.load(0, RNG).image
    assert first.shape == (8, 8, 3) and first.dtype == np.uint8
    sixteenths = np.array([0, 0, 5, 13, 9, 1, 0, 0])  # what its documentation prints of the first
    assert (first[0, :, 0] == (sixteenths * 255 / 16).round()).all()
    # load_digits().data.sum(), and the sum of its targets
    assert (
        sum((s.image[..., 0] / 255 * 16).round().sum() for s in samples(train))
        + sum((s.image[..., 0] / 255 * 16).round().sum() for s in samples(test))
        == 561718
    )
    assert sum(s.label for s in [*samples(train), *samples(test)]) == 8070


def test_without_scikit_learn_it_is_named(monkeypatch):
    monkeypatch.setattr("webssl_plugins.datasets.digits.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install scikit-learn"):
        len(Digits())


# -- nothing that is loaded may run code -----------------------------------------------------------


def test_a_pickle_of_cifar_is_not_read(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py/test_batch").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(FileNotFoundError, match=r"unpack cifar-10-binary.tar.gz .* is a pickle"):
        len(CIFAR(str(tmp_path / "cifar-10-batches-py")))


@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        (dict(type="CIFAR10", data_root="x", split="test"), "type='CIFAR' on the binary version"),
        (dict(type="Food102", data_root="x", split="test"), "did you mean 'Food101'"),
        (dict(type="subprocess.getoutput", data_root="x", split="y"), "is not read through"),
        (dict(type="Food101", data_root="http://x", split="test"), "a folder of this machine"),
        (dict(type="Food101", data_root="x", split="test", pipeline=[]), "needs all"),
        (dict(type="Food101", data_root="x"), "needs all"),
    ],
)
def test_only_readers_of_lists_are_built(dataset, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        MMPretrainDataset(dataset)


def test_the_readers_neither_unpickle_nor_download(stored):
    import inspect

    import mmpretrain.datasets

    for name in READERS:
        source = inspect.getsource(inspect.getmodule(getattr(mmpretrain.datasets, name)))
        assert not re.search(r"pickle|download_|torch\.load|urlopen", source), name


def test_a_list_names_no_image_outside_of_its_folder(tmp_path):
    published_data.pets(tmp_path)
    published_data.paint(tmp_path / "secret_1.jpg", "x")
    row = "../../secret_1 1 1 1"
    published_data.write(tmp_path / "pets/annotations/test.txt", "Abyssinian_1 1 1 1", row)
    dataset = Published("pets", str(tmp_path))
    assert dataset.load(0, RNG).label == 0
    with pytest.raises(UnreadableSample, match="does not lie below"):
        dataset.load(1, RNG)


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("pets", "pets/annotations/test.txt", b"Abyssinian_1 1\n"),
        ("pets", "pets/annotations/test.txt", b"Abyssinian_1 99 1 1\n"),
        ("pets", "pets/annotations/test.txt", b""),
        ("flowers102", "flowers102/setid.mat", b"MATLAB 5.0 MAT-file" + b"\0" * 300),
        ("dtd", "dtd/imdb/imdb.mat", b"\x89HDF\r\n\x1a\n"),
        ("food101", "food-101/meta/test.txt", b"\xff\xfe\0"),
        ("cifar10", "cifar-10-batches-bin/test_batch.bin", b"\1" * 3000),
        ("cifar10", "cifar-10-batches-bin/batches.meta.txt", b"cat\n"),
        ("hateful_memes", "hateful_memes/dev.jsonl", b"[]"),
        ("objectnet", "objectnet-1.0/mappings/objectnet_to_imagenet_1k.json", b"[1]"),
        ("coco", "coco/dataset_coco.json", b'{"images": [3]}'),
    ],
)
def test_a_broken_file_is_named(name, file, content, tmp_path):
    getattr(published_data, name)(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=str(tmp_path)):
        len(Published(name, str(tmp_path)))


def test_a_folder_that_is_no_class_is_refused(tmp_path):
    published_data.folders(tmp_path / "imagenet/val", {"n01440764": "x", "tench": "x"})
    with pytest.raises(ValueError, match="'tench' is no class of imagenet"):
        list(Published("imagenet", str(tmp_path)).classes)


# -- what is not there ---------------------------------------------------------------------------


def test_without_mmpretrain_a_set_is_missing_and_says_so(stored, monkeypatch):
    monkeypatch.setattr("webssl_plugins.datasets.published.find_spec", lambda name: None)
    with pytest.raises(MissingData, match=r"pip install 'webssl-toolbox\[mmpretrain\]'"):
        len(Published("food101", str(stored)))
    assert len(Published("imagenet", str(stored))) == 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (dict(name="food11", root="x"), "did you mean 'food101'"),
        (dict(name="eurosat", root="x", split="train"), "it has 'test'"),
        (dict(name="dtd", root="x", split="val"), "it has 'test' and 'train'"),
    ],
)
def test_unknown_sets_and_splits(arguments, says):
    with pytest.raises(ValueError, match=says):
        Published(**arguments)
