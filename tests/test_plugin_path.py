"""The path of a plugin's author: scaffold, install, list, configs by name, train, test."""

import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch

from tests import cases
from webssl_toolbox import Encoding, Tower, testing
from webssl_toolbox.engine.config import find_config, load_config
from webssl_toolbox.registry import MODELS, check_value

ROOT = Path(__file__).parents[1]
BARLOW = ROOT / "docs/examples/webssl_barlow"
HOOK = "from webssl_toolbox import hookimpl\n@hookimpl\ndef webssl_register(registries):\n    "


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Returns a function that installs a plugin, as pip would, and its configs."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("WEBSSL_PLUGINS", raising=False)

    def add(name, code="raise RuntimeError('imported')", **configs):
        info = tmp_path / f"dist_{name}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dist-{name}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[webssl_toolbox]\n{name} = {name}_pkg.hooks\n")
        folder = tmp_path / f"{name}_pkg"
        folder.mkdir()
        (folder / "__init__.py").touch()
        (folder / "hooks.py").write_text(code)
        for config, text in configs.items():
            path = folder / "configs" / f"{config.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return folder

    return add


# -- configs by name -----------------------------------------------------------------------------


def test_our_configs_go_by_name():
    by_name, by_path = (
        load_config(f"{place}declip_r50_laptop.py") for place in ("webssl_toolbox::", "configs/")
    )
    assert by_name == by_path
    assert find_config("webssl_toolbox::clip_r50.py").stem == "clip_r50"


def test_a_config_inherits_by_name_and_by_path(package, tmp_path):
    acme = package("acme", tiny="_base_ = 'parts/steps.py'\ntrain_cfg = dict(log_interval=7)\n")
    (acme / "configs/parts").mkdir()
    (acme / "configs/parts/steps.py").write_text("train_cfg = dict(max_iters=3)\n")
    (tmp_path / "mine.py").write_text(
        "_base_ = ['acme::tiny.py', 'seed.py', 'webssl_toolbox::_base_/adamw.py']\n"
        "train_cfg = dict(checkpoint_interval=_base_.train_cfg.max_iters)\n"
    )
    (tmp_path / "seed.py").write_text("seed = 5\n")
    cfg = load_config(tmp_path / "mine.py")
    assert cfg["train_cfg"] == dict(max_iters=3, log_interval=7, checkpoint_interval=3)
    assert cfg["seed"] == 5 and cfg["optim_wrapper"]["optimizer"]["type"] == "AdamW"
    assert not [name for name in sys.modules if name.startswith("acme_pkg")], "it was imported"


def test_none_must_remove_something_in_every_base(package, tmp_path):
    package(
        "acme",
        good="_base_ = 'webssl_toolbox::declip_r50_laptop.py'\n"
        "model = dict(objectives=dict(mlm=None))\n",
        bad="_base_ = 'good.py'\nmodel = dict(objectives=dict(simsaim=None))\n",
    )
    assert load_config("acme::good.py")["model"]["objectives"]["mlm"] is None
    heir = tmp_path / "heir.py"
    heir.write_text("_base_ = ['acme::bad.py']\n")
    with pytest.raises(ValueError, match=r"bad\.py: model.objectives.simsaim.*'simsiam'"):
        load_config(heir)


WRONG = {
    "unknown plugin": ("acne::tiny.py", "no plugin 'acne' is installed.*'acme'"),
    "unknown config": ("acme::tiyn.py", "no config acme::tiyn.py.*'tiny.py'"),
    "no suffix": ("acme::tiny", "no config acme::tiny; did you mean 'tiny.py'"),
    "in a folder": ("acme::swirl.py", "did you mean 'more/swirl.py'"),
    "none shipped": ("bare::tiny.py", "'bare' ships no configs"),
    "built-ins": ("builtin::clip.py", "no plugin 'builtin'"),
    "nothing": ("::clip.py", "no plugin ''"),
    "ours": ("webssl_toolbox::declip_r50_labtop.py", "'declip_r50_laptop.py'"),
}


@pytest.mark.parametrize(("name", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_name_is_told_with_the_nearest(package, tmp_path, name, message):
    package("acme", tiny="seed = 1\n", more__swirl="seed = 2\n")
    package("bare")
    with pytest.raises(FileNotFoundError, match=message):
        load_config(name)
    (tmp_path / "heir.py").write_text(f"_base_ = {name!r}\n")
    with pytest.raises(FileNotFoundError, match=message):
        load_config(tmp_path / "heir.py")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("_base_ = 'acme::loop.py'", r"loop\.py inherits itself.*_base_"),
        ("_base_ = ['acme::tiny.py', 'acme::more.py']", "loop.py: several of its _base_ have seed"),
        ("_base_ = 3", "_base_ must be a string or a list of strings"),
        ("_base_ = [__file__]", "_base_ must be a string or a list of strings"),
    ],
)
def test_a_base_that_cannot_be(package, text, message):
    package("acme", loop=text, tiny="seed = 1\n", more="seed = 2\n")
    with pytest.raises(ValueError, match=message):
        load_config("acme::loop.py")


