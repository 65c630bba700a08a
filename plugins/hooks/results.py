"""What evaluations found, for people: lines and pictures at each of them, a table at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from rich.console import Console

from webssl_toolbox import dist

from ._pictures import dashed, save
from ._table import headlines, to_markdown, to_rich


class Results(Hook):
    """Shows what training brought, beside the untrained model and raw pixels.

    On the terminal and in ``<work dir>/results.md``, which is there when a run is finished;
    pictures in ``<work dir>/pictures``, and in the backends that show them.
    """

    def before_train(self, runner: Any) -> None:
        """Removes the table of a shorter run that goes on."""
        if dist.rank() == 0 and runner.iter < runner.max_iters:
            (runner.work_dir / "results.md").unlink(missing_ok=True)

    def after_val_epoch(
        self, runner: Any, metrics: Mapping[str, float | None] | None = None
    ) -> None:
        """Says the first metric of each evaluator; the first rank has what was found."""
        for line in headlines(metrics or {}):
            runner.reporter.say(f"step {runner.iter}  {line}")
        save(runner.pictures, runner.work_dir / "pictures", runner.iter)
        for backend in runner.backends:
            for name, picture in runner.pictures.items():
                backend.add_image(dashed(name), picture, step=runner.iter)

    def after_train(self, runner: Any) -> None:
        """Writes and prints the table."""
        if dist.rank() == 0 and runner.metrics:
            table = to_markdown(runner.metrics, runner.before)
            (runner.work_dir / "results.md").write_text(table, encoding="utf-8")
            Console(width=100).print(to_rich(runner.metrics, runner.before))
