"""Studies: the grid, the intervals and words of its report, and a study that is killed."""

import importlib.util
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from webssl_toolbox.engine.config import load_config
from webssl_toolbox.engine.settings import settings_from

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tools"))  # of its private neighbours
from _grid import Cell, Study, budgets, study_from  # noqa: E402
from _report import Interval, Report, differences, intervals  # noqa: E402

CONFIG = ROOT / "configs/study/declip_ablation.py"
STUDY = Study(
    variants={"base": {}, "more": {"model.x": 1}},
    amounts={"1/2": {"data.fraction": 0.5}, "all": {}},
    seeds=3,
    metrics={"top-1": ["a/top1", "b/top1"]},
)
STEPS = {"equal pairs": {"base": 10, "more": 10}, "equal minutes": {"base": 20, "more": 10}}


WHOLE = dict(variants={"a": {}}, amounts={"all": {}}, seeds=1, metrics={"m": ["a/top1"]})


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("tools_study", ROOT / "tools/study.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


# -- the grid ----------------------------------------------------------------------------------


def test_cells_of_a_budget_come_seed_by_seed():
    cells = list(STUDY.cells({"base": 20, "more": 10}))
    assert len(set(cells)) == len(cells) == 12
    assert [cell.seed for cell in cells] == [0] * 4 + [1] * 4 + [2] * 4
    assert cells[1] == Cell("more", "1/2", 0, 10)
    assert cells[1].folder == Path("more/1-2/10-steps-0")
    assert STUDY.options(cells[1]) == [
        *("model.x=1", "data.fraction=0.5", "seed=0", "train_cfg.max_iters=10")
    ]


def test_equal_minutes_give_the_cheaper_variant_more_steps():
    steps = budgets(100, {"base": 0.5, "more": 1.25})
    assert steps["equal pairs"] == {"base": 100, "more": 100}
    assert steps["equal minutes"] == {"base": 250, "more": 100}


def test_every_cell_of_the_shipped_study_is_a_valid_config():
    study = study_from(load_config(CONFIG))
    for cell in study.cells(dict.fromkeys(study.variants, 7)):
        settings = settings_from(load_config(CONFIG, study.options(cell)))
        assert settings.train_cfg.max_iters == 7
        left = {name for name, entry in settings.model["objectives"].items() if entry}
        signals = len(left & {"multi_view", "simsiam", "nn_queue"})
        assert settings.model["objectives"]["clip"]["weight"] == pytest.approx(1 - 0.2 * signals)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (None, "no _study"),
        (dict(variants={"a": {}}), "_study.amounts is missing"),
        (dict(variant={"a": {}}), "unknown key _study.variant; did you mean 'variants'"),
        (WHOLE | dict(seeds="3"), "_study.seeds is a number of runs, not '3'"),
        (WHOLE | dict(amounts={"1/4": {}, "1-4": {}}), "its names become folders"),
        (WHOLE | dict(variants={"a": {"seed": 1}}), "_study.variants.a sets seed"),
    ],
)
def test_a_config_without_a_whole_study_is_refused(section, said):
    with pytest.raises(ValueError, match=said):
        study_from({"_study": section})


# -- the report --------------------------------------------------------------------------------


def test_an_interval_of_one_cell_equals_the_textbook():
    # t(.975, 2) = 4.303: Student's t table; standard deviation of 1, 2, 3 is 1.
    interval = intervals({("a", "all"): [1.0, 2.0, 3.0]})["a", "all"]
    assert interval.mean == 2 and interval.half == pytest.approx(4.303 / 3**0.5, rel=1e-3)
    assert intervals({("a", "all"): [4.0]}) == {("a", "all"): Interval(4.0, None)}
    assert str(Interval(1.25, 0.33)) == "1.2 ± 0.3"
    assert [Interval(m, 1.0).sign for m in (2, 0.5, -2)] == [1, 0, -1]


def test_all_cells_tell_how_much_a_seed_matters():
    # Sums of squares 2 and 8, with 2 and 1 degrees of freedom: variance 10 / 3, t(.975, 3) = 3.182.
    found = intervals({("a", "all"): [1.0, 2.0, 3.0], ("b", "all"): [5.0, 9.0]})
    assert found["a", "all"].half == pytest.approx(3.182 * (10 / 3 / 3) ** 0.5, rel=1e-3)
    assert found["b", "all"].half == pytest.approx(3.182 * (10 / 3 / 2) ** 0.5, rel=1e-3)


def test_differences_are_taken_seed_by_seed():
    values = {("base", "all"): [1.0, 5.0, 9.0], ("more", "all"): [2.0, 6.0, 10.0]}
    gains = differences(values, "base")
    assert gains == {("more", "all"): [1.0, 1.0, 1.0]}, "seeds vary by 4, differences do not"


def measured(cell):
    score = cell.steps * (0.5 if cell.amount == "1/2" else 1.0) + cell.seed / 10
    score *= 1.5 if cell.variant == "more" else 1.0
    return {"a/top1": score, "b/top1": score + 2}


