"""Probes that are trained step by step, against one torch module for each head."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests import adapters
from webssl_plugins.evaluators._heads import TRUST, LinearHeads
from webssl_plugins.evaluators._logistic import fit_logistic
from webssl_plugins.evaluators.attentive_probe import AttentiveHeads, AttentiveProbe
from webssl_plugins.evaluators.knn import KNN
from webssl_plugins.evaluators.linear_probe import LinearProbe
from webssl_plugins.evaluators.logistic_regression import LogisticRegression
from webssl_toolbox.data.sample import Sample
from webssl_toolbox.encoder import MissingPart
from webssl_toolbox.loading import build
from webssl_toolbox.registry import DATASETS

folders = adapters.model_folders  # what adapters of transformers read
CPU = torch.device("cpu")
COLUMNS = [slice(3, 5), slice(0, 5), slice(3, 9), slice(0, 9)]
RATES = (0.01, 0.3, 2.0)


def drawn(steps, rows=16, seed=0):
    draws = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        labels = torch.randint(-1, 4, (rows,), generator=draws)
        yield torch.randn(rows, 9, generator=draws) + labels[:, None], labels


def heads(**arguments):
    return LinearHeads(COLUMNS, 4, RATES, CPU, **arguments)


def modules(start):
    """One linear layer for each input and rate, with the same first weights."""
    for columns, weight in zip(COLUMNS, start.weights, strict=True):
        for i, rate in enumerate(RATES):
            layer = nn.Linear(weight.shape[0] - 1, 4)
            with torch.no_grad():
                layer.weight.copy_(weight[:-1, i].T)
                layer.bias.copy_(weight[-1, i])
            yield columns, rate, layer


def compare(trained, layers):
    found = [w[:, i] for w in trained.weights for i in range(len(RATES))]
    for weight, layer in zip(found, layers, strict=True):
        torch.testing.assert_close(weight[:-1], layer.weight.detach().T, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(weight[-1], layer.bias.detach(), rtol=1e-4, atol=1e-5)


def test_heads_side_by_side_equal_heads_one_by_one():
    """Against torch's SGD and a half cosine, head by head."""
    trained, layers, steps = heads(), list(modules(heads())), 12
    for step, batch in enumerate(drawn(steps)):
        trained.update(*batch, step, steps)
    for columns, rate, layer in layers:
        optimizer = torch.optim.SGD(layer.parameters(), rate, momentum=0.9)
        for step, (x, y) in enumerate(drawn(steps)):
            optimizer.param_groups[0]["lr"] = rate * (1 + np.cos((step + 1) / steps * np.pi)) / 2
            optimizer.zero_grad()
            F.cross_entropy(layer(x[:, columns]), y, ignore_index=-1).backward()
            optimizer.step()
    compare(trained, [layer for *_, layer in layers])
    x, _ = next(drawn(1, seed=1))
    expected = [layer(x[:, columns]).argmax(1) for columns, _, layer in layers]
    assert trained.guess(x).T.tolist() == [each.tolist() for each in expected]


def test_the_variant_of_mae():
    """BatchNorm without a scale, LARS as in ``mae/util/lars.py``, a linear warm-up."""
    trained, layers, steps = (
        heads(batch_norm=True, lars=True, warmup=0.25),
        list(modules(heads())),
        8,
    )
    norm = nn.BatchNorm1d(9, eps=1e-6, affine=False)
    speeds = {}
    for step, (x, y) in enumerate(drawn(steps)):
        trained.update(x, y, step, steps)
        normed = norm(x)
        for columns, rate, layer in layers:
            layer.zero_grad()
            F.cross_entropy(layer(normed[:, columns]), y, ignore_index=-1).backward()
            share = (step + 1) / 2 if step < 2 else (1 + np.cos((step - 1) / 6 * np.pi)) / 2
            for p in layer.parameters():
                gradient = p.grad
                if p.dim() > 1:
                    gradient = gradient * (TRUST * p.data.norm() / gradient.norm())
                speed = speeds[p] = 0.9 * speeds.get(p, 0) + gradient
                p.data -= rate * share * speed
    compare(trained, [layer for *_, layer in layers])
    x, _ = next(drawn(1, seed=1))
    expected = [layer(norm.eval()(x)[:, columns]).argmax(1) for columns, _, layer in layers]
    assert trained.guess(x).T.tolist() == [each.tolist() for each in expected]


# --- the whole probe ------------------------------------------------------------------------------


