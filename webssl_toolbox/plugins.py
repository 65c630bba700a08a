"""Discovery and isolation of plugins: one broken plugin warns and is skipped."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pluggy

from . import hookspecs, registry

GROUP = "webssl_toolbox"
BUILTIN = "builtin"
DISTRIBUTION = "webssl-toolbox"
CONFIGS = "webssl_configs"  # the folder configs/, as it is installed


class DuplicateName(ValueError):
    """Two plugins claim one name; never skipped, since the config would mean two things."""


class Shelf:
    """The writable face of one registry while one plugin registers: ``shelf[name] = target``."""

    def __init__(self, target: registry.PluginRegistry) -> None:
        self.target = target
        self.entries: dict[str, str | type] = {}

    def __setitem__(self, name: str, entry: str | type) -> None:
        if name in self.entries:
            raise ValueError(f"it registers the {self.target.name} {name!r} twice")
        if isinstance(entry, str) and ":" not in entry:
            raise ValueError(f"{name!r} must be a class or 'module:Class', not {entry!r}")
        self.entries[name] = entry

    def commit(self, origin: str) -> None:
        """Hands everything to the registry, on behalf of a distribution.

        Raises:
            DuplicateName: another plugin, or the toolbox itself, has such a name.
        """
        for name, entry in self.entries.items():
            if name in self.target.module_dict:
                raise DuplicateName(
                    f"the {self.target.name} {name!r} comes from both "
                    f"{owner(self.target.name, name)} and {origin}; uninstall one, or limit "
                    "plugins with WEBSSL_PLUGINS=a,b"
                )
            _state.owners[self.target.name, name] = origin
            self.target.module_dict[name] = entry


class Registries:
    """What a plugin sees: one shelf for each kind of thing it can bring.

    They reach the registries together, once the plugin is known to be whole.
    """

    def __init__(self) -> None:
        self.towers = Shelf(registry.MODELS)
        self.spaces = Shelf(registry.SPACES)
        self.objectives = Shelf(registry.OBJECTIVES)
        self.datasets = Shelf(registry.DATASETS)
        self.views = Shelf(registry.VIEWS)
        self.evaluators = Shelf(registry.EVALUATORS)
        self.hooks = Shelf(registry.HOOKS)


@dataclass
class _State:
    loaded: dict[str, str] = field(default_factory=dict)  # entry point -> distribution
    broken: dict[str, str] = field(default_factory=dict)  # entry point -> distribution and reason
    brought: dict[str, dict[str, list[str]]] = field(default_factory=dict)  # of each loaded one
    owners: dict[tuple[str, str], str] = field(default_factory=dict)
    manager: pluggy.PluginManager | None = None
    clash: DuplicateName | None = None


_state = _State()


def installed() -> list[EntryPoint]:
    """Lists entry points, built-ins first, from metadata alone: nothing is imported."""
    return sorted(entry_points(group=GROUP), key=lambda e: (not is_builtin(e), e.name))


def is_builtin(entry: EntryPoint) -> bool:
    """Whether the toolbox itself brings the plugin; a name alone would let anyone say so."""
    ours = entry.dist is not None and entry.dist.name == DISTRIBUTION
    return ours and entry.name == BUILTIN


def distribution(entry: EntryPoint) -> str:
    """Returns ``name version`` of the package that an entry point comes from."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value


def owner(kind: str, name: str) -> str:
    """Returns the distribution that registered ``name`` in the registry of that kind."""
    return _state.owners.get((kind, name), DISTRIBUTION)


def is_admitted(entry: EntryPoint) -> bool:
    """Whether ``WEBSSL_PLUGINS`` lets an entry point be loaded; built-ins always are."""
    admitted = limit()
    return admitted is None or entry.name in admitted or is_builtin(entry)


def limit() -> set[str] | None:
    """Returns the third parties that ``WEBSSL_PLUGINS=a,b`` admits; None where it is not set."""
    value = os.environ.get("WEBSSL_PLUGINS")
    return None if value is None else {name.strip() for name in value.split(",") if name.strip()}


def package_folders(package: str) -> list[Path]:
    """Returns where a top-level package lies, without importing it; nowhere if it is missing."""
    spec = find_spec(package)
    places = (spec and spec.submodule_search_locations) or []
    return [Path(place) for place in places if Path(place).is_dir()]


