"""tools/extract.py: each row is its image's, in files that a killed command completes."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from webssl_toolbox.data.image import read_image
from webssl_toolbox.data.sample import Sample
from webssl_toolbox.evaluation import pieces
from webssl_toolbox.towers import encode_batch

from . import cases

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tools"))  # of its private neighbours
import extract  # noqa: E402
from _models import open_model  # noqa: E402

NAMES = [f"{folder}/{i}.png" for folder in ("a", "b") for i in range(5)]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Ten images, one more that is none, two models, and small pieces."""
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(NAMES):
        path = Path("photos", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    Path("photos/a/3b.png").write_text("no image")
    for seed, name in enumerate(("model.py", "other.py")):
        view = [dict(type="ResizeCenterCrop"), dict(type="Normalize")]
        sections = dict(model=cases.OBJECTIVES["clip_vit"].model, test_view=view, seed=seed)
        Path(name).write_text("".join(f"{key} = {value!r}\n" for key, value in sections.items()))
    monkeypatch.setattr(pieces, "ROWS", 4)
    return tmp_path


def run(monkeypatch, *arguments, model="model.py"):
    words = ["extract.py", model, "--out", "out", "--batch-size", "2", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [*words, *arguments])
    extract.extract(extract.parse())


def rows():
    """Returns the tensors of each path, as index.csv finds them."""
    found = {}
    with Path("out/index.csv").open(newline="") as opened:
        for row in csv.DictReader(opened):
            with safe_open(Path("out", row["file"]), "pt") as shard:
                tensors = {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118
            found[row["path"]] = {k: value[int(row["row"])] for k, value in tensors.items()}
    return found


def test_rows_are_those_of_their_images_and_what_is_none_is_named(place, monkeypatch, caplog):
    run(monkeypatch, "--images", "photos")
    model, found = open_model("model.py", "cpu"), rows()
    assert list(found) == NAMES, "sorted, without what cannot be read"
    images = [f"photos/{name}" for name in NAMES]
    for kind, expected in (
        ("features", model.encode_features(images)),
        ("embeddings", model.encode_image(images)),
    ):
        torch.testing.assert_close(torch.stack([found[name][kind] for name in NAMES]), expected)
    assert "left out: photos/a/3b.png: not an image" in caplog.text
    names = sorted(file.name for file in Path("out").glob("rows_*"))
    assert names == [f"rows_{first:09d}.safetensors" for first in (0, 4, 8)]


def contents():
    return {file.name: file.read_bytes() for file in Path("out").glob("[!.]*")}


def test_what_was_interrupted_goes_on(place, monkeypatch):
    run(monkeypatch, "--images", "photos")
    whole = contents()
    for file in Path("out").iterdir():
        file.unlink()
    read = []

    def counted(path):
        read.append(Path(path).name)
        if len(read) == 8:  # in the second piece
            raise KeyboardInterrupt
        return read_image(path)

    folder = sys.modules["webssl_plugins.datasets.folder"]
    monkeypatch.setattr(folder, "read_image", counted)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, "--images", "photos")
    assert contents().keys() == {"origin.json", "rows_000000000.safetensors"}
    run(monkeypatch, "--images", "photos")
    assert contents() == whole
    assert len(read) == 8 + 7, "the four of the first piece are read once"
    run(monkeypatch, "--images", "photos")
    assert len(read) == 8 + 7 and contents() == whole
    for change in (["--layer", "-1"], ["--batch-size", "3"]):
        with pytest.raises(ValueError, match="out holds embeddings of another model"):
            run(monkeypatch, "--images", "photos", *change)
    with pytest.raises(ValueError, match="give another --out"):
        run(monkeypatch, "--images", "photos", model="other.py")


def test_other_images_of_the_same_names_or_number_are_refused(place, monkeypatch):
    run(monkeypatch, "--images", "photos")
    image = Path("photos/a/0.png")
    pixels = image.read_bytes()
    for change, undo in (
        (lambda: image.rename("photos/a/9.png"), lambda: Path("photos/a/9.png").rename(image)),
        (lambda: image.write_bytes(b""), lambda: image.write_bytes(pixels)),
    ):
        change()
        with pytest.raises(ValueError, match="of other images"):
            run(monkeypatch, "--images", "photos")
        undo()
        run(monkeypatch, "--images", "photos")
    Path("list.txt").write_text("photos/a/0.png\n")
    run(monkeypatch, "--images", "list.txt", "--out", "listed")
    image.write_bytes(b"")
    with pytest.raises(ValueError, match="of other images"):
        run(monkeypatch, "--images", "list.txt", "--out", "listed")


def test_ranks_that_find_other_images_all_fail(place, monkeypatch):
    def meet(where, own, error=None):
        return [own, [None, "other images"]] if where.endswith("origin.json") else [own]

    monkeypatch.setattr(extract.dist, "meet", meet)
    with pytest.raises(ValueError, match="out: ranks find different images or models"):
        run(monkeypatch, "--images", "photos")
    assert not Path("out").exists()


def test_what_could_be_read_later_is_tried_again_once_its_piece_is_deleted(
    place, monkeypatch, caplog
):
    image = Path("photos/a/0.png")
    pixels = image.read_bytes()
    image.write_bytes(bytes(len(pixels)))
    run(monkeypatch, "--images", "photos")
    assert "a/0.png: not an image" in caplog.text
    assert "deleting rows_000000000.safetensors tries again" in caplog.text
    image.write_bytes(pixels)
    Path("out/rows_000000000.safetensors").unlink()
    run(monkeypatch, "--images", "photos")
    assert list(rows()) == NAMES


def test_lists_and_datasets(place, monkeypatch):
    Path("photos/list.txt").write_text("b/1.png\n\na/0.png\n")
    run(monkeypatch, "--images", "photos/list.txt")
    listed = rows()
    assert list(listed) == ["b/1.png", "a/0.png"]
    cfg = dict(type="ImageFolder", root="photos", limit=3)
    for file in Path("out").iterdir():
        file.unlink()
    longer_than_names_are = " " * 300
    run(monkeypatch, "--images", f"{{{longer_than_names_are}{repr(cfg)[1:]}")
    assert torch.equal(rows()["a/0.png"]["features"], listed["a/0.png"]["features"])


def test_layers_are_those_of_the_tower(place, monkeypatch):
    run(monkeypatch, "--images", "photos", "--layer", "0", "-1")
    model, found = open_model("model.py", "cpu"), rows()
    with torch.no_grad():
        images = model.prepare(Sample(read_image(f"photos/{name}")) for name in NAMES)
        layers = model.tower("image").layers(images, [0, -1])
        last = encode_batch(model.tower("image"), images).pooled
    for name, layer in zip(("layer_0", "layer_-1"), layers, strict=True):
        together = torch.stack([found[path][name] for path in NAMES])
        torch.testing.assert_close(together, layer.pooled)
    torch.testing.assert_close(layers[1].pooled, last)


def test_captions_through_a_tower_of_text(place, monkeypatch):
    captions = ["a red cat", "a tree, and more words than the first", "dog"]
    Path("captions.txt").write_text("\n".join(captions))
    run(monkeypatch, "--texts", "captions.txt")
    found = rows()
    together = torch.stack([found[caption]["embeddings"] for caption in captions])
    torch.testing.assert_close(together, open_model("model.py", "cpu").encode_text(captions))
    with pytest.raises(ValueError, match="reads images, but captions were given"):
        run(monkeypatch, "--texts", "captions.txt", "--tower", "image")
    with pytest.raises(ValueError, match="reads no images; give captions by --texts"):
        run(monkeypatch, "--images", "photos", "--tower", "text")


def test_parquet_holds_the_same(place, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    run(monkeypatch, "--images", "photos")
    expected = rows()
    run(monkeypatch, "--images", "photos", "--format", "parquet", "--out", "table")
    table = parquet.read_table([str(file) for file in sorted(Path("table").glob("*.parquet"))])
    assert table["path"].to_pylist() == NAMES
    for kind in ("features", "embeddings"):
        found = torch.tensor(table[kind].to_pylist())
        assert torch.equal(found, torch.stack([expected[name][kind] for name in NAMES]))
    before = json.loads(Path("table/origin.json").read_text())
    Path("table/rows_000000004.parquet").unlink()
    run(monkeypatch, "--images", "photos", "--format", "parquet", "--out", "table")
    again = parquet.read_table([str(file) for file in sorted(Path("table").glob("*.parquet"))])
    assert again.equals(table) and json.loads(Path("table/origin.json").read_text()) == before


def test_parquet_needs_pyarrow(place, monkeypatch):
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r"--format parquet needs pyarrow .*pip install pyarrow"):
        run(monkeypatch, "--images", "photos", "--format", "parquet")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("images", "said"),
    [("nowhere", "no folder and no file 'nowhere'"), ("{'type': ", "no dataset config")],
)
def test_what_names_no_images_is_refused(place, monkeypatch, images, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        run(monkeypatch, "--images", images)
