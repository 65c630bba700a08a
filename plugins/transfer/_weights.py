"""Weights of one tower of a checkpoint, and their way into a module of OpenMMLab, safely."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.registry import WEIGHT_INITIALIZERS, Registry
from safetensors import safe_open
from torch import Tensor, nn

from webssl_toolbox.engine import checkpoint
from webssl_toolbox.engine.start import newest
from webssl_toolbox.registry import SCOPE
from webssl_toolbox.towers import Tower

logger = logging.getLogger("webssl_toolbox")
INITIALIZERS = Registry("weight initializer", parent=WEIGHT_INITIALIZERS, scope=SCOPE)


class StoredTower(NamedTuple):
    """A tower of a checkpoint.

    Attributes:
        what: it is, for messages.
        config: its entry in ``model.towers``; empty where the checkpoint stores no config.
        tensors: by their names in the tower.
    """

    what: str
    config: Mapping[str, Any]
    tensors: dict[str, Tensor]


def read_tower(path: str | Path, name: str | None = None) -> StoredTower:
    """Reads a tower of a run of this toolbox.

    Args:
        path: a work dir, or a folder ``step_...`` inside its ``checkpoints``.
        name: of the tower; by default that which the run evaluates with, a teacher where there is
            one. An average is as the tower that it follows.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: it is damaged or a pickle, or has no such tower.
    """
    folder = newest(Path(path))
    config = checkpoint.verify(folder).get("config")
    name = name or str(_at(config, "test_tower") or "image")
    prefix = f"towers.{name}."
    with safe_open(folder / checkpoint.MODEL, "pt") as file:
        names = list(file.keys())
        found = {n.removeprefix(prefix): file.get_tensor(n) for n in names if n.startswith(prefix)}
    if not found:
        others = sorted({other.split(".")[1] for other in names if other.startswith("towers.")})
        raise ValueError(f"{folder} has no tower {name!r}; it has {', '.join(others) or 'none'}")
    own = _at(config, "model", "towers", name)
    if _at(own, "type") == "EMA":
        own = _at(config, "model", "towers", str(_at(own, "of")).removeprefix("towers."))
    own = own if isinstance(own, Mapping) else {}
    return StoredTower(f"the tower {name!r} of {folder}", own, _without("module.", found))


@INITIALIZERS.register_module()
class Pretrained:
    """Starts a backbone from a tower of a checkpoint; for ``init_cfg`` of OpenMMLab's modules.

    What the backbone has must be stored, and fit; what else the tower has is left out.

    Args:
        checkpoint: a work dir of this toolbox, or one of its checkpoints.
        tower: which of its towers; by default the one that it is evaluated with.
        fresh: modules of the backbone that are not stored, and stay as they were initialised.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: it is damaged or a pickle, has no such tower, or does not fit.
    """

    wholemodule = False  # mmengine sets it

    def __init__(
        self, checkpoint: str, tower: str | None = None, fresh: Sequence[str] = ()
    ) -> None:
        self.checkpoint, self.tower, self.fresh = checkpoint, tower, fresh

    def __call__(self, module: nn.Module, config: Mapping[str, Any] | None = None) -> None:
        """Fills a module; of a tower, ``config`` is what it was built with."""
        stored = read_tower(self.checkpoint, self.tower)
        if config is not None:
            warn_of_differences(stored, config, type(module))
        fill(module, stored, self.fresh)


def fill(module: nn.Module, stored: StoredTower, fresh: Sequence[str] = ()) -> None:
    """Copies a stored tower into a tower, or into the model of another library that it wraps.

    Args:
        module: a tower, which fits positions to its own ``input_size``, or a backbone of another
            library, which has hooks of its own for that.
        stored: what to copy.
        fresh: as for ``Pretrained``.

    Raises:
        ValueError: something is missing, or of another shape.
    """
    tensors, kind = stored.tensors, type(module).__name__
    if isinstance(module, Tower):
        for name, value in module.state_dict().items():
            if name in tensors and tensors[name].shape != value.shape:
                tensors[name] = module.fit(name, tensors[name])
    else:
        tensors = _without("model.", tensors)
    try:
        missing, unused = module.load_state_dict(tensors, strict=False)
    except RuntimeError as error:  # torch has a line of its own for each tensor
        reason = str(error).splitlines()[1].strip()
        raise ValueError(
            f"{stored.what} does not fit {kind}: {reason}; give both the same arguments"
        ) from error
    # Norms over all ranks do not count batches.
    new = tuple(f"{name}." for name in fresh)
    lost = [n for n in missing if not n.startswith(new) and not n.endswith(".num_batches_tracked")]
    if lost:
        raise ValueError(
            f"{stored.what} lacks {len(lost)} tensors of {kind}, {lost[0]} first; give both the "
            "same type and arguments, or name what starts anew in fresh"
        )
    if unused:
        logger.warning("%s: %d tensors are not used, %s first", stored.what, len(unused), unused[0])


def warn_of_differences(stored: StoredTower, config: Mapping[str, Any], cls: type) -> None:
    """Says which arguments a tower was trained with, where a config now has others.

    Weights fit either way: ``pool='mean'`` against ``'cls'``.
    """
    usual = {name: p.default for name, p in inspect.signature(cls).parameters.items()}
    for name in usual if stored.config.get("type") == cls.__name__ else ():
        was, now = (c.get(name, usual[name]) for c in (stored.config, config))
        if json.dumps(was, default=repr) != json.dumps(now, default=repr):
            logger.warning("%s was trained with %s=%r, here it is %r", stored.what, name, was, now)


def _at(value: Any, *keys: str) -> Any:
    """Returns an entry of nested dicts of a checkpoint, whatever a stranger wrote there."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _without(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drops a prefix, if all names have it."""
    if not all(name.startswith(prefix) for name in tensors):
        return tensors
    return {name.removeprefix(prefix): value for name, value in tensors.items()}
