"""A probe that is trained step by step on a frozen tower: what linear and attentive ones share."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from webssl_toolbox import dist
from webssl_toolbox.data.sample import Dataset, Sample
from webssl_toolbox.encoder import Encoder, MissingPart
from webssl_toolbox.evaluation.pieces import Piece, Store
from webssl_toolbox.registry import DATASETS, VIEWS
from webssl_toolbox.towers import Layer, Tower

from ._common import Config, check_positive, check_splits, percent
from ._frozen import Batches, Part, Read, read_dataset, stored_batches, viewed_batches
from ._labelled import check_validation, hold_out

logger = logging.getLogger("webssl_toolbox")


class Heads(Protocol):
    """Classifiers that are trained together."""

    def update(self, features: Tensor, labels: Tensor, step: int, total: int) -> None:
        """Takes a step on this rank's part of a batch; a label of -1 is none."""

    def guess(self, features: Tensor) -> Tensor:
        """Returns the class that each head chooses, int64 ``[B, heads]``."""

    def state(self) -> dict[str, Tensor]:
        """Returns what a step changes."""

    def load(self, stored: Mapping[str, Tensor]) -> None:
        """Goes on from a state that a step has left."""


class Setup(NamedTuple):
    """How a probe reads a tower, and what it trains on that.

    Attributes:
        read: images to features.
        key: what ``read`` depends on beside the tower, as JSON data.
        heads: to train.
        names: of the heads.
    """

    read: Read
    key: Mapping[str, object]
    heads: Heads
    names: Sequence[str]


