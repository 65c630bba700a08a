"""What training says: a progress bar or lines on the terminal, and ``metrics.jsonl``."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor

from .. import dist

logger = logging.getLogger("webssl_toolbox")


class Averages:
    """Means of logged values since they were last read; they stay on the device until then."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0
        self._names: list[str] = []

    def add(self, logs: Mapping[str, Tensor]) -> None:
        """Adds one step's values."""
        values = torch.stack([value.float() for value in logs.values()])
        self._names = list(logs)
        self._sum = values if self._sum is None else self._sum + values
        self._count += 1

    def read(self) -> dict[str, float]:
        """Returns the means over steps and ranks, and starts anew.

        This is the only place where training waits for a value.
        """
        if self._sum is None:
            return {}
        means = dist.average(self._sum / self._count).tolist()
        self._sum, self._count = None, 0
        return dict(zip(self._names, means, strict=True))


class MetricsFile:
    """``metrics.jsonl``: one JSON object a line, each with its step."""

    def __init__(self, path: Path, start: int) -> None:
        # A resumed run repeats the steps after its checkpoint: their lines would stand twice.
        kept = []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    if json.loads(line)["step"] <= start:
                        kept.append(line)
                except (ValueError, KeyError):
                    continue  # cut off by the kill
        beside = path.with_suffix(".tmp")
        beside.write_text("".join(f"{line}\n" for line in (kept if start else [])), "utf-8")
        beside.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one line; a value that is not finite becomes null, as JSON has no NaN."""
        row: dict[str, Any] = {"step": step}
        row |= {k: float(f"{v:.6g}") if math.isfinite(v) else None for k, v in values.items()}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class Reporter:
    """Shows losses, speed, the share of time spent waiting for data, and the time left.

    Args:
        console: where to; a bar on a terminal, plain lines elsewhere.
        total: steps of the run.
        start: steps already done.
        batch_size: global batch, for samples/s.
    """

    def __init__(self, console: Console, total: int, start: int, batch_size: int) -> None:
        self.total, self.batch_size = total, batch_size
        self._clock, self._step, self._waited = time.perf_counter(), start, 0.0
        self._begin, self._begin_step, self._paused = self._clock, start, 0.0
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.completed}/{task.total}"),
                BarColumn(bar_width=24),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
                console=console,
            )
            self._task = self._bar.add_task("", total=total, completed=start)
            self._bar.start()

    def waited(self, seconds: float) -> None:
        """Counts time that training spent waiting for a batch."""
        self._waited += seconds

    def pause(self, seconds: float) -> None:
        """Leaves an evaluation or a checkpoint out of the speed."""
        self._clock += seconds
        self._paused += seconds

    def tick(self, step: int) -> None:
        """Moves the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def report(self, step: int, losses: Mapping[str, float]) -> dict[str, float]:
        """Shows the means of an interval; returns its speed for ``metrics.jsonl``."""
        now = time.perf_counter()
        seconds = max(now - self._clock, 1e-9)
        rate = (step - self._step) * self.batch_size / seconds
        speed = {"samples_per_s": rate, "data_wait": self._waited / seconds}
        self._clock, self._step, self._waited = now, step, 0.0
        per_step = (now - self._begin - self._paused) / max(step - self._begin_step, 1)
        pace = f"{rate:.0f} samples/s, {speed['data_wait']:.0%} waiting for data"
        values = {k.removesuffix(".loss"): v for k, v in losses.items() if "loss" in k}
        text = "  ".join(f"{name} {value:.3f}" for name, value in values.items())
        if self._bar is None:
            left = timedelta(seconds=int(per_step * (self.total - step)))
            self.say(f"step {step}/{self.total}, {left} left, {pace} | {text}")
        else:
            self._bar.update(self._task, completed=step, description=pace)
            self.say(f"step {step}  {text}")
        return speed

    def say(self, text: str) -> None:
        """Writes a line, above the bar where there is one."""
        if self._bar is None:
            logger.info("%s", text)
        else:
            self._bar.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.stop()


def open_backend(name: str, cfg: dict[str, Any], work_dir: Path) -> Any:
    """Builds one of mmengine's visualizer backends, and imports what it needs."""
    import mmengine.visualization  # noqa: F401 - fills the registry
    from mmengine.registry import VISBACKENDS

    cls = VISBACKENDS.module_dict[cfg["type"]]  # not `.get`, which imports any dotted path
    arguments = {key: value for key, value in cfg.items() if key != "type"}
    backend = cls(**{"save_dir": str(work_dir / name)} | arguments)
    try:
        backend.experiment  # noqa: B018 - imports its package, which else the first report would
    except ImportError as error:
        raise ValueError(f"vis_backends.{name}: {error}") from error
    return backend
