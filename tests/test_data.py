"""Data as a function of its position: samplers, random streams, loaders, views, collation."""

import subprocess
import sys
from itertools import islice

import numpy as np
import pytest
import torch

from webssl_toolbox.data.collate import PatchMask, Tokens, collate
from webssl_toolbox.data.loader import ATTEMPTS, batches, to_device
from webssl_toolbox.data.rng import sample_rng, stable_hash
from webssl_toolbox.data.sample import Sample, UnreadableSample
from webssl_toolbox.data.sampler import PositionSampler
from webssl_toolbox.data.views import Context, DeviceTransform, Transform, Views
from webssl_toolbox.registry import MODELS, VIEWS

torch.set_num_threads(1)


# -- sampler -------------------------------------------------------------------------------------


def take(count, **arguments):
    arguments = dict(length=23, batch_size=4, seed=0) | arguments
    return list(islice(PositionSampler(**arguments), count))


@pytest.mark.parametrize("start", [0, 1, 4, 5, 6, 13])
def test_starting_at_a_step_equals_skipping_to_it(start):
    assert take(12, start=start) == take(12 + start)[start:]


def test_an_epoch_holds_each_index_once_and_no_batch_crosses_into_the_next():
    steps = 23 // 4
    found = take(3 * steps)
    for batch in found:
        assert len({epoch for epoch, *_ in batch}) == 1
    epochs = [found[i : i + steps] for i in range(0, len(found), steps)]
    orders = [[index for batch in epoch for _, index, _ in batch] for epoch in epochs]
    for number, (epoch, order) in enumerate(zip(epochs, orders, strict=True)):
        assert {e for batch in epoch for e, *_ in batch} == {number}
        assert [place for batch in epoch for *_, place in batch] == list(range(steps * 4))
        assert len(set(order)) == steps * 4 and set(order) <= set(range(23))
    assert orders[0] != orders[1] != orders[2], "every epoch is another order"
    assert take(3) != take(3, seed=1)
    # What an epoch drops differs from epoch to epoch: nothing is left out for good.
    assert len(set(range(23)) & {i for order in orders for i in order}) == 23


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("start", [0, 3, 7])
def test_blocks_of_ranks_join_to_the_global_batch(ranks, start):
    blocks = [take(9, rank=rank, ranks=ranks, start=start) for rank in range(ranks)]
    joined = [[key for block in step for key in block] for step in zip(*blocks, strict=True)]
    assert joined == take(9, start=start)


def test_what_a_sampler_cannot_do_is_refused():
    with pytest.raises(ValueError, match="5 rows cannot be shared evenly by 2 ranks"):
        PositionSampler(10, 5, 0, ranks=2)
    with pytest.raises(ValueError, match="3 samples, fewer than one batch of 4"):
        PositionSampler(3, 4, 0)
    assert len(take(3, length=4)) == 3


# -- random streams ------------------------------------------------------------------------------


def draw(*key):
    return sample_rng(*key).integers(1 << 62, size=4).tolist()


def test_streams_differ_in_every_part_of_their_key():
    keys = [
        (seed, epoch, index, name)
        for seed in (0, 1)
        for epoch in (0, 1, 2)
        for index in (0, 1, 1 << 20)
        for name in ("", "v1", "v2", "text")
    ]
    assert len({tuple(draw(*key)) for key in keys}) == len(keys)
    values = np.array([sample_rng(0, 0, index, "v1").random() for index in range(2000)])
    assert abs(values.mean() - 0.5) < 0.03 and abs(values.std() - 12**-0.5) < 0.02
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.1