class TrainedProbe:
    """Trains heads on what a frozen tower makes of images, and tests the best of them.

    Args:
        train: dataset config of the samples that are fitted.
        splits: name to dataset config of test sets; None removes an inherited one.
        validation: what the best head is chosen on: a dataset config, or a share of ``train``,
            which is then not fitted.
        epochs: over the training set.
        batch_size: over all ranks.
        view: transforms of training images; None encodes each once, by ``test_view``, and keeps
            what was read in memory.
        workers: processes that load augmented images.

    Raises:
        ValueError: an unknown dataset, transform or argument, or a number that is not positive.
    """

    def __init__(
        self,
        train: Config,
        splits: Mapping[str, Config | None],
        validation: Config | float = 0.1,
        epochs: int = 10,
        batch_size: int = 256,
        view: Sequence[Config] | None = None,
        workers: int = 0,
    ) -> None:
        check_positive(epochs=epochs, batch_size=batch_size)
        DATASETS.check(train, "train")
        check_validation(validation)
        for i, step in enumerate(view or ()):
            VIEWS.check(step, f"view[{i}]")
        self.train, self.splits, self.validation = train, check_splits(splits), validation
        self.epochs, self.batch_size, self.view, self.workers = epochs, batch_size, view, workers

    def setup(self, model: Encoder, classes: int) -> Setup:
        """Says what to read and to train, with new heads for so many classes.

        Raises:
            MissingPart: the tower cannot be read so.
        """
        raise NotImplementedError

    def run(self, model: Encoder) -> dict[str, float]:
        """Returns ``<split>/top1`` of the best head, and its ``validation/top1``, in percent.

        Raises:
            MissingPart: the image tower lacks what the probe reads.
            ValueError: a dataset is too small, or without labels.
        """
        dataset: Dataset = DATASETS.create(self.train, "train")
        names = {name: i for i, name in enumerate(dict.fromkeys(dataset.classes))}
        if not names:
            raise ValueError("train: has no classes; choose a dataset with labels")
        fitted, held = self._parts(dataset)
        setup = self.setup(model, len(names))
        self._train(model, fitted, setup, names)

        def guess(images: Tensor) -> Tensor:
            return setup.heads.guess(setup.read(images))

        found = read_dataset(model, held, "validation", guess, names)
        scores = (found.features == found.labels[:, None]).double().mean(0)
        best = int(scores.argmax())
        logger.info("probe: of %d heads %s is the best", len(setup.names), setup.names[best])
        metrics = {"validation/top1": 100 * scores[best].item()}
        for name, cfg in self.splits.items():
            where = f"splits[{name!r}]"
            found = read_dataset(model, DATASETS.create(cfg, where), where, guess, names)
            metrics[f"{name}/top1"] = percent(found.features[:, best] == found.labels)
        return metrics

    def _parts(self, dataset: Dataset) -> tuple[Dataset, Dataset]:
        """Returns what is fitted and what the choice is made on."""
        if isinstance(self.validation, Mapping):
            return dataset, DATASETS.create(self.validation, "validation")
        rows, others = hold_out(len(dataset), self.validation)
        return Part(dataset, rows.tolist()), Part(dataset, others.tolist())

    def _train(self, model: Encoder, dataset: Dataset, setup: Setup, names: dict[str, int]) -> None:
        start, kept = 0, None
        if self.view is None:
            share = None if isinstance(self.validation, Mapping) else self.validation
            stored = {**self.train, "read": setup.key, "without": share}
            rows = read_dataset(model, dataset, "train", setup.read, names, stored)
            total = self._steps(len(rows.labels))
            drawn = stored_batches(rows, self.batch_size, model.device)
        else:
            total = self._steps(len(dataset))
            if model.store_of:
                kept = model.store_of(self._described(), total)
                start = _resume(setup.heads, kept)
            drawn = viewed_batches(
                *(model, dataset, self.view, setup.read, names),
                *(self.batch_size, self.workers, start),
            )
        with closing(drawn):
            replaced: set[str] = set()
            for step in range(start, total):
                setup.heads.update(*_drawn_by_all(drawn, replaced), step, total)
                if kept is not None and (step + 1) % (total // self.epochs) == 0:
                    _keep(setup.heads, kept, step + 1)

    def _described(self) -> dict[str, Any]:
        """Returns what decides on the heads beside the model."""
        unread = ("splits", "workers")
        arguments = {key: value for key, value in vars(self).items() if key not in unread}
        return {"type": f"heads of {type(self).__name__}", **arguments}

    def _steps(self, samples: int) -> int:
        if len(set(counts := dist.meet("the samples of a probe", samples))) > 1:
            raise dist.Failed(f"train: ranks see {counts} samples; give all ranks the same files")
        if samples < self.batch_size or self.batch_size % dist.world_size():
            raise ValueError(
                f"batch_size={self.batch_size}: {samples} samples on {dist.world_size()} ranks give"
                " no such batch; change batch_size"
            )
        return self.epochs * (samples // self.batch_size)


def _resume(heads: Heads, store: Store) -> int:
    """Goes on with the heads that were stored last; returns after how many steps that was."""
    (steps, *_) = dist.meet("the heads of a probe", sorted(store))
    if not steps:
        return 0
    heads.load(store[steps[-1]].tensors)
    return int(steps[-1])


def _keep(heads: Heads, store: Store, step: int) -> None:
    """Stores the heads after a step, in place of earlier ones."""
    if dist.rank() == 0:
        store[step] = Piece({name: x.cpu().clone() for name, x in heads.state().items()}, [])
        for earlier in [first for first in store if first < step]:
            del store[earlier]


def _drawn_by_all(batches: Batches, replaced: set[str]) -> tuple[Tensor, Tensor]:
    """Returns the next batch, if all ranks have theirs: none waits for gradients of one that fails.

    Args:
        batches: of this rank.
        replaced: samples of all ranks that others stand for; a new one is named, and added.

    Raises:
        Failed: on all ranks, where one of them cannot read its batch.
    """
    features: Any = None
    labels: Any = None
    failed, unreadable = None, list[str]()
    try:
        features, labels, unreadable = next(batches)
    except (ValueError, OSError, RuntimeError) as error:
        failed = error
    found = dist.meet("a batch of the probe", unreadable, failed)
    for line in sorted({line for lines in found for line in lines} - replaced):
        logger.warning("replaced in the training of the probe: %s", line)
        replaced.add(line)
    return features, labels


def last_layers(model: Encoder, images: Tensor, count: int) -> list[Layer]:
    """Returns what the last ``count`` blocks of the image tower make of images, the last first."""
    tower: Tower = model.tower(model.image)
    return tower.layers(images, [-1 - i for i in range(count)])


def try_layers(model: Encoder, count: int) -> list[Layer]:
    """Returns those of one black image.

    Raises:
        MissingPart: the tower has not so many.
    """
    images = model.prepare([Sample(np.zeros((8, 8, 3), np.uint8))])
    try:
        with model.evaluating():
            return last_layers(model, images, count)
    except ValueError as error:
        raise MissingPart(f"its tower {model.image!r} cannot be probed so: {error}") from error
