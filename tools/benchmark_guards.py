"""What the guards cost: a step of the runner beside one that trusts every number.

The other step has no finite flag, so it keeps nothing of what it would undo, and it watches neither
losses nor the spread of encodings. Models, batches and what is counted are those of
``tools/benchmark.py``. Of each method it prints the ATen calls, and the time of both.
"""

from __future__ import annotations

import argparse
from itertools import count
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from benchmark import METHODS, OPTIMIZER, Method, Step, compare, draw_inputs, parse, work

from webssl_plugins.hooks.loss_spike import LossSpike
from webssl_toolbox import features
from webssl_toolbox.data.loader import to_device
from webssl_toolbox.engine import settings
from webssl_toolbox.engine.finite import FiniteWatch
from webssl_toolbox.engine.optim import OptimWrapper
from webssl_toolbox.objective import Progress

CLIP = 1.0  # gradients are clipped in both, so that both need their norm


def steps(method: Method, device: torch.device, precision: str) -> dict[str, Step]:
    """Returns a step with guards and one without, of one model.

    Two models would lie elsewhere in memory, which alone makes more of a difference than guards.
    """
    model = method.model().to(device, memory_format=torch.channels_last)
    cfg = settings.OptimWrapper(
        dict(type="AdamW", **OPTIMIZER), clip_grad=CLIP, precision=precision
    )
    optimizer = OptimWrapper(cfg, model, device)
    inputs = to_device(draw_inputs(model, method.batch), device)
    watch, spikes, number = FiniteWatch(10, lambda step, bad: ""), LossSpike(), count(1)
    log = SimpleNamespace(log_interval=20)
    seen: Any = SimpleNamespace(settings=SimpleNamespace(train_cfg=log))
    constant = torch.zeros((), device=device)

    def trusting() -> None:
        # No statistics that a skipped step would put back, no spreads, no flag for the optimizer.
        with patch.object(model._running_stats, "_norms", []):
            with patch.object(features, "spread", lambda x: constant), optimizer.autocast():
                losses, _ = model(inputs)
            torch.stack(list(losses.values())).sum().backward()
            (parameters,) = optimizer.clipped
            torch.nn.utils.clip_grad_norm_(parameters, CLIP, foreach=True)
            optimizer.optimizer.found_inf = None
            optimizer.optimizer.step()
            optimizer.optimizer.zero_grad(set_to_none=True)
            model.after_step(Progress(next(number), 100))

    def guarded() -> None:
        with optimizer.autocast():
            losses, logs = model(inputs)
        finite, _ = optimizer.update(torch.stack(list(losses.values())).sum())
        seen.iter = next(number)
        model.after_step(Progress(seen.iter, 100, finite))
        spikes.after_train_iter(seen, seen.iter - 1, outputs=logs)
        watch.watch(seen.iter, finite, logs)

    return {"guarded": guarded, "trusting": trusting}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    args, device = parse(parser, rounds=20)
    for name in args.methods:
        both = steps(METHODS[name], device, args.precision)
        median, least = compare(both, "guarded", "trusting", args.rounds, device)
        print(f"{name}: time guarded / trusting: median {median}, min / min {least}")
        print("\n".join(work(both)), flush=True)


if __name__ == "__main__":
    main()
