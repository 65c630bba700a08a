"""Runs a study: ``python tools/study.py configs/study/declip_ablation.py``.

A grid of variants, amounts of data and seeds, at equal pairs and at equal minutes. Each cell is
trained by the command that one would type. Killed and started again, the study skips what is
finished and resumes what is not. It ends with ``report.md`` and ``report.png`` in its folder.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from _grid import Cell, Study, budgets, study_from
from _report import Report
from _results import trained
from _terminal import fail, log

logger = logging.getLogger("webssl_toolbox")

COST_STEPS, COST_ROUNDS = 30, 3


@dataclass
class Workshop:
    """Where and how cells are trained.

    Attributes:
        train: the command that trains: ``['python', 'tools/train.py', 'configs/study/NAME.py']``.
        folder: of the study; each cell has a work dir below it.
        jobs: cells that train side by side.
        lock: of the folder, see ``opened``; every run holds it, too.
        gpus: one for each job, in turn; 0 for training on the CPU.
    """

    train: Sequence[str]
    folder: Path
    jobs: int
    lock: int
    gpus: int = 0

    def run(self, study: Study, cells: Sequence[Cell]) -> None:
        """Trains what is not finished.

        Raises:
            RuntimeError: a cell failed, once all others are through.
        """
        missing = [cell for cell in dict.fromkeys(cells) if not self.metrics(cell)]
        done = len(set(cells)) - len(missing)
        places: SimpleQueue[int] = SimpleQueue()
        for place in range(self.jobs):
            places.put(place)

        def train(cell: Cell) -> None:
            place = places.get()
            try:
                self._train(study.options(cell), self.folder / cell.folder, place)
            finally:
                places.put(place)

        failed = []
        pool = ThreadPoolExecutor(self.jobs)
        futures = {pool.submit(train, cell): cell for cell in missing}
        try:
            for future in as_completed(futures):
                cell, error = futures[future], future.exception()
                done += 1
                state = f"failed: {error}" if error else "trained"
                logger.info("%d of %d  %s %s", done, len(set(cells)), cell.folder, state)
                failed += [f"{cell.folder}: {error}"] * (error is not None)
        finally:  # Ctrl-C reaches the runs themselves; those that wait must not begin
            pool.shutdown(cancel_futures=True)
        if failed:
            raise RuntimeError("\n".join(["these cells failed; start again to retry:", *failed]))

    def metrics(self, cell: Cell) -> dict[str, float]:
        """Returns the last metrics of a finished cell, else nothing."""
        return trained(self.folder / cell.folder)

    def costs(self, study: Study) -> dict[str, float]:
        """Returns seconds per pair of each variant; measured once, alternating."""
        path = self.folder / "costs.json"
        if not path.exists():
            rates: dict[str, list[float]] = {name: [] for name in study.variants}
            scratch = self.folder / "costs"
            amount = list(study.amounts)[-1]
            for seed in range(COST_ROUNDS):
                for name in study.variants:
                    shutil.rmtree(scratch, ignore_errors=True)
                    options = study.options(Cell(name, amount, seed, COST_STEPS))
                    options += ["evaluation.evaluators={}", "train_cfg.log_interval=5"]
                    self._train(options, scratch, 0)
                    rates[name].append(_rate(scratch / "metrics.jsonl"))
                logger.info("costs: round %d of %d", seed + 1, COST_ROUNDS)
            shutil.rmtree(scratch)
            costs = {name: 1 / statistics.median(rate) for name, rate in rates.items()}
            path.write_text(json.dumps(costs, indent=2) + "\n", encoding="utf-8")
        found: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def _train(self, options: Sequence[str], work_dir: Path, place: int) -> None:
        work_dir.mkdir(parents=True, exist_ok=True)
        env = dict(os.environ)
        if self.gpus:
            visible = env.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(self.gpus)))
            env["CUDA_VISIBLE_DEVICES"] = visible.split(",")[place % self.gpus].strip()
        else:  # a core each: threads of several runs on the same cores hold one another up
            env["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // self.jobs))
        command = [*self.train, "--work-dir", str(work_dir), "--resume", "--cfg-options", *options]
        with (work_dir / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"{command}\n")
            log.flush()
            began = log.tell()
            # With the lock: a run that outlives a killed study still holds the folder.
            run = subprocess.run(
                command, env=env, stdout=log, stderr=log, pass_fds=[self.lock], check=False
            )
        if run.returncode:
            written = (work_dir / "log.txt").read_bytes()[began:].decode("utf-8", "replace")
            lines = [f"ended with {run.returncode}", *written.strip().splitlines()]
            errors = [line for line in lines if line.startswith("error: ")]
            raise RuntimeError(f"{[*lines, *errors][-1]} (see {work_dir / 'log.txt'})")


@contextmanager
def opened(folder: Path, cfg: Mapping[str, Any]) -> Iterator[int]:
    """Claims a study's folder, and checks that it was begun with the same config.

    Yields:
        The descriptor of the lock.

    Raises:
        ValueError: another process works there, or it holds a study of another config.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written, state = folder / "study.json", json.dumps(cfg, indent=2, sort_keys=True, default=list)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{folder} is in use by another study, or by runs of one that was killed: stop "
                "them, or let them end"
            ) from None
        if written.exists() and written.read_text(encoding="utf-8") != state:
            raise ValueError(
                f"{folder} holds a study of another config, see {written.name}: give another "
                "--work-dir, or delete it"
            )
        written.write_text(state, encoding="utf-8")
        yield lock.fileno()


