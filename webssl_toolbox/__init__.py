"""Train image encoders, with or without language, as objectives over shared encodings.

The public nouns are imported when first used, so that ``import webssl_toolbox`` stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import dist as dist
    from .features import Features as Features
    from .hookspecs import hookimpl as hookimpl
    from .loading import load as load
    from .objective import Need as Need
    from .objective import Objective as Objective
    from .objective import Progress as Progress
    from .spaces import Space as Space
    from .towers import Encoding as Encoding
    from .towers import Segment as Segment
    from .towers import Tower as Tower

__version__ = "0.1.0"

_HOMES = {
    "Encoding": "towers",
    "Features": "features",
    "Need": "objective",
    "Objective": "objective",
    "Progress": "objective",
    "Segment": "towers",
    "Space": "spaces",
    "Tower": "towers",
    "hookimpl": "hookspecs",
    "load": "loading",
}
__all__ = [*sorted(_HOMES), "dist"]


def __getattr__(name: str) -> Any:
    if name == "dist":
        return import_module(".dist", __name__)
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
