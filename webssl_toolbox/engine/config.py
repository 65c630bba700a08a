"""Reads Python configs and ``--cfg-options``; nothing that matches no key passes silently."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..registry import nearest

# Dicts of named entries, of which an override or a None must hit one. Other dicts have a type or
# are a section: those are checked against a class, whose defaults a config need not spell out.
NAMED = (
    "model.towers.",
    "model.spaces.",
    "model.objectives.",
    "train_dataloader.views.",
    "evaluation.evaluators.",
    "hooks.",
    "vis_backends.",
)


def load_config(path: str | Path, options: Sequence[str] = ()) -> dict[str, Any]:
    """Reads a config with what it inherits, and overrides it.

    A Python config is a program: run only those that you trust. (Configs stored in checkpoints are
    JSON, and are never executed.)

    Args:
        path: a ``.py`` file; ``_base_`` names the files that it inherits.
        options: ``'train_cfg.max_iters=100'`` ...; values are Python literals, else strings.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a syntax error, an override of a path that does not exist, or a None that
            removes nothing.
    """
    path = Path(path)
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.py"))) or "no configs"
        raise FileNotFoundError(f"there is no config {path}; {path.parent} has {there}")
    cfg = _read(path)
    _check_removals(cfg, _inherited(path), path)
    for option in options:
        _override(cfg, option)
    return cfg


def _read(path: Path) -> dict[str, Any]:
    try:
        cfg = Config.fromfile(str(path), import_custom_modules=False, format_python_code=False)
    except SyntaxError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.msg}") from None
    except OSError:
        raise
    except Exception as error:  # a config is a program: it may raise anything
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
    return cfg.to_dict()


def _inherited(path: Path) -> list[dict[str, Any]]:
    """Returns the configs of all ancestors, each with its own inheritance resolved."""
    found = []
    for base in Config._get_base_files(str(path)):
        file = path.parent / base
        found += [_read(file), *_inherited(file)]
    return found


def _check_removals(cfg: Mapping[str, Any], bases: list[Any], path: Path, where: str = "") -> None:
    """Refuses ``simsaim=None``: None removes an inherited entry, and there must be one."""
    for key, value in cfg.items():
        known = [base for base in bases if isinstance(base, Mapping) and key in base]
        if isinstance(value, Mapping):
            _check_removals(value, [base[key] for base in known], path, f"{where}{key}.")
        elif value is None and _is_named(cfg, where) and not known:
            names = {name for base in bases if isinstance(base, Mapping) for name in base}
            raise ValueError(
                f"{path}: {where}{key} = None removes nothing, since no base config has it"
                f"{nearest(key, names)}"
            )


def _is_named(node: Mapping[str, Any], path: str) -> bool:
    return path.startswith(NAMED) and "type" not in node


def _override(cfg: dict[str, Any], option: str) -> None:
    path, equals, text = option.partition("=")
    if not equals:
        raise ValueError(f"--cfg-options takes key=value, not {option!r}")
    *parents, last = path.split(".")
    node: Any = cfg
    for depth, key in enumerate(parents):
        node = _child(node, key, ".".join(parents[: depth + 1]))
    if not isinstance(node, Mapping) or (_is_named(node, path) and last not in node):
        _child(node, last, path)
    node[int(last) if isinstance(node, list) else last] = _literal(text)


def _child(node: Any, key: str, path: str) -> Any:
    if isinstance(node, list) and key.isdigit() and int(key) < len(node):
        return node[int(key)]
    if isinstance(node, Mapping) and key in node:
        return node[key]
    names = list(map(str, range(len(node)))) if isinstance(node, list) else node
    names = names if isinstance(names, Mapping | list) else ()
    raise ValueError(f"--cfg-options: the config has no {path}{nearest(key, names)}")


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
