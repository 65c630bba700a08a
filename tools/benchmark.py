"""A training step, relative to what its bare towers cost.

    python tools/benchmark.py [--methods clip declip simsiam] [--rounds 7] [--json out.json]
    python tools/benchmark.py --device cuda --precision bf16

The **step** is all that a training iteration computes once its inputs lie on the device: the
pretrainer's forward, backward, gradient norm, optimizer step and ``after_step``. The **bound** is
the least that a program computes which encodes each view by itself: the same towers forward and
backward on the same views, one view a call, captions padded to 77 tokens, gradients from the sum of
the pooled outputs, and a fused AdamW step over the towers. No losses, heads or spaces. The bound of
MAE is its tower on the kept patches alone, then its decoder on whole sequences, whose sum gives the
gradients; no map to pixels and no loss. That of DINO has the teacher's forward, and a teacher that
does not follow.

Both alternate in one run on one thread, since the load of a machine changes from minute to minute:
ratios hold, absolute times do not. On a CPU they are the process's own seconds, without the time it
waits for a core; on a GPU they are wall seconds, synchronised. FLOPs (of matrix products,
convolutions and attention, but for the CPU's fused kernel) and ATen calls do not vary at all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from webssl_toolbox.data.collate import Tokens, collate
from webssl_toolbox.data.loader import to_device
from webssl_toolbox.engine import settings
from webssl_toolbox.engine.optim import OptimWrapper
from webssl_toolbox.features import segment
from webssl_toolbox.objective import Progress
from webssl_toolbox.pretrainer import Pretrainer
from webssl_toolbox.registry import MODELS
from webssl_toolbox.towers import Segment, Tower, is_text

CONTEXT, CAPTION = 77, 20  # tokens that the bound pads to, and tokens that a caption has
HIDDEN = 0.15  # of the words, for masked language modelling
KEPT = 0.25  # of the patches, for MAE
LOCAL = 48  # side in pixels of views whose name begins with an l: local crops
OPTIMIZER = dict(lr=1e-4, weight_decay=0.1, betas=(0.9, 0.98))

VIT = dict(type="ViT", patch_size=16, width=384, depth=12, heads=6, input_size=96)
RESNET = dict(type="CLIPResNet", depths=(3, 4, 6, 3), width=64, input_size=64, pool="mean")
TEXT = dict(type="TextTransformer", width=256, depth=4, heads=4)
JOINT = dict(joint=dict(type="JointSpace", dim=512))
DECODER = dict(decoder=dict(type="MaskDecoder", dim=256, depth=4, heads=8))
PROTOTYPES = dict(type="Prototypes", count=8192)
DECLIP = dict(
    clip=dict(type="CLIP", weight=0.4),
    multi_view=dict(type="MultiView", weight=0.2),
    simsiam=dict(type="SimSiam", dim=1024, hidden=512, space="joint", weight=0.2),
    mlm=dict(type="MLM", text="text", weight=0.2),
    nn_queue=dict(type="NNQueue", size=8192, weight=0.2),
)


@dataclass(frozen=True)
class Method:
    """A model and its batch."""

    objectives: dict[str, Any]
    towers: dict[str, Any] = field(default_factory=lambda: dict(image=VIT, text=TEXT))
    spaces: dict[str, Any] = field(default_factory=lambda: JOINT)
    batch: int = 8

    def model(self) -> Pretrainer:
        """Returns the pretrainer, in training mode."""
        model = MODELS.build(
            dict(
                type="Pretrainer",
                towers=self.towers,
                spaces=self.spaces,
                objectives=self.objectives,
            )
        )
        assert isinstance(model, Pretrainer)
        return model.train()


METHODS = {
    "clip": Method(dict(clip=dict(type="CLIP")), batch=16),
    # As in the released code: CLIP reads the masked caption, so one pass serves CLIP and MLM.
    "declip": Method(DECLIP),
    # As in the paper's figure: CLIP reads a clean caption, MLM a third, masked text view.
    "declip_clean": Method(DECLIP | dict(mlm=dict(type="MLM", text="text_mlm", weight=0.2))),
    "simsiam": Method(dict(simsiam=dict(type="SimSiam")), dict(image=RESNET), {}, batch=16),
    "slip": Method(dict(clip=dict(type="CLIP"), simclr=dict(type="SimCLR", views=("v2", "v3")))),
    "mae": Method(
        dict(mae=dict(type="MAE")), dict(image=VIT | dict(positions="sincos")), DECODER, batch=32
    ),
    "dino": Method(
        dict(dino=dict(type="DINO", locals=("l1", "l2", "l3", "l4"))),
        dict(image=VIT, image_ema=dict(type="EMA", of="towers.image")),
        dict(proto=PROTOTYPES, proto_ema=dict(type="EMA", of="spaces.proto")),
        batch=16,
    ),
}

Step = Callable[[], None]


def draw_inputs(model: Pretrainer, rows: int, seed: int = 0) -> dict[str, Tensor]:
    """Draws a batch of noise: images, and captions with hidden words, collated as by the loader."""
    rng = np.random.default_rng(seed)
    return collate([_draw_row(model, rng) for _ in range(rows)])


def _draw_row(model: Pretrainer, rng: np.random.Generator) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for view in sorted(model.needed_inputs()):
        if is_text(view):
            row[view] = _draw_caption(model.towers["text"].tokenizer, rng)
        elif view.endswith("_keep"):
            patches = cast(Tower, model.towers["image"]).num_patches()
            row[view] = np.sort(rng.permutation(patches)[: int(KEPT * patches)])
        else:
            local = view.startswith("l")
            size: Any = LOCAL if local else model.towers["image"].input_size
            row[view] = rng.standard_normal((3, size, size), dtype=np.float32)
    return row


def _draw_caption(tokenizer: Any, rng: np.random.Generator) -> Tokens:
    words = rng.integers(1, tokenizer.sot, size=CAPTION - 2)
    ids = np.array([tokenizer.sot, *words, tokenizer.eot])
    index = 1 + np.sort(rng.permutation(len(words))[: round(HIDDEN * len(words))])
    hidden = ids.copy()
    hidden[index] = tokenizer.mask
    return Tokens(hidden, int(rng.integers(1 << 40)), index, ids[index])


def ours(method: Method, device: torch.device, precision: str = "fp32") -> tuple[Step, Pretrainer]:
    """Returns a training step of the toolbox, and the model."""
    model = method.model()
    inputs = draw_inputs(model, method.batch)
    return training_step(model, inputs, device, precision), model


def training_step(
    model: Pretrainer, inputs: dict[str, Tensor], device: torch.device, precision: str = "fp32"
) -> Step:
    """Returns a step as the runner takes it."""
    model = model.to(device, memory_format=torch.channels_last)
    wrapper = settings.OptimWrapper(dict(type="AdamW", **OPTIMIZER), precision=precision)
    optimizer = OptimWrapper(wrapper, model, device)
    inputs = to_device(inputs, device)

    def step() -> None:
        model.step += 1
        optimizer.schedule(model.step, model.total)
        with optimizer.autocast():
            losses, _ = model(inputs)
        finite, _ = optimizer.update(torch.stack(list(losses.values())).sum())
        model.after_step(Progress(model.step, model.total, finite))

    return step


def bound(method: Method, device: torch.device, precision: str = "fp32") -> Step:
    """Returns a step of the bare towers, view by view."""
    model = method.model().to(device, memory_format=torch.channels_last)
    inputs = to_device(draw_inputs(model, method.batch), device)
    calls = [
        (tower, padded(segment(need, inputs)))
        for tower, needs in model.plan.items()
        for need in needs
    ]
    decoder: Any = dict(model.spaces.items()).get("decoder")
    bare = ("towers.", "spaces.decoder.")
    trained = ((name, p) for name, p in model.named_parameters() if p.requires_grad)
    parameters = [p for name, p in trained if name.startswith(bare)]
    optimizer = torch.optim.AdamW(parameters, **OPTIMIZER, fused=True)  # type: ignore[arg-type]

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            outputs: list[Tensor] = []
            for tower, alone in calls:
                (encoding,) = model.towers[tower]([alone])
                outputs += decoder((encoding, alone), tower) if decoder else [encoding.pooled]
        torch.stack([x.sum() for x in outputs]).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def padded(alone: Segment) -> Segment:
    """Returns images as they are; captions as if all of ``CONTEXT`` tokens were words."""
    if not is_text(alone.part.view):
        return alone
    data = alone.part.data
    data = nn.functional.pad(data, (0, CONTEXT - data.shape[1]))
    length = torch.full((len(data),), CONTEXT)
    return replace(alone, parts=(replace(alone.part, data=data, length=length),))


class Operations(TorchDispatchMode):
    """Counts the ATen calls below autograd, by name: on a GPU, about one launch each."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.calls[str(func)] += 1
        return func(*args, **(kwargs or {}))


