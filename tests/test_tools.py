"""The scripts: what they print, run and refuse."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from webssl_toolbox.engine import checkpoint
from webssl_toolbox.engine.config import load_config
from webssl_toolbox.registry import MODELS

from . import cases

ROOT = Path(__file__).parents[1]
LAPTOP = ROOT / "configs/declip_r50_laptop.py"


def run(*command, **env):
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def python(tool, *arguments):
    return run(sys.executable, ROOT / "tools" / tool, *arguments)


def stub(folder, name, script):
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


# -- print_config ------------------------------------------------------------------------------


def test_print_config_prints_what_is_loaded(tmp_path):
    options = ["train_cfg.max_iters=7", "model.objectives.mlm.weight=0.5"]
    done = python("print_config.py", LAPTOP, "--cfg-options", *options)
    assert done.returncode == 0, done.stderr
    printed = tmp_path / "printed.py"
    printed.write_text(done.stdout)
    expected = load_config(LAPTOP, options)
    assert expected["train_cfg"]["max_iters"] == 7
    shown = {key: value for key, value in expected.items() if not key.startswith("_")}
    assert load_config(printed) == shown


@pytest.mark.parametrize(
    ("option", "hint"),
    [("train_cfg.max_iter=7", "max_iters"), ("model.towers.image.widht=8", "width")],
)
def test_print_config_refuses_a_typo(option, hint):
    done = python("print_config.py", LAPTOP, "--cfg-options", option)
    assert done.returncode == 1
    assert f"did you mean '{hint}'" in done.stderr
    assert "Traceback" not in done.stderr and not done.stdout


# -- test --------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(3):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    folder = dict(type="ImageFolder", root=str(tmp_path / "images"), labels="folders")
    sections = dict(
        model=cases.OBJECTIVES["clip_vit"].model,
        train_dataloader=dict(dataset=folder, batch_size=2, views={}),
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=1e-3)),
        train_cfg=dict(max_iters=1),
        test_view=[dict(type="ResizeCenterCrop", size=16), dict(type="Normalize")],
        evaluation=dict(
            evaluators=dict(knn=dict(type="KNN", train=folder, splits=dict(same=folder), k=1))
        ),
    )
    file = tmp_path / "config.py"
    file.write_text("".join(f"{key} = {value!r}\n" for key, value in sections.items()))
    return file


def test_test_runs_the_evaluators_of_the_config(config, tmp_path):
    cfg = load_config(config)
    model = MODELS.create({"type": "Pretrainer"} | cfg["model"], "model")
    checkpoint.save(tmp_path / "run/checkpoints", 1, model, meta={"config": cfg})
    file = tmp_path / "metrics.json"
    places = ["--json", file, "--work-dir", tmp_path / "found"]
    done = python("test.py", config, tmp_path / "run", "--device", "cpu", *places)
    assert done.returncode == 0, done.stderr
    assert json.loads(file.read_text()) == {"knn/same/top1": 100.0}
    assert "knn" in done.stdout and "100.0" in done.stdout


def test_test_names_a_missing_checkpoint(config, tmp_path):
    done = python("test.py", config, tmp_path / "nothing")
    assert done.returncode == 1
    assert str(tmp_path / "nothing") in done.stderr and "Traceback" not in done.stderr


# -- shell -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script", ["tools/dist_train.sh", "tools/slurm_train.sh", "tools/slurm_job.sh", ".ci/run"]
)
def test_shell_scripts_parse(script):
    assert os.access(ROOT / script, os.X_OK)
    done = run("bash", "-n", ROOT / script)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def path(tmp_path):
    for name in ("torchrun", "sbatch"):
        stub(tmp_path, name, """printf '%s\\n' "$0" "$@" """)
    return f"{tmp_path}:{os.environ['PATH']}"


def test_dist_train(path):
    train = ["tools/dist_train.sh", "a config.py", "4", "--cfg-options", "seed=1"]
    done = run(*train, PATH=path, NNODES="2", NODE_RANK="1", MASTER_ADDR="10.0.0.1", PORT="1234")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == [
        "--nnodes=2",
        "--node-rank=1",
        "--master-addr=10.0.0.1",
        "--master-port=1234",
        "--nproc-per-node=4",
        "--max-restarts=0",
        str(ROOT / "tools/train.py"),
        "a config.py",
        *["--launcher", "pytorch", "--cfg-options", "seed=1"],
    ]


def test_slurm_train(path):
    train = ["tools/slurm_train.sh", "gpus", "declip", "config.py", "--resume"]
    done = run(*train, PATH=path, GPUS="4", SBATCH_ARGS="--qos=high --time=9")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == [
        *["--partition=gpus", "--job-name=declip", "--gres=gpu:4", "--ntasks=4"],
        *["--ntasks-per-node=4", "--cpus-per-task=5", "--requeue"],
        *["--open-mode=append", "--signal=USR1@120", "--qos=high", "--time=9"],
        *[str(ROOT / "tools/slurm_job.sh"), str(ROOT / "tools/train.py")],
        *["config.py", "--launcher", "slurm", "--resume"],
    ]


@pytest.mark.parametrize(("code", "requeued"), [(0, ""), (1, ""), (75, "requeue 42\n")])
def test_a_slurm_job_queues_again_when_its_ranks_ask_for_it(tmp_path, code, requeued):
    stub(tmp_path, "srun", f"exit {code}")
    stub(tmp_path, "scontrol", 'echo "$@"')
    slurm = dict(SLURM_JOB_ID="42", SLURM_CPUS_PER_TASK="5")
    done = run("tools/slurm_job.sh", "x", PATH=f"{tmp_path}:{os.environ['PATH']}", **slurm)
    assert (done.returncode, done.stdout) == (code, requeued)


@pytest.mark.parametrize("script", ["tools/dist_train.sh", "tools/slurm_train.sh"])
def test_launchers_say_how_they_are_called(script, path):
    done = run(script, "config.py", PATH=path)
    assert done.returncode == 2 and "CONFIG" in done.stderr


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
@pytest.mark.parametrize(
    ("gpu", "driver", "config", "why"),
    [
        ("H200", 0, "declip_r50.py", "found H200"),
        ("", 1, "declip_r50_laptop.py", "no GPU here"),
        ("", 0, "declip_r50_laptop.py", "this torch cannot use"),
    ],
)
def test_make_train_picks_the_config(tmp_path, gpu, driver, config, why):
    stub(tmp_path, "python", f'[ "$1" = -c ] && echo "{gpu}" || echo "ran $@"')
    stub(tmp_path, "pip", "exit 1")
    stub(tmp_path, "nvidia-smi", f"exit {driver}")
    for name in ("setup.py", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/installed").touch()
    make = ["make", "-C", tmp_path, "-f", ROOT / "Makefile", f"BIN={tmp_path}"]
    done = run(*make, "train", "ARGS=--resume", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    assert f"Training configs/{config}: {why}" in done.stdout
    assert f"ran tools/train.py configs/{config} --resume" in done.stdout


# -- wheel -------------------------------------------------------------------------------------


def test_wheel_holds_plugins_data_and_configs(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    rooms = ("webssl_toolbox", "plugins", "configs")
    for name in rooms:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path]
    done = run(sys.executable, "-m", "pip", "wheel", source, *options)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
        licences = {Path(name).name for name in wheel.namelist() if "/licenses/" in name}
    installed = {"plugins": "webssl_plugins", "configs": "webssl_configs"}
    assert packed == {
        "/".join([installed.get(room, room), *file.relative_to(source / room).parts])
        for room in rooms
        for file in (source / room).rglob("*")
        if file.is_file()
    }
    assert licences == {"LICENSE", "NOTICE"}