def config_folder(plugin: str) -> Path:
    """Returns the folder of the configs named ``plugin::...``; nothing is imported.

    It is ``configs/`` in the top-level package of the plugin's entry point. The toolbox's own go by
    the name ``webssl_toolbox``.

    Raises:
        FileNotFoundError: no such plugin is installed, or it ships no configs.
    """
    packages = {e.name: e.module.partition(".")[0] for e in installed() if not is_builtin(e)}
    if plugin == GROUP:
        folders = package_folders(CONFIGS)
    elif plugin in packages:
        folders = [folder / "configs" for folder in package_folders(packages[plugin])]
    else:
        names = [GROUP, *packages]
        raise FileNotFoundError(
            f"no plugin {plugin!r} is installed to take configs from"
            f"{registry.nearest(plugin, names)}"
        )
    for folder in folders:
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"the plugin {plugin!r} ships no configs: its package has no configs/")


def load() -> pluggy.PluginManager:
    """Loads every allowed plugin, once in a process, each in isolation; built-ins always.

    Raises:
        DuplicateName: two plugins claim one name.
    """
    if _state.clash:
        raise _state.clash
    if _state.manager is None:
        manager = pluggy.PluginManager(GROUP)
        manager.add_hookspecs(hookspecs)
        _state.manager = manager  # set first: a plugin that looks something up must not recurse
        admitted, found = limit(), installed()
        for name in sorted((admitted or set()) - {entry.name for entry in found}):
            warnings.warn(
                f"WEBSSL_PLUGINS names {name!r}, which is not installed"
                f"{registry.nearest(name, [entry.name for entry in found])}",
                RuntimeWarning,
                stacklevel=2,
            )
        for entry in found:
            if is_admitted(entry):
                _load_one(manager, entry)
    return _state.manager


def _load_one(manager: pluggy.PluginManager, entry: EntryPoint) -> None:
    origin = distribution(entry)
    try:
        if entry.name in _state.loaded:
            raise DuplicateName(
                f"the plugin name {entry.name!r} comes from both {_state.loaded[entry.name]} and "
                f"{origin}; uninstall one"
            )
        brought = _register(manager, entry)
        for shelf in vars(brought).values():
            shelf.commit(origin)
    except DuplicateName as clash:
        _state.clash = clash
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's import may raise anything
        if manager.has_plugin(entry.name):
            manager.unregister(name=entry.name)
        _state.broken[entry.name] = f"{origin}: {type(error).__name__}: {error}"
        warnings.warn(
            f"plugin {entry.name!r} of {_state.broken[entry.name]}; it is skipped",
            RuntimeWarning,
            stacklevel=2,
        )
    else:
        _state.loaded[entry.name] = origin
        _state.brought[entry.name] = {
            kind: list(shelf.entries) for kind, shelf in vars(brought).items() if shelf.entries
        }


def _register(manager: pluggy.PluginManager, entry: EntryPoint) -> Registries:
    """Imports a plugin, checks its hooks and returns what it brings."""
    module: Any = entry.load()
    manager.register(module, name=entry.name)
    manager.check_pending()
    if not manager.get_hookcallers(module):
        raise ValueError("it implements no hook; mark webssl_register with @hookimpl")
    others = [plugin for plugin in manager.get_plugins() if plugin is not module]
    brought = Registries()
    manager.subset_hook_caller("webssl_register", remove_plugins=others)(registries=brought)
    return brought


def brought(plugin: str) -> dict[str, list[str]] | None:
    """Returns the names that a plugin registered, by kind; None where it is not loaded."""
    return _state.brought.get(plugin)


def fault(plugin: str) -> str | None:
    """Returns the distribution of a plugin that could not be loaded, and why."""
    return _state.broken.get(plugin)


def describe() -> str:
    """Returns what an unknown-name error should add: who is loaded, and who is broken and why."""
    text = f" (plugins loaded: {', '.join(_state.loaded) or 'none'}"
    if _state.broken:
        text += f"; BROKEN, so their names are missing: {'; '.join(_state.broken.values())}"
    if absent := [entry.name for entry in installed() if not is_admitted(entry)]:
        text += f"; left out by WEBSSL_PLUGINS: {', '.join(absent)}"
    return text + ")"
