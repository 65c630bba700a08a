"""The dense probe, its scenes and its read-out, and the effective rank, against plain numpy."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from webssl_plugins.evaluators import dense_probe
from webssl_plugins.evaluators._maps import grid_side
from webssl_plugins.evaluators._readout import fit, mean_iou
from webssl_plugins.evaluators._scale import to_pixels
from webssl_plugins.evaluators._scenes import cell_labels, compose_scenes
from webssl_plugins.evaluators.dense_probe import DenseProbe
from webssl_plugins.evaluators.rank_me import RankMe, effective_rank
from webssl_toolbox.data.sample import Sample
from webssl_toolbox.encoder import Encoder, MissingPart
from webssl_toolbox.pretrainer import Pretrainer
from webssl_toolbox.registry import DATASETS

NAMES = ("red", "green", "blue", "gray", "black")
HIDDEN = (0, 255, 255)  # the colour of what alpha hides
COLOURS = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (120, 120, 120), (0, 0, 0)]
SIZE, SIDE = 32, 4


class Discs:
    """Discs on a transparent ground; their colour is their class. The last has no label."""

    synonyms = {}

    def __init__(self, order=range(5), alpha=True, labelled=True):
        self.order, self.alpha, self.labelled = list(order), alpha, labelled
        self.classes = [NAMES[i] for i in self.order]
        self.loaded = 0

    def __len__(self):
        return 2 * len(self.order) + 1

    def load(self, index, rng):
        label = index // 2 if index < 2 * len(self.order) and self.labelled else -1
        rows, columns = np.mgrid[:24, :24] - 11.5
        image = np.empty((24, 24, 4), np.uint8)
        image[..., :3] = HIDDEN
        image[..., 3] = 255 * (rows**2 + columns**2 < 11**2)
        image[image[..., 3] > 0, :3] = COLOURS[self.order[label]] if label >= 0 else (255, 0, 255)
        return Sample(image if self.alpha else image[..., :3].copy(), label=label, key=str(index))


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(DATASETS._module_dict, "Discs", Discs)


def discs(**arguments):
    return dict(type="Discs", **arguments)


# --- scenes ---------------------------------------------------------------------------------------


def test_a_pixel_has_the_class_whose_colour_it_shows():
    scenes = compose_scenes(discs(), "train", 20, SIZE)
    assert scenes.images.dtype == np.uint8 and scenes.labels.dtype == np.uint16
    for image, labels in zip(scenes.images.astype(int), scenes.labels, strict=True):
        ground = image[labels == 0].max(0)
        assert (ground >= 192).all(), "a light ground"
        # An edge is a mixture: what is less than half the ground's belongs to the drawing.
        for label in np.unique(labels)[1:]:
            inner = image[labels == label]
            near = np.abs(inner[:, None] - np.array([*COLOURS, ground])).sum(2).argmin(1)
            assert (near == label - 1).mean() > 0.9
        assert len(np.unique(labels)) == 5, "four classes, and the ground"
        assert not (image == (255, 0, 255)).all(-1).any(), "no drawing without a label"
        assert not (np.abs(image - HIDDEN) < 30).all(-1).any(), "nothing that alpha hides"


def test_scenes_are_the_same_every_time_and_others_in_another_set():
    first, again, other = (compose_scenes(discs(), where, 6, SIZE) for where in ("a", "a", "b"))
    assert (first.images == again.images).all() and (first.labels == again.labels).all()
    assert not any((a == b).all() for a in first.images for b in other.images)
    longer = compose_scenes(discs(), "a", 9, SIZE)
    assert (longer.images[:6] == first.images).all()


def test_classes_are_equally_frequent():
    labels = compose_scenes(discs(order=(0, 1, 2, 3, 4, 4, 4)), "train", 200, SIZE).labels
    shown = [sum(label in scene for scene in labels) for label in range(1, 8)]
    assert min(shown) > 0.8 * 200 * 4 / 7 and max(shown) < 1.2 * 200 * 4 / 7


@pytest.mark.parametrize("side", [1, 4, 8])
def test_a_cell_has_the_label_of_most_of_its_pixels(side):
    labels = np.random.default_rng(0).integers(0, 4, (3, 16, 16)).astype(np.uint8) * 2
    found, cell = cell_labels(labels, side), 16 // side
    for n, row, column in np.ndindex(3, side, side):
        inside = labels[n, row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
        counts = [int((inside == label).sum()) for label in range(7)]
        assert found[n, row * side + column] == counts.index(max(counts))


def test_drawings_need_labels_and_masks():
    with pytest.raises(ValueError, match="train: no sample has a label"):
        compose_scenes(discs(labelled=False), "train", 1, SIZE)
    with pytest.raises(ValueError, match=r"train: \d+ has no alpha mask; .*Emoji"):
        compose_scenes(discs(alpha=False), "train", 1, SIZE)


# --- read-out -------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3, 10])
def test_ridge_is_that_of_numpy(batch):
    rng = np.random.default_rng(1)
    tokens = rng.normal(3, 2, (10, 7, 6)) * rng.uniform(0.01, 100, 6)
    labels = rng.integers(0, 4, (10, 7)) * 2 % 5  # 0, 2, 4, 1
    tokens[..., 0] += labels * tokens[..., 0].std()
    ours = fit(
        torch.from_numpy(tokens).split(batch), torch.from_numpy(labels).split(batch), ridge=0.01
    )

    # A weighted least-squares problem with rows for the penalty, solved by QR.
    x, y = tokens.reshape(70, 6), labels.reshape(70)
    weight = 1 / np.bincount(y)[y]
    weight /= weight.sum()
    mean = weight @ x
    scale = np.sqrt(weight @ (x - mean) ** 2)
    design = np.c_[np.ones(70), (x - mean) / scale] * np.sqrt(weight)[:, None]
    penalty = np.sqrt(0.01) * np.eye(7)[1:]
    target = np.eye(5)[y] * np.sqrt(weight)[:, None]
    solved, *_ = np.linalg.lstsq(np.r_[design, penalty], np.r_[target, np.zeros((6, 5))])
    scores = np.c_[np.ones(70), (x - mean) / scale] @ solved
    torch.testing.assert_close(
        torch.from_numpy(x) @ ours.weight + ours.bias, torch.from_numpy(scores)
    )
    assert (ours(torch.from_numpy(x)).numpy() == scores.argmax(1)).all()


def test_a_collapsed_tower_is_read_out_too():
    labels = torch.tensor([[0, 1, 1, 2]])
    readout = fit([torch.ones(1, 4, 3)], [labels], ridge=1e-3)
    assert readout.weight.isfinite().all() and readout.bias.allclose(torch.tensor(1 / 3).double())


def test_mean_iou_by_hand():
    labels = torch.tensor([[0, 0, 1, 1], [1, 3, 3, 0]])
    guessed = torch.tensor([[0, 1, 1, 1], [2, 3, 0, 0]])
    # Class 1: 2 of 4; class 3: 1 of 2; class 2 does not occur.
    assert mean_iou(guessed, labels) == pytest.approx(50)


# --- evaluator ------------------------------------------------------------------------------------

VIT = dict(type="ViT", width=24, depth=1, heads=2, patch_size=SIZE // SIDE, input_size=SIZE)
SIMSIAM = dict(toy=dict(type="SimSiam", dim=8, hidden=4))
VIEW = [dict(type="ResizeCenterCrop", resize=2 * SIZE), dict(type="Normalize", std=(0.5, 0.2, 1))]


def encoder(tower=VIT):
    return Encoder(Pretrainer(dict(image=tower), SIMSIAM), VIEW)


def test_a_tower_sees_the_whole_scene_in_the_scale_of_the_view(monkeypatch):
    monkeypatch.setattr(dense_probe, "encode_batch", lambda tower, x: SimpleNamespace(tokens=x))
    images = np.random.default_rng(0).integers(256, size=(2, SIZE, SIZE, 3)).astype(np.uint8)
    model = encoder()
    seen = dense_probe._tokens(model, images)
    assert (to_pixels(model, seen) == images).all(), "not what the view would crop"


def test_classes_are_read_out_and_compared_by_name():
    splits = {"same": discs(), "turned": discs(order=(3, 1, 0, 2, 4)), "none": None}
    model = encoder()
    probe = DenseProbe(discs(), splits, count=60)
    found = probe.run(model)
    numbers = {key: value for key, value in found.items() if key != "scenes"}
    assert list(numbers) == [
        f"{split}/{metric}" for split in ("same", "turned") for metric in ("miou", "accuracy")
    ]
    # Linear in what a random ViT keeps of plain colours; 20 % is chance.
    assert all(numbers[f"{split}/accuracy"] > 80 for split in ("same", "turned"))
    assert all(50 < numbers[f"{split}/miou"] <= 100 for split in ("same", "turned"))
    assert found["scenes"].dtype == np.uint8 and found["scenes"].ndim == 3


def test_scenes_are_composed_once(monkeypatch):
    composed = []
    compose = dense_probe.compose_scenes
    monkeypatch.setattr(
        dense_probe, "compose_scenes", lambda *a: composed.append(a[1]) or compose(*a)
    )
    probe, model = DenseProbe(discs(), {"test": discs()}, count=12), encoder()
    first, again = probe.run(model), probe.run(model)
    assert composed == ["train", "splits['test']"]
    assert all(np.array_equal(first[key], again[key]) for key in first)


def test_pixels_are_those_of_patches_and_need_no_second_look():
    probe = DenseProbe(discs(), {"test": discs()}, count=30, pixels=True)
    scenes = compose_scenes(discs(), "train", 30, SIZE)
    patches = torch.cat(list(probe._batches(encoder(), scenes, SIDE)))
    cell = SIZE // SIDE
    inside = scenes.images[4, cell : 2 * cell, 3 * cell :].transpose(2, 0, 1)
    assert (patches[4, SIDE + 3].numpy() == inside.ravel()).all()
    assert probe.constant and not DenseProbe(discs(), {}).constant
    found = probe.run(encoder())
    assert set(found) == {"test/miou", "test/accuracy"} and found["test/accuracy"] > 50


def test_a_tower_without_a_grid_of_patches_is_skipped():
    resnet = dict(type="CLIPResNet", depths=(1, 1, 1, 1), width=8, input_size=SIZE)
    with pytest.raises(MissingPart, match="1 tokens for 32 x 32 pixels, and no grid of patches"):
        DenseProbe(discs(), {"test": discs()}, count=2).run(encoder(resnet))
    for patches in (3, 9):  # no square; a square of which a pixel would be left
        with pytest.raises(MissingPart):
            grid_side(patches, 32)


def test_arguments_are_checked_when_the_probe_is_built():
    with pytest.raises(ValueError, match="ridge=0: give a number above 0"):
        DenseProbe(discs(), {}, ridge=0)
    with pytest.raises(ValueError, match=r"train\.ordr: .*did you mean 'order'"):
        DenseProbe(discs(ordr=1), {})
    with pytest.raises(ValueError, match=r"splits\['x'\]\.ordr"):
        DenseProbe(discs(), dict(x=discs(ordr=1)))


# --- rank -----------------------------------------------------------------------------------------


def test_rank_is_that_of_the_paper():
    features = np.random.default_rng(0).normal(size=(50, 8)) * np.arange(1, 9) ** 2
    values = np.sqrt(np.linalg.eigvalsh(features.T @ features))
    p = values / values.sum() + 1e-7
    assert effective_rank(torch.from_numpy(features)) == pytest.approx(
        np.exp(-(p * np.log(p)).sum()), rel=1e-5
    )
    assert effective_rank(torch.eye(7)[:, :5]) == pytest.approx(5)
    assert effective_rank(torch.ones(9, 4)) == pytest.approx(1)


def test_rank_is_a_share_of_the_width():
    found = RankMe({"test": discs(), "none": None}).run(encoder())
    assert list(found) == ["test/rank"]
    assert 4 < found["test/rank"] <= 100 * 11 / 24, "eleven samples, 24 channels"
    with pytest.raises(ValueError, match=r"splits\['x'\]"):
        RankMe({"x": discs(ordr=1)})
