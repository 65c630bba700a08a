"""Lists and captions of an enemy, read by the datasets themselves."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from webssl_plugins.backbones._clip_bpe import CLIPTokenizer
from webssl_toolbox.data.sample import UnreadableSample
from webssl_toolbox.registry import DATASETS

from . import poison
from .own_data import write_own_data
from .test_poisoned import needs_linux, peak, reset_peak

RNG = np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_own_data(tmp_path)


def dataset(kind, **arguments):
    return DATASETS.create(dict(type=kind, **arguments), "dataset")


@needs_linux
@pytest.mark.parametrize(
    "file", ["pairs.csv", "pairs.tsv", pytest.param("pairs.jsonl", marks=pytest.mark.slow)]
)
def test_a_list_whose_last_line_is_a_gigabyte_fills_no_memory(file, folder):
    sign = {".csv": ",", ".tsv": "\t"}.get(Path(file).suffix)
    row = f"cat/0.jpg{sign}a cat\n" if sign else '{"image": "cat/0.jpg", "caption": "a cat"}\n'
    Path(file).write_text((f"image{sign}caption\n" if sign else "") + row + row[:9])
    poison.grow(file)
    before = reset_peak()
    pairs = dataset("ImageTextList", file=file, root="images")
    if sign:
        with pytest.raises(ValueError, match=r"a line has more than 131,072 characters; take it"):
            len(pairs)
    else:
        assert pairs.load(0, RNG).captions == ("a cat",)
        with pytest.raises(UnreadableSample, match=r"row 1 has 1,073,741,\d+ bytes, more than"):
            pairs.load(1, RNG)
    assert peak() - before < 300


@needs_linux
@pytest.mark.parametrize(
    "plant", [poison.grow, lambda name: os.symlink("/dev/zero", name), os.mkfifo]
)
def test_a_file_of_captions_fills_no_memory_and_stops_nothing(plant, folder):
    Path("images/cat/0.txt").unlink()
    plant("images/cat/0.txt")
    before = reset_peak()
    with pytest.raises(UnreadableSample, match=r"0\.txt: no file of 131,072 bytes or fewer"):
        dataset("ImageFolder", root="images", captions="files").load(0, RNG)
    assert peak() - before < 100


@pytest.mark.parametrize(
    "path",
    ["../secret.jpg", "/etc/passwd", "cat/../../photo.jpg", "..", ".", "cat/0.jpg\0", "\ud800.jpg"],
)
def test_a_list_names_no_image_outside_its_root(path, folder):
    rows = [dict(image=name, caption="x") for name in ("cat/0.jpg", path)]
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    images = [dict(id=i, file_name=row["image"]) for i, row in enumerate(rows)]
    texts = [dict(image_id=i, caption="x") for i in range(2)]
    Path("coco.json").write_text(json.dumps(dict(images=images, annotations=texts)))
    for kind, file in (("ImageTextList", "pairs.jsonl"), ("CocoCaptions", "coco.json")):
        pairs = dataset(kind, file=file, root="images")
        assert pairs.load(0, RNG).captions == ("x",)
        with pytest.raises(UnreadableSample, match=r"does not lie below root|name of no file"):
            pairs.load(1, RNG)


def test_a_list_without_a_root_may_name_any_image(folder):
    place = str(Path("photo.jpg").absolute())
    Path("pairs.jsonl").write_text(json.dumps(dict(image=place, caption="x")))
    assert dataset("ImageTextList", file="pairs.jsonl").load(0, RNG).key == place


IMAGE, TEXT = dict(id=1, file_name="cat/0.jpg"), dict(image_id=1, caption="x")


@pytest.mark.parametrize(
    ("images", "texts"),
    [
        ([IMAGE], [5]),
        ([[IMAGE]], [TEXT]),
        ([IMAGE], "os.system"),
        (5, 5),
        ([IMAGE | dict(file_name=["cat/0.jpg"])], [TEXT]),
        ([IMAGE | dict(file_name=dict(type="os.system"))], [TEXT]),
        ([IMAGE | dict(id=[1])], [TEXT]),
        ([IMAGE], [TEXT | dict(caption=None)]),
        ([IMAGE], [TEXT | dict(caption=dict(type="os.system"))]),
        ([IMAGE], [TEXT | dict(image_id={})]),
    ],
)
def test_coco_of_other_types_is_refused_in_a_sentence(images, texts, folder):
    Path("coco.json").write_text(json.dumps(dict(images=images, annotations=texts)))
    with pytest.raises(ValueError, match=re.escape("coco.json: ")):
        len(dataset("CocoCaptions", file="coco.json", root="images"))


def test_coco_without_end_is_refused(folder):
    Path("coco.json").write_text('{"images": ' + "[" * 200_000)
    with pytest.raises(ValueError, match=r"coco\.json: not one JSON object"):
        len(dataset("CocoCaptions", file="coco.json", root="images"))


def test_a_long_caption_costs_no_more_than_its_beginning():
    tokenizer = CLIPTokenizer()
    words = "a cat on a mat " * 4000
    assert tokenizer.encode(words).tolist() == tokenizer.encode(words[:1000]).tolist()
    for text in ("x" * 131_072, "\u0e01" * 131_072, "&amp;" * 30_000, "<" * 131_072, " " * 131_072):
        assert len(tokenizer.encode(text)) <= 77


@pytest.mark.parametrize("text", [poison.MARKUP, "{{7*7}}", "%s%n", "\\x1b[0m", "<end_of_text>"])
def test_markup_in_a_caption_is_text(text):
    """What decodes is what was said: no template was filled in, no special token was made."""
    tokenizer = CLIPTokenizer()
    ids = tokenizer.encode(text)
    assert not np.isin(ids[1:-1], [tokenizer.sot, tokenizer.eot, tokenizer.mask]).any()
    assert tokenizer.decode(ids).replace(" ", "").startswith(text[:4].replace(" ", "").lower())
