"""Which optimizer trains which parameters: one for the whole model, or others for its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..registry import nearest
from ..schedules import Schedule
from ..schedules import build as build_schedule
from . import settings


@dataclass(frozen=True)
class Part:
    """The parameters that share an optimizer.

    Attributes:
        name: its entry in ``optim_wrapper.parts``; empty for all that no entry takes.
        of: path of the module that they belong to; empty likewise.
        cfg: ``dict(type=..., lr=...)``.
        parameters: the trainable ones, by their name in the model.
    """

    name: str
    of: str
    cfg: Mapping[str, Any]
    parameters: dict[str, nn.Parameter] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """Path of ``cfg`` in the config, for messages."""
        part = f"parts.{self.name}." if self.name else ""
        return f"optim_wrapper.{part}optimizer"

    def takes(self, parameter: str) -> bool:
        """Returns whether a parameter of this name lies in the module."""
        return not self.of or parameter.startswith(f"{self.of}.")

    def decayed(self, decay: bool) -> list[nn.Parameter]:
        """Returns the parameters that weight decay applies to, or those that it does not."""
        return [p for p in self.parameters.values() if (p.ndim >= 2) == decay]

    def schedules(self) -> dict[str, Schedule]:
        """Builds the schedules of learning rate and weight decay, where they are given."""
        return {
            key: build_schedule(self.cfg[key], f"{self.where}.{key}")
            for key in settings.SCHEDULED
            if key in self.cfg
        }

    def build(self) -> Optimizer:
        """Builds the optimizer; one group is decayed, the other is not.

        Raises:
            ValueError: as ``settings.check_optimizer``, or it cannot do with a value.
        """
        cls: Any = settings.check_optimizer(self.cfg, self.where)
        arguments = {k: v for k, v in self.cfg.items() if k not in ("type", *settings.SCHEDULED)}
        groups: list[dict[str, Any]] = [
            {"params": self.decayed(True), "decay": True},
            {"params": self.decayed(False), "decay": False, "weight_decay": 0.0},
        ]
        try:
            optimizer: Optimizer = cls([g for g in groups if g["params"]], **arguments, fused=True)
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
        ValueError: an entry names no module, or is left with nothing to train.
    """
    parts = [Part("", "", cfg.optimizer)]
    parts += [Part(name, entry.of, entry.optimizer) for name, entry in cfg.parts.items()]
    modules = dict(model.named_modules())
    for part in parts:
        if part.of not in modules:
            top = [path for path in modules if path.count(".") < 2 and path]
            raise ValueError(
                f"optim_wrapper.parts.{part.name}.of: the model has no {part.of!r}"
                f"{nearest(part.of, top)}"
            )
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            takers = [part for part in parts if part.takes(name)]
            max(takers, key=lambda part: len(part.of)).parameters[name] = parameter
    for part in parts:
        if not part.parameters:
            remedy = "leave that part out" if part.name else "remove one of optim_wrapper.parts"
            raise ValueError(
                f"{part.where} has nothing to train: its parameters are frozen, or another part "
                f"takes them; {remedy}"
            )
    return parts


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
        self.types = {of: type(each).__name__ for of, each in zip(paths, optimizers, strict=True)}
        for each in optimizers:
            self.state.update(each.state)
            each.state = self.state  # by parameter, so they do not meet

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Steps each, unless ``found_inf`` says that the gradient is not finite."""
        for each in self.optimizers:
            each.found_inf = self.found_inf  # type: ignore[attr-defined]
            each.step()
