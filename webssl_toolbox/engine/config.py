"""Reads Python configs and ``--cfg-options``; nothing that matches no key passes silently."""

from __future__ import annotations

import ast
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from mmengine.config import Config, ConfigDict

from ..plugins import GROUP, config_folder
from ..registry import nearest

# Dicts of named entries, of which an override or a None must hit one. Other dicts have a type or
# are a section: those are checked against a class, whose defaults a config need not spell out.
NAMED = (
    "model.towers.",
    "model.spaces.",
    "model.objectives.",
    "train_dataloader.views.",
    "optim_wrapper.parts.",
    "optim_wrapper.groups.",
    "evaluation.evaluators.",
    "hooks.",
    "vis_backends.",
)
PLAIN = str | int | float | None  # what a variable of a config may hold


def load_config(config: str | Path, options: Sequence[str] = ()) -> dict[str, Any]:
    """Reads a config with what it inherits, and overrides it.

    A Python config is a program: run only those that you trust. (Configs stored in checkpoints are
    JSON, and are never executed.)

    Args:
        config: what ``find_config`` takes; ``_base_`` in it names the configs that it inherits.
        options: ``'train_cfg.max_iters=100'`` ...; values are Python literals, else strings. One
            that names a plain variable of the files (``'data_root=photos'``) is in force while they
            run, so that what they derive from it follows.

    Raises:
        FileNotFoundError: no such file, or no such plugin.
        ValueError: a syntax error, an override of a path that does not exist, or a None that
            removes nothing.
    """
    path = find_config(config)
    pairs = [_pair(option) for option in options]
    given = {key: value for key, value in pairs if "." not in key and isinstance(value, PLAIN)}
    cfg = _read(path, given)
    for name in given.keys() - cfg.keys():
        if name == "data_root" or name[0] == "_":  # means only what files make of it
            raise ValueError(
                f"--cfg-options: {path} has no variable {name}, from which something would follow; "
                "set what you mean, such as train_dataloader.dataset"
            )
    for key, value in pairs:
        _override(cfg, key, value)
    return cfg


def find_config(config: str | Path, folder: Path = Path()) -> Path:
    """Returns the file of a config.

    Args:
        config: a path, or ``'acme::name.py'`` for a config that ships with the plugin ``acme``, or
            with the toolbox (``'webssl_toolbox::declip_r50.py'``). No plugin is imported.
        folder: what a path is relative to.

    Raises:
        FileNotFoundError: no such file, or no such plugin; names the nearest.
    """
    plugin, by_name, name = str(config).partition("::")
    if by_name:
        folder = config_folder(plugin)
        path, there = folder / name, folder.rglob("*.py")
    else:
        path = folder / config
        folder, name = path.parent, path.name
        there = folder.glob("*.py")
    if not path.is_file():
        names = [file.relative_to(folder).as_posix() for file in there]
        hint = nearest(name, names)
        if not by_name and (config_folder(GROUP) / name).is_file():
            hint = f"; did you mean '{GROUP}::{name}'?"
        raise FileNotFoundError(f"there is no config {config if by_name else path}{hint}")
    return path


