"""Discovery and isolation of plugins: one broken plugin warns and is skipped."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from . import hookspecs, registry

GROUP = "webssl_toolbox"
BUILTIN = "builtin"


class Shelf:
    """The writable face of one registry while one plugin registers: ``shelf[name] = target``."""

    def __init__(self, target: registry.PluginRegistry, owner: str, owners: dict) -> None:
        self.target, self.owner, self.owners = target, owner, owners

    def __setitem__(self, name: str, entry: str | type) -> None:
        key = (self.target.name, name)
        if key in self.owners:
            raise DuplicateName(
                f"the {self.target.name} {name!r} comes from both {self.owners[key]} and "
                f"{self.owner}; uninstall one, or limit plugins with WEBSSL_PLUGINS=a,b"
            )
        if isinstance(entry, str) and ":" not in entry:
            raise ValueError(f"{name!r} must be a class or 'module:Class', not {entry!r}")
        self.owners[key] = self.owner
        self.target._module_dict[name] = entry


class Registries:
    """What a plugin sees: one shelf for each kind of thing it can bring."""

    def __init__(self, owner: str, owners: dict[tuple[str, str], str]) -> None:
        self.towers = Shelf(registry.MODELS, owner, owners)
        self.spaces = Shelf(registry.SPACES, owner, owners)
        self.objectives = Shelf(registry.OBJECTIVES, owner, owners)
        self.datasets = Shelf(registry.DATASETS, owner, owners)
        self.views = Shelf(registry.VIEWS, owner, owners)
        self.evaluators = Shelf(registry.EVALUATORS, owner, owners)
        self.hooks = Shelf(registry.HOOKS, owner, owners)


class DuplicateName(ValueError):
    """Two plugins claim one name; never skipped, since the config would mean two things."""


@dataclass
class _State:
    loaded: dict[str, str] = field(default_factory=dict)  # entry point -> distribution
    broken: dict[str, str] = field(default_factory=dict)  # entry point -> distribution and reason
    owners: dict[tuple[str, str], str] = field(default_factory=dict)
    manager: pluggy.PluginManager | None = None


_state = _State()


def installed() -> list[EntryPoint]:
    """Lists entry points, built-ins first, from metadata alone: nothing is imported."""
    return sorted(entry_points(group=GROUP), key=lambda e: (e.name != BUILTIN, e.name))


def distribution(entry: EntryPoint) -> str:
    """Returns ``name version`` of the package that an entry point comes from."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value


def allowed(name: str) -> bool:
    """``WEBSSL_PLUGINS=a,b`` limits third parties, an empty value refuses all; built-ins stay."""
    limit = os.environ.get("WEBSSL_PLUGINS")
    return limit is None or name == BUILTIN or name in limit.split(",")


def load() -> pluggy.PluginManager:
    """Loads every allowed plugin, once in a process, each in isolation.

    Raises:
        DuplicateName: two plugins register one name.
    """
    if _state.manager is None:
        manager = pluggy.PluginManager(GROUP)
        manager.add_hookspecs(hookspecs)
        _state.manager = manager  # set first: a plugin that looks something up must not recurse
        for entry in installed():
            if allowed(entry.name):
                _load_one(manager, entry)
    return _state.manager


def _load_one(manager: pluggy.PluginManager, entry: EntryPoint) -> None:
    origin = distribution(entry)
    try:
        module: Any = entry.load()
        manager.register(module, name=entry.name)
        others = [p for p in manager.get_plugins() if p is not module]
        register = manager.subset_hook_caller("webssl_register", remove_plugins=others)
        register(registries=Registries(origin, _state.owners))
        manager.check_pending()
    except DuplicateName:
        _state.manager = None
        raise
    except Exception as error:  # noqa: BLE001 - a stranger's import may raise anything
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


def describe() -> str:
    """Returns what an unknown-name error should add: who is loaded, and who is broken and why."""
    text = f" (plugins loaded: {', '.join(_state.loaded) or 'none'}"
    if _state.broken:
        text += f"; BROKEN, so their names are missing: {'; '.join(_state.broken.values())}"
    return text + ")"
