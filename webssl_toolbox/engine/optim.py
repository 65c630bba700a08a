"""The optimizer step: no host synchronisation, and a bad gradient changes nothing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..compat import absent, has_native_bf16
from . import settings
from .parts import Joined, split

with absent("transformers"):
    from mmengine.optim import OptimWrapper as MMOptimWrapper


class OptimWrapper(MMOptimWrapper):
    """mmengine's wrapper with schedules, and a finite flag that stays on the device.

    Biases, norms and other parameters of fewer than two dimensions are not decayed.

    Args:
        cfg: the ``optim_wrapper`` section.
        model: whose parameters to optimise.
        device: where they are.

    Raises:
        ValueError: an unknown optimizer or argument, or a part that the model lacks.
    """

    def __init__(self, cfg: settings.OptimWrapper, model: nn.Module, device: torch.device) -> None:
        self.parts = split(cfg, model)
        self.optimizers = [part.build() for part in self.parts]
        self.schedules = [part.schedules() for part in self.parts]
        super().__init__(
            Joined([part.of for part in self.parts], self.optimizers)
            if cfg.parts
            else self.optimizers[0]
        )
        self.names = {p: name for name, p in model.named_parameters() if p.requires_grad}
        self.bound = cfg.clip_grad
        bf16 = cfg.precision == "bf16" or (cfg.precision == "auto" and has_native_bf16(device))
        self.precision = "bf16" if bf16 else "fp32"
        self.device_type = device.type

    def autocast(self) -> torch.autocast:
        """Returns the context that the forward runs in."""
        enabled = self.precision == "bf16"
        return torch.autocast(self.device_type, dtype=torch.bfloat16, enabled=enabled)

    def schedule(self, step: int, total: int) -> None:
        """Sets learning rates and weight decay of a step; undecayed groups stay at 0."""
        for optimizer, schedules in zip(self.optimizers, self.schedules, strict=True):
            for group in optimizer.param_groups:
                for key, value in schedules.items():
                    if key == "lr" or group["decay"]:
                        group[key] = value(step, total)

    def rates(self) -> dict[str, float]:
        """Returns the learning rates, to be logged: ``lr``, and ``lr.<name>`` of each part."""
        return {
            f"lr.{part.name}" if part.name else "lr": optimizer.param_groups[0]["lr"]
            for part, optimizer in zip(self.parts, self.optimizers, strict=True)
        }

    def update(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Back-propagates and steps.

        Returns:
            Whether the gradient is finite, bool ``[]``: else the step is not taken; and its norm
            before clipping, ``[]``. Both on the device, equal on all ranks (gradients are already
            averaged). The host does not wait for either.

        Raises:
            Untrained: a trainable parameter got no gradient. Under data parallelism that makes a
                step silently wrong.
        """
        loss.backward()
        parameters = list(self.names)
        gradients = [p.grad for p in parameters if p.grad is not None]
        if len(gradients) < len(parameters):
            refuse_untrained({name: p.grad is not None for p, name in self.names.items()})
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        finite = norm.isfinite()
        if self.bound is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.bound, norm, foreach=True)
        # Fused optimizers skip on the device where `found_inf` is 1 (the gradient scaler's door).
        self.optimizer.found_inf = (~finite).float()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return finite, norm


class Untrained(ValueError):
    """A trainable parameter gets no gradient."""


def refuse_untrained(trained: Mapping[str, bool]) -> None:
    """Raises Untrained where a parameter got no gradient, naming the modules that got none.

    Args:
        trained: for each trainable parameter, by name, whether it got one.
    """
    missing = [name for name, got in trained.items() if not got]
    if missing:
        modules = dict.fromkeys(_outermost(name, trained) for name in missing)
        raise Untrained(
            f"no objective trains {', '.join(modules)} ({len(missing)} parameters); remove what "
            "they belong to from the config, or add an objective that trains it"
        )


def _outermost(name: str, trained: Mapping[str, bool]) -> str:
    """Returns the outermost module of a parameter of which nothing is trained, or its own name."""
    path = ""
    for piece in name.split("."):
        path = f"{path}.{piece}".lstrip(".")
        if not any(got for other, got in trained.items() if f"{other}.".startswith(f"{path}.")):
            break
    return path
