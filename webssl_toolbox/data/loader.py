"""From a dataset and views to batches, in worker processes."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import traceback
from collections.abc import Generator, Iterator
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from .collate import collate
from .rng import sample_rng
from .sample import Dataset, Sample, UnreadableSample
from .sampler import PositionSampler
from .views import Views

ATTEMPTS = 16
HOST = (".length", ".present")  # how inputs end that towers plan with


class Drawn(torch.utils.data.Dataset):
    """``[(epoch, index, position), ...]`` -> the views of these samples, as a batch."""

    def __init__(self, dataset: Dataset, views: Views, batch_size: int, seed: int) -> None:
        self.dataset, self.views, self.batch_size, self.seed = dataset, views, batch_size, seed

    def __getitems__(self, keys: list[tuple[int, int, int]]) -> dict[str, Tensor] | Exception:
        try:
            return collate([self._draw(*key) for key in keys])
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
        for attempt in range(ATTEMPTS):
            try:
                rng = sample_rng(self.seed, epoch, index, f"load{attempt}")
                return self.dataset.load(index, rng), attempt
            except UnreadableSample as error:
                reason = error
                substitute = sample_rng(self.seed, epoch, index, f"substitute{attempt}")
                index = int(substitute.integers(len(self.dataset)))
        raise UnreadableSample(
            f"{ATTEMPTS} samples in a row cannot be read, the last one: {reason}; check the dataset"
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
) -> Generator[dict[str, Tensor], None, None]:
    """Yields collated batches forever, from step ``start``; the same for any number of workers.

    The first is drawn at once, so that what is wrong with the data is said before anything else is
    done with them. Close it to end the workers: at the exit torch waits 5 seconds for each.
    """
    sampler = PositionSampler(len(dataset), batch_size, seed, start, rank, ranks)
    if workers == 0:
        cv2.setNumThreads(0)
    loader = DataLoader(
        Drawn(dataset, views, batch_size, seed),
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_quiet,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
    )
    drawn = _raised(iter(loader))
    return _all(next(drawn), drawn)


def _as_it_is(batch: Any) -> Any:
    return batch


def _all(first: Any, rest: Generator[Any, None, None]) -> Generator[Any, None, None]:
    yield first
    yield from rest


def _raised(batches: Iterator[Any]) -> Generator[dict[str, Tensor], None, None]:
    """Yields the batches that are none of the errors that a worker returned."""
    for batch in batches:
        if isinstance(batch, Exception):
            raise batch
        yield batch


def _quiet(worker: int) -> None:
    """Leaves cores and signals to the trainer: OpenCV would start a thread pool in each worker.

    Schedulers signal every process, and to finish its step the trainer may still need a batch.
    """
    cv2.setNumThreads(0)
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
