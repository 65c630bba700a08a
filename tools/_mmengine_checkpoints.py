"""Makes mmengine read checkpoints without running what is in them, and without downloads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file


def read_safely() -> None:
    """Replaces mmengine's readers of checkpoints, of every kind of address, in this process.

    Its own falls back to a reader that runs code, and resuming runs a config that is stored.
    """
    from mmengine.runner.checkpoint import CheckpointLoader

    CheckpointLoader.register_scheme(list(CheckpointLoader._schemes), read, force=True)


def read(path: str, map_location: Any = "cpu") -> Any:
    """Reads what ``Runner`` saved, or a safetensors file.

    Raises:
        FileNotFoundError: there is no such file; nothing is downloaded.
        ValueError: it names what could run code, or is damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; weights are local, none are downloaded")
    if path.endswith(".safetensors"):
        return load_file(path)
    try:
        with torch.serialization.safe_globals(_allowed()):
            found = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # a hostile file may make it raise anything
        named = re.search(r"GLOBAL (\S+)", str(error))
        why = f"it names {named[1]}, which may run code" if named else "it is damaged"
        raise ValueError(
            f"{path} is refused: {why}; take a file that mmengine's Runner saved, or safetensors"
        ) from error
    if isinstance(found, dict) and isinstance(found.get("meta"), dict):
        found["meta"].pop("config", None)  # resuming would run it
    return found


def _allowed() -> list[Any]:
    """Returns what Runner saves beside tensors: the history of each logged value."""
    import numpy as np
    from mmengine.logging.history_buffer import HistoryBuffer

    def method(owner: Any, name: str) -> Any:
        """Stands for ``getattr``: a history names its own statistics, and nothing else."""
        if owner is not HistoryBuffer or name not in ("min", "max", "mean", "current"):
            raise RuntimeError(f"GLOBAL {owner}.{name}")
        return getattr(HistoryBuffer, name)

    numpy = np._core.multiarray  # type: ignore[attr-defined]
    arrays = [np.ndarray, np.dtype, numpy._reconstruct, numpy.scalar]
    types = [type(np.dtype(name)) for name in ("float64", "float32", "int64", "uint32")]
    return [HistoryBuffer, (method, "builtins.getattr"), *arrays, *types]
