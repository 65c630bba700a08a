"""Loads a trained model for use, safely: nothing that is read may run code; or builds one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .encoder import Encoder
from .engine import checkpoint
from .engine.settings import check_inference, sections_of
from .engine.start import newest
from .pretrainer import Pretrainer
from .registry import MODELS


def load(path: str | Path, device: str | torch.device = "cpu") -> Encoder:
    """Loads the newest checkpoint of a run, or one checkpoint folder.

    The stored config is JSON and names registered types only; weights are safetensors.

    Args:
        path: a work dir, or a folder ``step_...`` inside its ``checkpoints``.
        device: where to put the model.

    Returns:
        An encoder with ``encode_image``, ``encode_text`` and ``zero_shot``.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: a damaged checkpoint, a pickle, or a config with an unknown type.
    """
    path = newest(Path(path))
    state = checkpoint.verify(path)
    # Only what inference takes: the dataset may be of a plugin that is not installed here.
    config = state.get("config")
    if not isinstance(config, dict) or not config.get("model") or not config.get("test_view"):
        raise ValueError(f"{path} stores no config with a model and a test_view")
    check_inference(config["model"], config["test_view"])
    model = without_initial_weights(config["model"])
    model = MODELS.create({"type": "Pretrainer"} | model, "model")
    checkpoint.load(path, model)
    weights = state["files"][checkpoint.MODEL]["sha256"]
    return _encoder(model, config, device, {"weights": weights, "step": state["step"]})


def build(config: Mapping[str, Any], device: str | torch.device = "cpu") -> Encoder:
    """Builds the model of a config, with the weights that training would begin with.

    Args:
        config: with ``model`` and ``test_view``; no more is needed, and no objectives.
        device: where to put the model.

    Raises:
        ValueError: an unknown type or argument, or the config lacks one of the two.
    """
    sections_of(config)
    if missing := [key for key in ("model", "test_view") if not config.get(key)]:
        raise ValueError(f"a config whose model is measured needs {' and '.join(missing)}")
    check_inference(config["model"], config["test_view"])
    model = {key: value for key, value in config["model"].items() if key != "compile"}
    named = {"type": "Pretrainer", "seed": config.get("seed", 0)}
    built = MODELS.create(named | model, "model")
    weights = checkpoint.digest(built)["model"]
    return _encoder(built, config, device, {"weights": weights, "step": 0})


def _encoder(
    model: Pretrainer, config: Mapping[str, Any], device: str | torch.device, state: dict[str, Any]
) -> Encoder:
    try:
        model.to(torch.device(device)).eval()
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for GPUs
        reason = str(error).partition("\n")[0]
        raise ValueError(f"the model cannot be put on device={str(device)!r}: {reason}") from error
    encoder = Encoder(model, config["test_view"], config.get("test_tower", "image"))
    encoder.origin = {"config": dict(config), "device": torch.device(device).type} | state
    return encoder


def without_initial_weights(model: Mapping[str, Any]) -> dict[str, Any]:
    """Drops ``pretrained`` of every tower: for models whose weights come later, or never.

    These are not compiled either: they see few batches, and of many sizes.

    Args:
        model: the ``model`` section of a config.
    """
    towers = {
        name: tower and {key: value for key, value in tower.items() if key != "pretrained"}
        for name, tower in model.get("towers", {}).items()
    }
    return {key: value for key, value in model.items() if key != "compile"} | {"towers": towers}
