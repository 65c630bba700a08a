"""Starts a run from the weights of another, at another size or with other objectives."""

from __future__ import annotations

import logging
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

from ..ema import EMA
from ..towers import Tower
from . import checkpoint, stream
from .groups import outermost

logger = logging.getLogger("webssl_toolbox")


def newest(path: Path) -> Path:
    """Returns the newest checkpoint of a work dir, or ``path`` if it is none.

    Raises:
        FileNotFoundError: the run has written no checkpoint yet.
        ValueError: none of its checkpoints can be read.
    """
    root = path / "checkpoints"
    found = checkpoint.latest(root) if root.is_dir() else path
    if found is None:
        raise FileNotFoundError(f"{root} holds no checkpoint yet")
    return found


def load_from(path: str | Path, model: nn.Module) -> None:
    """Copies the weights of a run into a model that may differ from it.

    Towers fit what depends on the size of the input. Averages that the run lacks start from their
    source; whatever else it lacks stays as it was initialised. That, and what the model has no
    place for, is logged.

    Args:
        path: a work dir, or a folder ``step_...`` inside its ``checkpoints``.
        model: the bare module; everything is checked before it is changed.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: it is damaged or a pickle, a shape does not fit, or it has no tower of these.
    """
    folder = newest(Path(path))
    checkpoint.verify(folder)
    stored = load_file(folder / checkpoint.MODEL)
    wanted = checkpoint.model_tensors(model)
    unused = [name for name in stored if name not in wanted]
    _fit(stored, model)
    averages = _start_averages(stored, model)
    _refuse_misfits(folder, stored, wanted)
    stream.copy_into(model, stored)

    logger.info("starting from the weights in %s", folder)
    if averages:
        logger.info("load_from: %s start from what they average", ", ".join(averages))
    for what, names, every in (
        ("not stored there, so as initialised", [n for n in wanted if n not in stored], wanted),
        ("stored there, but not in this config", unused, stored),
    ):
        if names:
            modules = ", ".join(outermost(names, every))
            logger.warning("load_from: %s: %s (%d tensors)", what, modules, len(names))


def _fit(stored: dict[str, Tensor], model: nn.Module) -> None:
    """Lets towers resize what is stored for them, averages of towers too."""
    for path, tower in model.named_modules():
        if isinstance(tower, Tower):
            for name, value in tower.state_dict(prefix=f"{path}.").items():
                if name in stored and stored[name].shape != value.shape:
                    stored[name] = tower.fit(name.removeprefix(f"{path}."), stored[name])


def _start_averages(stored: dict[str, Tensor], model: nn.Module) -> list[str]:
    """Gives averages what is not stored for them from what they follow; returns their names."""
    started = []
    for path, ema in model.named_modules():
        if isinstance(ema, EMA):
            source = ema.of
            if isinstance(model.get_submodule(source), EMA):
                source = f"{source}.module"
            for name in ema.module.state_dict():
                own, other = f"{path}.module.{name}", f"{source}.{name}"
                if own not in stored and other in stored:
                    stored[own] = stored[other]
                    started.append(path)
    return list(dict.fromkeys(started))


def _refuse_misfits(folder: Path, stored: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    if not any(name in stored for name in wanted if name.startswith("towers.")):
        raise ValueError(
            f"load_from: {folder} has no weights for the towers of this config; name them as there,"
            " and give them the same types"
        )
    wrong = [n for n, value in wanted.items() if n in stored and stored[n].shape != value.shape]
    if wrong:
        name = min(wrong, key=lambda n: not n.startswith("towers."))  # what others' shapes follow
        more = f", and {len(wrong) - 1} more differ" if len(wrong) > 1 else ""
        raise ValueError(
            f"load_from: {name} is {list(stored[name].shape)} in {folder}, but "
            f"{list(wanted[name].shape)} in this config{more}; take the size that it was saved "
            f"with, or rename {'.'.join(name.split('.')[:2])}, which then starts anew"
        )
