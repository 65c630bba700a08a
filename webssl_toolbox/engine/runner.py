"""Trains a config: data, step, state, reports, evaluations, checkpoints."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from .. import dist
from ..data import loader
from ..data.views import Context, Views
from ..encoder import Encoder
from ..evaluation.runner import Evaluation
from ..objective import Progress
from ..registry import DATASETS, HOOKS
from ..seeding import seed_step
from . import checkpoint, replay, strategies
from .dry_run import dry_run
from .finite import FiniteWatch
from .optim import OptimWrapper, Untrained, precision
from .preempt import Preemption, Stopped
from .progress import Averages, MetricsFile, Reporter, open_backend
from .settings import settings_from
from .start import load_from

logger = logging.getLogger("webssl_toolbox")


class Runner:
    """One training run.

    Hooks are mmengine's (``before_train``, ``before_train_iter``, ``after_train_iter``,
    ``after_val_epoch`` with the metrics, ``before_save_checkpoint``, ``after_train``): they see
    ``runner.iter``, ``.max_iters``, ``.model``, ``.optim_wrapper``, ``.work_dir`` and ``.logger``.

    Args:
        cfg: a config as ``load_config`` returns it.
        work_dir: where to write; overrides the config.
        resume: continue from the newest checkpoint in ``work_dir``, if there is one.
        device: ``'cuda'``, ``'cpu'`` ...; the first GPU of this rank where there is one.

    Raises:
        ValueError: the config is wrong. Raised before any data is read.
        FileExistsError: ``work_dir`` holds a run already, and ``resume`` was not asked for.
    """

    def __init__(
        self, cfg: dict[str, Any], work_dir: Path, resume: bool = False, device: str | None = None
    ) -> None:
        self.cfg = cfg
        self.settings = s = settings_from(cfg)
        self.work_dir, self.logger = Path(work_dir), logger
        self.max_iters = s.train_cfg.max_iters
        self.device = find_device(device)
        _refuse_untrained(s.model)
        dist.init(self.device)
        if s.train_dataloader.batch_size % dist.world_size():
            raise ValueError(
                f"train_dataloader.batch_size is the global batch: {s.train_dataloader.batch_size} "
                f"rows cannot be shared evenly by {dist.world_size()} ranks"
            )

        self.strategy = strategies.choose(s.strategy)
        bits = precision(s.optim_wrapper, self.device)
        seeded = {"seed": s.seed} | dict(s.model)
        self.model = strategies.build(seeded, self.strategy, self.device, bits)
        self.optim_wrapper = OptimWrapper(s.optim_wrapper, self.model, self.device)
        dataset = DATASETS.create(s.train_dataloader.dataset, "train_dataloader.dataset")
        towers: dict[str, Any] = dict(self.model.towers.items())
        self.views = Views(
            s.train_dataloader.views, self.model.needed_inputs(), Context(towers, dataset)
        )
        self.dataset = dataset
        self.encoder = Encoder(self.model, s.test_view, s.test_tower) if s.test_view else None
        self.evaluation = Evaluation(s.evaluation.evaluators)
        self.hooks: list[Any] = [
            HOOKS.create(hook, f"hooks.{name}") for name, hook in s.hooks.items() if hook
        ]
        self.iter = self._prepare_work_dir(resume)
        self.before: dict[str, float] = {}
        self.metrics: dict[str, float] = {}
        self.pictures: dict[str, Any] = {}
        self.means: dict[str, float] = {}  # of the last log interval
        self._evaluated = self._saved = -1  # at which step
        self.stop = Preemption(self.device)

    # -- the run -------------------------------------------------------------------------------

    def train(self) -> dict[str, float]:
        """Trains to the end; returns the last metrics.

        Raises:
            NonFinite: training diverged.
            Stopped: a signal asked for it; the run is saved.
        """
        s = self.settings
        if hasattr(self.dataset, "prepare"):
            self.dataset.prepare()
        if len(set(counts := dist.gather_json(len(self.dataset)))) > 1:
            raise ValueError(f"ranks see {counts} samples; give all ranks the same files")
        batches = loader.batches(
            self.dataset,
            self.views,
            s.train_dataloader.batch_size,
            s.seed,
            start=self.iter,
            rank=dist.rank(),
            ranks=dist.world_size(),
            workers=s.train_dataloader.num_workers,
            pin_memory=self.device.type == "cuda",
            timeout=s.train_dataloader.timeout,
        )
        wrapped = strategies.wrap(self.model, self.strategy)
        averages = Averages()
        watch = FiniteWatch(s.train_cfg.max_skipped, partial(replay.record, self))
        self._open_reports()
        try:
            self.call_hook("before_train")
            self.stop.listen()
            if s.evaluation.before:
                self.before = self._untrained_metrics()
            self.model.train()
            while self.iter < self.max_iters:
                logs, finite = self._step(wrapped, batches)
                averages.add(logs)
                watch.watch(self.iter, finite, logs)
                self.reporter.tick(self.iter)
                signum = self.stop.agreed(wait=False)
                save = self._due(s.train_cfg.checkpoint_interval) or self.iter == self.max_iters
                save = save or signum > 0
                evaluate = self._due(s.evaluation.interval)
                if save or evaluate or self._due(s.train_cfg.log_interval):
                    # Also where a run may be resumed, so that means never span a checkpoint.
                    self._report(averages.read())
                if save or evaluate:  # in which a signal may come
                    watch.flush()
                if save:
                    self.save()
                self._leave(signum)
                if evaluate:
                    self.evaluate()
            self._finish()
            self.call_hook("after_train")
        finally:
            batches.close()
            self.stop.close()
            self._close_reports()
        return self.metrics

    def _step(
        self, wrapped: Callable[..., Any], batches: Iterator[dict[str, Tensor]]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """One optimizer step; everything it returns is still on the device."""
        began = time.perf_counter()
        batch = next(batches)
        self.reporter.waited(time.perf_counter() - began)
        self.call_hook("before_train_iter", batch_idx=self.iter, data_batch=batch)
        inputs = self.views.finish(loader.to_device(batch, self.device))
        seed_step(self.settings.seed, self.iter, dist.rank())
        self.model.step, self.model.total = self.iter, self.max_iters
        self.optim_wrapper.schedule(self.iter, self.max_iters)
        with self.optim_wrapper.autocast():
            losses, logs = wrapped(inputs)
        finite, norm = self.optim_wrapper.update(torch.stack(list(losses.values())).sum())
        self.iter += 1
        self.model.after_step(Progress(self.iter, self.max_iters, finite))
        replaced = (inputs["unreadable"] > 0).float().mean()
        logs |= {"grad_norm": norm, "skipped": (~finite).float(), "unreadable": replaced}
        self.call_hook("after_train_iter", batch_idx=self.iter - 1, data_batch=batch, outputs=logs)
        return logs, finite

    def _due(self, interval: int) -> bool:
        return interval > 0 and self.iter % interval == 0

    def call_hook(self, name: str, **arguments: Any) -> None:
        """Calls a hook point on all hooks, in the order of the config."""
        for hook in self.hooks:
            getattr(hook, name)(self, **arguments)

    # -- evaluation ----------------------------------------------------------------------------

    def evaluate(self) -> dict[str, float]:
        """Runs the evaluators on the first rank; all ranks wait. Metrics are in percent."""
        used, cfg = self.encoder if self.evaluation.evaluators else None, self.settings.model
        with self._paused(), strategies.evaluable(used, cfg, self.strategy):
            if dist.rank() == 0 and (encoder := self.encoder) is not None:
                with dist.alone():
                    found = self.stop.abandonable(lambda: self.evaluation.run(encoder))
                self.metrics, self.pictures = found or ({}, {})
                self._write(self.metrics)
            dist.barrier()
        self.call_hook("after_val_epoch", metrics=self.metrics)
        self._leave(self.stop.agreed())
        self._evaluated = self.iter
        return self.metrics

    def _untrained_metrics(self) -> dict[str, float]:
        path = self.work_dir / "untrained.json"
        if self.iter == 0:
            metrics = self.evaluate()
            if dist.rank() == 0:
                path.write_text(json.dumps(metrics), encoding="utf-8")
            return metrics
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def _finish(self) -> None:
        """Evaluates, where that was not the last thing, and says where all of it is."""
        if self._evaluated != self.iter:
            self.evaluate()
        digest = ", ".join(f"{name} {value[:16]}" for name, value in self.digest().items())
        if dist.rank() == 0:
            logger.info("done: %s (SHA-256 of the state: %s)", self.work_dir, digest)

    # -- state ---------------------------------------------------------------------------------

    @property
    def checkpoints(self) -> Path:
        """Folder of the run's checkpoints."""
        return self.work_dir / "checkpoints"

    def save(self) -> None:
        """Writes a checkpoint on the first rank, then deletes the oldest."""
        self.call_hook("before_save_checkpoint", checkpoint={})
        with self._paused():
            meta = {
                "config": _plain(self.cfg),
                "batch_size": self.settings.train_dataloader.batch_size,
                "samples": len(self.dataset),
                "world_size": dist.world_size(),
            }
            optimizer = self.optim_wrapper.optimizer
            checkpoint.save(self.checkpoints, self.iter, self.model, optimizer, meta)
            if dist.rank() == 0:
                s = self.settings.train_cfg
                checkpoint.prune(self.checkpoints, s.keep_checkpoints, s.keep_every)
            dist.barrier()
        self._saved = self.iter

    def _leave(self, signum: int) -> None:
        """Ends the run, saved, if there was a signal."""
        if signum:
            if self._saved != self.iter:
                self.save()
            name, stopped = signal.Signals(signum).name, Stopped(signum)
            saved = f"{name}: step {self.iter} is saved in {self.work_dir}"
            logger.warning("%s, --resume continues (exit code %s)", saved, stopped.code)
            raise stopped

    def digest(self) -> dict[str, str]:
        """Returns SHA-256 of the model's whole state and of the optimizer's; all ranks call it."""
        return checkpoint.digest(self.model, self.optim_wrapper.optimizer)

    def _prepare_work_dir(self, resume: bool) -> int:
        found = checkpoint.latest(self.checkpoints) if self.checkpoints.exists() else None
        if found and not resume:
            raise FileExistsError(
                f"{self.work_dir} holds a run already: continue it with --resume, choose another "
                "place with --work-dir, or delete it"
            )
        if self.settings.load_from is not None and not found:
            load_from(self.settings.load_from, self.model)
        self.work_dir.mkdir(parents=True, exist_ok=True)
        step = 0
        if found:
            state = checkpoint.load(found, self.model, self.optim_wrapper.optimizer)
            step = int(state["step"])
            batch_size = self.settings.train_dataloader.batch_size
            trained = state.get("batch_size", batch_size)
            if trained != batch_size:  # the position in the data counts batches
                raise ValueError(
                    f"{found} was trained with train_dataloader.batch_size={trained}, not "
                    f"{batch_size}; resume with that"
                )
            logger.info("resuming from %s", found)
            if (seen := state.get("samples")) and seen != (now := len(self.dataset)):
                logger.warning("it saw %s samples, now there are %d: in another order", seen, now)
            local = [name for name, o in self.model.objectives.items() if o.rank_local]
            if local and dist.world_size() > 1:
                logger.warning(
                    "the checkpoint holds the first rank's state of %s, which differs from rank to "
                    "rank: all ranks go on from it",
                    ", ".join(local),
                )
        elif resume:
            logger.warning("nothing to resume in %s: starting from the beginning", self.work_dir)
        if len(steps := set(dist.gather_json(step))) > 1:
            raise ValueError(
                f"ranks found checkpoints of the steps {sorted(steps)} in {self.work_dir}; all of "
                "them need the same work dir, on a disk that their hosts share"
            )
        if dist.rank() == 0:
            config = json.dumps(_plain(self.cfg), indent=2)
            (self.work_dir / "config.json").write_text(config, encoding="utf-8")
        return step

    # -- reports -------------------------------------------------------------------------------

    def _open_reports(self) -> None:
        self.reporter = Reporter(
            Console(stderr=True, quiet=dist.rank() > 0),
            self.max_iters,
            self.iter,
            self.settings.train_dataloader.batch_size,
        )
        self.backends: list[Any] = []
        if dist.rank() == 0:
            self.file = MetricsFile(self.work_dir / "metrics.jsonl", self.iter)
            self.backends = [
                open_backend(name, cfg, self.work_dir)
                for name, cfg in self.settings.vis_backends.items()
                if cfg
            ]

    def _report(self, means: dict[str, float]) -> None:
        self.means = means
        speed = self.reporter.report(self.iter, means)
        self._write(means | speed | self.optim_wrapper.rates())

    def _write(self, values: Mapping[str, float | None]) -> None:
        known = {name: value for name, value in values.items() if value is not None}
        if dist.rank() == 0 and known:
            self.file.write(self.iter, known)
            for backend in self.backends:
                backend.add_scalars(known, step=self.iter)

    def _close_reports(self) -> None:
        self.reporter.close()
        if dist.rank() == 0:
            self.file.close()
        for backend in self.backends:
            backend.close()

    @contextmanager
    def _paused(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.reporter.pause(time.perf_counter() - began)


def _refuse_untrained(model: Mapping[str, Any]) -> None:
    """Raises Untrained before data is read; the first step would tell, but after minutes."""
    try:
        dry_run(model)
    except Untrained:
        raise
    except ValueError as error:  # a plugin that cannot run without numbers may be right otherwise
        logger.debug("left to the first step: %s", error)


def find_device(name: str | None) -> torch.device:
    """Returns the device of a name; by default this rank's GPU, or the CPU where there is none."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        known = device.type in ("cuda", "cpu")
    except RuntimeError:
        known = False
    if not known:
        raise ValueError(f"there is no device {name!r}; take 'cuda' or 'cpu'")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("no GPU was found, but the device is 'cuda'; leave --device out")
        count, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
        # SLURM may show each task one GPU, whatever its number on the node.
        index = (0 if count == 1 else local) if device.index is None else device.index
        if index >= count:
            raise ValueError(f"this rank asks for GPU {index}, but it sees {count}; start fewer")
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    return device


def _plain(value: Any) -> Any:
    """Returns the config as JSON data."""
    return json.loads(json.dumps(value, default=list))
