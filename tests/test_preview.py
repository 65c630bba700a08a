"""The preview shows what the model is given: pixels, left-out and masked patches, tokens."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from webssl_toolbox.data.collate import Tokens
from webssl_toolbox.registry import MODELS

from . import cases

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tools"))  # of its private neighbours
TOOL = SimpleNamespace(**runpy.run_path(str(ROOT / "tools/preview_views.py")))
FONTS = TOOL.Fonts()

CAPTIONS = [
    "a plain caption",
    "שלום עולם, \U0001f600 and\nthe rest",
    "long " * 200,
    "https://example.org/" + "x" * 300,
    "",
]
IMAGE = [dict(type="RandomResizedCrop", size=16), dict(type="Normalize")]
TEXT = [dict(type="Caption", pick="joined"), dict(type="Tokenize"), dict(type="MaskTokens")]


@pytest.fixture
def cfg(tmp_path):
    rows = []
    for i, caption in enumerate(CAPTIONS):
        pixels = np.random.default_rng(i).integers(0, 256, (20 + 90 * i, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        rows.append(json.dumps({"image": f"{i}.png", "caption": [caption, "and another"]}))
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows))
    pairs = dict(type="ImageTextList", file=str(tmp_path / "pairs.jsonl"), root=str(tmp_path))
    return dict(
        model=cases.OBJECTIVES["clip_vit"].model,
        train_dataloader=dict(dataset=pairs, batch_size=4, views=dict(v1=IMAGE, text=TEXT)),
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=1e-3)),
        train_cfg=dict(max_iters=1),
    )


def python(*arguments):
    command = [sys.executable, ROOT / "tools/preview_views.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_it_runs_on_the_embedded_corpus(tmp_path):
    config, out = ROOT / "configs/declip_r50_laptop.py", tmp_path / "preview.png"
    done = python(config, "--out", out, "--samples", 2, "--cfg-options", "seed=3")
    assert done.returncode == 0, done.stderr
    with Image.open(out) as image:
        assert done.stdout == f"{out}: {image.width} x {image.height} pixels\n"
        assert np.asarray(image.convert("RGB")).std() > 20


def drawn(cfg, monkeypatch, count=5):
    """Returns the columns of a preview by name and note, once the sheet has been drawn."""
    columns = []
    draw_sheet = TOOL.preview.__globals__["draw_sheet"]

    def spied(found, fonts):
        columns.extend(found)
        return draw_sheet(found, fonts)

    monkeypatch.setitem(TOOL.preview.__globals__, "draw_sheet", spied)
    sheet = TOOL.preview(cfg, count, FONTS)
    assert sheet.width > sum(column.cells[0].width for column in columns)
    return {(column.name, column.note.split()[-1]): column.cells for column in columns}


def test_each_input_of_a_tower_is_a_column(cfg, monkeypatch):
    keep, block = dict(type="RandomKeep", ratio=0.3), dict(type="BlockMask", prob=1)
    views = {name: IMAGE for name in ("v1", "g1", "g2", "l1", "l2", "unused")} | dict(text=TEXT)
    views |= dict(g1_mask=[block], g2_mask=[block], v1_keep=[keep])
    views |= dict(text_mae=[*TEXT, dict(type="DropTokens")])
    cfg["train_dataloader"]["views"], cfg["model"] = views, cases.EVERYTHING.model
    columns = drawn(cfg, monkeypatch)
    assert list(columns) == [
        ("sample", "captions"),
        *[("v1", "v1_keep"), ("g1", "pixels"), ("g1", "g1_mask")],
        *[("g2", "pixels"), ("g2", "g2_mask"), ("l1", "pixels"), ("l2", "pixels")],
        *[("text", "predicted"), ("text_mae", "predicted")],
    ]
    whole, masked = (np.asarray(columns["g1", note][0]) for note in ("pixels", "g1_mask"))
    share = (whole == masked).all(2).mean()
    assert 0.4 < share < 1 and (masked == TOOL.STRIPE).all(2).any()


def test_a_picture_has_the_colours_that_the_model_sees(cfg, monkeypatch, tmp_path):
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, 32:] = (200, 100, 50)
    Image.fromarray(pixels).save(tmp_path / "0.png")
    view = [dict(type="ResizeCenterCrop", size=16), dict(type="Solarize", threshold=0, prob=1)]
    cfg["train_dataloader"]["views"]["v1"] = [*view, dict(type="Normalize", mean="clip")]
    cfg["train_dataloader"]["dataset"] = dict(
        type="ImageFolder", root=str(tmp_path), captions="files"
    )
    (tmp_path / "0.txt").write_text("halves")
    (cell,) = drawn(cfg, monkeypatch)["v1", "pixels"]
    assert cell.size == (192, 192)
    assert (cell.getpixel((0, 0)), cell.getpixel((191, 0))) == ((255,) * 3, (55, 155, 205))


def test_patches_are_where_the_model_has_them():
    pixels = np.full((64, 64, 3), 40, np.uint8)
    gone = np.array([[0, 1], [0, 0]], bool).ravel()
    masked = np.array([[0, 0], [1, 0]], bool).ravel()
    cell = np.asarray(TOOL.image_cell(pixels, gone, masked))
    quarters = cell[:96, :96], cell[:96, 96:], cell[96:, :96], cell[96:, 96:]
    assert [quarter.min() for quarter in quarters] == [40, 203, min(TOOL.STRIPE), 40]
    assert [quarter.max() for quarter in quarters] == [40, 203, 203, 40]


def test_the_rows_are_the_first_of_training(cfg):
    from webssl_toolbox.data.loader import batches
    from webssl_toolbox.data.views import Views
    from webssl_toolbox.registry import DATASETS

    recorded = TOOL.Recorded(DATASETS.create(cfg["train_dataloader"]["dataset"], "dataset"))
    nothing = Views({}, (), None)
    trained = next(batches(recorded.dataset, nothing, 4, seed=0))["index"].tolist()
    previewed = next(batches(recorded, nothing, 3, seed=0))["index"].tolist()
    assert previewed == trained[:3]
    assert [sample.key for sample in recorded.samples] == [f"{i}.png" for i in previewed]


# -- text --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    with torch.device("meta"):
        tower = dict(type="TextTransformer", width=8, depth=1, heads=1, vocab_size=4096)
        return MODELS.create(tower, "tower").tokenizer


@pytest.mark.parametrize("caption", CAPTIONS)
def test_pieces_join_to_the_text(tokenizer, caption):
    ids = tokenizer.encode(caption).tolist()
    pieces = list(TOOL.pieces(ids, tokenizer))
    assert len(pieces) == len(ids) and pieces[0] == pieces[-1] == ""
    assert "".join(pieces) == tokenizer.decode(ids).rstrip("\ufffd")


def test_hidden_tokens_are_those_of_their_row(tokenizer):
    rows = [tokenizer.encode(text) for text in ("a red apple on a tree", "two pears")]
    hidden = [np.array([3]), np.array([1, 2])]
    values = [
        Tokens(np.where(np.isin(np.arange(len(ids)), at), tokenizer.mask, ids), 0, at, ids[at])
        for ids, at in zip(rows, hidden, strict=True)
    ]
    inputs = Tokens.collate("text", values)
    for i, (ids, at) in enumerate(zip(rows, hidden, strict=True)):
        shown, targets = TOOL.tokens(inputs, "text", i)
        assert targets == {place: ids[place] for place in at}
        assert shown == values[i].ids.tolist()
    pieces = list(TOOL.pieces(TOOL.tokens(inputs, "text", 1)[0], tokenizer))
    assert pieces == ["", "[mask]", " [mask]", " ars", ""]


def test_what_the_font_lacks_is_escaped():
    assert FONTS.readable("~ [plain]\u2026") == "~ [plain]\u2026"
    assert FONTS.readable("\u05e9\U0001f600\n\u200f") == r"\u05e9\U0001f600\n\u200f"


@pytest.mark.parametrize("caption", CAPTIONS[:-1])
def test_lines_stay_inside_their_cell(caption):
    page = TOOL.Page(Image.new("RGB", (232, 192)), 20, FONTS)
    spans = [TOOL.Span(word) for word in caption.split(" ")]
    lines = page.lines(spans)
    for line in lines:
        assert sum(FONTS.body.getlength(span.text) for span in line) <= 212
    assert "".join(span.text for line in lines for span in line) == FONTS.readable(
        "".join(caption.split(" "))
    )
    page.write(spans, most=4)
    page.write(spans, most=99)
    assert page.top <= page.bottom


# -- errors ------------------------------------------------------------------------------------


def test_errors_are_one_sentence(cfg, tmp_path):
    config = tmp_path / "config.py"
    config.write_text("".join(f"{key} = {value!r}\n" for key, value in cfg.items()))
    for arguments, message in (
        (["--samples", 0], "--samples 0: give at least 1"),
        (["--font", tmp_path / "0.png"], "0.png: not a font"),
        (["--out", tmp_path / "preview.docx"], ".docx"),
        (["--out", tmp_path / "nowhere/preview.png"], "nowhere/preview.png"),
        (["--cfg-options", "train_dataloader.dataset.root=nowhere"], "nowhere: no such folder"),
    ):
        done = python(config, "--out", tmp_path / "x.png", *arguments)
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        assert message in done.stderr and len(done.stderr.splitlines()) == 1
