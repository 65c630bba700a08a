"""The contract that every plugin keeps: objectives, and the towers that they read.

A plugin's tests are one line::

    from webssl_toolbox.testing import Case, contract

    test_contract = contract(Case(dict(towers=..., objectives=dict(mine=dict(type="Mine")))))

which pytest runs as one test for each law. Without pytest, ``check(case)`` runs them all. All is
computed in float64 on rows that are drawn and collated as a loader's are, with real towers at
whatever small width the case names.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from . import dist, features
from .data.collate import PatchMask, Tokens, collate
from .data.rng import sample_rng
from .objective import Progress
from .pretrainer import Pretrainer
from .registry import MODELS
from .towers import Tower, is_text

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Case:
    """One model under test.

    Attributes:
        model: ``towers``, ``spaces`` and ``objectives`` of a ``Pretrainer``.
        rows: the global batch; odd rows per rank and unequal token counts are the interesting ones.
        sizes: side in pixels of views that differ from their tower's ``input_size``.
        steps: optimizer steps before gradients are compared; two, so that queues and teachers act.
        imports: modules to import first, in every process; an installed plugin needs none.
    """

    model: Mapping[str, Any]
    rows: int = 6
    sizes: Mapping[str, int] = field(default_factory=dict)
    steps: int = 2
    imports: Sequence[str] = ()


def contract(case: Case) -> Callable[[Callable[[Case], None]], None]:
    """Returns a test function for pytest: one test for each of ``LAWS``."""
    import pytest

    @pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
    def test_contract(law: Callable[[Case], None]) -> None:
        law(case)

    return test_contract


def check(case: Case) -> None:
    """Checks all ``LAWS`` on one case; raises AssertionError naming what is broken."""
    for law in LAWS.values():
        law(case)


def check_gradients(case: Case) -> None:
    """Losses are finite, and every trainable parameter gets a finite gradient on the first step."""
    model = build(case)
    losses, _ = model(inputs(model, case))
    for name, loss in losses.items():
        assert loss.ndim == 0 and loss.isfinite(), f"{name} is {loss}, not a finite scalar"
    _total(losses).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} never gets a gradient: do not create it"
            assert parameter.grad.isfinite().all(), f"the gradient of {name} is not finite"


def check_one_call_per_tower(case: Case) -> None:
    """A step calls each tower once, however many objectives read it."""
    model = build(case)
    calls = dict.fromkeys(model.towers, 0)
    for name, tower in model.towers.items():
        tower.register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
    model(inputs(model, case))
    wanted = {name: int(name in model.plan) for name in model.towers}
    assert calls == wanted, f"calls of each tower are {calls}, not {wanted}"


def check_views_apart(case: Case) -> None:
    """A tower encodes a view as if it were alone, whatever else the same call encodes."""
    model = build(case)
    values = inputs(model, case)
    for name, needs in model.plan.items():
        segments = [features.segment(need, values) for need in needs]
        tower: Any = model.towers[name]
        for need, segment, joint in zip(needs, segments, tower(segments), strict=True):
            (alone,) = tower([segment])
            error = (joint.pooled - alone.pooled).abs().max()
            assert error < TOLERANCE, f"tower {name!r}: other views change the encoding of {need}"


def check_skipped_step(case: Case) -> None:
    """A step with a gradient that is not finite changes no state: queues, centres, averages."""
    model = build(case)
    _train(model, case)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    broken = {
        name: value * float("nan") if value.is_floating_point() else value
        for name, value in inputs(model, case).items()
    }
    model(broken)
    model.after_step(Progress(case.steps + 1, 10, finite=torch.tensor(False)))
    for name, value in model.state_dict().items():
        same = torch.equal(value, before[name])
        assert same, f"{name} changed in a skipped step: write it with progress.commit"


def check_state_round_trip(case: Case) -> None:
    """What a step depends on is in the state dict: a copy of it continues identically."""
    model = build(case)
    _train(model, case)
    twin = build(case)
    twin.load_state_dict(model.state_dict())
    twin.step, twin.total = model.step, model.total  # which schedules read
    first, second = (m(inputs(m, case, draw=7))[0] for m in (model, twin))
    for name, loss in first.items():
        assert torch.equal(loss, second[name]), f"{name} differs after a state dict round trip"


def check_ranks(
    cases: Sequence[Case], ranks: int = 2, strategies: Sequence[str] = ("ddp", "fsdp2")
) -> None:
    """Gradients and state of ``ranks`` processes equal those of one process on the joined batch.

    Both where each rank holds the model, and where they hold shards of it.

    All cases share the processes. Objectives that declare ``rank_local`` are per rank by their
    paper's choice; a case that holds one is refused.
    """
    for case in cases:
        local = [n for n, o in build(case).objectives.items() if getattr(o, "rank_local", False)]
        assert not local, f"{local} are rank_local, so ranks cannot equal one process"
    with tempfile.TemporaryDirectory() as folder:
        processes: Any = torch.multiprocessing
        processes.spawn(_one_rank, (ranks, list(cases), list(strategies), folder), nprocs=ranks)
        for i, case in enumerate(cases):
            alone = _outcome(case)
            for rank, strategy in product(range(ranks), strategies):
                together = load_file(Path(folder) / f"{i}.{rank}.{strategy}.safetensors")
                where = f"case {i} ({', '.join(case.model['objectives'])}) under {strategy}"
                _compare(alone, together, where)


LAWS: dict[str, Callable[[Case], None]] = {
    "every parameter has a gradient": check_gradients,
    "each tower is called once": check_one_call_per_tower,
    "views are encoded apart": check_views_apart,
    "a skipped step changes nothing": check_skipped_step,
    "the state dict is complete": check_state_round_trip,
    "two ranks equal one": lambda case: check_ranks([case]),
}


# -- building blocks, for tests of one's own ---------------------------------------------------


def build(case: Case) -> Pretrainer:
    """Builds the model of a case in float64."""
    for module in case.imports:
        import_module(module)
    cfg = {"type": "Pretrainer"} | copy.deepcopy(dict(case.model))
    model: Pretrainer = MODELS.create(cfg, "model")
    return model.double().train()


def inputs(
    model: Pretrainer, case: Case, draw: int = 0, rank: int = 0, ranks: int = 1
) -> dict[str, Tensor]:
    """Returns one rank's rows of a synthetic global batch; the same rows for any rank count."""
    rows = case.rows // ranks
    drawn = [_row(model, case, draw, i) for i in range(rank * rows, (rank + 1) * rows)]
    return collate(drawn)


