"""Samples that cannot be read: counted over all ranks, listed in a file, and bounded."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from typing import Any

from mmengine.hooks import Hook

from webssl_toolbox import dist
from webssl_toolbox.data.loader import Batch

logger = logging.getLogger("webssl_toolbox")

SHOWN = 20  # files in the log; the list has all
LEAST = 1000  # samples that the fraction is taken of: a few at the beginning stop no run


class Unreadable(Hook):
    """Lists what cannot be read, and stops the run at ``train_dataloader.max_bad_fraction``.

    ``<work dir>/unreadable.txt`` has each sample once, in a line ``kind: file: reason``; a resumed
    run goes on with it. Ranks tell each other in each log interval, so that all of them stop. The
    fraction is one of the samples drawn since the start or the resumption, substitutes included.
    """

    def __init__(self) -> None:
        self.known: dict[str, None] = {}  # lines of the list
        self.drawn = self.bad = 0  # by all ranks
        self.here: list[tuple[int, list[str]]] = []  # rows and lines of a batch, not yet told

    def before_train(self, runner: Any) -> None:
        """Begins the list, or goes on with it."""
        self.file = runner.work_dir / "unreadable.txt"
        if runner.iter == 0:
            self.file.unlink(missing_ok=True)
        text = self.file.read_text(encoding="utf-8") if self.file.exists() else ""
        self.known = dict.fromkeys(text.splitlines())

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        """Takes note of what a batch lacks; tells the other ranks at the end of an interval.

        Raises:
            ValueError: more cannot be read than the config allows.
        """
        if isinstance(data_batch, Batch):
            self.here.append((len(data_batch["index"]), data_batch.unreadable))
        interval = runner.settings.train_cfg.log_interval or 1
        if runner.iter % interval == 0 or runner.iter == runner.max_iters:
            self.settle()
            self.bound(runner.settings.train_dataloader.max_bad_fraction)

    def before_save_checkpoint(self, runner: Any, checkpoint: Any) -> None:
        """Lists what a run would not meet again that continues from here."""
        self.settle()

    def settle(self) -> None:
        """Counts and lists what any rank met since the last call; every rank calls it."""
        batches = [batch for here in dist.gather_json(self.here) for batch in here]
        self.here = []
        lines = [line for _, unreadable in batches for line in unreadable]
        self.bad += len(lines)
        self.drawn += len(lines) + sum(rows for rows, _ in batches)
        fresh = [line for line in dict.fromkeys(lines) if line not in self.known]
        self.known |= dict.fromkeys(fresh)
        if fresh and dist.rank() == 0:
            with self.file.open("a", encoding="utf-8") as stream:
                stream.writelines(f"{line}\n" for line in fresh)

    def bound(self, limit: float) -> None:
        """Stops the run, on all ranks alike, when too much cannot be read."""
        if self.bad > limit * max(self.drawn, LEAST):
            self.report()
            raise ValueError(
                f"{self.bad / self.drawn:.1%} of {self.drawn:,} samples drawn cannot be read, more "
                f"than train_dataloader.max_bad_fraction={limit:g}: repair or remove those in "
                f"{self.file}, or raise it, and continue with --resume"
            )

    def after_train(self, runner: Any) -> None:
        """Says what a run could not read that has come to its end."""
        self.report()

    def report(self) -> None:
        """Says how many there are of each kind, and which came first."""
        if self.known and dist.rank() == 0:
            counts = Counter(line.partition(":")[0] for line in self.known).most_common()
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts)
            shown = "".join(f"\n  {line}" for line in islice(self.known, SHOWN))
            logger.warning("could not be read: %s; all in %s, first:%s", kinds, self.file, shown)
