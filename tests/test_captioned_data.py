"""Images with captions: in folders, in several columns, in COCO's format; and which is taken."""

import json
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from webssl_plugins.datasets.coco import CocoCaptions
from webssl_plugins.datasets.folder import ImageFolder
from webssl_plugins.datasets.image_text import ImageTextList
from webssl_plugins.views.text import Caption
from webssl_toolbox.data.sample import Sample, UnreadableSample

RNG = np.random.default_rng(0)


@pytest.fixture
def root(tmp_path):
    for name in ("a.jpg", "sub_one/b.png", "sub_one/c.JPG"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 24), "teal").save(path, {".JPG": "JPEG"}.get(path.suffix))
    return tmp_path / "images"


def pairs(dataset):
    samples = [dataset.load(index, RNG) for index in range(len(dataset))]
    return [(sample.key, sample.captions) for sample in samples]


# -- folders -----------------------------------------------------------------------------------


def test_captions_beside_images(root):
    (root / "a.txt").write_text("\ufeffa cat\n\n  a second look \r\n", encoding="utf-8")
    (root / "sub_one/c.txt").write_text("caf\u00e9", encoding="utf-8")
    (root / "sub_one/readme.txt").write_text("of no image")
    dataset = ImageFolder(str(root), captions="files")
    assert pairs(dataset) == [("a.jpg", ("a cat", "a second look")), ("sub_one/c.JPG", ("café",))]
    assert dataset.load(0, RNG).image.shape == (24, 20, 3)