def count(step: Step) -> tuple[int, Counter[str]]:
    """Returns the FLOPs of a step, which has run before (optimizer state), and its ATen calls."""
    with FlopCounterMode(display=False) as flops:
        step()
    with Operations() as operations:
        step()
    return flops.get_total_flops(), operations.calls


def seconds(step: Step, device: torch.device) -> float:
    """Times one step."""
    if device.type == "cpu":
        start = time.process_time()
        step()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    step()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def alternate(
    steps: Mapping[str, Step], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Times steps, which have run before, in turns; the order changes from round to round."""
    times: dict[str, list[float]] = {who: [] for who in steps}
    for i in range(rounds):
        for who in sorted(steps, reverse=bool(i % 2)):
            times[who].append(seconds(steps[who], device))
    return times


def compare(
    steps: Mapping[str, Step], a: str, b: str, rounds: int, device: torch.device
) -> list[str]:
    """Returns the median ratio of the times of ``a`` and ``b``, and that of their shortest."""
    for step in steps.values():
        step()
    times = alternate(steps, rounds, device)
    ratios = [x / y for x, y in zip(times[a], times[b], strict=True)]
    return [f"{statistics.median(ratios):.2f}", f"{min(times[a]) / min(times[b]):.2f}"]


def beside_lightly(step: Step, theirs: Step, rounds: int, device: torch.device) -> list[str]:
    """Compares a step with lightly's; returns a table of counts and the ratio of times."""
    steps = {"here": step, "lightly": theirs}
    median, least = compare(steps, "here", "lightly", rounds, device)
    return [*work(steps), "", f"time here / lightly: median {median}, min / min {least}"]


def work(steps: Mapping[str, Step]) -> list[str]:
    """Returns a table of what steps count, in Markdown."""
    lines = ["| step | GFLOPs, without attention on a CPU | ATen calls |", "|---|---:|---:|"]
    for name, step in steps.items():
        flops, calls = count(step)
        lines.append(f"| {name} | {flops / 1e9:.1f} | {calls.total()} |")
    return lines


def measure(name: str, rounds: int, device: torch.device, precision: str) -> dict[str, Any]:
    """Counts and times one method against its bound."""
    method = METHODS[name]
    steps = {"ours": ours(method, device, precision)[0], "bound": bound(method, device, precision)}
    for step in steps.values():
        step()
    counts = {who: count(step) for who, step in steps.items()}
    times = alternate(steps, rounds, device)
    ratios = [a / b for a, b in zip(times["ours"], times["bound"], strict=True)]
    return {
        "method": name,
        "batch": method.batch,
        "median_ratio": statistics.median(ratios),
        "min_ratio": min(times["ours"]) / min(times["bound"]),
        "flops_ratio": counts["ours"][0] / counts["bound"][0],
        "gflops": {who: flops / 1e9 for who, (flops, _) in counts.items()},
        "aten_calls": {who: calls.total() for who, (_, calls) in counts.items()},
        "seconds": times,
    }


def table(results: list[dict[str, Any]]) -> str:
    """Returns the results in Markdown."""
    lines = [
        "| method | batch | step / bound, median | min / min | FLOPs / bound | GFLOPs | ATen calls "
        "| of the bound | median step, ms |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in results:
        lines.append(
            f"| {r['method']} | {r['batch']} | {r['median_ratio']:.3f} | {r['min_ratio']:.3f} "
            f"| {r['flops_ratio']:.3f} | {r['gflops']['ours']:.1f} | {r['aten_calls']['ours']} "
            f"| {r['aten_calls']['bound']} | {statistics.median(r['seconds']['ours']) * 1e3:.0f} |"
        )
    return "\n".join(lines)


def parse(parser: argparse.ArgumentParser, rounds: int) -> tuple[argparse.Namespace, torch.device]:
    """Adds what all benchmarks take, and ends the program where there is no such device."""
    parser.add_argument("--rounds", type=int, default=rounds, help="alternated steps of each side")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here: nothing measured")
        sys.exit()
    torch.set_num_threads(1)
    return args, torch.device(args.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    args, device = parse(parser, rounds=7)
    results = []
    for name in args.methods:
        results.append(measure(name, args.rounds, device, args.precision))
        print(f"{name}: {results[-1]['median_ratio']:.3f}", file=sys.stderr, flush=True)
    print(table(results))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
