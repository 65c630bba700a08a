"""Nothing that is loaded may run code: no pickle, no stored config, no name to be imported."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import webssl_toolbox
from tests import cases
from webssl_toolbox.engine import checkpoint
from webssl_toolbox.engine.runner import Runner
from webssl_toolbox.engine.settings import settings_from
from webssl_toolbox.registry import MODELS

torch.set_num_threads(1)
ROOT = Path(__file__).parent.parent


def sections():
    """A config that trains and loads, as plain JSON data."""
    cfg = dict(
        model=cases.OBJECTIVES["clip_vit"].model,
        train_dataloader=dict(
            dataset=dict(type="ImageFolder", root="nowhere"),
            batch_size=2,
            views=dict(
                v1=[dict(type="RandomResizedCrop", size=16), dict(type="Normalize")],
                text=[dict(type="Caption"), dict(type="Tokenize")],
            ),
        ),
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=1e-3)),
        train_cfg=dict(max_iters=1),
        test_view=[dict(type="ResizeCenterCrop", size=16), dict(type="Normalize")],
    )
    return json.loads(json.dumps(cfg))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    root = tmp_path_factory.mktemp("run") / "checkpoints"
    model = MODELS.create({"type": "Pretrainer", **sections()["model"]}, "model")
    checkpoint.save(root, 1, model, meta={"config": sections()})
    return root / "step_00000001"


@pytest.fixture
def folder(stored, tmp_path):
    """A copy of a sound checkpoint, to be turned into a hostile one."""
    return Path(shutil.copytree(stored, tmp_path / "run/checkpoints" / stored.name))


@pytest.fixture
def canary(tmp_path):
    """A file that hostile code would create, checked at the end of every test."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "hostile code ran"


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def set_config(folder, cfg):
    file = folder / "state.json"
    state = json.loads(file.read_text())
    state["config"] = cfg
    file.write_text(json.dumps(state))


def test_the_checkpoint_that_the_tests_damage_loads(folder):
    model = webssl_toolbox.load(folder)
    assert model.encode_image(np.zeros((16, 16, 3), dtype=np.uint8)).shape == (1, 8)


def test_the_canary_would_sing(tmp_path):
    pickle.loads(pickle.dumps(Evil(tmp_path / "alive")))
    assert (tmp_path / "alive").exists()


# -- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.pth", "model.pt", "model.bin", "model.ckpt"])
def test_a_pickle_is_refused_by_path(tmp_path, canary, name):
    torch.save(Evil(canary), tmp_path / name)
    with pytest.raises(ValueError, match="may run code"):
        webssl_toolbox.load(tmp_path / name)


@pytest.mark.parametrize("name", ["model.safetensors", "state.json"])
@pytest.mark.parametrize("registered", [False, True], ids=["", "with its digest"])
def test_a_pickle_in_the_place_of_a_file_is_refused(folder, canary, name, registered):
    content = pickle.dumps(Evil(canary))
    (folder / name).write_bytes(content)
    if registered and name == "model.safetensors":  # an attacker writes the digests, too
        state = json.loads((folder / "state.json").read_text())
        state["files"][name] = checkpoint._fingerprint(folder / name)
        (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match=r"damaged|not a safetensors"):
        webssl_toolbox.load(folder)


def test_other_files_in_the_folder_are_never_read(folder, canary):
    for name in ("pytorch_model.bin", "last_checkpoint", "config.pth", "optimizer.pt"):
        torch.save(Evil(canary), folder / name)
    (folder / "config.py").write_text(f"import os\nos.system('touch {canary}')\n")
    (folder / "__init__.py").write_text(f"import os\nos.system('touch {canary}')\n")
    webssl_toolbox.load(folder)


# -- stored configs ------------------------------------------------------------------------------


def attack(path, value):
    def apply(cfg):
        *parents, last = path.split("/")
        for key in parents:
            cfg = cfg[int(key) if isinstance(cfg, list) else key]
        cfg[int(last) if isinstance(cfg, list) else last] = value

    return pytest.param(apply, id=f"{path} {value}"[:60])


def call(kind):
    """A dict that mmengine would turn into a call."""
    touch = "touch CANARY"
    return {"type": kind, "cmd": touch, "command": touch, "args": touch.split()}


KINDS = (
    "subprocess.getoutput",
    "subprocess.Popen",
    "os.system",
    "builtins.eval",
    "webssl_toolbox.os.system",
    "webssl_toolbox.engine.checkpoint.prune",
    "mmengine.ToyModel",
    "mmengine.runner.load_checkpoint",
    "os:system",
    "subprocess:getoutput",
    "evil_module:Evil",
)
PLACES = (
    "model",
    "model/towers/image",
    "model/towers/unused",
    "model/spaces/joint",
    "model/spaces/unused",
    "model/objectives/clip",
    "model/objectives/clip/weight",
    "train_dataloader/dataset",
    "train_dataloader/views/v1/0",
    "test_view/0",
    "evaluation/evaluators/knn",
    "hooks/evil",
    "vis_backends/evil",
)
ATTACKS = [attack(place, call(kind)) for place in PLACES for kind in KINDS]
ATTACKS += [
    attack("custom_imports", {"imports": ["evil_module"], "allow_failed_imports": False}),
    attack("model/custom_imports", {"imports": ["evil_module"]}),
    attack("env_cfg", {"mp_cfg": {}}),
    attack("model/towers/image/init_cfg", {"type": "Pretrained", "checkpoint": "evil.pth"}),
    attack("model/towers/image/type", "{{ __import__('os').system('touch CANARY') }}"),
    attack("model/towers/image/width", "{{ __import__('os').system('touch CANARY') }}"),
    attack("model/towers/image/width", "__import__('os').system('touch CANARY')"),
    attack("model/towers/image/type", ["subprocess.getoutput"]),
    attack("model/towers/image/type", {"type": "os.system"}),
    attack("model/towers/image/_scope_", "evil_module"),
    attack("model/towers/image/type", "evil_module.ViT"),
    attack("model/towers/image/__class__", "x"),
    attack("model/objectives/clip/forward", "x"),
    attack("model/objectives/evil", {"type": "EMA", "of": "towers.image"}),
]


