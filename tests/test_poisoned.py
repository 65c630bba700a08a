"""Every command against every artefact of ``poison.py``.

None may create the canary, print an escape of a stranger, or fill the memory. A command that reads
what is poisoned goes on where it can (a sample is replaced), or refuses in a sentence; one that
does not ends as if nothing were there.
"""

from __future__ import annotations

import importlib.util
import logging
import shlex
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

import webssl_toolbox
from webssl_toolbox.engine.config import load_config
from webssl_toolbox.engine.runner import Runner

from . import cases, poison
from .own_data import write_own_data
from .test_plugins import install  # noqa: F401 - a fixture

ROOT = Path(__file__).parents[1]
SMALL = f"""
_data = dict(type="ImageTextList", file="pairs.jsonl", root="images", label="label")
model = dict(
    towers=dict(image={cases.VIT}, text={cases.TEXT}),
    spaces=dict(joint=dict(type="JointSpace", dim=8)),
    objectives=dict(clip=dict(type="CLIP")),
)
train_dataloader = dict(
    dataset=_data,
    views=dict(
        v1=[dict(type="RandomResizedCrop"), dict(type="Normalize")],
        text=[dict(type="Caption", pick="random"), dict(type="Tokenize")],
    ),
    batch_size=4,
    num_workers=0,
)
optim_wrapper = dict(optimizer=dict(type="AdamW", lr=1e-3))
train_cfg = dict(max_iters=2)
test_view = [dict(type="ResizeCenterCrop"), dict(type="Normalize")]
evaluation = dict(
    evaluators=dict(
        knn=dict(type="KNN", train=_data, splits=dict(same=_data), k=1),
        grid=dict(type="RetrievalGrid", data=_data),
    )
)
"""
STUDY = """
_base_ = ["small.py"]
_study = dict(
    variants=dict(clip={"train_cfg.log_interval": 5}),
    amounts=dict(all={"train_dataloader.batch_size": 4}),
    seeds=1,
    metrics=dict(kNN=["knn/same/top1"]),
)
"""
MEASURED = '{"recipe": "r", "seed": 0, "metrics": {"knn/same/top1": 50.0}, "samples": {}}'
COMMANDS = {
    "train": "train.py small.py --work-dir new --device cpu",
    "resume": "train.py small.py --work-dir run --resume --device cpu",
    "start": "train.py small.py --work-dir new --device cpu --cfg-options load_from=run",
    "test": "test.py small.py run --json metrics.json --work-dir tested --device cpu",
    "extract": "extract.py run --images images --out vectors --device cpu",
    "report_table": "report_table.py measured",
    "print_config": "print_config.py small.py --param-groups",
    "plan": "plan.py small.py",
    "plugins": "plugins.py --load",
    "preview": "preview_views.py small.py --out preview.png",
    "study": "study.py study.py --work-dir study --jobs 1",
    "new_plugin": "new_plugin.py signal_of_mine",
    "convert": "convert_checkpoint.py weights.pth small.py --work-dir new",
    "load": "",  # webssl_toolbox.load
}
# They take no file but the repository's own, or npm's; test_guards.py poisons what replay reads,
# test_downstream_*.py what downstream does.
NO_READERS = {"build_emoji_corpus", "downstream", "replay", "benchmark"}
NO_READERS |= {f"benchmark_{of}" for of in ("data", "dino", "guards", "mae", "saving")}


def test_every_tool_is_in_the_table():
    tools = {path.stem for path in (ROOT / "tools").glob("*.py") if path.stem[0] != "_"}
    listed = {command.partition(".py")[0] for command in COMMANDS.values()} - {""}
    assert tools - listed == NO_READERS, "a new tool belongs into COMMANDS"


# -- where it happens ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    write_own_data(folder)
    for name in ("coco", "yfcc15m"):
        shutil.rmtree(folder / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("pairs.jsonl").write_text("")
        poison.rows(
            *(
                {"image": f"{name}/{i}.jpg", "caption": f"a {name} {i}", "label": name}
                for name in ("cat", "dog")
                for i in range(8)
            )
        )()
        Path("small.py").write_text(SMALL)
        Path("study.py").write_text(STUDY)
        Path("evil_module.py").write_text(poison.MODULE)
        Path("measured").mkdir()
        Path("measured/results.json").write_text(MEASURED)
        shutil.copy("photo.jpg", "secret.png")
        save_file({"norm.weight": torch.ones(16)}, "weights.pth")
        cfg = load_config("small.py", ["train_cfg.max_iters=1", "evaluation.evaluators={}"])
        Runner(cfg, Path("run"), device="cpu").train()
    return folder


@pytest.fixture
def folder(home, tmp_path, monkeypatch):
    """A fresh copy of it to work in, with hostile modules that could be imported."""
    monkeypatch.chdir(shutil.copytree(home, tmp_path / "home"))
    monkeypatch.syspath_prepend(Path.cwd())
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "tools")])
    monkeypatch.setattr(logging.root, "handlers", [])  # what the tools would find
    logger = logging.getLogger("webssl_toolbox")
    level = logger.level
    yield
    logger.setLevel(level)


TOOLS: dict[str, SimpleNamespace] = {}