def test_functions_and_modules_are_not_settings(tmp_path):
    (tmp_path / "a.py").write_text("import os\ndef f():\n    return seed\nseed = 3\nthere = f()\n")
    assert load_config(tmp_path / "a.py") == dict(seed=3, there=3)


# -- the list ------------------------------------------------------------------------------------


def listed(*options, **environment):
    """Runs tools/plugins.py in a process that sees what this one sees; returns code and text."""
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, ROOT / "tools/plugins.py", *options],
        env=os.environ | {"PYTHONPATH": path, "COLUMNS": "200"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_list_imports_nothing(package, tmp_path):
    trace = tmp_path / "trace"
    package("acme", f"open({str(trace)!r}, 'w')", tiny="")
    code, text = listed()
    assert code == 0 and not trace.exists()
    for word in ("builtin", "acme", "dist-acme 1.2", "acme_pkg.hooks", "installed", "tiny.py"):
        assert word in text
    shutil.rmtree(tmp_path / "acme_pkg")
    code, text = listed()
    assert code == 1 and "broken: there is no package acme_pkg" in text


def test_the_list_loads_when_asked(package):
    package("acme", HOOK + "registries.views['Fog'] = 'acme_pkg.fog:Fog'\n")
    package("bolt", "raise RuntimeError('no such [driver]')")
    code, text = listed("--load")
    assert code == 1 and "broken: RuntimeError: no such [driver]" in text
    assert "views" in text and "Fog" in text and "SimSiam" in text
    code, text = listed("--load", WEBSSL_PLUGINS="acme")
    assert code == 0 and "left out by WEBSSL_PLUGINS" in text and "Fog" in text


def test_the_list_names_a_clash(package):
    for name in ("acme", "bolt"):
        package(name, HOOK + "registries.views['Fog'] = 'acme_pkg.fog:Fog'\n")
    code, text = listed("--load")
    assert code == 1 and "not loaded" in text
    assert "error: the view 'Fog' comes from both dist-acme 1.2 and dist-bolt 1.2" in text


# -- annotations ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "value", "fits"),
    [
        ("Sequence[str] | Mapping[str, int]", {"a": 1}, True),
        ("Sequence[str] | Mapping[str, int]", "a", False),
        ("Sequence[tuple[str, str]]", [("a", "b")], True),
        ("Sequence[tuple[str, str]]", "ab", False),
        ("Callable[[Tensor], list[int]] | int", "ab", True),  # not made of plain types alone
    ],
)
def test_a_value_is_checked_by_its_outer_type(annotation, value, fits):
    with nullcontext() if fits else pytest.raises(ValueError, match="x must be a list"):
        check_value("x", value, annotation)


# -- the contract --------------------------------------------------------------------------------


def test_the_contract_is_one_line():
    case = testing.Case(dict(cases.OBJECTIVES["simsiam"].model))
    test = testing.contract(case)
    (mark,) = test.pytestmark
    assert mark.name == "parametrize" and list(mark.kwargs["ids"]) == list(testing.LAWS)


class Mixer(Tower):
    """Standardises over all views at once: each changes the others."""

    input_size = 8
    width = token_width = 4

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 4)

    def forward(self, segments):
        x = torch.cat([segment.part.data.mean((2, 3)) for segment in segments])
        pooled = self.layer(x - x.mean(0))
        return [Encoding(p, p[:, None]) for p in pooled.split([s.rows for s in segments])]


def test_a_tower_that_mixes_views_is_caught(monkeypatch):
    monkeypatch.setitem(MODELS.module_dict, "Mixer", Mixer)
    objectives = dict(simsiam=dict(type="SimSiam", dim=4, hidden=4))
    case = testing.Case(dict(towers=dict(image=dict(type="Mixer")), objectives=objectives))
    with pytest.raises(AssertionError, match="'image': other views change the encoding of Need"):
        testing.check_views_apart(case)


# -- scaffold and example ------------------------------------------------------------------------


