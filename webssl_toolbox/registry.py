"""The registries. They fill on first look-up, from plugins, and import a class when it is built."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import Registry

SCOPE = "webssl_toolbox"


def nearest(name: str, valid: Iterable[str]) -> str:
    """Returns ``"; did you mean 'x'?"`` or the list of valid names, to end an error message."""
    names = sorted(valid)
    lower = {other.lower(): other for other in names}
    if close := difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.6):
        return f"; did you mean {lower[close[0]]!r}?"
    return f"; valid names: {', '.join(names)}" if names else "; there are none to choose from"


# Annotations that a config can be checked against: the type, and how a message calls it. What they
# hold, in brackets, is not looked at.
PLAIN: dict[str, tuple[Any, str]] = {
    "int": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "str": (str, "a string"),
    "bool": (bool, "True or False"),
    "None": (type(None), "None"),
    "Dict": (Mapping, "a dict"),
    "Mapping": (Mapping, "a dict"),
    "Sequence": ((list, tuple), "a list"),
    "tuple": ((list, tuple), "a list"),
}


def check_value(where: str, value: Any, annotation: Any) -> None:
    """Refuses a value that is not of its annotation, where that is made of plain types alone.

    Raises:
        ValueError: names ``where`` and the types that it takes.
    """
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    inner = 1
    while inner:  # brackets within brackets
        text, inner = re.subn(r"\[[^\[\]]*\]", "", text)
    names = text.split(" | ")
    if not all(name in PLAIN for name in names):
        return
    fits = any(isinstance(value, PLAIN[name][0]) for name in names)
    if not fits or (isinstance(value, bool) and "bool" not in names):
        wanted = " or ".join(PLAIN[name][1] for name in names)
        raise ValueError(f"{where} must be {wanted}, but it is {value!r:.100}")


def check_arguments(
    cls: type, cfg: Mapping[str, Any], where: str, extra: Iterable[str] = ()
) -> None:
    """Checks names and plain types of the arguments in ``cfg`` against the signature of ``cls``.

    Args:
        cls: what ``cfg`` would build.
        cfg: ``dict(type=..., **arguments)``.
        where: path of ``cfg`` in the config, for the message.
        extra: names that the caller supplies or consumes itself.

    Raises:
        ValueError: an unknown or a missing argument, or a value of another type.
    """
    parameters = inspect.signature(cls).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for key, value in cfg.items():
        if key in extra or key == "type":
            continue
        if key not in parameters:
            raise ValueError(
                f"{where}.{key}: {cfg['type']} takes no such argument"
                f"{nearest(key, [*parameters, *extra])}"
            )
        check_value(f"{where}.{key}", value, parameters[key].annotation)
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in cfg and key not in extra:
            raise ValueError(f"{where}: {cfg['type']} needs the argument {key!r}")


class PluginRegistry(Registry):
    """An mmengine registry whose entries come from plugins and may be strings ``module:Class``.

    Unlike its parent it never imports a dotted path from a config: what is not registered by an
    installed plugin does not exist (a stored config could otherwise name any callable).
    """

    def import_from_location(self) -> None:
        """Loads the plugins, once for all registries; mmengine calls this before every look-up."""
        from . import plugins

        plugins.load()

    def get(self, key: str) -> type:
        """Returns the class behind ``key`` (``'ViT'`` or ``'webssl_toolbox.ViT'``).

        Raises:
            ValueError: nothing of that name is registered; names the nearest, and broken plugins.
                Or its plugin cannot import it; names the plugin's distribution.
        """
        self.import_from_location()
        name = key.removeprefix(f"{SCOPE}.")
        entry = self._module_dict.get(name)
        from . import plugins

        if entry is None:
            raise ValueError(
                f"{self.name} {key!r} is not known{nearest(name, self._module_dict)}"
                f"{plugins.describe()}"
            )
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            try:
                entry = self._module_dict[name] = getattr(import_module(module), attribute)
            except (ImportError, AttributeError) as error:
                raise ValueError(
                    f"{self.name} {key!r} of {plugins.owner(self.name, name)} cannot be imported "
                    f"from {entry!r}: {error}"
                ) from error
        return entry

    def __contains__(self, key: str) -> bool:
        self.import_from_location()
        return key.removeprefix(f"{SCOPE}.") in self._module_dict

    def check(self, cfg: Mapping[str, Any], where: str, extra: Iterable[str] = ()) -> type:
        """Checks the type and the argument names of ``cfg`` without building it.

        Args:
            cfg: ``dict(type=..., **arguments)``.
            where: path of ``cfg`` in the config, for the message.
            extra: names that the caller supplies or consumes itself.

        Raises:
            ValueError: no type, an unknown type; an unknown, missing or ill-typed argument.
        """
        if not isinstance(cfg, Mapping) or not isinstance(cfg.get("type"), str):
            raise ValueError(f"{where} must be a dict with a 'type', but it is {cfg!r:.100}")
        try:
            cls = self.get(cfg["type"])
        except ValueError as error:
            raise ValueError(f"{where}.type: {error}") from error.__cause__
        check_arguments(cls, cfg, where, extra)
        return cls

    def build(self, cfg: Mapping[str, Any], *args: Any, **supplied: Any) -> Any:
        """Builds ``cfg`` by mmengine's name for it; as ``create``."""
        return self.create(cfg, self.name, **supplied)

    def create(self, cfg: Mapping[str, Any], where: str, **supplied: Any) -> Any:
        """Builds ``cfg`` after ``check``; ``supplied`` are arguments that no config writes.

        Raises:
            ValueError: as ``check``, or the class itself cannot do with a value.
        """
        cls = self.check(cfg, where, extra=supplied)
        arguments = {key: value for key, value in cfg.items() if key != "type"}
        try:
            return cls(**arguments, **supplied)
        except (TypeError, AttributeError, ArithmeticError, LookupError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"{where}: {cfg['type']} cannot be built: {reason}") from error
        except ValueError as error:
            if str(error).startswith(where):  # said by what it builds in turn
                raise
            raise ValueError(f"{where}: {error}") from error


# Towers are a child of mmengine's MODELS: `type='webssl_toolbox.ViT'` works in OpenMMLab configs.
MODELS = PluginRegistry("model", parent=MMENGINE_MODELS, scope=SCOPE)
SPACES = PluginRegistry("space", scope=SCOPE)
OBJECTIVES = PluginRegistry("objective", scope=SCOPE)
DATASETS = PluginRegistry("dataset", scope=SCOPE)
VIEWS = PluginRegistry("view", scope=SCOPE)
EVALUATORS = PluginRegistry("evaluator", scope=SCOPE)
HOOKS = PluginRegistry("hook", scope=SCOPE)

MODELS._module_dict.update(
    Pretrainer="webssl_toolbox.pretrainer:Pretrainer", EMA="webssl_toolbox.ema:EMA"
)
SPACES._module_dict.update(
    JointSpace="webssl_toolbox.spaces:JointSpace", EMA="webssl_toolbox.ema:EMA"
)
VIEWS._module_dict.update(Optional="webssl_toolbox.data.views:Optional")
