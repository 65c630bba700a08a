"""Says what a run takes before it is started: parameters, memory of a GPU, FLOPs and hours.

``python tools/plan.py configs/paper/web_dino_1b.py --gpus 256``

Two small batches of blank images run on torch's meta device, where tensors have shapes but no
numbers; what they take grows linearly with the rows, but for similarities between rows, which are
not seen. So no data, weights or GPUs are needed.
"""

from __future__ import annotations

import argparse
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from _arguments import add_cfg_options
from _terminal import fail
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from webssl_toolbox.data import loader
from webssl_toolbox.data.sample import Sample
from webssl_toolbox.data.views import Context, Views
from webssl_toolbox.engine.config import load_config
from webssl_toolbox.engine.dry_run import META, build_on_meta
from webssl_toolbox.engine.parts import split
from webssl_toolbox.engine.settings import Settings, settings_from
from webssl_toolbox.engine.strategies import blocks
from webssl_toolbox.pretrainer import Pretrainer

ROWS = 16  # of the smaller batch; the other has twice as many
WORDS = 18  # of a caption
FLOAT = 4  # bytes: parameters, gradients, averages and moments are float32
MOMENTS = {"AdamW": 2, "Adam": 2, "Adagrad": 1, "SGD": 1}  # that an optimizer keeps

# What autocast computes in bfloat16; and layer norms in float32.
PRODUCTS = (
    *((F, name) for name in ("linear", "conv2d", "scaled_dot_product_attention")),
    *((torch, name) for name in ("matmul", "bmm", "baddbmm", "einsum")),
    *((Tensor, name) for name in ("matmul", "__matmul__", "bmm", "baddbmm")),
)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("config", help="a Python config, such as configs/paper/web_dino_1b.py")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="how many (default: 1)")
    parser.add_argument(
        "--efficiency", type=float, default=0.4, help="share of --tflops in use (default: 0.4)"
    )
    parser.add_argument(
        "--tflops", type=float, default=989, help="peak of a GPU (default: 989, an H100 in bf16)"
    )
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse()
    try:
        plan = make_plan(settings_from(load_config(args.config, args.cfg_options)), args.gpus)
        for line in report(plan, args.tflops, args.efficiency):
            print(line)
    except (ValueError, OSError) as error:
        fail(error)


class Work(NamedTuple):
    """What a step takes: floating-point operations, and bytes at their peak."""

    flops: float
    activations: float


@dataclass(frozen=True)
class Plan:
    """What a run takes.

    Attributes:
        settings: the config.
        gpus: that share the batch.
        parameters: of each tower, space and objective: all, and those that are trained.
        fixed: bytes that stay for the whole run, by what they are for.
        gathered: bytes that a GPU holds in full at once, where these are sharded.
        step: of one GPU.
    """

    settings: Settings
    gpus: int
    parameters: dict[str, tuple[int, int]]
    fixed: dict[str, int]
    gathered: int
    step: Work

    @property
    def rows(self) -> int:
        """Rows of the batch on one GPU."""
        return self.settings.train_dataloader.batch_size // self.gpus

    def hours(self, tflops: float, efficiency: float) -> float:
        """Returns the hours of the run at a share of the peak of a GPU."""
        seconds = self.step.flops / (tflops * 1e12 * efficiency)
        return seconds * self.settings.train_cfg.max_iters / 3600


def make_plan(settings: Settings, gpus: int) -> Plan:
    """Builds the model without numbers, and counts.

    Raises:
        ValueError: the GPUs cannot share the batch evenly.
    """
    batch = settings.train_dataloader.batch_size
    if gpus < 1 or batch % gpus:
        raise ValueError(f"--gpus {gpus} cannot share a batch of {batch} rows; take a divisor")
    model = build_on_meta(settings.model).train()
    few = ROWS * model.chunks
    less, more = (measure(settings, model, rows) for rows in (few, 2 * few))
    slope = batch // gpus / few - 1  # of a line through both
    step = Work(*(low + slope * (high - low) for low, high in zip(less, more, strict=True)))
    kept, whole = fixed(settings, model), gathered(settings, model)
    return Plan(settings, gpus, dict(parameters(model)), kept, whole, step)


