"""Which optimizer trains which parameters: one for the whole model, or others for its parts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..schedules import Schedule
from ..schedules import build as build_schedule
from . import settings
from .groups import assign, shares
from .settings import Share


@dataclass(frozen=True)
class Part:
    """The parameters that share an optimizer.

    Attributes:
        name: its entry in ``optim_wrapper.parts``; empty for all that no entry takes.
        of: path of the module that they belong to; empty likewise.
        cfg: ``dict(type=..., lr=...)``.
        groups: the trainable ones by their name in the model, apart where their shares differ.
    """

    name: str
    of: str
    cfg: Mapping[str, Any]
    groups: dict[Share, dict[str, nn.Parameter]] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """All of its parameters."""
        return {name: p for group in self.groups.values() for name, p in group.items()}

    @property
    def where(self) -> str:
        """Path of ``cfg`` in the config, for messages."""
        part = f"parts.{self.name}." if self.name else ""
        return f"optim_wrapper.{part}optimizer"

    def schedules(self) -> dict[str, Schedule]:
        """Builds the schedules of learning rate and weight decay; torch's where none is given."""
        known = inspect.signature(settings.check_optimizer(self.cfg, self.where)).parameters
        return {
            key: build_schedule(self.cfg.get(key, known[key].default), f"{self.where}.{key}")
            for key in settings.SCHEDULED
        }

    def build(self) -> Optimizer:
        """Builds the optimizer.

        Raises:
            ValueError: as ``settings.check_optimizer``, or it cannot do with a value.
        """
        cls: Any = settings.check_optimizer(self.cfg, self.where)
        arguments = {k: v for k, v in self.cfg.items() if k not in ("type", *settings.SCHEDULED)}
        groups = [
            {"params": list(group.values()), **vars(share)} for share, group in self.groups.items()
        ]
        try:
            optimizer: Optimizer = cls(groups, **arguments, fused=True)
        except (TypeError, RuntimeError) as error:
            raise ValueError(f"{self.where}: {error}") from None
        if arguments.get("momentum"):
            # Fused SGD would take uninitialised memory for it, should the first step be skipped.
            for parameter in self.parameters.values():
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer


def split(cfg: settings.OptimWrapper, model: nn.Module) -> list[Part]:
    """Assigns each trainable parameter to its optimizer: to that of the innermost module named.

    Returns:
        What ``cfg.optimizer`` trains, then the entries of ``cfg.parts`` in their order.

    Raises:
        ValueError: an entry names nothing, or is left with nothing to train; or as ``shares``.
    """
    owners = assign({name: entry.of for name, entry in cfg.parts.items()}, model, "parts")
    parts = {"": Part("", "", cfg.optimizer)}
    parts |= {name: Part(name, entry.of, entry.optimizer) for name, entry in cfg.parts.items()}
    parameters = dict(model.named_parameters())
    for name, share in shares(cfg, model).items():
        part = parts[owners.get(name, "")]
        part.groups.setdefault(share, {})[name] = parameters[name]
    if not parts[""].groups:
        raise ValueError(
            "optim_wrapper.optimizer has nothing to train: optim_wrapper.parts take all; remove one"
        )
    return list(parts.values())


def kind(optimizer: Optimizer) -> Any:
    """Returns its type, with options that decide what it keeps; where several, by path."""
    kept = [option for option in ("amsgrad", "momentum") if optimizer.defaults.get(option)]
    return getattr(optimizer, "types", None) or " with ".join([type(optimizer).__name__, *kept])


class Joined(Optimizer):
    """Several optimizers of one model as one: it lists their groups, and they share its state.

    Args:
        paths: the module that each trains.
        optimizers: over disjoint parameters.

    Attributes:
        types: the type of each by its path, which checkpoints record.
    """

    def __init__(self, paths: Sequence[str], optimizers: Sequence[Optimizer]) -> None:
        super().__init__([group for each in optimizers for group in each.param_groups], {})
        self.optimizers = optimizers
        self.types = {of: kind(each) for of, each in zip(paths, optimizers, strict=True)}
        for each in optimizers:
            self.state.update(each.state)
            each.state = self.state  # by parameter, so they do not meet

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Steps each, unless ``found_inf`` says that the gradient is not finite."""
        for each in self.optimizers:
            each.found_inf = self.found_inf  # type: ignore[attr-defined]
            each.step()
