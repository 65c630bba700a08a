"""The models that commands measure and use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from webssl_toolbox import dist, load
from webssl_toolbox.encoder import Encoder
from webssl_toolbox.engine.config import load_config
from webssl_toolbox.loading import build


def open_model(model: str, device: Any) -> Encoder:
    """Opens the model of a work dir, of a checkpoint folder, or of a config, with its own weights.

    Args:
        model: a folder, or a config: ``NAME.py`` or ``'webssl_toolbox::NAME.py'``.
        device: where to put it.

    Raises:
        ValueError, OSError: it cannot be opened; on all ranks, where one of them cannot, or has
            other weights: each looks for the newest checkpoint itself.
    """
    weights, error = None, None
    try:
        is_config = Path(model).suffix == ".py" or "::" in model
        opened = build(load_config(model), device) if is_config else load(model, device)
        weights = opened.origin["weights"]
    except (ValueError, OSError) as failed:
        error = failed
    if len(set(dist.meet(f"the model {model}", weights, error))) > 1:
        raise dist.Failed(
            f"{model}: ranks opened different weights; name one step_... folder, and give all "
            "ranks the same files"
        )
    return opened