class Tints:
    """Noise with a tint, which is its class; every tenth has no label."""

    synonyms = {}
    classes = ("red", "green", "blue")

    def __init__(self, count=60, seed=0, strength=60):
        self.count, self.seed, self.strength = count, seed, strength

    def __len__(self):
        return self.count

    def load(self, index, rng):
        draws = np.random.default_rng((self.seed, index))
        image = draws.integers(0, 196, (20, 20, 3), np.uint8)
        image[..., index % 3] += np.uint8(self.strength)
        return Sample(image, label=-1 if index % 10 == 9 else index % 3)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(DATASETS._module_dict, "Tints", Tints)


TRAIN, TEST = dict(type="Tints"), dict(type="Tints", seed=1)
NORMALIZE = dict(type="Normalize")
VIT = dict(type="ViT", patch_size=4, width=16, depth=4, heads=2, input_size=16)
CROPS = [dict(type="RandomResizedCrop", scale=(0.5, 1.0)), dict(type="RandomFlip"), NORMALIZE]
SMALL = dict(epochs=4, batch_size=8, validation=dict(type="Tints", seed=2))


def encoder(tower=VIT):
    view = [dict(type="ResizeCenterCrop"), NORMALIZE]
    return build(dict(model=dict(towers=dict(image=tower)), test_view=view))


def linear(**arguments):
    return LinearProbe(TRAIN, dict(t=TEST), **SMALL | dict(rates=(0.1, 3.0)) | arguments)


def attentive(**arguments):
    return AttentiveProbe(TRAIN, dict(t=TEST), **SMALL | dict(rates=(3e-3,), heads=2) | arguments)


PROBES = {
    "linear": linear,
    "linear, augmented": lambda: linear(view=CROPS),
    "linear, MAE's": lambda: linear(batch_norm=True, lars=True, warmup=5, epochs=20, rates=(30.0,)),
    "attentive": attentive,
    "attentive, augmented": lambda: attentive(view=CROPS),
}


@pytest.mark.parametrize("name", PROBES)
def test_probes_learn_what_the_tower_shows(name):
    found = PROBES[name]().run(encoder())
    assert found.keys() == {"validation/top1", "t/top1"}
    assert found["t/top1"] > 70


def test_the_best_head_is_chosen_by_validation(caplog):
    """Its score on the test set equals that of a probe with this head alone."""
    with caplog.at_level("INFO", "webssl_toolbox"):
        found = linear(rates=(1e-9, 1.0), blocks=(1, 2)).run(encoder())
    assert "of 8 heads lr=1 blocks=" in caplog.text
    alone = dict(blocks=(2 if "blocks=2" in caplog.text else 1,))
    alone["means"] = ("mean=True" in caplog.text,)
    # The same weights at the start are other draws: the choice, not the number, is compared.
    assert abs(linear(rates=(1.0,), **alone).run(encoder())["t/top1"] - found["t/top1"]) < 12


def test_views_are_drawn_anew_and_workers_change_nothing():
    model = encoder()
    probe = linear(view=CROPS, epochs=1)
    assert (
        probe.run(model) == probe.run(model) == linear(view=CROPS, epochs=1, workers=1).run(model)
    )


def test_a_share_of_train_is_held_out():
    probe = linear(validation=0.25)
    fitted, held = probe._parts(Tints())
    assert (len(fitted), len(held)) == (45, 15)
    assert not set(fitted.rows) & set(held.rows)
    assert probe.run(encoder())["validation/top1"] > 50


def test_pixels_and_convnets_are_probed_by_the_same_config():
    for tower in (
        dict(type="Pixels", size=4, patch_size=4, input_size=16),
        dict(type="CLIPResNet", depths=(1, 1, 1, 1), width=8, input_size=32),
    ):
        for name in ("linear", "attentive"):
            assert PROBES[name]().run(encoder(tower))["t/top1"] > 30, (tower, name)


@pytest.mark.slow
@adapters.each(adapters.IMAGES)
def test_models_of_other_libraries_are_probed_by_config(tower, folders):
    """Random weights: they still show a tint."""
    model = encoder(adapters.local(tower, folders))
    sets = (TRAIN, dict(t=TEST))
    for probe in (
        KNN(*sets),
        LogisticRegression(*sets),
        linear(blocks=(1, 2), rates=(0.1, 1.0, 10.0), batch_norm=True, epochs=20),
        attentive(epochs=25),
    ):
        assert probe.run(model)["t/top1"] > 40, type(probe)


