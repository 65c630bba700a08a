"""Loss spikes: says when a loss jumps, and which samples were there."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from torch import Tensor

from webssl_toolbox import dist
from webssl_toolbox.engine.replay import samples
from webssl_toolbox.objective import is_loss

logger = logging.getLogger("webssl_toolbox")

NORMAL = 1.4826  # standard deviations of a normal distribution in its median absolute deviation
LEAST = 0.01  # a loss that hardly moves: deviations count as this share of the median
SHOWN = 8  # samples in the log; the file has all


class LossSpike(Hook):
    """Warns where a loss jumps out of its last values, and names the samples of that step.

    A spike lies above the median of the last ``window`` steps by more than ``threshold``
    deviations, which are estimated by the median absolute deviation: earlier spikes hardly move
    either. Regarded are the losses of each rank's own rows, as one bad sample is lost in the mean
    of many ranks. A step keeps its losses on the device; they are read once in a log interval, when
    the log waits for the device anyway. All spikes are in ``<work dir>/loss_spikes.jsonl``.

    Args:
        window: steps to compare with; half of them suffice, after a start or a resumption.
        threshold: deviations that are a spike.
    """

    def __init__(self, window: int = 100, threshold: float = 10.0) -> None:
        self.window, self.threshold = window, threshold
        self.kept: list[Tensor] = []
        self.past: np.ndarray | None = None  # [steps, ranks, losses]
        self.high: set[str] = set()  # losses that were in a spike at the last step

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Keeps the losses of a step; looks at those of an interval."""
        logs = outputs or {}
        names = [name for name in logs if is_loss(name.partition(".")[2])]
        self.kept += [logs[name].float() for name in names]
        if runner.iter % (runner.settings.train_cfg.log_interval or self.window) == 0:
            values = torch.stack(self.kept).view(-1, len(names))
            self.kept = []
            read = dist.gather(values[None]).transpose(0, 1).cpu().numpy()
            if dist.rank() == 0:
                self.look(runner, names, read)

    def look(self, runner: Any, names: list[str], values: np.ndarray) -> None:
        """Reports the spikes among the values of an interval, ``[steps, ranks, losses]``."""
        values = np.where(np.isfinite(values), values, np.nan)  # else the finite flag reports them
        past, self.past = self.past, values
        if past is None:
            return
        self.past = np.concatenate([past, values])[-self.window :]
        if 2 * len(past) < self.window:
            return
        middle = np.nanmedian(past, (0, 1))
        scale = NORMAL * np.nanmedian(np.abs(past - middle), (0, 1))
        scale = np.maximum(scale, LEAST * np.abs(middle))
        for number, step in enumerate(values, runner.iter - len(values)):
            high = set()
            for i, name in enumerate(names):
                rank = int(np.argmax(np.nan_to_num(step[:, i], nan=-np.inf)))
                jump = step[rank, i] - middle[i]
                if jump > self.threshold * scale[i] > 0:  # of a constant, nothing is known
                    high.add(name)
                    if name not in self.high:
                        place = number, rank, len(step)
                        self.warn(runner, place, name, step[rank, i], middle[i], jump / scale[i])
            self.high = high

    def warn(
        self,
        runner: Any,
        place: tuple[int, int, int],
        name: str,
        value: float,
        middle: float,
        jump: float,
    ) -> None:
        """Says that a loss jumped, on the terminal and in the file.

        Args:
            runner: of the run.
            place: where the samples are: steps before, the rank, how many ranks there are.
            name: of the loss.
            value: to which it jumped.
            middle: what it was.
            jump: in deviations.
        """
        step, rank = place[0] + 1, place[1]
        found = samples(runner, step, *place[1:])
        row = {"step": step, "loss": name, "value": float(value), "median": float(middle)}
        file = runner.work_dir / "loss_spikes.jsonl"
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row | {"rank": rank, "samples": found}) + "\n")
        logger.warning(
            "step %d: %s jumped to %.4g on rank %d, %.0f deviations above its median of %.4g, with "
            "the samples %s%s (%s); look at them, and if they are sound lower "
            "optim_wrapper.optimizer.lr or set optim_wrapper.clip_grad",
            *(step, name, value, rank, jump, middle),
            *(", ".join(map(str, found[:SHOWN])), " ..." * (len(found) > SHOWN), file),
        )
