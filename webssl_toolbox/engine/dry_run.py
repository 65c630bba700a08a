"""A step without numbers: builds a model on the meta device, and finds what nothing would train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..data.loader import to_device
from ..loading import without_initial_weights
from ..pretrainer import Pretrainer
from ..registry import MODELS
from ..testing import Case, inputs
from .optim import refuse_untrained

META = torch.device("meta")


def build_on_meta(model: Mapping[str, Any]) -> Pretrainer:
    """Builds a model of any size without numbers: no memory, no weight files.

    Args:
        model: the ``model`` section of a config.
    """
    with META:
        built: Pretrainer = MODELS.create(
            {"type": "Pretrainer"} | without_initial_weights(model), "model"
        )
    return built


def dry_run(model: Mapping[str, Any]) -> Pretrainer:
    """Runs one forward and backward of synthetic rows: shapes are computed, values are not.

    A model of any size takes a second or two, and no memory. Views whose name begins with ``text``
    are captions; others are images of the size that their tower is made for.

    Args:
        model: the ``model`` section of a config.

    Returns:
        The model, on the meta device.

    Raises:
        Untrained: no objective trains a parameter; names all such modules.
        ValueError: the step fails: parts do not fit each other, one of them reads a tensor on the
            host, or the synthetic rows are not what it takes.
    """
    built = build_on_meta(model)
    try:
        rows = inputs(built, Case(model, rows=2 * built.chunks))  # batch norms refuse a single row
        rows = {name: v.float() if v.is_floating_point() else v for name, v in rows.items()}
        losses, _ = built.train()(to_device(rows, META))
        torch.stack(list(losses.values())).sum().backward()
    except (RuntimeError, TypeError, AttributeError, LookupError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"model: a step on the meta device fails: {reason}; check what the objectives expect "
            "of towers and spaces, and that nothing reads a tensor on the host, such as item()"
        ) from error
    trainable = {name: p for name, p in built.named_parameters() if p.requires_grad}
    refuse_untrained([name for name, p in trainable.items() if p.grad is None], trainable)
    return built
