"""Loads a trained model for use, safely: nothing that is read may run code."""

from __future__ import annotations

from pathlib import Path

import torch

from .encoder import Encoder
from .engine import checkpoint
from .engine.settings import settings_from
from .registry import MODELS


def load(path: str | Path, device: str = "cpu") -> Encoder:
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
    path = Path(path)
    if (path / "checkpoints").is_dir():
        found = checkpoint.latest(path / "checkpoints")
        if found is None:
            raise FileNotFoundError(f"{path / 'checkpoints'} holds no checkpoint that verifies")
        path = found
    state = checkpoint.verify(path)
    settings = settings_from(state["config"])
    cfg = {"type": "Pretrainer", "seed": settings.seed} | dict(settings.model)
    model = MODELS.create(cfg, "model")
    checkpoint.load(path, model)
    model.to(torch.device(device)).eval()
    if not settings.test_view:
        raise ValueError(f"the config in {path} has no test_view, so images cannot be prepared")
    return Encoder(model, settings.test_view)
