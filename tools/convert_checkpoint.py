"""Turns the weights of another project into a start for a config; the only door for pickles.

``python tools/convert_checkpoint.py dinov2_vits14_pretrain.pth configs/dinov2_vit_s14.py`` writes
what ``load_from`` takes. A pickle goes through torch's restricted reader, which knows tensors and a
few plain types. A file that names anything else is refused: there is no second way.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from _arguments import add_cfg_options
from _foreign_names import NAMES, Found, renamed
from _terminal import fail, plain
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from webssl_toolbox.engine import checkpoint
from webssl_toolbox.engine.config import load_config
from webssl_toolbox.engine.dry_run import build_on_meta
from webssl_toolbox.engine.groups import outermost
from webssl_toolbox.engine.settings import settings_from
from webssl_toolbox.towers import Tower

ADAPTER = "towers.image.model."  # where adapters keep the names of their library
ALLOWED = (argparse.Namespace,)  # beyond torch's own: in it DINO and MAE keep their options
# Under which projects keep weights; of several, the first.
PARTS = ("teacher", "state_dict", "model", "student")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Turns the weights of another project into a start for a config."
    )
    parser.add_argument("weights", type=Path, help="a .pth, .pt, .bin or .safetensors file")
    parser.add_argument("config", help="a config that is to start from them")
    parser.add_argument("--part", metavar="KEY", help=f"of the file (default: {', '.join(PARTS)})")
    parser.add_argument("--work-dir", help="where to write (default: work_dirs/<name of the file>)")
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse()
    folder = Path(args.work_dir or f"work_dirs/{args.weights.stem}")
    try:
        if folder.exists():
            raise FileExistsError(f"{folder} exists already: choose another place with --work-dir")
        settings = settings_from(load_config(args.config, args.cfg_options))
        part, weights = choose(read(args.weights), args.part, args.weights)
        tensors, lines = fit(weights, build_on_meta(settings.model), args.weights)
        with args.weights.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        source = {"file": args.weights.name, "sha256": digest, "part": part, "licence": "unknown"}
        checkpoint.save(folder / "checkpoints", 0, Weights(tensors), meta={"source": source})
    except (ValueError, OSError) as error:
        fail(error)
    print(plain(f"{args.weights}: SHA-256 {digest}" + (f", part {part!r}" if part else "")))
    for line in lines:
        print(plain(line))
    print(f"The licence of {plain(args.weights.name)} is unknown: ask those who published it.")
    print(plain(f"Start with python tools/train.py {args.config} --cfg-options load_from={folder}"))


class Weights(nn.Module):
    """A module of these tensors and nothing else, for ``checkpoint.save``."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.tensors = tensors

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return dict(self.tensors)


# -- reading -----------------------------------------------------------------------------------


