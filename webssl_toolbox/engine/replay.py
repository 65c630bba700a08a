"""What lets a step be run again: its number, its samples, its config, and a checkpoint before it.

The weights that the step saw are gone when it is found to be bad, one step late. But resuming is
exact to the bit: from the newest checkpoint before it, and the steps between, they come again. To
keep them in memory for that case would cost a copy of the model in every step. Nothing of the batch
is stored either: a sample and its views are functions of the config and the position.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from .. import dist
from ..data.sampler import PositionSampler
from . import checkpoint

if TYPE_CHECKING:
    from .runner import Runner


def record(run: Runner, step: int, bad: list[str]) -> str:
    """Writes the replay file of a step, counted from 1; returns how to run the step again."""
    file = run.work_dir / "replay" / f"step_{step:08d}.json"
    if dist.rank() == 0:
        try:
            _write(file, run, step, bad)
        except OSError as error:  # no reason to end the run
            return f"its replay file could not be written: {error}"
    return f"python tools/replay.py {file} runs the first again"


def samples(run: Runner, step: int, rank: int = 0, ranks: int = 1) -> list[int]:
    """Returns the samples of a step, counted from 1: a rank's, or those of all as one."""
    batch_size, seed = run.settings.train_dataloader.batch_size, run.settings.seed
    sampler = PositionSampler(len(run.dataset), batch_size, seed, step - 1, rank, ranks)
    return [index for _, index, _ in next(iter(sampler))]


def _write(file: Path, run: Runner, step: int, bad: list[str]) -> None:
    shutil.rmtree(file.parent, ignore_errors=True)  # of an earlier step
    file.parent.mkdir(parents=True)
    before = [p for p in checkpoint.listed(run.checkpoints) if checkpoint.step_of(p) < step]
    if before:  # the run may delete it
        checkpoint.copy(before[0], file.parent / before[0].name)
    content = {
        "step": step,
        "not_finite": bad,
        "seed": run.settings.seed,
        "ranks": dist.world_size(),  # each had its block of the samples
        "samples": samples(run, step),
        "checkpoint": before[0].name if before else None,
        "config": run.cfg,
    }
    file.write_text(json.dumps(content, indent=1, default=list), encoding="utf-8")