def test_links_are_followed_but_not_in_circles(root, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (root / "a.jpg").rename(tmp_path / "elsewhere/a.jpg")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    for back in (root / "sub_one/again", root / "sub_one/more"):
        back.symlink_to(root)
    (tmp_path / "elsewhere/back").symlink_to(root)
    for name in (".trash", "lost+found"):
        (root / name).mkdir()
        (root / name / "d.png").write_bytes((root / "sub_one/b.png").read_bytes())
    keys = [key for key, _ in pairs(ImageFolder(str(root)))]
    assert keys == ["linked/a.jpg", "sub_one/b.png", "sub_one/c.JPG"]


def test_a_folder_that_cannot_be_listed_is_no_empty_one(root, monkeypatch):
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("sub_one"):
            raise OSError(5, "Input/output error", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(OSError, match=r"Input/output error: .*sub_one"):
        len(ImageFolder(str(root)))


@pytest.mark.parametrize("text", [b" \n\n", b"caf\xe9"])
def test_an_unusable_caption_file_is_one_unreadable_sample(root, text):
    (root / "a.txt").write_bytes(text)
    with pytest.raises(UnreadableSample, match=r"a\.txt"):
        ImageFolder(str(root), captions="files").load(0, RNG)


def test_folder_names_as_captions(root):
    with pytest.raises(ValueError, match=r"a\.jpg: lies in no class folder"):
        len(ImageFolder(str(root), captions="folders"))
    (root / "a.jpg").unlink()
    dataset = ImageFolder(str(root), labels="folders", captions="folders")
    assert pairs(dataset) == [("sub_one/b.png", ("sub one",)), ("sub_one/c.JPG", ("sub one",))]
    assert dataset.load(1, RNG).label == 0


def test_a_folder_without_captions_says_what_to_write(root):
    with pytest.raises(FileNotFoundError, match=r"no image with captions beside it \(photo\.txt"):
        len(ImageFolder(str(root), captions="files"))
    with pytest.raises(ValueError, match="captions='txt'; use 'files', 'folders' or None"):
        ImageFolder(str(root), captions="txt")


# -- lists -------------------------------------------------------------------------------------


def test_several_caption_columns(tmp_path, root):
    file = tmp_path / "pairs.csv"
    file.write_text("image,title,description\na.jpg,a cat,asleep\na.jpg,,on a mat\na.jpg,b,\n")
    columns = ("title", "description")
    dataset = ImageTextList(str(file), str(root), caption=columns)
    assert [texts for _, texts in pairs(dataset)] == [("a cat", "asleep"), ("on a mat",), ("b",)]
    with pytest.raises(ValueError, match=r"no column 'titel'.*did you mean 'title'"):
        len(ImageTextList(str(file), str(root), caption=("titel", "description")))

    lines = tmp_path / "pairs.jsonl"
    lines.write_text(
        '{"image": "a.jpg", "title": ["a", "b"], "description": "c"}\n'
        '{"image": "a.jpg", "title": null}\n'
    )
    dataset = ImageTextList(str(lines), str(root), caption=columns)
    assert dataset.load(0, RNG).captions == ("a", "b", "c")
    with pytest.raises(UnreadableSample, match="row 1 has no text in 'title', 'description'"):
        dataset.load(1, RNG)


def test_a_wrong_root_is_found_before_training(tmp_path, root):
    file = tmp_path / "pairs.csv"
    file.write_text("image,caption\nx/a.jpg,gone\nx/b.jpg,gone\n")
    with pytest.raises(FileNotFoundError, match=r"x/a\.jpg: no such file, nor any of the first 2"):
        len(ImageTextList(str(file), str(root)))
    file.write_text(file.read_text() + "a.jpg,there\n")
    assert len(ImageTextList(str(file), str(root))) == 3


# -- COCO --------------------------------------------------------------------------------------

IMAGES = [
    {"id": 9, "file_name": "a.jpg", "height": 24, "width": 20},
    {"id": 4, "file_name": "none.jpg"},
    {"id": 7, "file_name": "sub_one/b.png"},
]
CAPTIONS = [
    {"id": 1, "image_id": 7, "caption": "A teal square."},
    {"id": 2, "image_id": 9, "caption": "Caf\u00e9."},
    {"id": 3, "image_id": 7, "caption": "Teal, all over. "},
]


@pytest.fixture
def coco(tmp_path, root):
    def write(name="captions_val2017.json", **content):
        file = tmp_path / name
        file.write_text(json.dumps({"info": {}} | content))
        return CocoCaptions(str(file), str(root))

    return write


def test_coco_captions(coco):
    dataset = coco(images=IMAGES, annotations=CAPTIONS)
    expected = [("a.jpg", ("Café.",)), ("sub_one/b.png", ("A teal square.", "Teal, all over. "))]
    assert pairs(dataset) == expected
    assert pairs(pickle.loads(pickle.dumps(dataset))) == expected
    sample = dataset.load(1, RNG)
    assert (sample.image.shape, sample.label, len(dataset.classes)) == ((24, 20, 3), -1, 0)


BOXES = [{"id": 1, "image_id": 9, "category_id": 3, "bbox": [0, 0, 1, 1]}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (dict(images=IMAGES, annotations=BOXES), r"no 'caption' but .*'bbox'; take captions_\*"),
        (dict(images=IMAGES, annotations=[]), "holds no annotations"),
        (dict(images=IMAGES), "not one JSON object with 'images' and 'annotations'"),
        (dict(images=IMAGES[1:], annotations=CAPTIONS), "refers to 9, which is not there"),
        (dict(images=[{"id": 9}], annotations=CAPTIONS[1:2]), "refers to 'file_name'"),
    ],
)
def test_files_that_hold_no_coco_captions(coco, content, message):
    dataset = coco("instances.json", **content)  # not an error yet
    with pytest.raises(ValueError, match=rf"instances\.json: .*{message}"):
        len(dataset)


def test_coco_and_lists_are_told_apart(coco, tmp_path, root):
    dataset = coco(images=IMAGES, annotations=CAPTIONS)
    with pytest.raises(ValueError, match="one COCO object; use type='CocoCaptions'"):
        len(ImageTextList(dataset.file, str(root)))
    (tmp_path / "yfcc.json").write_text('{"filename": "a.jpg", "caption": "x"}\n' * 2)
    with pytest.raises(ValueError, match="for JSON lines use type='ImageTextList'"):
        len(CocoCaptions(str(tmp_path / "yfcc.json"), str(root)))


def test_coco_names_what_is_missing(coco, tmp_path, root):
    with pytest.raises(FileNotFoundError, match=r"gone\.json: no such file.*captions_"):
        len(CocoCaptions(str(tmp_path / "gone.json"), str(root)))
    dataset = coco(images=IMAGES, annotations=CAPTIONS)
    for wrong, message in (("nowhere", "nowhere: no such folder"), ("images/sub_one", "a.jpg: no")):
        with pytest.raises(FileNotFoundError, match=message):
            len(CocoCaptions(dataset.file, str(tmp_path / wrong)))


# -- which caption -----------------------------------------------------------------------------


def test_which_caption_is_taken():
    sample = Sample(None, ("best", "second", "third"), key="x")

    def picked(pick, captions=sample.captions):
        return Caption(pick)(captions, sample, RNG)

    assert [picked(pick) for pick in (0, 1, 2, 3)] == ["best", "second", "third", "third"]
    assert picked(1, ("alone",)) == picked("joined", ("alone",)) == "alone"
    assert picked("joined") == "best second third"
    counts = [sum(picked("random") == text for _ in range(900)) for text in sample.captions]
    assert min(counts) > 230
    with pytest.raises(ValueError, match="x has no caption"):
        picked(0, ())


@pytest.mark.parametrize("pick", ["first", -1, None, 0.5])
def test_what_caption_does_not_take(pick):
    with pytest.raises(ValueError, match="pick is an index from 0, 'random' or 'joined'"):
        Caption(pick)
