"""tools/test.py: any model by its config, on any number of ranks; a killed one goes on."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from webssl_toolbox.engine import checkpoint
from webssl_toolbox.registry import DATASETS, MODELS

from .test_shared_evaluation import Drawings

ROOT = Path(__file__).parents[1]
TOWER = dict(type="ViT", patch_size=8, width=16, depth=1, heads=2, input_size=16)
VIEW = [dict(type="ResizeCenterCrop"), dict(type="Normalize")]


@DATASETS.register_module()
class Counted(Drawings):
    """Notes each load in a file, and ends the process by SIGKILL at some of them."""

    def load(self, index, rng):
        log = Path("loaded.txt")
        with log.open("a") as file:
            file.write(f"{self.first + index}\n")
        if len(log.read_text().split()) in json.loads(os.environ.get("KILL_AT", "[]")):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().load(index, rng)


def drawings(kind, first, count):
    return dict(type=kind, first=first, count=count)


COUNTED = [(0, 37), (100, 30), (200, 9)]
FIRST, SECOND, THIRD = (drawings("Counted", *each) for each in COUNTED)
EVALUATORS = dict(
    knn=dict(type="KNN", train=FIRST, splits=dict(a=SECOND)),
    near=dict(
        type="Neighbours", bank=drawings("Drawings", 0, 9), queries=drawings("Drawings", 50, 9)
    ),
    rank=dict(type="RankMe", splits=dict(b=THIRD)),
)
OTHERS = {"near left out": ["near"], "none left": ["knn", "near", "rank"]}
ROWS = 8  # of a piece
# A small dataset has several pieces then. The imports last for all runs, each a process of its own.
DRIVER = f"""
import json, os, runpy, sys
from pathlib import Path
import torch
sys.path.append("{ROOT}/tools")
import tests.test_test
from webssl_toolbox.encoder import Encoder
from webssl_toolbox.evaluation import pieces
pieces.ROWS = {ROWS}
*defaults, _ = Encoder.__init__.__defaults__
Encoder.__init__.__defaults__ = (*defaults, 4)
for environment, *arguments in json.loads(sys.argv[1]):
    child = os.fork()
    if not child:
        os.environ.update(environment)
        sys.argv = ["test.py", *arguments]
        runpy.run_path("{ROOT}/tools/test.py", run_name="__main__")
        sys.exit(0)
    print("ended:", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("eval.py").write_text(f"evaluation = dict(evaluators={EVALUATORS!r})\n")
    for seed, name in enumerate(("model.py", "other.py")):
        sections = dict(model=dict(towers=dict(image=TOWER)), test_view=VIEW, seed=seed)
        Path(name).write_text("".join(f"{key} = {value!r}\n" for key, value in sections.items()))
    Path("driver.py").write_text(DRIVER)
    return tmp_path


def run(*runs, launcher=()):
    """Runs tools/test.py several times; returns what it printed, and how each run ended."""
    command = [*(launcher or [sys.executable]), "driver.py", json.dumps(runs)]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        list(map(str, command)),
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    ends = [int(line.split()[1]) for line in lines if line.startswith("ended: ")]
    return ends, [line for line in lines if not line.startswith("ended: ")]


def once(folder, model="model.py", kill_at=()):
    arguments = ["eval.py", model, "--work-dir", folder, "--device", "cpu"]
    return [dict(KILL_AT=json.dumps(kill_at)), *arguments]


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("tools_test", ROOT / "tools/test.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def evaluate(tool, place, monkeypatch):
    """Runs tools/test.py in this process, with evaluators left out."""

    def evaluate(config="eval.py", model="model.py", *words, without=()):
        options = [f"evaluation.evaluators.{name}=None" for name in without]
        options = ["--cfg-options", *options] if options else []
        monkeypatch.setattr(sys, "argv", ["test.py", config, model, *words, *options])
        tool.evaluate(tool.parse())

    return evaluate


def files(folder):
    return {file.name: file.read_bytes() for file in Path(folder).rglob("*") if file.is_file()}


def loads(kills):
    """Returns the rows that are loaded, in order: after a kill, again those of its piece."""
    found, pieces = [], []
    for first, count in COUNTED:
        rows = range(first, first + count)
        pieces += [rows[i : i + ROWS] for i in range(0, count, ROWS)]
    for piece in pieces:
        while True:
            room = [kill - len(found) for kill in kills if kill > len(found)]
            found += piece[: min(room, default=ROWS)]
            if min(room, default=ROWS + 1) > len(piece):
                break
    return found


# In the first piece; at the last row of one, and at the first of the next; then further on, in the
# second dataset, and when two evaluators are through.
MOMENTS = [3, 11, 20, 30, 60, 90]


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_goes_on(place):
    ends, _ = run(once("whole"))
    assert ends == [0] and len(loads([])) == 76
    loaded = Path("loaded.txt")
    assert list(map(int, loaded.read_text().split())) == loads([])
    loaded.unlink()

    ends, _ = run(*[once("killed", kill_at=MOMENTS)] * len(MOMENTS))
    assert ends == [-signal.SIGKILL] * len(MOMENTS)
    assert len(list(Path("killed/parts").glob("*.json"))) == 2 and "results.json" not in files(
        "killed"
    )
    ends, printed = run(once("killed"))
    assert ends == [0]
    assert printed[-1] == "1 pictures in killed/pictures", "it was drawn before a kill"
    assert list(map(int, loaded.read_text().split())) == loads(MOMENTS)
    found = files("killed")
    assert found == files("whole") and found.keys() == {"results.json", "results.md", "grid.png"}
    assert not Path("killed/parts").exists()


@pytest.mark.slow
def test_another_model_takes_nothing_of_the_first_one(place):
    run(once("shared", kill_at=[60]), once("shared", "other.py"), once("fresh", "other.py"))
    rows = list(map(int, Path("loaded.txt").read_text().split()))
    assert rows == [*loads([])[:60], *loads([]), *loads([])]
    assert files("shared") == files("fresh")


@pytest.mark.slow
def test_two_ranks_go_on_where_one_was_killed(place):
    run(once("whole"), once("killed", kill_at=[76 + 30]))
    launcher = [Path(sys.executable).with_name("torchrun"), "--nproc-per-node=2"]
    _, printed = run(once("killed"), launcher=launcher)
    assert printed[-1] == "1 pictures in killed/pictures"
    assert files("killed") == files("whole")
    assert sum("top1" in line for line in printed) == 1, "the first rank alone prints"
    rows = list(map(int, Path("loaded.txt").read_text().split()))[76 + 30 :]
    assert sorted(rows) == sorted(loads([])[24:]), "three pieces were finished"


# -- what a folder holds already -------------------------------------------------------------------


@pytest.mark.parametrize("words", [[], ["--work-dir", "work_dirs/test_eval_model_initial"]])
@pytest.mark.parametrize("without", OTHERS.values(), ids=OTHERS)
def test_results_of_other_evaluators_are_not_replaced(evaluate, words, without, capsys):
    evaluate()
    held = files("work_dirs")
    assert held.keys() == {"results.json", "results.md", "grid.png"}
    with pytest.raises(ValueError, match=r"not of this model and these evaluators.*--work-dir"):
        evaluate("eval.py", "model.py", *words, without=without)
    assert files("work_dirs") == held
    capsys.readouterr()
    evaluate("eval.py", "model.py", *words)
    assert "1 pictures in work_dirs/test_eval_model_initial/pictures" in capsys.readouterr().out
    assert files("work_dirs") == held, "the same command is welcome"


def test_results_of_a_config_of_the_same_name_are_not_replaced(evaluate):
    evaluate()
    Path("other").mkdir()
    evaluators = EVALUATORS | dict(rank=dict(type="RankMe", splits=dict(b=FIRST)))
    Path("other/eval.py").write_text(f"evaluation = dict(evaluators={evaluators!r})\n")
    with pytest.raises(ValueError, match="choose another --work-dir"):
        evaluate("other/eval.py")
    evaluate("other/eval.py", "model.py", "--work-dir", "elsewhere")


@pytest.mark.parametrize("text", ["[]", "{", '{"model": "model.py", "metrics": {}}'])
def test_results_of_other_software_are_not_replaced(evaluate, text):
    Path("run").mkdir()
    Path("run/results.json").write_text(text)
    with pytest.raises(ValueError, match="run holds results, but not of this model"):
        evaluate("eval.py", "model.py", "--work-dir", "run")


def test_pictures_of_another_run_do_not_count(evaluate, capsys):
    picture = Path("run/pictures/near/grid.png")  # of a run that was killed
    picture.parent.mkdir(parents=True)
    picture.touch()
    words = ["eval.py", "model.py", "--work-dir", "run"]
    with pytest.raises(ValueError, match=r"no evaluation\.evaluators that fit the model"):
        evaluate(*words, without=EVALUATORS)
    assert not Path("run/results.json").exists()
    evaluate(*words, without=["near"])
    assert "pictures" not in capsys.readouterr().out


def test_pictures_that_were_drawn_before_a_kill_count(evaluate, tool, monkeypatch, capsys):
    def killed(session):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(tool.Session, "finish", killed)
        evaluate()
    Path("work_dirs/test_eval_model_initial/pictures/near/grid.png").unlink()
    evaluate()
    assert "1 pictures in" in capsys.readouterr().out
    assert "grid.png" not in files("work_dirs"), "it was not drawn again"


def test_a_model_is_the_same_however_its_path_is_written(evaluate):
    built = MODELS.create(dict(type="Pretrainer", towers=dict(image=TOWER)), "model")
    cfg = dict(model=dict(towers=dict(image=TOWER)), test_view=VIEW)
    checkpoint.save(Path("runs/one/checkpoints"), 1, built, meta={"config": cfg})
    shutil.copytree("runs/one", "others/one")
    Path("others/model.py").write_text(Path("other.py").read_text())
    for same, other in (
        (["runs/one", "runs/one/", "./runs/one", Path("runs/one").resolve()], "others/one"),
        (["model.py", "./model.py", "runs/../model.py"], "others/model.py"),
        (["webssl_toolbox::eval/models/pixels.py"] * 2, "pixels.py"),
    ):
        for name in same:
            evaluate("eval.py", str(name))
        with pytest.raises(ValueError, match="not of this model"):
            evaluate("eval.py", other)