def _rate(file: Path) -> float:
    """Returns samples per second, the median over a run's reports but the first."""
    lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    rates = [line["samples_per_s"] for line in lines if "samples_per_s" in line]
    return statistics.median(rates[1:])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Trains the grid of a study, and reports it.")
    parser.add_argument("config", help="a config with a _study")
    parser.add_argument("--work-dir", help="where to write (default: work_dirs/<config name>)")
    parser.add_argument("--jobs", type=int, help="runs side by side (default: GPUs, or cores)")
    return parser.parse_args()


def main() -> None:
    args = parse()
    log(logging.WARNING, "%(asctime)s  %(message)s", "%H:%M")
    logging.getLogger("webssl_toolbox").setLevel(logging.INFO)

    import torch

    from webssl_toolbox.engine.config import find_config, load_config
    from webssl_toolbox.engine.settings import settings_from

    train = [sys.executable, str(Path(__file__).with_name("train.py")), args.config]
    gpus = torch.cuda.device_count()
    jobs = args.jobs or gpus or os.cpu_count() or 1
    try:
        cfg = load_config(args.config)
        folder = Path(args.work_dir or f"work_dirs/{find_config(args.config).stem}")
        study, settings = study_from(cfg), settings_from(cfg)
        for cell in study.cells(dict.fromkeys(study.variants, 1)):
            settings_from(load_config(args.config, study.options(cell)))  # all, before any is run
        grid = {"variants": study.variants, "amounts": study.amounts}  # seeds may be added
        with opened(folder, {**cfg, "_study": grid}) as lock:
            workshop = Workshop(train, folder, jobs, lock, gpus)
            steps = budgets(settings.train_cfg.max_iters, workshop.costs(study))
            cells = [cell for budget in steps.values() for cell in study.cells(budget)]
            workshop.run(study, sorted(cells, key=lambda cell: cell.seed))
            pairs = settings.train_dataloader.batch_size
            report = Report(study, steps, workshop.metrics, pairs)
            (folder / "report.md").write_text(report.to_markdown(), encoding="utf-8")
            report.plot(folder / "report.png")
            print(report.to_markdown())
    except KeyboardInterrupt:
        sys.exit("stopped; the same command continues")
    except (ValueError, OSError, RuntimeError) as error:
        fail(error)


if __name__ == "__main__":
    main()
