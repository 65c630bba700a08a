"""Models of timm, transformers and mmpretrain through the probes: by config files, without code."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from webssl_toolbox.engine.config import load_config
from webssl_toolbox.loading import build as build_encoder
from webssl_toolbox.registry import DATASETS, EVALUATORS

from .adapters import FOLDERS, MM_RESNET, TIMM_VIT, build, needs
from .test_dense import Discs, discs

MODELS = Path(__file__).parents[1] / "configs/eval/models"
CASES = {
    "timm": TIMM_VIT,
    "mmpretrain": MM_RESNET | dict(input_size=64),
    "transformers": dict(type="TransformersImage", folder="dinov2"),
}
DATA = dict(train=discs(), splits=dict(test=discs()))
PROBES = {
    "knn": dict(type="KNN", k=1, **DATA),
    "linear": dict(
        type="LinearProbe", epochs=2, batch_size=4, blocks=[1], validation=discs(), **DATA
    ),
    "dense": dict(type="DenseProbe", **DATA),
}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(DATASETS._module_dict, "Discs", Discs)


def saved(tower, folder):
    """Saves a model of random weights as its library publishes it; returns what names it."""
    if tower["type"] != "TransformersImage":
        model = build(tower).model
        save_file(model.state_dict(), folder / "model.safetensors")
        return model, tower | dict(pretrained=str(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps(FOLDERS[tower["folder"]]))
    model = build(tower | dict(folder=str(folder))).model
    save_file(model.state_dict(), folder / "model.safetensors")
    return model, tower | dict(folder=str(folder), pretrained=True)


@pytest.mark.parametrize("library", [pytest.param(name, marks=needs(name)) for name in CASES])
def test_probes_measure_them(library, tmp_path):
    torch.manual_seed(7)  # other weights than the seed of a config gives
    model, named = saved(CASES[library], tmp_path)
    options = [f"model.towers.image.{key}={value!r}" for key, value in named.items()]
    encoder = build_encoder(load_config(MODELS / f"{library}.py", options))
    state = encoder.tower("image").model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    for name, probe in PROBES.items():
        metrics = EVALUATORS.create(probe, name).run(encoder)
        found = {key: value for key, value in metrics.items() if np.isscalar(value)}
        assert found and all(0 <= value <= 100 for value in found.values()), (name, metrics)
        if name == "knn":  # it finds itself
            assert found["test/top1"] == 100
