"""The optimizer step: no host synchronisation, and a bad gradient changes nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn

from .. import dist
from ..compat import absent, has_native_bf16
from . import settings
from .groups import outermost
from .parts import Joined, split

with absent("transformers"):
    from mmengine.optim import OptimWrapper as MMOptimWrapper


class OptimWrapper(MMOptimWrapper):
    """mmengine's wrapper with schedules, and a finite flag that stays on the device.

    Biases, norms, LayerScale's gammas and other parameters of fewer than two dimensions are not
    decayed; class token, registers, mask token and positions are, as in DINOv2.

    Args:
        cfg: the ``optim_wrapper`` section.
        model: whose parameters to optimise.
        device: where they are.

    Raises:
        ValueError: an unknown optimizer or argument; a part or a group that the model lacks.
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
        clipped: dict[str, list[nn.Parameter]] = {}
        for parameter, name in self.names.items():
            module = ".".join(name.split(".")[:2]) if cfg.clip_per == "module" else ""
            clipped.setdefault(module, []).append(parameter)
        self.clipped = list(clipped.values())
        self.lr: dict[str, float] = {}
        self.precision = precision(cfg, device)
        self.device_type = device.type

    def autocast(self) -> torch.autocast:
        """Returns the context that the forward runs in."""
        enabled = self.precision == "bf16"
        return torch.autocast(self.device_type, dtype=torch.bfloat16, enabled=enabled)

    def schedule(self, step: int, total: int) -> None:
        """Sets learning rates and weight decay of a step, for each group its share."""
        for part, optimizer, schedules in zip(
            self.parts, self.optimizers, self.schedules, strict=True
        ):
            lr, decay = (schedules[key](step, total) for key in settings.SCHEDULED)
            self.lr[f"lr.{part.name}" if part.name else "lr"] = lr
            for group in optimizer.param_groups:
                group["lr"] = lr * group["lr_mult"] * (step >= group["freeze"])
                group["weight_decay"] = decay * group["decay_mult"]

    def rates(self) -> dict[str, float]:
        """Returns the learning rates, to be logged: ``lr``, and ``lr.<name>`` of each part."""
        return dict(self.lr)

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
        # A loss that is not finite may still have a finite gradient, and be finite on other ranks:
        # the factor, 1 or NaN, lets its gradient say so, which all ranks see.
        loss.backward(loss.detach() * 0 + 1)
        gradients = [[p.grad for p in each if p.grad is not None] for each in self.clipped]
        if sum(map(len, gradients)) < len(self.names):
            missing = [name for p, name in self.names.items() if p.grad is None]
            refuse_untrained(missing, self.names.values())
        norms = dist.norms(gradients)
        norm = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
        finite = norm < torch.inf  # one launch; it is false for NaN, too
        if self.bound is not None:
            for each, own in zip(self.clipped, norms, strict=True):
                torch.nn.utils.clip_grads_with_norm_(each, self.bound, own, foreach=True)
        # Fused optimizers skip on the device where `found_inf` is 1 (the gradient scaler's door).
        self.optimizer.found_inf = (~finite).float()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return finite, norm


def precision(cfg: settings.OptimWrapper, device: torch.device) -> str:
    """Returns what towers compute in, ``'bf16'`` or ``'fp32'``: ``'auto'`` asks the hardware."""
    if cfg.precision == "auto":
        return "bf16" if has_native_bf16(device) else "fp32"
    return cfg.precision


class Untrained(ValueError):
    """A trainable parameter gets no gradient."""


def refuse_untrained(missing: Collection[str], trainable: Iterable[str]) -> None:
    """Raises Untrained where parameters got no gradient, naming the modules that got none.

    Args:
        missing: names of those.
        trainable: names of all that can be trained.
    """
    if missing:
        raise Untrained(
            f"no objective trains {', '.join(outermost(missing, trainable))} ({len(missing)} "
            "parameters); remove what they belong to from the config, or add an objective that "
            "trains it"
        )