def parameters(model: Pretrainer) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yields for each tower, space and objective its parameters, and how many are trained."""
    for kind in ("towers", "spaces", "objectives"):
        for name, module in model.get_submodule(kind).named_children():
            every = [(p.numel(), p.requires_grad) for p in module.parameters()]
            trained = sum(size for size, train in every if train)
            yield f"{kind}.{name}", (sum(size for size, _ in every), trained)


def fixed(settings: Settings, model: Pretrainer) -> dict[str, int]:
    """Returns the bytes that weights, gradients and optimizers take throughout."""
    parts = split(settings.optim_wrapper, model)
    state = 0
    for part in parts:
        kept = part.cfg["type"] != "SGD" or part.cfg.get("momentum")
        moments = MOMENTS[part.cfg["type"]] if kept else 0
        state += moments * sum(p.numel() for p in part.parameters.values())
    tensors = [*model.parameters(), *model.buffers()]
    return {
        "weights, averages, queues": sum(t.nbytes for t in tensors),
        "gradients": sum(p.nbytes for p in model.parameters() if p.requires_grad),
        "optimizer": FLOAT * state,
    }


def gathered(settings: Settings, model: Pretrainer) -> int:
    """Returns the bytes of what FSDP2 gathers at once.

    All that is no block of a tower, with its gradients; and two blocks, the one that is computed
    and the one that comes next, with the gradients of one.
    """
    every = blocks(model.towers)
    inside = {p for block in every for p in block.parameters()}
    root = [p for p in model.parameters() if p not in inside]
    size = FLOAT if settings.optim_wrapper.precision == "fp32" else FLOAT // 2
    largest = max((sum(p.numel() for p in block.parameters()) for block in every), default=0)
    return sum(p.nbytes * (1 + p.requires_grad) for p in root) + 3 * size * largest


# -- one step without numbers ------------------------------------------------------------------


class Blank:
    """A dataset of black images with captions of ``WORDS`` words."""

    classes: tuple[str, ...] = ()
    synonyms: Mapping[str, Any] = {}

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """Returns the sample."""
        return Sample(np.zeros((256, 256, 3), np.uint8), (" ".join(["word"] * WORDS),) * 2)


def measure(settings: Settings, model: Pretrainer, rows: int) -> Work:
    """Runs forward and backward on the views of the config."""
    dataset = Blank(rows)
    context = Context(dict(model.towers.items()), dataset)
    views = Views(settings.train_dataloader.views, model.needed_inputs(), context)
    drawn = next(loader.batches(dataset, views, rows, settings.seed))
    inputs = loader.to_device(drawn, META)
    for parameter in model.parameters():
        if parameter.requires_grad:  # else the peak would hold gradients, too
            parameter.grad = torch.empty_like(parameter)
    every = [*model.parameters(), *model.buffers()]
    known = [*every, *(p.grad for p in every if p.grad is not None)]
    flops, peak = FlopCounterMode(display=False), Peak(known)
    with flops, peak, as_on_gpu(settings.optim_wrapper.precision != "fp32"):
        losses, _ = model(views.finish(inputs))
        torch.stack(list(losses.values())).sum().backward()
    return Work(flops.get_total_flops(), peak.highest)


class Peak(TorchDispatchMode):
    """Follows the bytes of the tensors that are alive at the same time.

    Args:
        known: tensors that do not count, nor do views of them.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.live = self.highest = 0
        self.known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._follow(tensor.untyped_storage())
        return out

    def _follow(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self.known:
            return
        self.known.add(storage._cdata)
        self.live += storage.nbytes()
        self.highest = max(self.highest, self.live)
        weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, storage: int, size: int) -> None:
        self.known.remove(storage)
        self.live -= size


@contextmanager
def as_on_gpu(autocast: bool) -> Iterator[None]:
    """Lets the meta device do as a GPU does, which it would not: autocast, and fused attention.

    Args:
        autocast: whether products of matrices are in bfloat16.
    """
    with ExitStack() as stack:
        stack.enter_context(patch.object(F, "scaled_dot_product_attention", fused_attention))
        lower = [(*place, torch.bfloat16) for place in PRODUCTS]
        for owner, name, dtype in (*lower, (F, "layer_norm", torch.float32)) if autocast else ():
            replacement = casting(getattr(owner, name), dtype)
            stack.enter_context(patch.object(owner, name, replacement))
        yield


def fused_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, is_causal: bool = False
) -> Tensor:
    """Calls the kernel that keeps no matrix; shapes do not depend on the mask."""
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal)[0]


def casting(function: Callable[..., Tensor], dtype: torch.dtype) -> Callable[..., Tensor]:
    """Returns ``function``, which then takes its floating-point tensors as ``dtype``."""

    def cast(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

    return lambda *args, **kwargs: function(*map(cast, args), **kwargs)


# -- what is printed ---------------------------------------------------------------------------


def report(plan: Plan, tflops: float, efficiency: float) -> Iterator[str]:
    """Yields the lines that describe a plan."""
    settings, gpus = plan.settings, plan.gpus
    steps, batch = settings.train_cfg.max_iters, settings.train_dataloader.batch_size
    on = f"{gpus:,} GPUs, {plan.rows:,} on each" if gpus > 1 else "one GPU"
    yield f"{steps:,} steps of {batch:,} rows on {on}"

    yield f"\n{'parameters, in millions':<32}{'all':>12}{'trained':>12}"
    sums = tuple(map(sum, zip(*plan.parameters.values(), strict=True)))
    for name, counts in [*plan.parameters.items(), ("sum", sums)]:
        yield f"{name:<32}" + "".join(f"{count / 1e6:>12,.1f}" for count in counts)

    yield f"\n{'memory of a GPU, in GB':<32}{'replicated':>12}{'sharded':>12}"
    for name, size in plan.fixed.items():
        yield f"{name:<32}{size / 1e9:>12,.1f}{size / gpus / 1e9:>12,.1f}"
    yield f"{'gathered at once':<32}{0:>12,.1f}{plan.gathered / 1e9:>12,.1f}"
    activations = plan.step.activations
    yield f"{'activations (an estimate)':<32}" + f"{activations / 1e9:>12,.1f}" * 2
    kept = sum(plan.fixed.values())
    whole, shard = kept + activations, kept / gpus + plan.gathered + activations
    yield f"{'sum':<32}{whole / 1e9:>12,.1f}{shard / 1e9:>12,.1f}"
    named = settings.strategy == "fsdp2"
    yield f"strategy='fsdp2' shards; this config {'names it' if named else 'does not name it'}."

    each = plan.step.flops / 1e12
    hours = plan.hours(tflops, efficiency)
    yield f"\nA step takes {each * gpus:,.2f} TFLOPs, {each:,.2f} on each GPU."
    yield (
        f"The run takes {hours:,.1f} hours, {hours * gpus:,.0f} of a GPU, at {efficiency:.0%} of "
        f"{tflops:g} TFLOP/s."
    )


if __name__ == "__main__":
    main()