def test_a_tower_with_too_few_blocks_is_said():
    with pytest.raises(MissingPart, match=r"tower 'image' cannot be probed so: layers .*the 4"):
        linear(blocks=(5,)).run(encoder())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(rates=(0.1, 0)), "rates=0: give a number above 0"),
        (dict(blocks=()), "rates, blocks and means need an entry each"),
        (dict(view=[dict(type="Crop")]), r"view\[0\].type"),
        (dict(epochs=0), "epochs=0: give a number above 0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        linear(**arguments)


def test_what_cannot_be_trained_is_said():
    with pytest.raises(ValueError, match="batch_size=64: 54 samples on 1 ranks give no such batch"):
        linear(batch_size=64).run(encoder())
    with pytest.raises(ValueError, match="heads=3 do not divide the tower's 16 channels"):
        attentive(heads=3).run(encoder())


# --- ranks ----------------------------------------------------------------------------------------


def scores():
    """Two epochs of each: augmented and not."""
    few = dict(epochs=2, blocks=(1,), means=(False,))
    made = linear(view=CROPS, **few), linear(**few), attentive(view=CROPS, epochs=2)
    return [probe.run(encoder()) for probe in made]


def one_rank(rank, folder):
    torch.set_num_threads(1)
    where = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=2)
    DATASETS._module_dict["Tints"] = Tints
    torch.save((states(rank, 2), scores(), at_once()), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def at_once():
    """Probes that are fitted in one go: their scores, and the weights of one."""
    model, sets = encoder(), (TRAIN, dict(t=TEST))
    x = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.arange(40) % 4
    return {
        **KNN(*sets, k=5, ks=(20,), shots=(3,), chunk=7).run(model),
        **LogisticRegression(*sets, cs=(1e-3, 1e-2)).run(model),
    }, fit_logistic(x, y, 4, 1.0).readout.weight


def states(rank=0, ranks=1):
    """The weights of heads after some steps on shares of batches, with unequal counts of labels."""
    kinds = {"plain": {}, "mae": dict(batch_norm=True, lars=True)}
    found = {}
    for name, arguments in kinds.items():
        trained = heads(**arguments)
        for step, (x, y) in enumerate(drawn(6)):
            trained.update(x.chunk(ranks)[rank], y.chunk(ranks)[rank], step, 6)
        found |= {f"{name}{i}": weight for i, weight in enumerate(trained.weights)}
    attentive = AttentiveHeads(8, 4, (1e-2,), 0.01, 2, CPU)
    attentive.modules[0].double()  # Adam makes a step of what rounding leaves of a zero
    for step, (x, y) in enumerate(drawn(6)):
        x = x[:, None, :8].double() * torch.arange(1, 4)[:, None]
        attentive.update(x.chunk(ranks)[rank], y.chunk(ranks)[rank], step, 6)
    return found | dict(attentive.modules[0].state_dict())


@pytest.mark.slow
def test_two_ranks_equal_one(tmp_path):
    torch.multiprocessing.spawn(one_rank, (str(tmp_path),), nprocs=2)
    expected, alone, (metrics, weight) = states(), scores(), at_once()
    for rank in range(2):
        found, together, (gathered, fitted) = torch.load(f"{tmp_path}/{rank}.pt")
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)
        torch.testing.assert_close(fitted, weight, rtol=1e-6, atol=1e-6)
        assert gathered == pytest.approx(metrics)
        assert together == [pytest.approx(each) for each in alone]


@pytest.mark.parametrize("probe", [linear, attentive])
def test_heads_that_were_stored_go_on_to_the_same_end(probe, monkeypatch):
    options = dict(view=CROPS, epochs=3)
    model, stores = encoder(), {}
    whole = probe(**options).run(model)
    model.store_of = lambda cfg, count: stores.setdefault(repr(cfg), {})
    heads = type(probe(**options).setup(model, 3).heads)
    update, steps = heads.update, []

    def killed(self, features, labels, step, total):
        if len(steps) == 2 * total // 3 + 1:
            raise KeyboardInterrupt
        steps.append(step)
        update(self, features, labels, step, total)

    monkeypatch.setattr(heads, "update", killed)
    with pytest.raises(KeyboardInterrupt):
        probe(**options).run(model)
    (kept,) = [list(store) for name, store in stores.items() if "heads of" in name]
    assert kept == [max(steps)], "the end of the second epoch; the first is gone"
    steps.clear()
    assert probe(**options).run(model) == whole
    assert steps[0] == kept[0] and len(steps) == kept[0] // 2, "the last epoch alone"


def test_what_was_read_before_a_kill_is_not_read_again(monkeypatch):
    model, stores, seen = encoder(), {}, []
    model.store_of = lambda cfg, count: stores.setdefault(repr(cfg), {})
    layers = type(model.tower("image")).layers

    def counted(self, images, indices):
        seen.append(len(images))
        return layers(self, images, indices)

    monkeypatch.setattr(type(model.tower("image")), "layers", counted)
    first = linear().run(model)
    assert sum(seen) == 1 + 54 + 54 + 54, "a black image, train, validation and the test set"
    seen.clear()
    assert linear().run(model) == first
    assert sum(seen) == 1 + 54 + 54
    attentive().run(model)
    assert len(stores) == 2, "they read different things"
