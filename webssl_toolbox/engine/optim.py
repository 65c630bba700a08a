"""The optimizer step: no host synchronisation, and a bad gradient changes nothing."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.optim import OptimWrapper as MMOptimWrapper
from mmengine.registry import OPTIMIZERS
from torch import Tensor, nn

from ..compat import has_native_bf16
from ..registry import nearest
from ..schedules import build as build_schedule
from . import settings


class OptimWrapper(MMOptimWrapper):
    """mmengine's wrapper with schedules, and a finite flag that stays on the device.

    Biases, norms and other parameters of fewer than two dimensions are not decayed.

    Args:
        cfg: the ``optim_wrapper`` section.
        model: whose parameters to optimise.
        device: where they are.
    """

    def __init__(self, cfg: settings.OptimWrapper, model: nn.Module, device: torch.device) -> None:
        optimizer = dict(cfg.optimizer)
        where = "optim_wrapper.optimizer"
        self.schedules = {
            key: build_schedule(optimizer.pop(key), f"{where}.{key}")
            for key in ("lr", "weight_decay")
            if key in optimizer
        }
        super().__init__(_build(optimizer, model, device, where))
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
        """Sets learning rate and weight decay of a step; undecayed groups stay at 0."""
        for group in self.optimizer.param_groups:
            for key, value in self.schedules.items():
                if key == "lr" or group["decay"]:
                    group[key] = value(step, total)

    def update(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Back-propagates and steps.

        Returns:
            Whether the gradient is finite, bool ``[]``: else the step is not taken; and its norm
            before clipping, ``[]``. Both on the device, equal on all ranks (gradients are already
            averaged). The host does not wait for either.

        Raises:
            ValueError: a trainable parameter got no gradient. Under data parallelism that makes a
                step silently wrong.
        """
        loss.backward()
        parameters = list(self.names)
        gradients = [p.grad for p in parameters if p.grad is not None]
        if len(gradients) < len(parameters):
            unused = [name for p, name in self.names.items() if p.grad is None]
            raise ValueError(
                f"no objective trains {', '.join(unused[:3])}{' ...' * (len(unused) > 3)} "
                f"({len(unused)} parameters); remove what they belong to from the config, or add "
                "an objective that trains it"
            )
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        finite = norm.isfinite()
        if self.bound is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.bound, norm, foreach=True)
        # Fused optimizers skip on the device where `found_inf` is 1 (the gradient scaler's door).
        self.optimizer.found_inf = (~finite).float()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return finite, norm


def _build(
    cfg: Mapping[str, Any], model: nn.Module, device: torch.device, where: str
) -> torch.optim.Optimizer:
    name = cfg.get("type")
    cls = OPTIMIZERS.module_dict.get(str(name))
    if cls is None:
        raise ValueError(
            f"{where}.type {name!r} is not known{nearest(str(name), OPTIMIZERS.module_dict)}"
        )
    valid = inspect.signature(cls).parameters.keys() - {"params", "foreach", "maximize"}
    arguments = {key: value for key, value in cfg.items() if key != "type"}
    for key in arguments:
        if key not in valid:
            raise ValueError(f"{where}.{key}: {name} takes no such argument{nearest(key, valid)}")
    if "fused" not in valid:
        raise ValueError(
            f"{where}.type: {name} has no fused step, which a skipped step on the device needs; "
            f"use AdamW, Adam or SGD"
        )
    decayed = {True: [], False: []}  # type: ignore[var-annotated]
    for parameter in model.parameters():
        if parameter.requires_grad:
            decayed[parameter.ndim >= 2].append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed[True], "decay": True},
        {"params": decayed[False], "decay": False, "weight_decay": 0.0},
    ]
    try:
        optimizer = cls([g for g in groups if g["params"]], **{**arguments, "fused": True})
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{where}: {error}") from None
    if arguments.get("momentum"):
        if arguments.get("dampening"):
            raise ValueError(f"{where}.dampening is not supported; leave it out")
        # Fused SGD would take uninitialised memory for it, should the first step be skipped.
        for parameter in model.parameters():
            if parameter.requires_grad:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer
