"""What a study found: a table and a plot with intervals, and what they say in words."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import sqrt
from pathlib import Path

from _grid import Cell, Study

# Student's t for a two-sided interval of 95 %, by degrees of freedom.
_T95 = [12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14]
_COLORS = ("#444444", "#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#0072b2", "#f0e442")

Key = tuple[str, str]  # variant, amount
Values = Mapping[Key, Sequence[float]]  # one for each seed


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its 95 % interval; None where no cell has a second seed."""

    mean: float
    half: float | None

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval is above or below 0, else 0."""
        if self.half is None or abs(self.mean) <= self.half:
            return 0
        return 1 if self.mean > 0 else -1

    def __str__(self) -> str:
        return f"{self.mean:.1f}" + ("" if self.half is None else f" ± {self.half:.1f}")


def intervals(cells: Mapping[Key, Sequence[float]]) -> dict[Key, Interval]:
    """Returns the mean of each cell, with an interval from what all cells vary with the seed.

    Two or three seeds say little of how much one cell varies; all cells together say more. So their
    variances are pooled, as in a one-way analysis of variance, before Student's t is applied.
    """
    freedom = sum(len(values) - 1 for values in cells.values())
    if not freedom:
        return {key: Interval(values[0], None) for key, values in cells.items()}
    squares = sum((len(v) - 1) * statistics.variance(v) for v in cells.values() if len(v) > 1)
    half = _T95[min(freedom, len(_T95)) - 1] * sqrt(squares / freedom)
    return {key: Interval(statistics.mean(v), half / sqrt(len(v))) for key, v in cells.items()}


class Report:
    """The finished runs of a study.

    Args:
        study: its grid.
        steps: of each budget and variant.
        metrics: the metrics of a finished cell.
        pairs: image-text pairs of a step.
    """

    def __init__(
        self,
        study: Study,
        steps: Mapping[str, Mapping[str, int]],
        metrics: Callable[[Cell], Mapping[str, float]],
        pairs: int,
    ) -> None:
        self.study, self.steps, self.pairs = study, steps, pairs
        self.metrics = cache(metrics)  # read from a file, and asked for once a table and panel

    def values(self, budget: str, names: Sequence[str]) -> Values:
        """Returns the mean of some metrics of each run."""
        found: dict[tuple[str, str], list[float]] = {}
        for cell in self.study.cells(self.steps[budget]):
            measured = self.metrics(cell)
            for name in names:
                if name not in measured:
                    raise ValueError(f"_study.metrics: {cell.folder} measured no {name}")
            value = statistics.mean(measured[name] for name in names)
            found.setdefault((cell.variant, cell.amount), []).append(value)
        return found

    def to_markdown(self) -> str:
        """Returns the report: what was run, one table for each metric and budget, and words."""
        lines = [
            f"Seeds: {self.study.seeds}. Mean and 95 % interval over seeds (Student's t, variances "
            f"pooled over a table); in brackets the gain over {self.study.baseline} at the same "
            "seed, and its interval. **Bold**: that interval excludes 0.",
            "",
        ]
        for title, names in self.study.metrics.items():
            for budget in self.steps:
                values = self.values(budget, names)
                lines += [f"**{title}, {budget}**", "", *self._table(budget, values), ""]
                lines += [*self._words(budget, values), ""]
        return "\n".join(lines)

    def _table(self, budget: str, values: Values) -> list[str]:
        heads = [
            f"{name}, {steps * self.pairs / 1000:.0f}k pairs"
            for name, steps in self.steps[budget].items()
        ]
        rows = ["| data | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
        means, gains = intervals(values), intervals(differences(values, self.study.baseline))
        for amount in self.study.amounts:
            cells = [str(means[self.study.baseline, amount])]
            for variant in list(self.study.variants)[1:]:
                gain = gains[variant, amount]
                cell = f"{means[variant, amount]} ({'+' * (gain.mean >= 0)}{gain})"
                cells.append(f"**{cell}**" if gain.sign else cell)
            rows.append(f"| {amount} | " + " | ".join(cells) + " |")
        return rows

    def _words(self, budget: str, values: Values) -> list[str]:
        """Says of each variant where it is ahead, and how much data it saves."""
        if self.study.seeds < 2:
            return ["One seed has no interval, so nothing is said of who is ahead."]
        baseline, amounts = self.study.baseline, list(self.study.amounts)
        goal = statistics.mean(values[baseline, amounts[-1]])
        gains = intervals(differences(values, baseline))
        lines = []
        for variant in list(self.study.variants)[1:]:
            signs = {a: gains[variant, a].sign for a in amounts}
            places = {
                word: [a for a in amounts if signs[a] == sign]
                for word, sign in (("ahead", 1), ("not told apart", 0), ("behind", -1))
            }
            said = "; ".join(f"{w} on {', '.join(p)}" for w, p in places.items() if p)
            reached = [a for a in amounts if statistics.mean(values[variant, a]) >= goal]
            saves = f"reaches it with {reached[0]} of the data" if reached else "never reaches it"
            lines.append(
                f"* {variant} against {baseline}, {budget}: {said}. {baseline} on all data has "
                f"{goal:.1f}: {variant} {saves}."
            )
        return lines

    def plot(self, path: Path) -> None:
        """Draws the first metric over the amount of data, a panel for each budget."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        title, names = next(iter(self.study.metrics.items()))
        figure, panels = pyplot.subplots(
            1, len(self.steps), figsize=(5 * len(self.steps), 4), sharey=True, squeeze=False
        )
        amounts = list(self.study.amounts)
        for panel, budget in zip(panels[0], self.steps, strict=True):
            means = intervals(self.values(budget, names))
            for i, variant in enumerate(self.study.variants):
                found = [means[variant, amount] for amount in amounts]
                shift = 0.04 * (i - (len(self.study.variants) - 1) / 2)  # bars side by side
                panel.errorbar(
                    [place + shift for place in range(len(amounts))],
                    [each.mean for each in found],
                    yerr=[each.half or 0 for each in found],
                    label=variant,
                    color=_COLORS[i % len(_COLORS)],
                    marker="o",
                    capsize=2,
                    linewidth=1.5,
                )
            panel.set_title(budget)
            panel.set_xticks(range(len(amounts)), amounts)
            panel.set_xlabel("share of the training data")
            panel.grid(axis="y", alpha=0.3)
        panels[0][0].set_ylabel(f"{title} (%)")
        panels[0][0].legend(frameon=False)
        figure.tight_layout()
        figure.savefig(path, dpi=120)
        pyplot.close(figure)


def differences(values: Values, baseline: str) -> Values:
    """Returns the gains of all other variants over the baseline, seed by seed."""
    return {
        (variant, amount): [
            ours - theirs for ours, theirs in zip(found, values[baseline, amount], strict=True)
        ]
        for (variant, amount), found in values.items()
        if variant != baseline
    }
