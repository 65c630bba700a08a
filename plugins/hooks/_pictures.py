"""Pictures that evaluators return, as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

Pictures = Mapping[str, np.ndarray]


def save(pictures: Pictures, folder: Path, step: int | None = None) -> None:
    """Writes ``<folder>/<evaluator>/<name>-step_<step>.png``; slashes in a name become dashes.

    Args:
        pictures: ``<evaluator>/<name>`` to uint8 ``[H, W, 3]``.
        folder: created where it is missing.
        step: left out of the file name where there is none.
    """
    for key, picture in pictures.items():
        evaluator, _, name = key.partition("/")
        place = folder / evaluator
        place.mkdir(parents=True, exist_ok=True)
        suffix = "" if step is None else f"-step_{step:08d}"
        Image.fromarray(picture).save(place / f"{dashed(name)}{suffix}.png")


def dashed(name: str) -> str:
    """Returns a name that is no path: visualizer backends take it as a file name, too."""
    return name.replace("/", "-")
