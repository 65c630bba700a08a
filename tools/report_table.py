"""Tabulates results: ``python tools/report_table.py work_dirs/* --metrics "knn/*/top1"``.

A row is a config, whose seeds are joined; a column is a metric.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import takewhile
from math import isclose, sqrt
from pathlib import Path

from _report import intervals
from _results import Run, read
from _terminal import fail

SHARES = ("top1", "top5")  # of samples: what Wilson's interval is for
MISSING = "missing"
CAPTION = """\
In percent. ± is the 95 % interval of the mean over seeds (Student's t; variances are pooled over
the rows of a column that have several). Of one seed, [ ] is Wilson's 95 % interval over the samples
of the test set: how well they measure this one model, not how much another seed would differ. No
interval: one seed, and a metric that is no share of samples, or samples that nobody counted.
"""


def group(given: Sequence[str]) -> dict[str, list[Run]]:
    """Returns the runs of each row by its name: one run for each seed.

    Args:
        given: ``'[NAME=]FOLDER'``; runs of one recipe are a row, unless they have other names.

    Raises:
        ValueError: runs of one name are of several recipes, or of one seed and do not agree.
    """
    rows: dict[tuple[str, str], dict[int, Run]] = {}
    for text in given:
        folder = text if Path(text).is_dir() else text.partition("=")[2] or text
        name = text.removesuffix(folder).removesuffix("=")
        run = read(Path(folder))
        seeds = rows.setdefault((name, run.recipe), {})
        seeds[run.seed] = _joined(seeds[run.seed], run) if run.seed in seeds else run
    named: dict[str, list[Run]] = {}
    for (name, _), seeds in rows.items():
        runs = list(seeds.values())
        label = name or _common([run.name for run in runs])
        if label in named:
            raise ValueError(
                f"runs of several configs would be the row {label!r}: name them apart, NAME=RUN"
            )
        named[label] = runs
    return named


def _joined(first: Run, second: Run) -> Run:
    """Joins what was measured of one model in two places, what one of them misses too."""
    metrics = dict(first.metrics)
    for name, value in second.metrics.items():
        earlier = metrics.get(name)
        if earlier is None or value is None:
            metrics[name] = value if earlier is None else earlier
        elif "/" in name and not isclose(earlier, value, rel_tol=1e-5):  # training logs 6 digits
            raise ValueError(
                f"{first.name} and {second.name} are of one config and seed, but differ in {name}: "
                "give one of them, or name them apart, NAME=RUN"
            )
    samples = {
        name: first.samples.get(name, {}) | second.samples.get(name, {})
        for name in first.samples | second.samples
    }
    return replace(first, metrics=metrics, samples=samples)


def _common(names: Sequence[str]) -> str:
    """Names a row: by the folder of its only run, or by what those of all seeds begin with."""
    if len(names) == 1:
        return Path(names[0]).name
    letters = takewhile(lambda each: len(set(each)) == 1, zip(*names, strict=False))
    shared = "".join(letter for letter, *_ in letters).rstrip("-_./")
    return Path(shared).name.removesuffix("seed").rstrip("-_.") or Path(names[0]).name


def choose(rows: Mapping[str, Sequence[Run]], patterns: Sequence[str]) -> list[str]:
    """Returns the metrics that the patterns name, in their order.

    Raises:
        ValueError: a pattern that names none.
    """
    runs = [run for row in rows.values() for run in row]
    known = [name for run in runs for name in run.metrics if "/" in name]
    chosen: list[str] = []
    for pattern in patterns:
        found = [name for name in known if fnmatchcase(name, pattern)]
        if not found:
            names = ", ".join(dict.fromkeys(known))
            raise ValueError(f"--metrics {pattern}: no run has such a metric; they have {names}")
        chosen += found
    return list(dict.fromkeys(chosen))


def to_markdown(rows: Mapping[str, Sequence[Run]], metrics: Sequence[str]) -> str:
    """Renders the table, and below it what its intervals are."""
    columns = [_column(rows, metric) for metric in metrics]
    lines = [["", "seeds", *metrics], ["---", *["--:"] * (1 + len(metrics))]]
    for name, runs in rows.items():
        lines.append([name, str(len(runs)), *(column[name] for column in columns)])
    table = "\n".join(f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines)
    return f"{table}\n\n{CAPTION}"


def _column(rows: Mapping[str, Sequence[Run]], metric: str) -> dict[str, str]:
    values = {name: [run.metrics.get(metric) for run in runs] for name, runs in rows.items()}
    found = {name: [v for v in each if v is not None] for name, each in values.items()}
    several = {(name, ""): each for name, each in found.items() if len(each) > 1}
    means = intervals(several)
    cells = {}
    for name, each in found.items():
        if not each:
            cells[name] = MISSING
        elif len(each) > 1:
            lacking = len(rows[name]) - len(each)
            cells[name] = f"{means[name, '']}" + f" ({lacking} {MISSING})" * (lacking > 0)
        else:
            cells[name] = _single(rows[name], metric, each[0])
    return cells


def _single(runs: Sequence[Run], metric: str, value: float) -> str:
    evaluator, _, rest = metric.partition("/")
    split, _, kind = rest.rpartition("/")
    (run,) = (run for run in runs if run.metrics.get(metric) is not None)
    samples = run.samples.get(evaluator, {}).get(split, 0)
    lacking = f" ({len(runs) - 1} {MISSING})" * (len(runs) > 1)
    if kind not in SHARES or not samples:
        return f"{value:.1f}{lacking}"
    low, high = wilson(value / 100, samples)
    return f"{value:.1f} [{100 * low:.1f}, {100 * high:.1f}]{lacking}"


def wilson(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Returns the interval of a share of ``count`` samples (Wilson 1927); 95 % by default."""
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return middle - half, middle + half


def _escaped(cell: str) -> str:
    return "".join(char if char.isprintable() else " " for char in cell).replace("|", "\\|")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Tabulates the results of many runs.")
    parser.add_argument(
        "runs", nargs="+", metavar="[NAME=]RUN", help="work dirs of tools/train.py or tools/test.py"
    )
    parser.add_argument(
        "--metrics", nargs="+", default=["*"], metavar="PATTERN", help="such as 'knn/*/top1'"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the table there")
    return parser.parse_args()


def main() -> None:
    args = parse()
    try:
        rows = group(args.runs)
        table = to_markdown(rows, choose(rows, args.metrics))
        if args.out:
            args.out.write_text(table, encoding="utf-8")
    except (ValueError, OSError) as error:
        fail(error)
    print(table, end="")


if __name__ == "__main__":
    main()