@pytest.fixture
def armed(folder, canary, monkeypatch):
    """Hostile modules that stand ready to be imported."""
    code = f"import os\nos.system('touch {canary}')\nclass Evil: pass\nViT = Evil\n"
    (folder / "evil_module.py").write_text(code)
    (folder / "registry.py").write_text(code)
    torch.save(Evil(canary), folder / "evil.pth")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def hostile(apply, canary):
    cfg = sections()
    cfg |= {"evaluation": {"evaluators": {}}, "hooks": {}, "vis_backends": {}}
    apply(cfg)
    return json.loads(json.dumps(cfg).replace("CANARY", str(canary)))


@pytest.mark.parametrize("apply", ATTACKS)
def test_a_stored_config_names_registered_types_only(armed, canary, apply):
    """In what inference takes, they are refused; all else is not even looked at."""
    cfg, clean = hostile(apply, canary), hostile(lambda cfg: None, canary)
    set_config(armed, cfg)
    if any(cfg[key] != clean[key] for key in ("model", "test_view")):
        with pytest.raises(ValueError):
            webssl_toolbox.load(armed)
    else:
        webssl_toolbox.load(armed)
    assert "evil_module" not in sys.modules


def test_a_stored_base_is_not_followed(armed, canary):
    """Keys with an underscore are helpers of whoever wrote the config: nobody reads them."""
    set_config(armed, sections() | {"_base_": "evil_module.py", "_imports": "evil_module"})
    webssl_toolbox.load(armed)
    assert "evil_module" not in sys.modules


@pytest.mark.parametrize("config", [None, [], "os.system", 3, {}, {"model": None}])
def test_a_config_of_another_shape_is_refused(folder, config):
    set_config(folder, config)
    with pytest.raises(ValueError):
        webssl_toolbox.load(folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["optim_wrapper/optimizer", "vis_backends/evil", "hooks/evil"])
def test_a_run_refuses_types_that_nobody_registered(armed, canary, kind, place, tmp_path):
    """The same names in a config file: a typo there must not become a call either."""
    cfg = hostile(attack(place, call(kind)).values[0], canary)
    with pytest.raises(ValueError, match="not known"):
        Runner(cfg, tmp_path / "work", device="cpu")


def test_resume_reads_no_config_from_the_checkpoint(armed, canary, tmp_path):
    """The user's config is the run's; the stored one is only a record."""
    first = Runner(sections(), tmp_path / "first", device="cpu")
    evil = {"custom_imports": {"imports": ["evil_module"]}, "model": call("os.system")}
    root = tmp_path / "second/checkpoints"
    checkpoint.save(root, 1, first.model, first.optim_wrapper.optimizer, {"config": evil})
    second = Runner(sections(), tmp_path / "second", resume=True, device="cpu")
    assert second.iter == 1 and second.digest() == first.digest()
    assert "evil_module" not in sys.modules


def test_resume_from_pickles_is_refused(armed, canary, tmp_path):
    folder = tmp_path / "work/checkpoints/step_00000009"
    folder.mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        (folder / name).write_bytes(pickle.dumps(Evil(canary)))
    torch.save(Evil(canary), tmp_path / "work/epoch_1.pth")
    (tmp_path / "work/last_checkpoint").write_text(str(tmp_path / "work/epoch_1.pth"))
    with pytest.raises(ValueError, match="can be read"):
        Runner(sections(), tmp_path / "work", resume=True, device="cpu")


def test_the_test_tool_refuses_what_load_refuses(armed, canary, tmp_path):
    config = tmp_path / "config.py"
    config.write_text("".join(f"{key} = {value!r}\n" for key, value in sections().items()))
    apply = attack("model/towers/image", call("subprocess.getoutput")).values[0]
    set_config(armed, hostile(apply, canary))
    done = subprocess.run(
        [sys.executable, ROOT / "tools/test.py", config, armed],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{armed}"},
    )
    assert done.returncode == 1
    assert "'subprocess.getoutput' is not known" in done.stderr and "Traceback" not in done.stderr


def test_what_a_checkpoint_was_trained_on_is_not_needed_to_load_it(folder):
    """Only names are checked: a dataset, an evaluator or an optimizer is not built by `load`."""
    cfg = sections()
    cfg["train_dataloader"]["dataset"]["root"] = "/nowhere/at/all"
    cfg["optim_wrapper"]["optimizer"]["type"] = "os.system"
    set_config(folder, cfg)
    webssl_toolbox.load(folder)
    with pytest.raises(ValueError, match=r"os\.system' is not known"):
        settings_from(cfg)
