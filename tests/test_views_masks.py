"""Patch masks."""

import numpy as np
import pytest

from webssl_plugins.views.masks import BlockMask, RandomKeep, block_mask
from webssl_toolbox.data.collate import collate
from webssl_toolbox.data.sample import Sample
from webssl_toolbox.data.views import Context
from webssl_toolbox.towers import Tower


class Grid(Tower):
    input_size = 112

    def num_patches(self, size=None):
        return ((size or self.input_size) // 16) ** 2


class Strip(Tower):
    def num_patches(self, size=None):
        return 12


CONTEXT = Context({"image": Grid(), "strip": Strip()})
SAMPLE = Sample(None)


def bound(transform):
    transform.bind(CONTEXT)
    return transform


def draw(transform, count):
    rng = np.random.default_rng(0)
    return [transform(None, SAMPLE, rng) for _ in range(count)]


def test_keep_is_a_uniform_ascending_subset():
    kept = np.stack(draw(bound(RandomKeep(0.25)), 2000))
    assert kept.shape == (2000, 12)
    assert kept.dtype == np.int64
    assert (np.diff(kept, axis=1) > 0).all()
    frequency = np.bincount(kept.ravel(), minlength=49) / 2000
    assert np.abs(frequency - 12 / 49).max() < 0.05


def test_the_grid_comes_from_the_tower_at_the_size_of_the_view():
    assert bound(RandomKeep(1.0)).kept == 49
    assert bound(RandomKeep(0.5, size=64)).kept == 8


def test_block_masks_respect_probability_and_share():
    values = draw(bound(BlockMask(ratio=(0.1, 0.5), prob=0.5)), 1000)
    hidden = np.stack([value.hidden for value in values])
    assert hidden.shape == (1000, 49)
    share = hidden.mean(1)
    assert 0.45 < (share > 0).mean() < 0.55
    assert share.max() <= 0.5
    assert 0.27 < share[share > 0].mean() < 0.32


@pytest.mark.parametrize("target", [0, 1, 2, 3, 4, 20, 98])
def test_a_block_mask_never_exceeds_its_target_and_nearly_reaches_it(target):
    counts = [block_mask(14, target, np.random.default_rng(i)).sum() for i in range(100)]
    assert max(counts) <= target
    assert np.mean(counts) >= 0.8 * target


def test_a_block_mask_is_made_of_blocks():
    mask = block_mask(14, 60, np.random.default_rng(0))
    inside = mask[:, 1:] & mask[:, :-1]
    assert inside.sum() > 0.5 * mask.sum()  # scattered at random: 0.3


def test_batches_carry_positions_and_weights():
    batch = collate([{"mask": value} for value in draw(bound(BlockMask(prob=0.7)), 16)])
    hidden = batch["mask"]
    assert batch["mask.index"].tolist() == hidden.flatten().nonzero().flatten().tolist()
    assert batch["mask.weight"].sum().item() == pytest.approx(hidden.any(1).sum().item(), rel=1e-5)


def test_a_batch_without_any_masked_image_is_empty_but_valid():
    batch = collate([{"mask": value} for value in draw(bound(BlockMask(prob=0)), 4)])
    assert not batch["mask"].any()
    assert batch["mask.index"].shape == batch["mask.weight"].shape == (0,)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RandomKeep(0), "ratio"),
        (lambda: RandomKeep(0.01), "ratio"),
        (lambda: RandomKeep(0.5, tower="imgae"), "did you mean 'image'"),
        (lambda: BlockMask(ratio=(0.5, 0.1)), "ratio"),
        (lambda: BlockMask(prob=-1), "prob"),
        (lambda: BlockMask(tower="strip"), "square"),
    ],
)
def test_errors_name_the_argument(build, message):
    with pytest.raises(ValueError, match=message):
        bound(build())
