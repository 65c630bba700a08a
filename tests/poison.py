"""Artefacts of an enemy: each would create the file ``canary`` if anything of it ran."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from webssl_toolbox.engine import checkpoint

CODE = "open('canary', 'w')"
MODULE = f"{CODE}\nclass Evil: pass\n"
ESCAPES = "\x1b[2J\x1b]0;owned\x07"  # clears a terminal, and renames it
MARKUP = f"[red]evil[/red] [link=x]<script>alert(1)</script> {{{{7*7}}}} ${{jndi:x}} %s {ESCAPES}"
STEP = Path("run/checkpoints/step_00000001")
GIGABYTE = 1 << 30


class Evil:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch canary",)


@dataclass
class Artefact:
    """Something poisoned.

    Attributes:
        plant: puts it in its place, in the working directory.
        refused: what the sentence says, of each command that reads it and must not go on. All
            others end well.
    """

    plant: Callable[[], object]
    refused: dict[str, str] = field(default_factory=dict)


# -- checkpoints ---------------------------------------------------------------------------------

READERS = ("test", "extract", "load", "start")  # of a checkpoint whose files are not what they say
EVERY = (*READERS, "resume")


def state(**changes: Any) -> Callable[[], None]:
    """Changes entries of ``state.json``; None takes one out."""

    def plant() -> None:
        file = STEP / "state.json"
        found = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({k: v for k, v in found.items() if v is not None}))

    return plant


def stored_config(*path: str | int, value: Any) -> Callable[[], None]:
    """Changes the config in ``state.json``."""

    def plant() -> None:
        file = STEP / "state.json"
        found = json.loads(file.read_text())
        node = found["config"]
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
        file.write_text(json.dumps(found))

    return plant


def replace(name: str, content: Callable[[], bytes]) -> Callable[[], None]:
    """Replaces a file of the checkpoint, and signs it, as an enemy would."""

    def plant() -> None:
        (STEP / name).write_bytes(content())
        sign(name)

    return plant


def sign(name: str) -> None:
    found = json.loads((STEP / "state.json").read_text())
    found["files"][name] = checkpoint._fingerprint(STEP / name)
    (STEP / "state.json").write_text(json.dumps(found))


def pickled() -> bytes:
    return pickle.dumps(Evil(), 2)


def lying(header: Any, data: bytes = b"", length: int | None = None) -> Callable[[], bytes]:
    """A safetensors file by hand."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return lambda: struct.pack("<Q", len(text) if length is None else length) + text + data


def tensors(**changes: Any) -> Callable[[], None]:
    """Adds, replaces or (with None) removes tensors of the checkpoint, by names as they are."""

    def plant() -> None:
        found = load_file(STEP / "model.safetensors")
        for name, value in changes.items():
            found[name] = value
        save_file(found, STEP / "model.safetensors")
        sign("model.safetensors")

    return plant


def link(name: str, target: str) -> Callable[[], None]:
    def plant() -> None:
        (STEP / name).unlink()
        (STEP / name).symlink_to(target)
        if (STEP / name).is_file():
            sign(name)

    return plant


def grow(name: str) -> None:
    """Makes a file of a gigabyte that takes no room on the disk."""
    with Path(name).open("ab") as file:
        file.truncate(GIGABYTE)


def beside() -> None:
    """Lays code and pickles where other programs look for them."""
    for folder in (Path("run"), STEP.parent, STEP):
        for name in ("pytorch_model.bin", "last_checkpoint", "optimizer.pt", "model.pth"):
            torch.save(Evil(), folder / name)
        for name in ("config.py", "__init__.py", "sitecustomize.py", "conftest.py"):
            (folder / name).write_text(MODULE)
    evil = {"custom_imports": {"imports": ["evil_module"]}, "model": {"type": "os.system"}}
    Path("run/config.json").write_text(json.dumps(evil))


TENSOR = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
CALL = {"type": "subprocess.getoutput", "cmd": "touch canary"}
NOT_KNOWN = "is not known"
TEXT = f"import os\nos.system('touch canary')\n{CODE}\n"

