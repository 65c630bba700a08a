"""Pictures: what evaluators draw, cell by cell, and where the runner puts them."""

import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import VISBACKENDS
from mmengine.visualization import BaseVisBackend
from PIL import Image

from webssl_plugins.evaluators._grid import (
    CELL,
    FRAME,
    GAP,
    HEADER,
    RIGHT,
    TEXT,
    WHITE,
    WRONG,
    Cell,
    draw_grid,
    fit,
    spread,
)
from webssl_plugins.evaluators.neighbours import Neighbours
from webssl_plugins.evaluators.reconstructions import GRAY, Reconstructions, hide
from webssl_plugins.evaluators.retrieval_grid import RetrievalGrid
from webssl_plugins.hooks._pictures import save
from webssl_toolbox import Need, Objective
from webssl_toolbox.data.sample import Sample, UnreadableSample
from webssl_toolbox.encoder import EncodedSplit, Encoder, MissingPart
from webssl_toolbox.engine.runner import Runner
from webssl_toolbox.evaluation.runner import Evaluation
from webssl_toolbox.pretrainer import Pretrainer
from webssl_toolbox.registry import DATASETS, EVALUATORS, OBJECTIVES

from .test_runner import config

COLOURS = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200), (90, 90, 90)]
SIDE = CELL + 2 * FRAME


class Plain:
    """Images of one colour each, so that a cell tells which image it holds."""

    synonyms = {}

    def __init__(self, labels=(), classes=(), captions=(), broken=()):
        self.labels, self.classes, self.captions = labels, classes, captions
        self.broken = broken

    def __len__(self):
        return len(COLOURS)

    def load(self, index, rng):
        if index in self.broken:
            raise UnreadableSample(f"{index}.jpg: cannot be decoded")
        image = np.full((16, 16, 3), COLOURS[index], np.uint8)
        label = self.labels[index] if self.labels else -1
        return Sample(image, self.captions[index : index + 1], label)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(DATASETS._module_dict, "Plain", Plain)


def plain(**arguments):
    return dict(type="Plain", **arguments)


class Table:
    """An encoder that answers from tables: the vectors of the rows, and those of texts."""

    def __init__(self, vectors, texts=None, joint=True):
        self.vectors = torch.tensor(vectors, dtype=torch.float32)
        self.texts, self.joint = texts, joint

    def encode_dataset(self, cfg):
        dataset = DATASETS.create(cfg, "dataset")
        rows = [i for i in range(len(dataset)) if i not in dataset.broken]
        vectors = self.vectors[rows]
        return EncodedSplit(
            vectors,
            F.normalize(vectors, dim=1) if self.joint else None,
            torch.tensor([dataset.labels[i] if dataset.labels else -1 for i in rows]),
            [dataset.captions[i] if dataset.captions else "" for i in rows],
            dataset.classes,
            rows,
        )

    def encode_text(self, texts):
        return torch.stack([torch.tensor(self.texts[text]) for text in texts])