def read(path: Path) -> Any:
    """Reads a file of weights; nothing in it is run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is neither safetensors nor a pickle of tensors and plain types.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; weights are local, none are downloaded")
    with path.open("rb") as file:
        pickled = file.read(2)[:1] in (b"\x80", b"P")  # a pickle, or a zip archive that holds one
        file.seek(0)
        if pickled:
            return _read_pickle(path, file)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is neither safetensors nor a torch.save: {error}") from error


def _read_pickle(path: Path, file: Any) -> Any:
    try:
        with torch.serialization.safe_globals(list(ALLOWED)):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile file may make it raise anything
        if named := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(
                f"{path} is refused: it names {named[1]}, and a pickle may run what it names; ask "
                "those who made it for its tensors alone, as safetensors"
            ) from error
        if "TorchScript" in str(error):
            raise ValueError(
                f"{path} is refused: a TorchScript archive is a program; take the same weights as "
                "safetensors, which open_clip and timm publish"
            ) from error
        reason = str(error).partition(". ")[0] or type(error).__name__
        raise ValueError(
            f"{path} is not what torch.save writes of tensors: {reason}; fetch it again"
        ) from error


def choose(content: Any, part: str | None, path: Path) -> tuple[str | None, dict[str, Tensor]]:
    """Returns the key under which a file keeps its weights, or None, and the tensors there.

    Raises:
        ValueError: there are none.
    """
    where = content if isinstance(content, Mapping) else {}
    keys = [key for key in where if isinstance(key, str)]
    parts = [key for key in PARTS if isinstance(where.get(key), Mapping)]
    part = part or next(iter(parts), None)
    if part and not isinstance(where.get(part), Mapping):
        raise ValueError(f"{path} has no part {part!r}; it holds {', '.join(keys[:10])}")
    weights = {
        name: value
        for name, value in (where[part] if part else where).items()
        if isinstance(name, str) and _is_plain(value) and not name.endswith("num_batches_tracked")
    }
    if not weights:
        raise ValueError(f"{path} holds no weights by name, but {', '.join(keys[:10]) or 'none'}")
    return part, weights


def _is_plain(value: Any) -> bool:
    """Whether a value is a dense tensor of numbers, no larger than what was stored of it."""
    return (
        isinstance(value, Tensor)
        and type(value) in (Tensor, nn.Parameter)
        and value.layout is torch.strided
        and value.is_floating_point()
        and value.nbytes <= value.untyped_storage().nbytes()
    )


# -- fitting -----------------------------------------------------------------------------------


def fit(
    weights: Mapping[str, Tensor], model: nn.Module, path: Path
) -> tuple[dict[str, Tensor], list[str]]:
    """Names weights as in a model, and says what is missing and what is not used.

    Args:
        weights: by the names of the file.
        model: of the config, on the meta device.
        path: of the file, for messages.

    Raises:
        ValueError: there is no place for any of them, or a shape does not fit.
    """
    wanted = checkpoint.model_tensors(model)
    try:
        known: Found = {f"{ADAPTER}{old}": ((old,), value) for old, value in weights.items()}
        if not known.keys() & wanted.keys():
            known = renamed(weights)
        found = {name: pair for name, pair in known.items() if name in wanted}
        shapes = {name: list(_fitted(model, name, v).shape) for name, (_, v) in found.items()}
    except (RuntimeError, LookupError, TypeError) as error:
        raise ValueError(f"{path}: its tensors do not have the shapes of {NAMES}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not any(name.startswith("towers.") for name in found):
        raise ValueError(
            f"{path}: none of its {len(weights)} tensors has a place in the towers of this config "
            f"({', '.join([*weights][:3])} ...); known are the names of {NAMES}"
        )
    for name, shape in shapes.items():
        if shape != list(wanted[name].shape):
            raise ValueError(
                f"{path}: {', '.join(found[name][0])} is {shape}, but {name} is "
                f"{list(wanted[name].shape)} in this config; give the tower the size of the weights"
            )
    return {name: value for name, (_, value) in found.items()}, [*_summary(weights, found, wanted)]


def _fitted(model: nn.Module, name: str, value: Tensor) -> Tensor:
    """Returns what the tower of a weight makes of it: positions take the size of the input."""
    tower = model.get_submodule(".".join(name.split(".")[:2]))
    return tower.fit(name.split(".", 2)[2], value) if isinstance(tower, Tower) else value


def _summary(
    weights: Mapping[str, Tensor],
    found: Found,
    wanted: Mapping[str, Tensor],
) -> Iterator[str]:
    owners = dict.fromkeys(".".join(name.split(".")[:2]) for name in found)
    for owner in owners:
        every = [name for name in wanted if name.startswith(f"{owner}.")]
        missing = [name for name in every if name not in found]
        line = f"{owner}: {len(every) - len(missing)} of {len(every)} tensors"
        yield line + (f"; missing: {', '.join(outermost(missing, wanted))}" if missing else "")
    used = {name for names, _ in found.values() for name in names}
    if unused := [name for name in weights if name not in used]:
        yield f"not used: {', '.join(outermost(unused, weights))} ({len(unused)} tensors)"


if __name__ == "__main__":
    main()
