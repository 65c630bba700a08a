"""Patch masks."""

from itertools import islice

import numpy as np
import pytest

from webssl_plugins.views.masks import BlockMask, RandomKeep, block_mask
from webssl_toolbox.data.collate import collate
from webssl_toolbox.data.loader import batches
from webssl_toolbox.data.rng import strata
from webssl_toolbox.data.sample import Sample
from webssl_toolbox.data.views import Context, Views
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


# -- shares over a batch -------------------------------------------------------------------------

ROWS, PATCHES = 16, 400


class Images:
    classes = ()
    synonyms = {}

    def __len__(self):
        return 70  # four batches an epoch

    def load(self, index, rng):
        return Sample(np.zeros((2, 2, 3), np.uint8), label=index)


class Square(Tower):
    input_size = 320

    def num_patches(self, size=None):
        return PATCHES


def shares(count, prob=0.5, **arguments):
    """The share that each row of some batches was to hide, ``[count, rows]``, for two views."""
    mask = [dict(type="BlockMask", ratio=(0.1, 0.5), prob=prob)]
    views = Views(
        dict(g1_mask=mask, g2_mask=mask), ["g1_mask", "g2_mask"], Context({"image": Square()})
    )
    found = islice(batches(Images(), views, ROWS, seed=0, **arguments), count)
    found = [[b[name].float().mean(1).numpy() for name in ("g1_mask", "g2_mask")] for b in found]
    return np.stack(found, axis=1)


@pytest.fixture
def exact(monkeypatch):
    """Hides exactly as many patches as it should: rectangles rarely fill the last ones."""

    def first(side, target, rng):
        return (np.arange(side**2) < target).reshape(side, side)

    monkeypatch.setattr("webssl_plugins.views.masks.block_mask", first)


@pytest.mark.parametrize("prob, masked", [(0.5, 8), (0.25, 4), (1.0, 16), (0.0, 0)])
def test_the_shares_of_a_batch_are_spread_evenly_over_its_masked_images(exact, prob, masked):
    for view in shares(6, prob):
        for batch in view:
            assert (batch > 0).sum() == masked
            edges = 0.1 + 0.4 * np.arange(masked + 1) / max(masked, 1)
            drawn = np.sort(batch)[ROWS - masked :]
            assert (drawn > edges[:-1] - 1 / PATCHES).all() and (drawn < edges[1:]).all()


def test_over_many_batches_shares_are_uniform_and_the_crops_of_an_image_independent(exact):
    first, second = shares(300).reshape(2, -1)
    for view in (first, second):
        counts, _ = np.histogram(view[view > 0], bins=4, range=(0.1, 0.5))
        assert abs(counts / 600 - 1).max() < 0.05  # 2400 masked images
    assert abs(((first > 0) & (second > 0)).mean() - 0.25) < 0.02
    both = (first > 0) & (second > 0)
    assert (first[both] != second[both]).mean() > 0.95
    assert abs(np.corrcoef(first[both], second[both])[0, 1]) < 0.1


def test_a_row_of_the_batch_is_tied_to_no_share(exact):
    by_row = shares(300)[0]
    assert abs((by_row > 0).mean(0) - 0.5).max() < 0.12  # 4 standard errors
    assert len(np.unique(by_row[:, 0])) > 50


def test_shares_do_not_depend_on_workers_ranks_or_where_the_run_began():
    reference = shares(6)
    assert np.array_equal(shares(6, workers=2), reference)
    assert np.array_equal(shares(3, start=3), reference[:, 3:])
    for ranks in (2, 4):
        blocks = [shares(6, rank=rank, ranks=ranks) for rank in range(ranks)]
        assert np.array_equal(np.concatenate(blocks, axis=2), reference)


def test_strata_have_one_number_in_each_interval_and_their_own_order():
    drawn = [strata(0, epoch, batch, 100, name) for epoch, batch, name in STREAMS]
    for numbers in drawn:
        assert sorted(int(100 * x) for x in numbers) == list(range(100))
    assert len({tuple(numbers) for numbers in drawn}) == len(STREAMS)


STREAMS = [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b")]
