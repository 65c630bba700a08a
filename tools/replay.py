"""Runs a step again that was not finite: ``python tools/replay.py work_dirs/NAME/replay/STEP.json``

It resumes from the checkpoint beside the file, and takes the steps from there to the bad one, as
the run did: exact to the bit where the machine computes as the run's did. Then it says which
objectives are not finite, and takes the batch apart, to find the samples. A run of several ranks is
run again by as many: ``torchrun --nproc-per-node 2 tools/replay.py FILE``.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from _terminal import fail, log, plain
from mmengine.hooks import Hook
from torch import Tensor

from webssl_toolbox import dist
from webssl_toolbox.data import loader
from webssl_toolbox.data.rng import sample_rng
from webssl_toolbox.data.sample import UnreadableSample
from webssl_toolbox.data.sampler import PositionSampler
from webssl_toolbox.engine import strategies
from webssl_toolbox.engine.finite import NonFinite, not_finite
from webssl_toolbox.engine.runner import Runner
from webssl_toolbox.running_stats import unchanged
from webssl_toolbox.seeding import seed_step

Key = tuple[int, int, int]  # epoch, index in the dataset, position: what draws a sample


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path, help="the replay file that training named")
    parser.add_argument("--device", help="cuda or cpu (default: a GPU where there is one)")
    return parser.parse_args()


def main() -> None:
    args = parse()
    log(logging.WARNING)
    try:
        lines = replay(args.file, args.device)
        if dist.rank() == 0:
            print(plain("\n".join(lines)))
    except (ValueError, OSError, NonFinite) as error:
        fail(error)
    finally:
        dist.shutdown()


def replay(file: Path, device: str | None = None) -> list[str]:
    """Runs a step again; returns what was found. Call it on all ranks.

    Raises:
        ValueError: the file is not one of a replay.
        OSError: it cannot be read.
    """
    stored = read(file)
    with tempfile.TemporaryDirectory() as folder:  # so that nothing is written beside the file
        if stored["checkpoint"]:
            checkpoint = (file.parent / stored["checkpoint"]).resolve(strict=True)
            (Path(folder) / "checkpoints").mkdir()
            (Path(folder) / "checkpoints" / checkpoint.name).symlink_to(checkpoint)
        runner = Runner(quiet(stored["config"]), Path(folder), bool(stored["checkpoint"]), device)
        if (ranks := stored["ranks"]) != dist.world_size():
            runner.logger.warning("the run had %d ranks; other numbers round otherwise", ranks)
        if not runner.iter < stored["step"] <= runner.max_iters:
            raise ValueError(f"{file} was changed: step {stored['step']} is none of the run")
        there = AtStep(stored["step"])
        runner.hooks.append(there)
        runner.stop.listen = lambda: None  # a signal ends a replay, and saves nothing
        with suppress(Reached):
            runner.train()
        return list(there.findings(runner, stored["not_finite"]))


def read(file: Path) -> dict[str, Any]:
    """Returns the content of a replay file."""
    wanted = {"step": int, "config": dict, "ranks": int, "not_finite": list}
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        whole = all(isinstance(stored[key], kind) for key, kind in wanted.items())
        whole = whole and isinstance(stored["checkpoint"], str | None)
    except (ValueError, TypeError, KeyError, RecursionError):
        whole = False
    if not whole:
        raise ValueError(f"{file} is no replay file; give the one that training named")
    return stored


def quiet(cfg: dict[str, Any]) -> dict[str, Any]:
    """Returns a config that takes the same steps, and writes and measures nothing."""
    silent = {"log_interval": 0, "checkpoint_interval": 0}
    return cfg | {
        "train_cfg": cfg.get("train_cfg", {}) | silent,
        "evaluation": {"before": False},
        "vis_backends": {},
    }


class Reached(Exception):
    """The step to look at was taken."""


class AtStep(Hook):
    """Stops behind a step; if it was skipped, all is as it was before."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.batch: dict[str, Tensor] = {}
        self.logs: dict[str, Tensor] = {}

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict[str, Tensor]
    ) -> None:
        """Takes the batch, with what other hooks did to it."""
        self.batch = data_batch

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict[str, Tensor],
        outputs: dict[str, Tensor],
    ) -> None:
        """Stops at the step."""
        if runner.iter == self.step:
            self.logs = outputs
            raise Reached

    def findings(self, runner: Runner, recorded: list[str]) -> Iterator[str]:
        """Yields what is not finite, and why."""
        if not self.logs["skipped"]:
            yield (
                f"step {self.step} is finite here, though it was not in the run: the data, the "
                "code, or how this device rounds has changed"
            )
            return
        losses = not_finite(self.logs)
        said = "as in the run" if losses == recorded else f"in the run: {', '.join(recorded)}"
        what = ", ".join(losses) or "no loss, but a gradient"
        yield f"step {self.step} is skipped again; not finite: {what} ({said})"
        look = Look(runner, self.step)
        if not losses:
            found = ", ".join(look.at(self.batch)) or "no single loss, but a sum, or a hook's"
            yield f"the gradient that is not finite is that of {found}"
        if look.draw(look.others):
            yield "the samples of the next step give the same: the data are not the cause"
            return
        groups = [group for block in look.blocks for group in smallest(block, look.draw)]
        for group in groups:
            yield f"{look.named(group)}: {', '.join(look.draw(group))}"
        if not groups:
            yield "its samples are finite when they are drawn anew: look at the hooks"