def test_streams_are_the_same_in_another_process_and_release():
    code = (
        "from webssl_toolbox.data.rng import sample_rng, stable_hash\n"
        "print(sample_rng(3, 5, 7, 'v1').integers(1 << 62, size=4).tolist(), stable_hash('a'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{draw(3, 5, 7, 'v1')} {stable_hash('a')}"
    # Pinned: another stream in a later release would silently change every resumed run.
    assert stable_hash("a") == 1702698405120146464
    key = np.array([stable_hash("3/v1"), (5 << 40) | 7], dtype=np.uint64)
    assert draw(3, 5, 7, "v1") == (
        np.random.Generator(np.random.Philox(key=key)).integers(1 << 62, size=4).tolist()
    )


# -- loader --------------------------------------------------------------------------------------


class Numbers:
    """Each sample is its own index; every index in `broken` cannot be read."""

    classes = ()
    synonyms = {}

    def __init__(self, length=12, broken=()):
        self.length, self.broken = length, frozenset(broken)

    def __len__(self):
        return self.length

    def load(self, index, rng):
        if index in self.broken:
            raise UnreadableSample(f"{index} cannot be read")
        image = np.full((2, 2, 3), index, dtype=np.uint8)
        return Sample(image, (f"number {index}", str(rng.integers(1000))), index, str(index))


class Noise(Transform):
    """Adds a draw, so that a view shows which random stream it used."""

    calls = 0

    def __init__(self, fail=False):
        self.fail = fail

    def __call__(self, value, sample, rng):
        assert not self.fail, "a view that nobody needs was computed"
        type(self).calls += 1
        return value + rng.integers(100, size=value.shape).astype(np.uint8)


class Shift(DeviceTransform):
    def draw(self, rng):
        return rng.random(1, dtype=np.float32)

    def apply(self, images, params):
        return images + params[:, :, None, None]


class Times(DeviceTransform):
    def __init__(self, factor=2.0):
        self.factor = factor

    def apply(self, images, params):
        assert params.shape[1] == 0
        return images * self.factor


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    assert "Tokenize" in VIEWS  # loads the plugins before the table is touched
    for cls in (Noise, Shift, Times):
        monkeypatch.setitem(VIEWS.module_dict, cls.__name__, cls)


def views(needed=("v1", "v2"), **cfg):
    noise = dict(type="Noise")
    cfg = dict(v1=[noise, dict(type="Shift")], v2=[noise]) | cfg
    return Views(cfg, needed, Context({}))


def loaded(count, dataset=None, **arguments):
    arguments = dict(batch_size=4, seed=0) | arguments
    return list(islice(batches(dataset or Numbers(), views(), **arguments), count))


def same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert torch.equal(a[key], b[key]), key


def test_batches_do_not_depend_on_workers_or_on_where_the_run_began():
    reference = loaded(7)
    same(loaded(7, workers=2), reference)
    for start in (1, 3, 5):
        same(loaded(7 - start, start=start), reference[start:])
    same(loaded(2, start=5, workers=2), reference[5:])


def test_ranks_load_the_rows_of_the_global_batch():
    reference = loaded(5)
    ranks = [loaded(5, rank=rank, ranks=2) for rank in range(2)]
    joined = [{key: torch.cat([a[key], b[key]]) for key in a} for a, b in zip(*ranks, strict=True)]
    same(joined, reference)


def test_views_of_a_sample_and_epochs_use_streams_of_their_own():
    first = loaded(6)
    assert not torch.equal(first[0]["v1"], first[0]["v2"])
    rows = {}
    for batch in first:
        for index, row in zip(batch["index"].tolist(), batch["v1"], strict=True):
            rows.setdefault(index, []).append(row)
    repeated = [pair for pair in rows.values() if len(pair) == 2]
    assert len(repeated) == 12
    assert not any(torch.equal(*pair) for pair in repeated)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_samples_are_replaced_counted_and_the_batch_keeps_its_size(workers):
    broken = {1, 4, 6}
    found = loaded(3, Numbers(broken=broken), workers=workers)
    same(found, loaded(3, Numbers(broken=broken)))
    healthy = loaded(3)
    for batch, other in zip(found, healthy, strict=True):
        assert len(batch["index"]) == 4
        assert torch.equal(batch["index"], other["index"]), "the index says what was asked for"
        for row, index in enumerate(batch["index"].tolist()):
            assert (batch["unreadable"][row] > 0) == (index in broken)
            assert batch["label"][row].item() not in broken
            if index not in broken:  # a neighbour's fate changes nothing for the others
                assert torch.equal(batch["v1"][row], other["v1"][row])
    # Which substitute it is depends on the epoch, so one hole is not always the same twin.
    substitutes = [
        batch["label"][row].item()
        for batch in loaded(60, Numbers(broken={1}))
        for row in (batch["index"] == 1).nonzero()[:, 0].tolist()
    ]
    assert len(substitutes) == 20 and len(set(substitutes)) > 3


def test_a_dataset_that_cannot_be_read_at_all_stops_the_run():
    with pytest.raises(UnreadableSample, match=rf"{ATTEMPTS} samples in a row.*check the dataset"):
        loaded(1, Numbers(broken=range(12)))


def test_lengths_stay_on_the_host():
    batch = {"text": torch.zeros(2, 3), "text.length": torch.tensor([1, 3])}
    moved = to_device(batch, torch.device("meta"))
    assert moved["text"].device.type == "meta" and moved["text.length"].device.type == "cpu"


# -- views ---------------------------------------------------------------------------------------


def test_a_missing_view_names_the_nearest():
    with pytest.raises(ValueError, match=r"the view 'v22', which .* lacks; did you mean 'v2'"):
        views(needed=["v22"])
    with pytest.raises(ValueError, match=r"the view 'v2', which .* lacks"):
        views(v2=None)


def test_only_needed_views_are_computed():
    wanted = views(needed=["v2"], v1=[dict(type="Noise", fail=True)])
    before = Noise.calls
    drawn = wanted.draw(Numbers().load(3, sample_rng(0, 0, 3)), 0, 0, 3)
    assert list(drawn) == ["v2"] and Noise.calls == before + 1


def test_a_view_does_not_depend_on_which_others_are_computed():
    sample = Numbers().load(3, sample_rng(0, 0, 3))
    both = views().draw(sample, 0, 1, 3)
    for name in ("v1", "v2"):
        alone = views(needed=[name]).draw(sample, 0, 1, 3)
        assert all(np.array_equal(alone[key], both[key]) for key in alone)


def test_device_transforms_run_last_in_order_with_what_the_worker_drew():
    chain = views(v1=[dict(type=kind) for kind in ("Noise", "Times", "Shift")])
    drawn = [chain.draw(Numbers().load(i, sample_rng(0, 0, i)), 0, 0, i) for i in range(3)]
    batch = collate(drawn)
    assert batch["v1"].dtype == torch.uint8 and batch["v1@1"].shape == (3, 1)
    done = chain.finish(batch)
    images = batch["v1"].permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(done["v1"], images * 2 + batch["v1@1"][:, :, None, None])
    torch.testing.assert_close(done["v2"], batch["v2"].permute(0, 3, 1, 2) / 255)
    assert not [key for key in done if "@" in key]
    assert batch["v1"].dtype == torch.uint8, "the batch itself is left as it was"
    with pytest.raises(ValueError, match=r"views\.v1: .* move them to the end"):
        views(v1=[dict(type="Shift"), dict(type="Noise")])


# -- collation -----------------------------------------------------------------------------------


def tokens(ids, index=None, caption=0):
    ids = np.array(ids)
    if index is None:
        return Tokens(ids, caption)
    index = np.array(index, dtype=np.int64)
    return Tokens(ids, caption, index, ids[index] + 100)


def test_tokens_are_padded_and_hidden_positions_point_into_the_flat_batch():
    values = [tokens([7, 1, 2, 8], [1, 2], 5), tokens([7, 8], [], 6), tokens([7, 3, 8], [1], 5)]
    out = collate([{"text": value} for value in values])
    assert out["text"].tolist() == [[7, 1, 2, 8], [7, 8, 0, 0], [7, 3, 8, 0]]
    assert out["text.length"].tolist() == [4, 2, 3]
    assert out["text.caption"].tolist() == [5, 6, 5]
    assert out["text.index"].tolist() == [1, 2, 9]
    assert out["text.target"].tolist() == [101, 102, 103]
    assert (out["text"].flatten()[out["text.index"]] + 100).equal(out["text.target"])
    assert {value.dtype for value in out.values()} == {torch.int64}
    plain = collate([{"text": tokens([7, 8])}])
    assert sorted(plain) == ["text", "text.caption", "text.length"]
    nothing = collate([{"text": tokens([7, 8], [])}])
    assert nothing["text.index"].shape == (0,) and nothing["text.index"].dtype == torch.int64


def test_patch_masks_come_with_their_index_and_a_weight_by_image():
    hidden = np.array([[0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=bool)
    out = collate([{"m": PatchMask(row)} for row in hidden])
    assert torch.equal(out["m"], torch.from_numpy(hidden))
    assert out["m.index"].tolist() == [1, 2, 8, 9, 10, 11]
    assert out["m.weight"].tolist() == [0.5, 0.5, 0.25, 0.25, 0.25, 0.25]
    assert out["m.weight"].dtype == torch.float32 and out["m.index"].dtype == torch.int64
    assert collate([{"m": PatchMask(hidden[1])}])["m.weight"].shape == (0,)


# -- masked language modelling -------------------------------------------------------------------


def test_mask_tokens_hides_as_bert_does_and_never_start_or_end():
    tower = MODELS.create(
        dict(type="TextTransformer", width=8, depth=1, heads=1, vocab_size=600), "text"
    )
    steps = [dict(type="Caption"), dict(type="Tokenize"), dict(type="MaskTokens", prob=0.3)]
    chain = Views(dict(text=steps), ["text"], Context({"text": tower}))
    tokenizer = tower.tokenizer
    caption = "a small brown dog runs over the wet green grass of a park"
    original = tokenizer.encode(caption)
    inside = len(original) - 2
    fates = np.zeros(3)
    drawn = 2000
    for index in range(drawn):
        value = chain.draw(Sample(None, (caption,)), 0, 0, index)["text"]
        assert value.caption == stable_hash(caption)
        assert len(value.ids) == len(original)
        assert (value.ids[0], value.ids[-1]) == (tokenizer.sot, tokenizer.eot)
        assert ((value.index > 0) & (value.index < len(original) - 1)).all()
        assert np.array_equal(value.target, original[value.index])
        untouched = np.delete(np.arange(len(original)), value.index)
        assert np.array_equal(value.ids[untouched], original[untouched])
        shown = value.ids[value.index]
        assert not np.isin(shown, [tokenizer.sot, tokenizer.eot]).any()
        fates += [(shown == tokenizer.mask).sum(), (shown == value.target).sum(), len(shown)]
    masked, kept, count = fates
    assert abs(count / (drawn * inside) - 0.3) < 0.02
    assert abs(masked / count - 0.8) < 0.02
    assert abs(kept / count - 0.1) < 0.02