CHECKPOINTS = {
    "pickle as weights": Artefact(
        replace("model.safetensors", pickled), dict.fromkeys(EVERY, "is not a safetensors file")
    ),
    "pickle as optimizer": Artefact(
        replace("optimizer.safetensors", pickled), dict.fromkeys(EVERY, "is not a safetensors file")
    ),
    "pickle as state": Artefact(
        lambda: (STEP / "state.json").write_bytes(pickled()),
        dict.fromkeys(EVERY, "state.json is damaged: not readable as JSON"),
    ),
    "unsigned weights": Artefact(
        lambda: (STEP / "model.safetensors").write_bytes(pickled()),
        dict.fromkeys(EVERY, "is damaged: it is not what state.json recorded"),
    ),
    "header longer than the file": Artefact(
        replace("model.safetensors", lying({}, length=1 << 62)),
        dict.fromkeys(EVERY, "is not a safetensors file"),
    ),
    "header that points outside": Artefact(
        replace("model.safetensors", lying({"x": TENSOR | {"data_offsets": [0, 1 << 40]}})),
        dict.fromkeys(EVERY, "is not a safetensors file"),
    ),
    "header that overlaps": Artefact(
        replace("model.safetensors", lying({"x": TENSOR, "y": TENSOR}, bytes(16))),
        dict.fromkeys(EVERY, "is not a safetensors file"),
    ),
    "header of another shape": Artefact(
        replace("model.safetensors", lying({"x": TENSOR | {"shape": [1 << 40]}}, bytes(16))),
        dict.fromkeys(EVERY, "is not a safetensors file"),
    ),
    "header that is code": Artefact(
        replace("model.safetensors", lying(f"__import__('os').system('{CODE}')".encode())),
        dict.fromkeys(EVERY, "is not a safetensors file"),
    ),
    "weights of another kind": Artefact(
        tensors(**{"towers.image.pos_embed": torch.tensor(1.0)}),
        dict.fromkeys(EVERY, "towers.image.pos_embed is []"),
    ),
    "names with markup": Artefact(
        tensors(**{MARKUP: torch.ones(2)}),
        dict.fromkeys(("test", "extract", "load", "resume"), "does not fit: 1 unexpected"),
    ),
    "names within names": Artefact(
        tensors(
            **{"towers": torch.ones(2), "towers.image": torch.ones(2), "[red]x": torch.ones(1)}
        ),
        dict.fromkeys(("test", "extract", "load", "resume"), "does not fit: 3 unexpected"),
    ),
    "escapes in the state": Artefact(
        state(format=9, versions=MARKUP), dict.fromkeys(EVERY, "this toolbox reads format 1")
    ),
    "a state of a gigabyte": Artefact(
        lambda: grow(str(STEP / "state.json")), dict.fromkeys(EVERY, "not readable as JSON")
    ),
    "a state without end": Artefact(
        lambda: (STEP / "state.json").write_text("[" * 200_000),
        dict.fromkeys(EVERY, "not readable as JSON"),
    ),
    "a step that is code": Artefact(state(step=TEXT), dict.fromkeys(EVERY, "it lacks files, step")),
    "no step": Artefact(state(step=None), dict.fromkeys(EVERY, "it lacks files, step")),
    "an optimizer that is code": Artefact(
        state(optimizer={"type": "os.system", "parameters": 5}), {"resume": "os.system"}
    ),
    "a link to a secret": Artefact(
        link("model.safetensors", "/etc/passwd"), dict.fromkeys(EVERY, "is not a safetensors file")
    ),
    "a link to a device": Artefact(
        link("state.json", "/dev/zero"), dict.fromkeys(EVERY, "has no state.json")
    ),
    "code beside it": Artefact(beside),
    # A stored config. Those who resume, or start from it, bring their own.
    "a type that is a function": Artefact(
        stored_config("model", "towers", "image", value=CALL),
        dict.fromkeys(("test", "extract", "load"), f"'subprocess.getoutput' {NOT_KNOWN}"),
    ),
    "a type that is a module": Artefact(
        stored_config("model", "towers", "image", "type", value="evil_module:Evil"),
        dict.fromkeys(("test", "extract", "load"), f"'evil_module:Evil' {NOT_KNOWN}"),
    ),
    "a view that is a function": Artefact(
        stored_config("test_view", 0, value=CALL),
        dict.fromkeys(("test", "extract", "load"), f"'subprocess.getoutput' {NOT_KNOWN}"),
    ),
    "imports in a model": Artefact(
        stored_config("model", "custom_imports", value={"imports": ["evil_module"]}),
        dict.fromkeys(("test", "extract", "load"), "custom_imports"),
    ),
    "imports in a config": Artefact(
        stored_config("custom_imports", value={"imports": ["evil_module"]})
    ),
    "a base to follow": Artefact(stored_config("_base_", value="evil_module.py")),
    "the text of a config": Artefact(
        state(config=TEXT, meta={"config": TEXT}, message_hub={"runtime_info": {"cfg": TEXT}}),
        dict.fromkeys(("test", "extract", "load"), "stores no config"),
    ),
}


# -- data ----------------------------------------------------------------------------------------

DATA_READERS = ("train", "resume", "start", "test", "preview", "study")


def rows(*found: Any, keep: bool = True) -> Callable[[], None]:
    """Writes rows into the list of pairs, after those there are."""

    def plant() -> None:
        lines = Path("pairs.jsonl").read_text().splitlines() if keep else []
        lines += [row if isinstance(row, str) else json.dumps(row) for row in found]
        Path("pairs.jsonl").write_text("\n".join(lines))

    return plant


def bomb() -> None:
    """A PNG whose header promises 50,000 x 50,000 pixels, in place of two images."""
    import zlib

    header = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    for name in ("images/cat/1.jpg", "images/dog/1.jpg"):
        Path(name).write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)


def long_row() -> None:
    """A row whose caption is a gigabyte of nothing."""
    with Path("pairs.jsonl").open("ab") as file:
        file.write(b'\n{"image": "cat/0.jpg", "caption": "')
        file.truncate(file.tell() + GIGABYTE)
        file.seek(0, 2)
        file.write(b'"}\n')