class Look:
    """Looks for what is not finite in pieces of a step's batch; changes nothing."""

    def __init__(self, runner: Runner, step: int) -> None:
        data, self.seed = runner.settings.train_dataloader, runner.settings.seed
        self.runner, self.step = runner, step
        sharded = runner.strategy == "fsdp2"  # else each rank by itself
        self.forward = strategies.wrap(runner.model, "fsdp2") if sharded else runner.model
        sampler = PositionSampler(len(runner.dataset), data.batch_size, self.seed, start=step - 1)
        steps = iter(sampler)
        keys: list[Key] = next(steps)
        rows = len(keys) // dist.world_size()
        # The samples of each rank. All ranks look at all of them, in the same order.
        self.blocks = [keys[i : i + rows] for i in range(0, len(keys), rows)]
        self.others: list[Key] = next(steps)[:rows]
        self.drawn = loader.Drawn(runner.dataset, runner.views, data.batch_size, self.seed)

    def draw(self, keys: Sequence[Key]) -> list[str]:
        """As ``at``, of these samples; of one alone twice, for losses that compare."""
        batch = self.drawn.__getitems__(list(keys) * (2 if len(keys) == 1 else 1))
        if isinstance(batch, Exception):
            raise batch
        return self.at(batch)

    def at(self, batch: dict[str, Tensor]) -> list[str]:
        """Names the losses that are not finite, or whose gradient is not, on any rank."""
        runner, model = self.runner, self.runner.model
        inputs = runner.views.finish(loader.to_device(batch, runner.device))
        seed_step(self.seed, self.step - 1, dist.rank())
        model.step = self.step - 1
        with unchanged(model):
            with runner.optim_wrapper.autocast():
                losses, _ = self.forward(inputs)
            bad = {name: self.is_bad(loss) for name, loss in losses.items()}
        anywhere = dist.all_sum(torch.stack(list(bad.values())).float()).tolist()
        return [name for name, count in zip(bad, anywhere, strict=True) if count]

    def is_bad(self, loss: Tensor) -> Tensor:
        """Returns whether a loss or its gradient is not finite, bool ``[]``."""
        if loss.requires_grad:
            loss.backward(retain_graph=True)
        parameters = list(self.runner.model.parameters())
        gradients = [p.grad for p in parameters if p.grad is not None]
        self.runner.model.zero_grad(set_to_none=True)
        parts = [dist.local(x) for x in (loss, *gradients)]
        return ~torch.stack([x.isfinite().all() for x in parts]).all()

    def named(self, keys: Sequence[Key]) -> str:
        """Names samples by their indices, and one alone by its key as well."""
        epoch, first, _ = keys[0]
        if len(keys) > 1:
            return f"samples {', '.join(str(index) for _, index, _ in keys)} together"
        try:
            rng = sample_rng(self.seed, epoch, first, "load0")
            return f"sample {first} ({self.runner.dataset.load(first, rng).key})"
        except UnreadableSample as error:
            return f"sample {first} ({error})"


def smallest(keys: Sequence[Key], bad: Callable[[Sequence[Key]], list[str]]) -> list[Sequence[Key]]:
    """Returns the smallest sets of samples that halving finds, which are bad together."""
    if not bad(keys):
        return []
    if len(keys) == 1:
        return [keys]
    middle = len(keys) // 2
    return smallest(keys[:middle], bad) + smallest(keys[middle:], bad) or [keys]


if __name__ == "__main__":
    main()