def _read(path: Path, given: Mapping[str, Any], heirs: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Reads one file into what it inherits: dicts are merged, everything else is replaced.

    Args:
        path: the file.
        given: plain variables that keep these values, whatever files assign to them.
        heirs: the files that inherit this one.
    """
    if path.resolve() in heirs:
        raise ValueError(f"{path} inherits itself: take it out of _base_ in {heirs[-1]}")
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.msg}; a config is Python") from None
    names, heirs = _bases(tree, path), (*heirs, path.resolve())
    base = _inherited(names, path, given, heirs)
    try:
        own = _run(tree, path, base, given)
        if changed := _changed(own, base):  # what the bases derived from these follows
            base = _inherited(names, path, changed | dict(given), heirs)
            own = _run(tree, path, base, given)
        cfg = Config(base)
        cfg.merge_from_dict(own, allow_list_keys=False)
    except OSError:
        raise
    except Exception as error:  # a config is a program: it may raise anything
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f", line {frame.lineno}" for frame in frames if frame.filename == str(path)]
        at = f"{path}{lines[-1] if lines else ''}"
        raise ValueError(f"{at}: {type(error).__name__}: {error}") from error
    merged = cfg.to_dict()
    _check_removals(merged, base, path)
    return merged


def _inherited(
    names: Sequence[str], path: Path, given: Mapping[str, Any], heirs: tuple[Path, ...]
) -> dict[str, Any]:
    """Reads the bases of a config."""
    base: dict[str, Any] = {}
    for name in names:
        inherited = _read(find_config(name, path.parent), given, heirs)
        if shared := base.keys() & inherited.keys():
            raise ValueError(f"{path}: several of its _base_ have {', '.join(sorted(shared))}")
        base |= inherited
    return base


def _changed(own: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the plain variables of a file that its bases have, too, with another value.

    Helpers (a leading underscore) are those of a file alone.
    """
    return {
        name: value
        for name, value in own.items()
        if name in base and name[0] != "_"
        if isinstance(value, PLAIN) and isinstance(base[name], PLAIN) and value != base[name]
    }


def _bases(tree: ast.Module, path: Path) -> list[str]:
    """Takes the assignment of ``_base_`` out of a config and returns the names in it."""
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id="_base_")], value=value):
                tree.body.remove(statement)
                try:
                    found = ast.literal_eval(value)
                except ValueError:
                    found = None
                names = [found] if isinstance(found, str) else found
                if isinstance(names, list | tuple) and all(isinstance(n, str) for n in names):
                    return list(names)
                raise ValueError(f"{path}: _base_ must be a string or a list of strings")
    return []


class _Names(dict[str, Any]):
    """The names of a config while it runs; a plain variable that was given keeps its value."""

    def __init__(self, names: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        super().__init__(names)
        self.given = given

    def __setitem__(self, name: str, value: Any) -> None:
        if name in self.given and isinstance(value, PLAIN):
            value = self.given[name]
        super().__setitem__(name, value)


def _run(
    tree: ast.Module, path: Path, base: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Executes a config, which may read ``_base_.model.towers`` and ``__file__``."""
    ours = {"_base_": ConfigDict(base), "__file__": str(path)}
    names = _Names(ours, given)
    exec(compile(tree, str(path), "exec"), names)
    code = (FunctionType, ModuleType)
    return {
        name: value
        for name, value in names.items()
        if not (name in ours or name.startswith("__") or isinstance(value, code))
    }


def _check_removals(cfg: Mapping[str, Any], base: Any, path: Path, where: str = "") -> None:
    """Refuses ``simsaim=None``: None removes an inherited entry, and there must be one."""
    known = base if isinstance(base, Mapping) else {}
    for key, value in cfg.items():
        if isinstance(value, Mapping):
            _check_removals(value, known.get(key), path, f"{where}{key}.")
        elif value is None and _is_named(where) and key not in known:
            raise ValueError(
                f"{path}: {where}{key} = None removes nothing, since no base config has it"
                f"{nearest(key, known)}"
            )


def _is_named(container: str) -> bool:
    return container in NAMED or container.endswith(".splits.")  # those of an evaluator


def _pair(option: str) -> tuple[str, Any]:
    path, equals, text = option.partition("=")
    if not equals:
        raise ValueError(f"--cfg-options takes key=value, without spaces, not {option!r}")
    return path, _literal(text)


def _override(cfg: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    node: Any = cfg
    for depth, key in enumerate(parents):
        node = _child(node, key, ".".join(parents[: depth + 1]))
    if not isinstance(node, Mapping) or (_is_named(path.removesuffix(last)) and last not in node):
        _child(node, last, path)
    node[int(last) if isinstance(node, list) else last] = value


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