def scaffold(folder, *names):
    done = [
        subprocess.run(
            [sys.executable, ROOT / "tools/new_plugin.py", name],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        for name in names
    ]
    return [(each.returncode, each.stdout + each.stderr) for each in done]


def test_the_scaffold_renames_its_template(tmp_path):
    ((code, text),) = scaffold(tmp_path, "sharp_eyes")
    assert code == 0 and "tools/train.py sharp_eyes::sharp_eyes.py" in text
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(
        path.relative_to(tmp_path / "webssl-sharp_eyes").as_posix() for path in files
    ) == [
        "pyproject.toml",
        "tests/test_contract.py",
        "webssl_sharp_eyes/__init__.py",
        "webssl_sharp_eyes/configs/sharp_eyes.py",
    ]
    for path in files:
        assert "acme" not in path.read_text().lower()
    module = tmp_path / "webssl-sharp_eyes/webssl_sharp_eyes/__init__.py"
    assert "class SharpEyes(Objective)" in module.read_text()


def test_the_scaffold_refuses_names(tmp_path):
    (tmp_path / "webssl-there").mkdir()
    refused = {
        "there": "exists already",
        "nn_queue": "something installed",
        "builtin": "something installed",
        "toolbox": "something installed",
        "webssl_toolbox": "something installed",
        "objective": "would hide another",
        "My-Plugin": "lower-case letters",
        "class": "lower-case letters",
    }
    for (code, text), words in zip(scaffold(tmp_path, *refused), refused.values(), strict=True):
        assert code == 1 and text.startswith("error: ") and words in text
    assert [path.name for path in tmp_path.iterdir()] == ["webssl-there"]


def test_barlow_twins_equals_a_plain_one(monkeypatch):
    monkeypatch.syspath_prepend(BARLOW)
    from webssl_barlow import correlation, redundancy

    first, second = torch.randn(2, 12, 5, dtype=torch.float64, requires_grad=True)
    plain = sum(
        (1 - c) ** 2 if i == j else 0.005 * c**2
        for i in range(5)
        for j in range(5)
        for c in [sum(first[b, i] * second[b, j] for b in range(12)) / 12]
    )
    loss = redundancy(correlation(first, second), 0.005)
    torch.testing.assert_close(loss, plain, rtol=1e-12, atol=0)
    gradients = (torch.autograd.grad(x, (first, second)) for x in (loss, plain))
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


TINY = [
    "train_cfg.max_iters=2",
    "train_dataloader.batch_size=16",
    "train_dataloader.num_workers=0",
    "evaluation.evaluators={}",
]


@pytest.mark.slow
def test_packages_install_train_and_pass_their_tests(tmp_path):
    """In a new environment: the toolbox from its wheel, then Barlow Twins, then a scaffold.

    Dependencies are those of this environment, lent by a ``.pth`` file; nothing is downloaded but
    setuptools, where it is too old here to build our wheel.
    """
    env = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", env], check=True)
    python = env / "bin/python"
    (site,) = env.glob("lib/python*/site-packages")
    lent = [path for path in sys.path if path.endswith("-packages")]
    (site / "lent.pth").write_text("".join(f"import site; site.addsitedir({p!r})\n" for p in lent))

    try:
        setuptools = int(version("setuptools").partition(".")[0])
    except PackageNotFoundError:
        setuptools = 0
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHONPATH", "WEBSSL"))}

    def run(*command):
        done = subprocess.run(
            [python, *map(str, command)],
            cwd=tmp_path,
            env=kept | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def install(*folder):
        here = ["--no-build-isolation"] if setuptools >= 77 else []
        run("-m", "pip", "install", "-q", "--no-deps", *here, *folder)

    skip = shutil.ignore_patterns("__pycache__")
    source = tmp_path / "toolbox"
    for name in ("webssl_toolbox", "plugins", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=skip)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "tools", tmp_path / "tools", ignore=skip)
    shutil.copytree(BARLOW, tmp_path / "webssl-barlow", ignore=skip)
    install(source)
    shutil.rmtree(source)
    assert str(env) in run("-c", "import webssl_toolbox; print(webssl_toolbox.__file__)")
    run("tools/new_plugin.py", "acme")
    added = [("barlow", "BarlowTwins", "barlow_clip"), ("acme", "Acme", "acme")]
    for name, objective, config in added:
        install(*(["-e"] if name == "acme" else []), f"./webssl-{name}")
        table = run("tools/plugins.py", "--load")
        assert f"webssl-{name} 0.1.0" in table and objective in table and f"{config}.py" in table
        printed = run("tools/print_config.py", f"{name}::{config}.py")
        assert f"type='{objective}'" in printed and "type='CLIP'" in printed
        run("tools/train.py", f"{name}::{config}.py", "--cfg-options", *TINY)
        metrics = (tmp_path / f"work_dirs/{config}/metrics.jsonl").read_text()
        assert f'"{name}.loss' in metrics and '"clip.loss"' in metrics
        assert "6 passed" in run("-m", "pytest", "-q", f"webssl-{name}")