def long_first_row() -> None:
    rows = Path("pairs.jsonl").read_bytes()
    Path("pairs.jsonl").write_bytes(b"")
    long_row()
    with Path("pairs.jsonl").open("ab") as file:
        file.write(rows)


def markup() -> None:
    """Markup in captions, in the names of images that are there, and of some that are not."""
    name = MARKUP.replace("/", "|")
    Path("images/cat/0.jpg").rename(f"images/cat/{name}.jpg")
    rows(
        *({"image": f"cat/{name}.jpg", "caption": f"{MARKUP} {i}"} for i in range(4)),
        *({"image": f"gone/{name}.jpg", "caption": MARKUP} for _ in range(4)),
    )()


def all_gone() -> None:
    """No image can be read, and the names of all are markup."""
    Path("pairs.jsonl").write_text("")
    rows({"image": "cat/1.jpg", "caption": "so that it begins", "label": "cat"})()
    Path("images/cat/1.jpg").write_text(f"<html>{MARKUP}")
    rows(*({"image": f"{MARKUP}{i}", "caption": MARKUP} for i in range(8)))()


SECRETS = ("../secret.png", "/etc/passwd", "cat/../../secret.png", "../images-too/a.png", "..")
DATA = {
    "pixel bombs": Artefact(bomb),
    "a caption of a gigabyte": Artefact(long_row),
    "a first caption of a gigabyte": Artefact(
        long_first_row, dict.fromkeys(DATA_READERS, "the first line is not one JSON object")
    ),
    "captions with markup": Artefact(markup),
    "names with markup": Artefact(
        all_gone,
        dict.fromkeys(("train", "resume", "start", "preview", "study"), "cannot be read")
        | {"test": "none that can be read"},
    ),
    "rows without end": Artefact(rows("[" * 100_000, '{"image":' * 5000)),
    "rows of other types": Artefact(
        rows(
            {"image": ["cat/0.jpg"], "caption": {"type": "os.system"}},
            {"image": {"type": "os.system"}, "caption": ["", None, 5]},
            {"image": "cat/0.jpg\0.png", "caption": "a cat"},
            {"image": "cat/\ud800.jpg", "caption": "a cat"},
            {"image": "cat/0.jpg", "caption": "half a character \ud800"},
            {"image": None, "caption": TEXT},
            [CALL],
            "null",
        )
    ),
    "paths that lead outside": Artefact(
        rows(*({"image": path, "caption": "a secret"} for path in SECRETS))
    ),
    "nothing but paths that lead outside": Artefact(
        rows({"image": "cat/0.jpg", "caption": "", "label": "cat"},
             *({"image": path, "caption": "a secret"} for path in SECRETS * 4), keep=False),
        dict.fromkeys(("train", "resume", "start", "preview", "study"), "cannot be read")
        | {"test": "none that can be read"},
    ),
}  # fmt: skip


# -- weights of others -----------------------------------------------------------------------------


def weights(content: bytes | Callable[[], bytes]) -> Callable[[], object]:
    return lambda: Path("weights.pth").write_bytes(content() if callable(content) else content)


def saved(content: Any) -> Callable[[], None]:
    return lambda: torch.save(content, "weights.pth")


WEIGHTS = {
    "a pickle": Artefact(weights(pickled), {"convert": "it names posix.system"}),
    "a pickle in an archive": Artefact(saved(Evil()), {"convert": "it names posix.system"}),
    "a pickle among tensors": Artefact(
        saved({"norm.weight": torch.ones(16), "epoch": Evil()}), {"convert": "posix.system"}
    ),
    "names with markup in a file": Artefact(
        saved({"norm.weight": torch.ones(16), MARKUP: torch.ones(2)})
    ),
    "a header that lies": Artefact(
        weights(lying({"norm.weight": TENSOR}, length=1 << 50)),
        {"convert": "neither safetensors nor"},
    ),
    "a file of a gigabyte": Artefact(
        lambda: (Path("weights.pth").unlink(), grow("weights.pth")),
        {"convert": "neither safetensors nor"},
    ),
}


# -- plugins -------------------------------------------------------------------------------------

REGISTER = "from webssl_toolbox import hookimpl\n@hookimpl\ndef webssl_register(registries):\n    "
PLUGINS = {
    "raises on import": f"raise RuntimeError({MARKUP!r})\n",
    "exits on import": "import sys\nsys.exit(0)\n",
    "raises in its hook": f"{REGISTER}raise OSError({MARKUP!r})\n",
    "registers a function": f"{REGISTER}registries.objectives['Evil'] = 'os:system'\n",
    "registers code": f"{REGISTER}registries.objectives['Worse'] = {CODE!r}\n",
    "recurses": f"{REGISTER}webssl_register(registries)\n",
}


# What can lie side by side, for commands that should look at none of it.
TOGETHER = {
    "checkpoint": ("the text of a config", "pickle as weights", "code beside it"),
    "data": ("rows of other types", "paths that lead outside", "captions with markup"),
    "weights": ("a pickle among tensors",),
}
