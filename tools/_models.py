"""The models that commands measure and use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from webssl_toolbox import load
from webssl_toolbox.encoder import Encoder
from webssl_toolbox.engine.config import load_config
from webssl_toolbox.loading import build


def open_model(model: str, device: Any) -> Encoder:
    """Opens the model of a work dir, of a checkpoint folder, or of a config, with its own weights.

    Args:
        model: a folder, or a config: ``NAME.py`` or ``'webssl_toolbox::NAME.py'``.
        device: where to put it.
    """
    if Path(model).suffix == ".py" or "::" in model:
        return build(load_config(model), device)
    return load(model, device)
