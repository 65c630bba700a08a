"""The words of the table of newcomers' mistakes: what is typed, and what else is amiss."""

from __future__ import annotations

import json
import resource
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

DATASET, OBJECTIVES, IMAGE = "train_dataloader.dataset", "model.objectives", "model.towers.image"
STEP = "checkpoints/step_00000001"

Given = Callable[[pytest.FixtureRequest], object]


@dataclass
class Mistake:
    typed: str  # a command, or lines of Python in a notebook
    says: tuple[str, ...]  # what the sentence must hold: the offending name, and the remedy
    files: dict[str, str] = field(default_factory=dict)  # that lie there besides
    given: Given = lambda request: None  # brings about what else is not as it should be


def row(typed: str, *says: str, **more: Any) -> Mistake:
    return Mistake(typed, says, **more)


def train(options: str, *says: str, **more: Any) -> Mistake:
    return row(f"tools/train.py small.py --work-dir new {options}", *says, **more)


def option(path: str, value: Any, *says: str, **more: Any) -> Mistake:
    return train(f"--cfg-options {shlex.quote(f'{path}={value}')}", *says, **more)


def resume(options: str, *says: str, **more: Any) -> Mistake:
    return row(f"tools/train.py small.py --work-dir run --resume {options}", *says, **more)


def mine(text: str, *says: str) -> Mistake:
    """A config of one's own."""
    return row("tools/train.py mine.py", *says, files={"mine.py": text})


def heir(text: str, *says: str) -> Mistake:
    """A config of one's own, whose second line follows ``_base_``."""
    return mine(f"_base_ = 'small.py'\n{text}\n", *says)


def data(kind: str, file: str, *says: str, text: str | None = None) -> Mistake:
    dataset = dict(type=kind, file=file, root="images")
    return option(DATASET, dataset, *says, files={} if text is None else {file: text})


def patched(target: Any, name: str, value: Any) -> Given:
    return lambda request: request.getfixturevalue("monkeypatch").setattr(target, name, value)


def without(package: str) -> Given:
    def given(request: pytest.FixtureRequest) -> None:
        for name in [package, *(m for m in sys.modules if m.startswith(f"{package}."))]:
            request.getfixturevalue("monkeypatch").setitem(sys.modules, name, None)

    return given


def installed(*names: str, code: str | None = None, brings: str | None = None) -> Given:
    def given(request: pytest.FixtureRequest) -> None:
        for name in names:
            request.getfixturevalue("install")(name, code, name=brings or name.title())

    return given


def left_out(request: pytest.FixtureRequest) -> None:
    installed("acme")(request)
    request.getfixturevalue("monkeypatch").setenv("WEBSSL_PLUGINS", "amce")


def full_gpu(*arguments: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has none.")


def full_disk(request: pytest.FixtureRequest) -> None:
    """Lets no file grow as large as a checkpoint."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    request.addfinalizer(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard)))


def old_checkpoint(request: pytest.FixtureRequest) -> None:
    file = Path("run", STEP, "state.json")
    state = json.loads(file.read_text())
    file.write_text(json.dumps(state | {"format": 0, "versions": {"webssl_toolbox": "0.0.1"}}))


def cut_off(request: pytest.FixtureRequest) -> None:
    file = Path("run", STEP, "model.safetensors")
    file.write_bytes(file.read_bytes()[:1000])


def web_pages(request: pytest.FixtureRequest) -> None:
    """What a downloader leaves of links that no longer work."""
    for image in Path("images").rglob("*.jpg"):
        image.write_text("<html>404 Not Found</html>")


def no_images(request: pytest.FixtureRequest) -> None:
    shutil.rmtree("images")
    Path("images").mkdir()