def cells(grid, rows, columns, text=False):
    """Returns the colours in the middle of each cell, and those of their frames."""
    pitch = (grid.shape[0] - HEADER) // rows
    left = GAP + (TEXT + GAP) * text
    tops = [HEADER + i * pitch for i in range(rows)]
    lefts = [left + i * (SIDE + GAP) for i in range(columns)]
    middles = [[tuple(grid[t + SIDE // 2, x + SIDE // 2].tolist()) for x in lefts] for t in tops]
    frames = [[tuple(grid[t + 1, x + SIDE // 2].tolist()) for x in lefts] for t in tops]
    return middles, frames


# --- evaluators -----------------------------------------------------------------------------------

VECTORS = [[1, 0, 0], [0.9, 0.1, 0], [0.8, 0, 0.3], [0.1, 1, 0], [0.2, 0.9, 0.2], [0.05, 0, 1]]


def test_neighbours_are_framed_by_class_name():
    bank = plain(labels=(0, 1, -1, 1, 0, 0), classes=("cat", "dog"), broken=(0,))
    queries = plain(labels=(0, 0, 0, 0, 0, -1), classes=("dog",))
    grid = Neighbours(bank, queries, count=2, k=3).run(Table(VECTORS))["grid"]
    middles, frames = cells(grid, rows=2, columns=4)
    # The first and the last query; image 0 of the bank cannot be read.
    assert middles[0] == [COLOURS[i] for i in (0, 1, 2, 4)]
    assert frames[0][1] == RIGHT and frames[0][3] == WRONG
    assert frames[0][2] not in (RIGHT, WRONG), "the neighbour has no label"
    assert middles[1][:2] == [COLOURS[5], COLOURS[5]]
    assert not {RIGHT, WRONG} & set(frames[1]), "the query has no label"


def test_no_image_is_its_own_neighbour():
    grid = Neighbours(plain(), plain(), count=6, k=9).run(Table(VECTORS))["grid"]
    middles, _ = cells(grid, rows=6, columns=6)
    assert middles[0] == [COLOURS[i] for i in (0, 1, 2, 4, 3, 5)]
    assert all(sorted(row) == sorted(COLOURS) for row in middles)
    assert (grid == Neighbours(plain(), plain(), count=6, k=9).run(Table(VECTORS))["grid"]).all()


def test_retrieval_frames_images_of_the_caption():
    data = plain(captions=("red", "red", "", "green", "teal", "blue"))
    texts = dict(red=[1.0, 0, 0], green=[0, 0, 1.0], teal=[0, 1.0, 0], blue=[0, 0, 1.0])
    evaluator = RetrievalGrid(data, count=2, k=3)
    grid = evaluator.run(Table(VECTORS, texts))["grid"]
    middles, frames = cells(grid, rows=2, columns=3, text=True)
    assert middles[0][:2] == [COLOURS[0], COLOURS[1]], "image 2 has no caption"
    assert frames[0][:2] == [RIGHT, RIGHT] and frames[0][2] != RIGHT
    assert middles[1][0] == COLOURS[5] and frames[1][0] == RIGHT, "the last caption, 'blue'"
    words = grid[HEADER : HEADER + SIDE, GAP : GAP + TEXT]
    assert words.min() < 60, "the caption is written"
    with pytest.raises(MissingPart, match="joint space"):
        evaluator.run(Table(VECTORS, texts, joint=False))
    with pytest.raises(ValueError, match="no sample has a caption"):
        RetrievalGrid(plain()).run(Table(VECTORS, texts))


@OBJECTIVES.register_module()
class ToyPainter(Objective):
    """Paints what it was not given in the mean of the view's scale."""

    def needs(self):
        return frozenset([Need("image", "v1", keep="v1_keep")])

    def reconstruct(self, features):
        assert not self.training and not torch.is_grad_enabled()
        images, kept = features.input("v1"), features.input("v1_keep")
        assert features[next(iter(self.needs()))].tokens.shape[1] == kept.shape[1]
        hidden = torch.ones(len(images), 16).scatter(1, kept, 0).view(-1, 1, 4, 4)
        return images * (1 - F.interpolate(hidden, scale_factor=4))


VIT = dict(type="ViT", width=8, depth=1, heads=1, patch_size=4, input_size=16)
VIEW = [
    dict(type="ResizeCenterCrop"),
    dict(type="Normalize", mean=(0.2, 0.4, 0.6), std=(0.5, 0.25, 0.125)),
]


def test_reconstructions_undo_the_normalisation(caplog):
    model = Encoder(Pretrainer(dict(image=VIT), dict(toy=dict(type="ToyPainter"))), VIEW)
    model.model.train()
    evaluator = Reconstructions(plain(broken=(5,)), objective="toy", count=3)
    with caplog.at_level(logging.WARNING, "webssl_toolbox"):
        grid = evaluator.run(model)["grid"]
    assert [r.message for r in caplog.records] == [
        "left out of the evaluation: 5.jpg: cannot be decoded"
    ]
    assert model.model.training, "the mode is given back"
    pitch, patch = SIDE + GAP, CELL // 4
    assert grid.shape == (HEADER + 2 * pitch, GAP + 3 * pitch, 3)
    for row, colour in enumerate((COLOURS[0], COLOURS[2])):
        top = HEADER + row * pitch + FRAME
        original, seen, painted = (
            grid[top : top + CELL, x : x + CELL][patch // 2 :: patch, patch // 2 :: patch]
            for x in (GAP + FRAME + i * pitch for i in range(3))
        )
        assert (original == colour).all()
        hidden = (seen == GRAY).all(-1)
        assert hidden.sum() == 12, "a quarter of 16 patches is kept"
        assert (painted[~hidden] == colour).all()
        assert (painted[hidden] == (51, 102, 153)).all(), "zero is the mean of the view"
    assert (grid == evaluator.run(model)["grid"]).all()


def test_hide_paints_the_patches_that_are_not_kept():
    seen = hide(np.zeros((1, 4, 4, 3), np.uint8), torch.tensor([[1, 2]]), patches=4)
    assert seen[0, ..., 0].tolist() == [[GRAY] * 2 + [0] * 2] * 2 + [[0] * 2 + [GRAY] * 2] * 2


def test_reconstructions_need_an_objective_that_paints():
    model = Encoder(Pretrainer(dict(image=VIT), dict(toy=dict(type="ToyPainter"))), VIEW)
    with pytest.raises(MissingPart, match="no objective 'mae'; it has toy"):
        Reconstructions(plain()).run(model)
    model.model.objectives["toy"] = torch.nn.Identity()
    with pytest.raises(ValueError, match="objective='toy': Identity has no method reconstruct"):
        Reconstructions(plain(), objective="toy").run(model)
    model.model.objectives["toy"] = ToyPainter()
    with pytest.raises(ValueError, match="none of the images to draw can be read"):
        Reconstructions(plain(broken=range(6)), objective="toy").run(model)
    with pytest.raises(ValueError, match=r"ratio=1\.5: .*at most 1"):
        Reconstructions(plain(), ratio=1.5)


@pytest.mark.parametrize(
    ("evaluator", "where"),
    [
        (lambda cfg: Neighbours(cfg, plain()), "bank"),
        (lambda cfg: Neighbours(plain(), cfg), "queries"),
        (RetrievalGrid, "data"),
        (Reconstructions, "data"),
    ],
)
def test_datasets_and_counts_are_checked_when_the_evaluator_is_built(evaluator, where):
    with pytest.raises(ValueError, match=rf"{where}\.caption: .*did you mean 'captions'"):
        evaluator(plain(caption=()))
    with pytest.raises(ValueError, match="count=0: give a number above 0"):
        RetrievalGrid(plain(), count=0)
    with pytest.raises(ValueError, match=r"setup\.py: not a font"):
        RetrievalGrid(plain(), font="setup.py")


# --- grids ----------------------------------------------------------------------------------------


def test_any_words_and_any_image_fit():
    images = [np.zeros((h, w, c), np.uint8) for h, w, c in ((1, 400, 3), (300, 7, 4), (16, 16, 4))]
    words = ["", "word " * 200, "x" * 300, "猫 \U0001f600"]
    grid = draw_grid(["a"] * 4, [[*map(Cell, images), Cell(None, w, note="n")] for w in words])
    captioned = draw_grid(["a"], [[Cell(images[0], w, RIGHT)] for w in words])
    assert grid.shape == (HEADER + 4 * (SIDE + GAP), GAP + 3 * (SIDE + GAP) + TEXT + GAP, 3)
    assert captioned.shape[0] > grid.shape[0], "room for captions"
    assert np.asarray(fit(images[2])).tolist() == [[list(WHITE)] * CELL] * CELL, "alpha on white"


def test_spread_is_even_and_keeps_to_the_range():
    assert spread(9, 3) == [0, 4, 8]
    assert spread(2, 5) == [0, 1]
    assert spread(1, 1) == spread(7, 1) == [0]


# --- runner ---------------------------------------------------------------------------------------


def evaluator(monkeypatch, found, kind="Found"):
    monkeypatch.setitem(
        EVALUATORS._module_dict, kind, lambda: SimpleNamespace(run=lambda model: found)
    )
    return dict(type=kind)


PICTURE = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)


def test_metrics_and_pictures_are_told_apart(monkeypatch, tmp_path):
    found = {"a/top1": np.float32(3), "b/c": PICTURE, "n": torch.tensor(2)}
    evaluation = Evaluation(dict(x=evaluator(monkeypatch, found)))
    metrics, pictures = evaluation.run(SimpleNamespace(forget=lambda: None))
    assert metrics == {"x/a/top1": 3, "x/n": 2} and list(pictures) == ["x/b/c"]
    save(pictures, tmp_path)
    assert (np.asarray(Image.open(tmp_path / "x/b-c.png")) == PICTURE).all()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (PICTURE / 255, r"one of float64 \[3, 3, 3\]"),
        (PICTURE[0], r"one of uint8 \[3, 3\]"),
        (torch.from_numpy(PICTURE), r"one of torch\.uint8 \[3, 3, 3\]"),
        ([1, 2], r"one of list \[2\]"),
    ],
)
def test_what_is_neither_names_its_evaluator(monkeypatch, value, told):
    evaluation = Evaluation(dict(x=evaluator(monkeypatch, {"view": value})))
    with pytest.raises(ValueError, match=rf"evaluator x: 'view' must be .*\[H, W, 3\].*{told}"):
        evaluation.run(SimpleNamespace(forget=lambda: None))


@VISBACKENDS.register_module()
class ScalarsAlone(BaseVisBackend):
    """A backend that shows no pictures."""

    def _init_env(self):
        pass

    @property
    def experiment(self):
        return self


def test_a_run_writes_pictures_at_intervals(monkeypatch, tmp_path):
    found = {"test/top1": 5.0, "one/more": PICTURE}
    evaluators = dict(x=evaluator(monkeypatch, found))
    backends = dict(
        local=dict(type="LocalVisBackend"),
        tensorboard=dict(type="TensorboardVisBackend"),
        bare=dict(type="ScalarsAlone"),
    )
    cfg = config(test_view=[dict(type="ResizeCenterCrop"), dict(type="Normalize")])
    cfg |= dict(evaluation=dict(interval=4, evaluators=evaluators), vis_backends=backends)
    Runner(cfg, tmp_path).train()
    written = sorted(path.name for path in (tmp_path / "pictures/x").iterdir())
    assert written == [f"one-more-step_0000000{step}.png" for step in (0, 4, 6)]
    assert (np.asarray(Image.open(tmp_path / "pictures/x" / written[0])) == PICTURE).all()
    assert (tmp_path / "local/vis_image/x-one-more_4.png").exists()
    assert b"x-one-more" in next((tmp_path / "tensorboard").iterdir()).read_bytes()
    assert json.loads((tmp_path / "untrained.json").read_text()) == {"x/test/top1": 5.0}
    assert "one" not in (tmp_path / "results.md").read_text()