def _row(model: Pretrainer, case: Case, draw: int, row: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for needs in model.plan.values():
        for need in needs:
            tower: Any = model.towers[need.tower]
            names = [need.view] if isinstance(need.view, str) else need.view
            for view, (_, keep, mask) in zip(names, need.parts, strict=True):
                rng = sample_rng(draw, 0, row, view)
                if is_text(view):
                    out[view] = _caption(tower, rng, row, dropped=keep is not None)
                    continue
                size = case.sizes.get(view, tower.input_size)
                out[view] = rng.standard_normal((3, size, size))
                places = tower.num_patches(size) if keep or mask else 0
                if keep:
                    out[keep] = np.sort(rng.permutation(places)[: max(1, places // 4)])
                if mask:
                    # The number differs from row to row, so the counts of two ranks do too.
                    out[mask] = PatchMask(rng.random(places) < (row + 1) / (case.rows + 2))
    return out


def _caption(tower: Tower, rng: np.random.Generator, row: int, dropped: bool) -> Tokens:
    tokenizer = tower.tokenizer
    words = rng.integers(1, tokenizer.sot, size=3 + 2 * row % 7)
    ids = np.array([tokenizer.sot, *words, tokenizer.eot])
    # Row 0 hides nothing and later rows more: no two ranks hide equally many.
    index = 1 + np.arange(min(row, len(words)))
    if dropped:  # as `DropTokens` does; else as `MaskTokens`
        keep = np.setdiff1d(np.arange(len(ids)), index)
        return Tokens(ids, int(rng.integers(1 << 40)), index, ids[index], keep)
    hidden = ids.copy()
    hidden[index] = tokenizer.mask
    return Tokens(hidden, int(rng.integers(1 << 40)), index, ids[index])


def _total(losses: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def _train(
    model: Pretrainer, case: Case, rank: int = 0, ranks: int = 1, strategy: str = "single"
) -> dict[str, Tensor]:
    """Takes the steps of a case with plain SGD; returns the last gradients."""
    from .engine import strategies  # which imports this module

    if strategy == "fsdp2":
        strategies.shard(model, torch.device("cpu"))
    wrapped = strategies.wrap(model, strategy)
    gradients: dict[str, Tensor] = {}
    for step in range(case.steps):
        model.step, model.total = step, 10
        model.zero_grad(set_to_none=True)
        losses, _ = wrapped(inputs(model, case, step, rank, ranks))
        _total(losses).backward()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    gradients[name] = dist.whole(parameter.grad).clone()
                    parameter.sub_(parameter.grad, alpha=0.05)
        model.after_step(Progress(step + 1, 10, finite=torch.tensor(True)))
    return gradients


def _outcome(
    case: Case, rank: int = 0, ranks: int = 1, strategy: str = "single"
) -> dict[str, Tensor]:
    model = build(case)
    gradients = _train(model, case, rank, ranks, strategy)
    outcome = {f"gradient of {name}": value for name, value in gradients.items()}
    state = model.state_dict().items()
    return outcome | {f"state {name}": dist.whole(value).clone() for name, value in state}


def _one_rank(rank: int, ranks: int, cases: list[Case], strategies: list[str], folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "RANK": str(rank), "WORLD_SIZE": str(ranks)}
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=ranks
    )
    for (i, case), strategy in product(enumerate(cases), strategies):
        outcome = _outcome(case, rank, ranks, strategy)
        save_file(outcome, Path(folder) / f"{i}.{rank}.{strategy}.safetensors")
    dist.shutdown()


def _compare(alone: Mapping[str, Tensor], together: Mapping[str, Tensor], where: str) -> None:
    assert alone.keys() == together.keys(), f"{where}: ranks have other gradients or state"
    # A gradient that should be zero (of a bias before BatchNorm) holds the rounding of larger ones,
    # and so does the parameter that it moved. Queues and counts have no such excuse.
    gradients = {n: v for n, v in alone.items() if n.startswith("gradient of ")}
    rounding = 1e-4 * max(1.0, *(float(v.abs().max()) for v in gradients.values()))
    for name, value in alone.items():
        trained = name.replace("state ", "gradient of ", 1) in gradients
        floor = rounding if trained else 1e-6
        scale = value.double().abs().max().clamp(min=floor)
        error = float((value.double() - together[name].double()).abs().max() / scale)
        assert error < TOLERANCE, (
            f"{where}: {name} of several ranks differs from one process by {error:.1e} (relative "
            "to its largest entry); gather with dist.gather, average counts with dist.mean"
        )
