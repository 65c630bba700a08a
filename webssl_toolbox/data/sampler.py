"""An infinite sampler that is a function of its position, so that resume costs nothing."""

from __future__ import annotations

from collections.abc import Iterator

from .rng import sample_rng


class PositionSampler:
    """Yields this rank's block of each global batch from any step.

    It is ``[(epoch, index, position), ...]``; positions count the samples of the epoch's order.

    Every epoch is a new permutation of the dataset; its last incomplete batch is dropped, so that
    a batch never crosses into the next epoch and never holds one index twice. Rank r takes the
    r-th contiguous block: the global batch does not depend on the number of ranks.

    Args:
        length: samples in the dataset.
        batch_size: global batch size, over all ranks.
        seed: of the order.
        start: the step to begin with.
        rank: this rank.
        ranks: how many there are.

    Raises:
        ValueError: the dataset is smaller than a batch, or ranks cannot share one evenly.
    """

    def __init__(
        self, length: int, batch_size: int, seed: int, start: int = 0, rank: int = 0, ranks: int = 1
    ) -> None:
        if batch_size % ranks:
            raise ValueError(
                f"train_dataloader.batch_size is the global batch: {batch_size} rows cannot be "
                f"shared evenly by {ranks} ranks"
            )
        if length < batch_size:
            raise ValueError(
                f"the dataset has {length} samples, fewer than one batch of {batch_size}; lower "
                "train_dataloader.batch_size"
                + f", and start at most {length} ranks"
                * (length < ranks)
            )
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.start, self.rank, self.ranks = start, rank, ranks

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        batches = self.length // self.batch_size
        rows = self.batch_size // self.ranks
        epoch, batch = divmod(self.start, batches)
        while True:
            order = sample_rng(self.seed, epoch, 0, "order").permutation(self.length)
            for first in range(batch * self.batch_size, batches * self.batch_size, self.batch_size):
                start = first + self.rank * rows
                yield [(epoch, int(order[i]), i) for i in range(start, start + rows)]
            epoch, batch = epoch + 1, 0
