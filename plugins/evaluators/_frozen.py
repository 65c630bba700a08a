"""What a probe reads from a frozen tower: datasets once, or batches of augmented views for ever."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing

import numpy as np
import torch
from torch import Tensor

from webssl_toolbox import dist
from webssl_toolbox.data.loader import batches, to_device
from webssl_toolbox.data.sample import Dataset, Sample
from webssl_toolbox.data.sampler import PositionSampler
from webssl_toolbox.data.views import Context, Views
from webssl_toolbox.encoder import Encoder

from ._common import Config, class_ids
from ._labelled import SEED, Labelled

Read = Callable[[Tensor], Tensor]  # of images [B, 3, H, W], to [B, ...]
# Features, labels, and what was replaced since it cannot be read: "kind: file: reason".
Batches = Generator[tuple[Tensor, Tensor, list[str]], None, None]


class Part:
    """Some samples of a dataset, as a dataset.

    Args:
        dataset: of all.
        rows: which.
    """

    def __init__(self, dataset: Dataset, rows: Sequence[int]) -> None:
        self.dataset, self.rows = dataset, rows
        self.classes: Sequence[str] = dataset.classes
        self.synonyms: Mapping[str, Sequence[str]] = dataset.synonyms

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """Loads one of them."""
        return self.dataset.load(self.rows[index], rng)


def read_dataset(
    model: Encoder,
    dataset: Dataset,
    where: str,
    read: Read,
    names: dict[str, int],
    stored: Config | None = None,
) -> Labelled:
    """Reads each sample with a label once, prepared by ``test_view``; ranks share the work.

    Args:
        model: whose tower reads.
        dataset: of the images.
        where: names it in errors.
        read: what to make of images.
        names: class name to number; new names are added.
        stored: what the result depends on beside the weights, where it may be stored.

    Returns:
        Features as ``read`` returns them, on the CPU.

    Raises:
        ValueError: no sample has a label.
    """

    def read_labelled(samples: list[Sample]) -> dict[str, Tensor]:
        samples = [sample for sample in samples if sample.label >= 0]
        if not samples:
            return {}
        with model.evaluating():
            made = read(model.prepare(samples)).cpu()
        return {"features": made, "labels": torch.tensor([sample.label for sample in samples])}

    found = model.read_all(dataset, where, read_labelled, stored).tensors
    if not found:
        raise ValueError(f"{where}: no sample has a label; choose a dataset with classes")
    return Labelled(found["features"], class_ids(found["labels"], dataset.classes, names))


def stored_batches(rows: Labelled, batch_size: int, device: torch.device) -> Batches:
    """Yields this rank's part of batches of features, epoch after epoch."""
    sampler = PositionSampler(len(rows.labels), batch_size, SEED, 0, dist.rank(), dist.world_size())
    for keys in sampler:
        batch = rows.at(torch.tensor([index for _, index, _ in keys]))
        yield batch.features.to(device), batch.labels.to(device), []


def viewed_batches(
    model: Encoder,
    dataset: Dataset,
    view: Sequence[Config],
    read: Read,
    names: dict[str, int],
    batch_size: int,
    workers: int,
    start: int = 0,
) -> Batches:
    """Yields this rank's part of batches of augmented images, as ``read`` returns them.

    Each sample of each epoch has a view of its own, the same for any number of ranks and workers.
    """
    towers = {model.image: model.tower(model.image)}
    views = Views({"probe": view}, ["probe"], Context(towers, dataset))
    drawn = batches(
        dataset, views, batch_size, SEED, start, dist.rank(), dist.world_size(), workers
    )
    with closing(drawn):
        for batch in drawn:
            labels = class_ids(batch["label"], dataset.classes, names)
            images = views.finish(to_device(batch, model.device))["probe"]
            with model.evaluating():
                made = read(images)
            yield made, labels.to(model.device), batch.unreadable
