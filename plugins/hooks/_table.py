"""The closing table: what training brought, beside the untrained model and raw pixels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.markup import escape
from rich.table import Table

YARDSTICK = "_pixels"
Metrics = Mapping[str, float | None]
MISSING = "missing"  # what a metric without data is called


def headlines(now: Metrics) -> list[str]:
    """Returns one line for each evaluator with its first metric on every split, in percent."""
    lines: dict[str, list[str]] = {}
    seen = set()
    for key, value in now.items():
        evaluator, _, rest = key.partition("/")
        split, _, metric = rest.rpartition("/")
        if not evaluator.endswith(YARDSTICK) and (evaluator, split) not in seen:
            seen.add((evaluator, split))
            lines.setdefault(f"{evaluator} {metric}", []).append(
                f"{split} {_percent(value, MISSING)}"
            )
    return [f"{name}: {', '.join(values)}" for name, values in lines.items()]


def to_rich(now: Metrics, before: Metrics) -> Table:
    """Renders the comparison for a terminal.

    Args:
        now: ``evaluator/split/metric`` to percent, of the trained model. Metrics of an evaluator
            named ``<evaluator>_pixels`` are the yardstick of that evaluator's.
        before: the same of the untrained model; empty where it was not evaluated.

    Returns:
        A row for each metric, by split; columns without any value are left out.
    """
    head, groups = _cells(now, before)
    table = Table()
    for i, title in enumerate(head):
        table.add_column(title, justify="left" if i < 3 else "right")
    for rows in groups:
        for row in rows:
            table.add_row(*map(escape, row))
        table.add_section()
    return table


def to_markdown(now: Metrics, before: Metrics) -> str:
    """Renders the comparison as a Markdown table; the arguments are those of ``to_rich``."""
    head, groups = _cells(now, before)
    rows = [row for rows in groups for row in rows]
    widths = [max(3, *map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = ["-" * width if i < 3 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    lines = (_line(row, widths) for row in (head, rule, *rows))
    return "\n".join(lines) + "\n"


def _line(row: Iterable[str], widths: Iterable[int]) -> str:
    cells = [
        text.ljust(width) if i < 3 else text.rjust(width)
        for i, (text, width) in enumerate(zip(row, widths, strict=True))
    ]
    return f"| {' | '.join(cells)} |"


def _cells(now: Metrics, before: Metrics) -> tuple[list[str], list[list[list[str]]]]:
    """Returns the titles, and the rows of each split, in the order in which they were measured."""
    groups: dict[str, list[tuple[str, str, tuple[float | None, ...]]]] = {}
    for key, value in now.items():
        evaluator, _, rest = key.partition("/")
        split, _, metric = rest.rpartition("/")  # a split may be called 'unseen/noto-v1'
        if not evaluator.endswith(YARDSTICK):
            values = (now.get(f"{evaluator}{YARDSTICK}/{rest}"), before.get(key), value)
            groups.setdefault(split, []).append((evaluator, metric, values))
    rows = [values for group in groups.values() for _, _, values in group]
    shown = [i for i in range(3) if i == 2 or any(values[i] is not None for values in rows)]
    titles = ["pixels", "untrained", "trained" if before else "result"]
    return ["split", "evaluator", "metric (%)", *(titles[i] for i in shown)], [
        [
            [
                split if i == 0 else "",
                evaluator,
                metric,
                *(_percent(values[j], MISSING if j == 2 else "") for j in shown),
            ]
            for i, (evaluator, metric, values) in enumerate(group)
        ]
        for split, group in groups.items()
    ]


def _percent(value: float | None, empty: str) -> str:
    return empty if value is None else f"{value:.1f}"
