"""tools/report_table.py: which runs are a row, what a cell says, and its interval."""

import json
import sys
from pathlib import Path

import pytest
from scipy import stats

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tools"))  # of its private neighbours
import report_table  # noqa: E402
from _results import recipe  # noqa: E402

TOP1, MIOU = "knn/a/top1", "dense/a/miou"


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(name, seed=0, finished=True, lr=1.0, **metrics):
    folder = Path(name)
    folder.mkdir()
    cfg = {"lr": lr, "seed": seed, "work_dir": name}
    (folder / "config.json").write_text(json.dumps(cfg))
    lines = [{"step": 1, TOP1: 0.0}, {"step": 2, **metrics}, {"step": 3, "clip.loss": 1.0}]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    if finished:
        (folder / "results.md").touch()
    return name


def evaluated(name, recipe="r", seed=0, samples=None, **metrics):
    folder = Path(name)
    folder.mkdir()
    said = dict(recipe=recipe, seed=seed, metrics=metrics, samples=samples or {})
    (folder / "results.json").write_text(json.dumps(said))
    return name


def table(*runs, metrics=("*",)):
    """Returns the cells of each row by its name."""
    rows = report_table.group(runs)
    text = report_table.to_markdown(rows, report_table.choose(rows, metrics))
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line[:1] == "|"]
    return {name: cells for name, *cells in [["", *lines[0]], *lines[2:]]}


def test_seeds_of_one_config_are_a_row_with_the_interval_of_their_mean(place):
    runs = [train(f"clip-seed{s}", s, **{TOP1: v}) for s, v in enumerate((60.0, 63.0, 61.5))]
    found = table(*runs, train("other", 0, lr=2.0, **{TOP1: 40.0, MIOU: 7.25}))
    half = stats.t.ppf(0.975, 2) * stats.sem([60, 63, 61.5])
    assert found == {
        "": ["seeds", TOP1, MIOU],
        "clip": ["3", f"61.5 ± {half:.1f}", "missing"],
        "other": ["1", "40.0", "7.2"],
    }


def test_variances_are_pooled_over_rows_of_several_seeds(place):
    values = {1.0: (60.0, 62.0), 2.0: (50.0, 51.0)}
    runs = [
        train(f"lr{lr:.0f}-{seed}", seed, lr=lr, **{TOP1: value})
        for lr, each in values.items()
        for seed, value in enumerate(each)
    ]
    found = table(*runs, train("pixels", lr=3.0, **{TOP1: 30.0}))
    pooled = stats.ttest_ind(*values.values())  # its standard error is that of two means of two
    error = (61 - 50.5) / pooled.statistic / 2**0.5
    half = stats.t.ppf(0.975, 2) * error
    assert [found["lr1"][1], found["lr2"][1]] == [f"61.0 ± {half:.1f}", f"50.5 ± {half:.1f}"]
    assert found["pixels"] == ["1", "30.0"], "a single run says nothing of seeds"


def test_one_seed_has_the_interval_of_its_samples_where_they_were_counted(place):
    samples = {"knn": {"a": 250}}
    runs = [
        evaluated("one", "a", samples=samples, **{TOP1: 60.0, "knn/a/mean": 60.0}),
        evaluated("two", "b", **{TOP1: 60.0}),
    ]
    found = table(*runs)
    low, high = stats.binomtest(150, 250).proportion_ci(method="wilson")
    assert found["one"] == ["1", f"60.0 [{100 * low:.1f}, {100 * high:.1f}]", "60.0"]
    assert found["two"] == ["1", "60.0", "missing"]


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (10, 10), (3, 7), (999, 1000)])
def test_wilson_equals_scipy(hits, count):
    expected = stats.binomtest(hits, count).proportion_ci(method="wilson")
    assert report_table.wilson(hits / count, count) == pytest.approx(tuple(expected), abs=1e-7)


def test_results_of_one_model_from_several_commands_are_joined(place):
    runs = [evaluated("knn_x", **{TOP1: 60.0}), evaluated("dense_x", **{MIOU: 20.0, TOP1: 60.0})]
    assert table(*(f"x={run}" for run in runs))["x"] == ["1", "60.0", "20.0"]
    with pytest.raises(
        ValueError, match=r"knn_x and other are of one config .* differ in knn/a/top1"
    ):
        report_table.group(["knn_x", evaluated("other", **{TOP1: 61.0})])
    assert list(report_table.group(["first=knn_x", "second=other"])) == ["first", "second"]


def test_what_a_run_measured_itself_is_joined_with_what_was_measured_of_it(place):
    """Training writes six digits, and what was missing once may be there later."""
    precise = 100 * 37 / 79
    cfg = json.loads(
        Path(train("lr=0.1", **{TOP1: float(f"{precise:.6g}")}), "config.json").read_text()
    )
    later = evaluated("later", recipe(cfg, 2), **{TOP1: precise, MIOU: None})
    last = evaluated("last", recipe(cfg, 2), **{TOP1: precise, MIOU: 2.0})
    for order in (["lr=0.1", later, last], [last, later, "lr=0.1"]):
        assert table(*(f"x={run}" for run in order))["x"][1:] == ["46.8", "2.0"]
    assert list(report_table.group(["lr=0.1"])) == ["lr=0.1"], "a folder with such a name"


def test_a_model_before_and_after_training_are_two_rows(place):
    """Though their configs, and what was trained of them, are the same."""
    train("after", **{TOP1: 60.0})
    cfg = json.loads(Path("after/config.json").read_text())
    evaluated("before", recipe(cfg, 0), **{MIOU: 1.0})
    evaluated("again", recipe(cfg, 2), **{MIOU: 2.0})
    assert list(report_table.group(["after", "before"])) == ["after", "before"]
    assert list(report_table.group(["x=after", "x=again"])) == ["x"]


def test_a_seed_that_lacks_a_metric_is_said(place):
    runs = [evaluated(f"x{s}", seed=s, **{TOP1: 60.0 + s}) for s in (0, 1)]
    runs.append(evaluated("x2", seed=2, **{MIOU: 1.0}))
    assert table(*runs)["x"][1].endswith("(1 missing)")
    assert table(*runs)["x"][2] == "1.0 (2 missing)"


def test_columns_are_those_of_patterns_in_their_order(place):
    run = evaluated("x", **{TOP1: 1.0, "knn/b/top1": 2.0, MIOU: 3.0})
    assert table(run, metrics=("dense/*", "knn/*/top1"))[""][1:] == [MIOU, TOP1, "knn/b/top1"]
    with pytest.raises(ValueError, match=r"--metrics kn/\*: no run has .* they have knn/a/top1"):
        table(run, metrics=("kn/*",))


def test_what_is_no_result_is_refused(place):
    with pytest.raises(FileNotFoundError, match="running holds no results"):
        report_table.group([train("running", finished=False)])
    with pytest.raises(ValueError, match="several configs would be the row 'x'"):
        report_table.group([f"x={evaluated('a', 'r1')}", f"x={evaluated('b', 'r2')}"])
    Path("a/results.json").write_text("[]")
    with pytest.raises(ValueError, match="a: its results cannot be read"):
        report_table.group(["a"])


def test_a_cell_whose_data_were_missing_says_so(place):
    """tools/test.py writes null for a data set that was not there."""
    known = evaluated("a", seed=0, samples={"knn": {"a": 4}}, **{TOP1: 50.0, MIOU: None})
    found = table(known, evaluated("b", seed=1, **{TOP1: None, MIOU: None}))
    assert found["a"] == ["2", "50.0 [15.0, 85.0] (1 missing)", "missing"]
