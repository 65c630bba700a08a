"""From a dataset and views to batches, in worker processes."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import time
import traceback
from collections.abc import Generator
from contextlib import suppress
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from ..compat import keep_freed_memory
from .collate import collate
from .rng import sample_rng
from .sample import Dataset, Sample, UnreadableSample
from .sampler import PositionSampler
from .views import Views

ATTEMPTS = 16
LOOK = 5  # seconds between looks at whether the workers live
HOST = (".length", ".present")  # how inputs end that towers plan with


class Batch(dict[str, Tensor]):
    """Inputs by name, and beside them what could not be read: ``'kind: file: reason'``."""

    unreadable: list[str]


class Drawn(torch.utils.data.Dataset):
    """``[(epoch, index, position), ...]`` -> the views of these samples, as a batch."""

    def __init__(
        self, dataset: Dataset, views: Views, batch_size: int, seed: int, workers: int = 0
    ) -> None:
        self.dataset, self.views, self.batch_size, self.seed = dataset, views, batch_size, seed
        self.at = torch.full((max(workers, 1),), -1).share_memory_()  # which sample, each worker

    def __getitems__(self, keys: list[tuple[int, int, int]]) -> Batch | Exception:
        self._unreadable: list[str] = []
        try:
            batch = Batch(collate([self._draw(*key) for key in keys]))
            batch.unreadable = self._unreadable
            return batch
        except (ValueError, OSError) as error:  # from a worker, torch would raise a page of text
            error.add_note(traceback.format_exc())
            return error

    def _draw(self, epoch: int, index: int, position: int) -> dict[str, Any]:
        sample, unreadable = self._load(epoch, index)
        batch, row = divmod(position, self.batch_size)
        place = batch, self.batch_size, row
        drawn = self.views.draw(sample, self.seed, epoch, index, place)
        drawn["index"] = np.int64(index)
        drawn["label"] = np.int64(sample.label)
        drawn["unreadable"] = np.int64(unreadable)
        return drawn

    def _load(self, epoch: int, index: int) -> tuple[Sample, int]:
        """Loads a sample; one that cannot be read is replaced by a function of the seed.

        The batch size never changes: ranks with different row counts would hang or abort.
        """
        worker = get_worker_info()
        for attempt in range(ATTEMPTS):
            self.at[worker.id if worker else 0] = index
            try:
                rng = sample_rng(self.seed, epoch, index, f"load{attempt}")
                return self.dataset.load(index, rng), attempt
            except UnreadableSample as error:
                reason = error
                line = f"{error.kind}: {error}"  # a file may have any name, a new line in it too
                self._unreadable.append("".join(c if c.isprintable() else "?" for c in line))
                substitute = sample_rng(self.seed, epoch, index, f"substitute{attempt}")
                index = int(substitute.integers(len(self.dataset)))
        raise UnreadableSample(
            f"{ATTEMPTS} samples in a row cannot be read, the last one: {reason}; check the dataset"
            " and the disk that it is on"
        )


def batches(
    dataset: Dataset,
    views: Views,
    batch_size: int,
    seed: int,
    start: int = 0,
    rank: int = 0,
    ranks: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
    timeout: float = 600,
) -> Generator[Batch, None, None]:
    """Yields collated batches forever, from step ``start``; the same for any number of workers.

    The first is drawn at once, so that what is wrong with the data is said before anything else is
    done with them. Close it to end the workers: at the exit torch waits 5 seconds for each.

    Raises:
        ChildProcessError: a worker died.
        TimeoutError: the workers gave no batch for ``timeout`` seconds.
    """
    sampler = PositionSampler(len(dataset), batch_size, seed, start, rank, ranks)
    if workers == 0:
        cv2.setNumThreads(0)
    samples = Drawn(dataset, views, batch_size, seed, workers)
    loader = DataLoader(
        samples,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_quiet,
        timeout=LOOK if workers else 0,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
    )
    drawn = _watched(loader, samples.at, timeout)
    return _all(next(drawn), drawn)


def _as_it_is(batch: Any) -> Any:
    return batch


def _all(first: Any, rest: Generator[Any, None, None]) -> Generator[Any, None, None]:
    yield first
    yield from rest


def _watched(loader: DataLoader, at: Tensor, timeout: float) -> Generator[Batch, None, None]:
    """Yields batches; raises the errors that workers returned, and says which died or hang."""
    handler = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    with suppress(ValueError):  # torch's would raise anywhere, be it in the middle of a checkpoint
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)
    asked = time.monotonic()
    while True:
        try:
            batch = next(batches)
        except (RuntimeError, ConnectionError) as error:  # this if killed as it hands a batch over
            lost = "DataLoader worker died: " * isinstance(error, ConnectionError)
            what, where = f"{lost}{error}", f"while the workers read samples {at[at >= 0].tolist()}"
            if what.startswith("DataLoader worker"):
                raise ChildProcessError(
                    f"{what} {where}; memory may have run out, or one of these files crashes its "
                    "decoder: lower train_dataloader.num_workers or remove the file, and continue "
                    "with --resume"
                ) from error
            if not what.startswith("DataLoader timed out"):
                raise
            if time.monotonic() - asked > timeout:
                _kill_workers()
                raise TimeoutError(
                    f"no batch came for {timeout:.0f} seconds {where}; see whether these files can "
                    "be opened, or raise train_dataloader.timeout, and continue with --resume"
                ) from error
            continue
        if isinstance(batch, Exception):
            raise batch
        yield batch
        asked = time.monotonic()


def _quiet(worker: int) -> None:
    """Leaves cores and signals to the trainer: OpenCV would start a thread pool in each worker.

    Schedulers signal every process, and to finish its step the trainer may still need a batch.
    """
    cv2.setNumThreads(0)
    keep_freed_memory()
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(signum, signal.SIG_IGN)


@atexit.register
def _kill_workers() -> None:
    """Ends workers that may hang: torch would wait for each, and an exit for ever."""
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Moves a batch; lengths stay on the host, where towers plan with them without waiting."""
    return {
        key: value if key.endswith(HOST) else value.to(device, non_blocking=True)
        for key, value in batch.items()
    }
