"""What saving costs a run: ``python tools/benchmark_saving.py configs/declip_r50_laptop.py``.

Trains some steps and saves several times on the way, as a run does: every file is synced, read back
and compared, and the oldest checkpoint is deleted. Prints the share of the time that a save every
100 steps takes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from _arguments import add_cfg_options

from webssl_toolbox.engine.config import load_config
from webssl_toolbox.engine.runner import Runner

EVERY = 10  # steps
LATE = 3  # steps that are not timed: memory is still being found


class TimedRunner(Runner):
    """Runs as any other, and takes the time of each save and each step."""

    saves: list[float]
    steps: list[float]

    def save(self) -> None:
        start = time.perf_counter()
        super().save()
        self.saves.append(time.perf_counter() - start)

    def call_hook(self, name: str, **arguments: object) -> None:
        super().call_hook(name, **arguments)
        if name == "before_train_iter":
            self._start = time.perf_counter()
        elif name == "after_train_iter":
            self.steps.append(time.perf_counter() - self._start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("--saves", type=int, default=8, help="how many are timed (default: 8)")
    add_cfg_options(parser)
    args = parser.parse_args()
    cfg = load_config(args.config, args.cfg_options)
    cfg["train_cfg"] |= dict(max_iters=EVERY * args.saves, checkpoint_interval=EVERY)
    cfg["evaluation"] = dict(interval=0, evaluators={})
    with tempfile.TemporaryDirectory(
        dir="."
    ) as folder:  # on the disk where runs are, not in memory
        runner = TimedRunner(cfg, Path(folder) / "run")
        runner.saves, runner.steps = [], []
        runner.train()
        size = sum(f.stat().st_size for f in runner.checkpoints.rglob("*")) / 2
    save, step = statistics.median(runner.saves), statistics.median(runner.steps[LATE:])
    print(
        f"{args.config}: a save of {size / 1e6:.1f} MB takes {1e3 * save:.0f} ms, and a step "
        f"{1e3 * step:.0f} ms; saving every 100 steps adds {save / step:.2f} %"
    )


if __name__ == "__main__":
    main()