def test_the_report_says_what_is_ahead_and_what_data_it_saves(tmp_path):
    report = Report(STUDY, STEPS, measured, pairs=1000)
    text = report.to_markdown()
    assert "Seeds: 3." in text
    assert "| data | base, 10k pairs | more, 10k pairs |" in text
    # Variances 0.01 and 0.0225 pooled: t(8) = 2.31; those of the gains are 0.0025: t(4) = 2.78.
    assert "| all | 11.1 ± 0.2 | **16.1 ± 0.2 (+5.0 ± 0.1)** |" in text
    assert "more against base, equal pairs: ahead on 1/2, all" in text
    assert "more against base, equal minutes: behind on 1/2, all" in text
    assert "more never reaches it" in text
    report.plot(tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 10_000


def test_one_seed_says_nothing_of_who_is_ahead():
    text = Report(replace(STUDY, seeds=1), STEPS, measured, pairs=1000).to_markdown()
    assert "One seed has no interval" in text and "ahead on" not in text


def test_a_metric_that_no_cell_measured_is_named():
    with pytest.raises(ValueError, match="measured no a/top1"):
        Report(STUDY, STEPS, lambda cell: {"c/top1": 1.0}, pairs=1).to_markdown()


# -- running it --------------------------------------------------------------------------------

TRAINER = """
import json, os, pathlib, sys
out = pathlib.Path(sys.argv[sys.argv.index("--work-dir") + 1])
with (out.parent / "calls.txt").open("a") as calls:
    calls.write(out.name + "\\n")
if "seed=1" in sys.argv and pathlib.Path("dying").exists():
    os.kill(os.getpid(), 9)
if "seed=1" in sys.argv and not pathlib.Path("healed").exists():
    sys.exit("error: out of memory\\n(WEBSSL_TRACEBACK=1 shows where)")
(out / "gpu.txt").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
lines = [{"step": 5, "samples_per_s": 9.0}, {"step": 10, "samples_per_s": 4.0}, {"a/top1": 1.0}]
(out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
(out / "results.md").touch()
"""


@pytest.fixture
def workshop(tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trainer.py").write_text(TRAINER)
    train = [sys.executable, str(tmp_path / "trainer.py")]
    with tool.opened(tmp_path / "study", {"a": 1}) as lock:
        yield tool.Workshop(train, tmp_path / "study", 2, lock)


def test_a_failed_cell_is_named_and_only_it_is_tried_again(workshop, tmp_path):
    cells = [Cell("base", "all", seed, 10) for seed in range(3)]
    with pytest.raises(RuntimeError, match=r"base/all/10-steps-1: error: out of memory \(see .*"):
        workshop.run(STUDY, cells)
    calls = tmp_path / "study/base/all/calls.txt"
    assert sorted(calls.read_text().split()) == [f"10-steps-{seed}" for seed in range(3)]
    (tmp_path / "dying").touch()
    with pytest.raises(RuntimeError, match=r"base/all/10-steps-1: ended with -9 \(see"):
        workshop.run(STUDY, cells)  # and not of what the time before it did
    (tmp_path / "dying").unlink()
    calls.unlink()
    (tmp_path / "healed").touch()
    workshop.run(STUDY, cells)
    assert calls.read_text().split() == ["10-steps-1"]
    assert workshop.metrics(cells[1]) == {"a/top1": 1.0}


@pytest.mark.parametrize(("visible", "places"), [("", "01"), ("4, GPU-f00", ["4", "GPU-f00"])])
def test_cells_share_the_gpus_that_are_visible(workshop, tmp_path, monkeypatch, visible, places):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    workshop.gpus = 2
    for place in range(4):
        workshop._train([], tmp_path / f"cell{place}", place)
    found = [(tmp_path / f"cell{place}/gpu.txt").read_text() for place in range(4)]
    assert found == [*places, *places]


def test_costs_are_measured_once(workshop, tmp_path):
    (tmp_path / "healed").touch()
    costs = workshop.costs(STUDY)
    assert costs == {"base": 0.25, "more": 0.25}, "the first report is the start-up"
    workshop.train = ["false"]
    assert workshop.costs(STUDY) == costs


def test_a_folder_belongs_to_one_study_and_one_config(tool, workshop, tmp_path):
    with pytest.raises(ValueError, match="in use"), tool.opened(tmp_path / "study", {"a": 1}):
        pass
    with tool.opened(tmp_path / "other", {"a": 1}):
        pass
    refused = pytest.raises(ValueError, match="of another config")
    with refused, tool.opened(tmp_path / "other", {"a": 2}):
        pass


@pytest.mark.slow
def test_a_killed_study_continues(tmp_path):
    config = tmp_path / "tiny.py"
    config.write_text(
        f"_base_ = [{str(CONFIG)!r}]\n"
        "train_cfg = dict(max_iters=4)\n"
        "train_dataloader = dict(batch_size=16)\n"
        "_all = {'train_dataloader.dataset.fraction': 1.0}\n"
        "_names = ['zero_shot/noto-v1/top1']\n"
        "_study = dict(_delete_=True, seeds=2, amounts=dict(all=_all), metrics=dict(top1=_names),\n"
        "    variants=dict(DeCLIP={}, no_mlm={'model.objectives.mlm': None}))\n"
    )
    folder = tmp_path / "study"
    command = [sys.executable, "tools/study.py", config, "--work-dir", folder, "--jobs", "1"]
    began = subprocess.Popen(command, cwd=ROOT)
    first = folder / "DeCLIP/all/4-steps-0/results.md"
    while not first.exists():
        assert began.poll() is None
        time.sleep(0.2)
    began.send_signal(signal.SIGKILL)
    began.wait()
    written = first.stat().st_mtime_ns
    for _ in range(60):  # the cell that outlived it still holds the folder
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if "in use" not in done.stderr:
            break
        time.sleep(2)
    assert done.returncode == 0, done.stderr
    assert first.stat().st_mtime_ns == written, "a finished cell was trained again"
    assert (folder / "report.png").exists()
    assert "| data | DeCLIP" in (folder / "report.md").read_text()
    assert set(json.loads((folder / "costs.json").read_text())) == {"DeCLIP", "no_mlm"}