def tool(name):
    """Imports a script, once: by its path, since one of them is called ``test``."""
    if name not in TOOLS:
        spec = importlib.util.spec_from_file_location(f"tool_{name}", ROOT / f"tools/{name}.py")
        TOOLS[name] = sys.modules[f"tool_{name}"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(TOOLS[name])
    return TOOLS[name]


def call(command, monkeypatch):
    """Runs a command in this process; returns its error, or None."""
    name, *arguments = shlex.split(command)
    module = tool(name.removesuffix(".py"))
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    try:
        module.main()
    except SystemExit as leave:
        return str(leave.code) if leave.code else None
    return None


def attempt(name, monkeypatch):
    if name == "load":
        try:
            webssl_toolbox.load("run").encode_text(["a cat"])
        except (ValueError, OSError) as error:
            return f"error: {error}"
        return None
    for left in ("new", "study", "tested", "vectors", "webssl-signal_of_mine"):
        shutil.rmtree(left, ignore_errors=True)
    if name == "study":
        study = tool("study")
        monkeypatch.setattr(study, "COST_STEPS", 10)
        monkeypatch.setattr(study, "COST_ROUNDS", 1)
        monkeypatch.setattr(study.subprocess, "run", here(monkeypatch))
    return call(COMMANDS[name], monkeypatch)


def here(monkeypatch):
    """Stands for ``subprocess.run`` of a study: trains in this process."""

    def run(command, stdout, **unused):
        argv = sys.argv
        error = call(shlex.join(["train.py", *command[2:]]), monkeypatch)
        sys.argv = argv
        stdout.write(f"{error}\n")
        return SimpleNamespace(returncode=int(error is not None))

    return run


# -- the table -----------------------------------------------------------------------------------

ARTEFACTS = {
    f"{kind}: {name}": artefact
    for kind, table in (
        ("checkpoint", poison.CHECKPOINTS),
        ("data", poison.DATA),
        ("weights", poison.WEIGHTS),
    )
    for name, artefact in table.items()
}
READERS = {"checkpoint": poison.EVERY, "data": poison.DATA_READERS, "weights": ("convert",)}
QUICK = {"checkpoint": ("load", "resume"), "data": ("preview",), "weights": ("convert",)}


def is_quick(kind, artefact, command):
    return command in QUICK[kind] and not (kind == "data" and "gigabyte" in artefact)


CELLS = [
    pytest.param(a, command, marks=() if is_quick(kind, a, command) else pytest.mark.slow)
    for kind, readers in READERS.items()
    for a in ARTEFACTS
    if a.startswith(kind)
    for command in readers
]
OTHERS = [(kind, c) for kind, readers in READERS.items() for c in COMMANDS if c not in readers]
MEMORY = 400  # MiB that a command may take


def defend(artefact, command, monkeypatch, capfd):
    artefact.plant()
    shutil.rmtree("run/pictures", ignore_errors=True)
    before = reset_peak()
    error = attempt(command, monkeypatch)
    said = capfd.readouterr()
    assert not Path("canary").exists(), "hostile code ran"
    assert "evil_module" not in sys.modules
    for text in (said.out, said.err, error or ""):
        assert "Traceback" not in text
        if command != "load":  # which leaves it to its caller what is printed
            assert "\x1b" not in text and "\x07" not in text, "a stranger controls the terminal"
    assert peak() - before < MEMORY
    if command in artefact.refused:
        assert error, "it was not refused"
        sentence = error.removesuffix("\n(WEBSSL_TRACEBACK=1 shows where)").removeprefix("error: ")
        assert artefact.refused[command] in sentence
        assert "\n" not in sentence and len(sentence) < 1000
    else:
        assert error is None


def reset_peak():
    """Forgets how much memory this process has taken at most; returns what it takes, in MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024


needs_linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")


@needs_linux
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("artefact", "command"), CELLS)
def test_what_reads_an_artefact_is_not_hurt(artefact, command, folder, monkeypatch, capfd):
    defend(ARTEFACTS[artefact], command, monkeypatch, capfd)


@needs_linux
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "command"), OTHERS)
def test_what_does_not_read_it_does_not_notice(kind, command, folder, monkeypatch, capfd):
    def plant():
        for name in poison.TOGETHER[kind]:
            ARTEFACTS[f"{kind}: {name}"].plant()

    defend(poison.Artefact(plant), command, monkeypatch, capfd)


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_refused_where_nothing_is_poisoned(command, folder, monkeypatch):
    assert attempt(command, monkeypatch) is None


def test_the_canary_would_sing(folder):
    import pickle

    pickle.loads(poison.pickled())
    assert Path("canary").exists()
    Path("canary").unlink()
    import evil_module

    assert Path("canary").exists()
    del sys.modules[evil_module.__name__]


# -- plugins -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("command", COMMANDS)
def test_broken_plugins_stop_nobody(command, folder, install, monkeypatch, capfd):  # noqa: F811
    for i, code in enumerate(poison.PLUGINS.values()):
        install(f"bad{i}", code.replace("{", "{{").replace("}", "}}"))
    error = attempt(command, monkeypatch)
    said = capfd.readouterr()
    assert not Path("canary").exists()
    assert "\x1b" not in said.out + said.err + (error or "")
    if command == "plugins":
        assert error == "True"
        assert said.out.count("broken") >= 4
    else:
        assert error is None
