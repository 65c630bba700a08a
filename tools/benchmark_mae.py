"""What MAE saves by encoding the kept patches alone, and its step beside lightly's.

    python tools/benchmark_mae.py [--archs S B] [--batch 8] [--rounds 5]

For the comparison with lightly, without its many dependencies:

    pip install -c constraints.txt timm torchvision
    pip install --no-deps lightly lightly-utils

**Mask tokens**: the contrast of the paper (He et al. 2021, arXiv 2111.06377, table 2). One encoder
sees the kept quarter of the patches, the other all places, hidden ones as mask tokens; the decoder
(8 blocks of 512) and the loss are the same. Images have 224 px. FLOPs are of forward and backward,
attention included; times are whole steps, optimizer included.

**lightly**: a step of ``lightly`` as its examples for MAE write it, at the sizes and on the images
of the method ``mae`` in ``tools/benchmark.py``, with a fused AdamW of the same settings. Its target
is not normalised, and it takes no gradient norm: a little less work than here.

Steps alternate in one run and are timed as in ``tools/benchmark.py``, whose words on load hold.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from benchmark import (
    DECODER,
    KEPT,
    METHODS,
    OPTIMIZER,
    VIT,
    Method,
    Step,
    beside_lightly,
    compare,
    draw_inputs,
    parse,
    training_step,
)
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from webssl_plugins.objectives.mae import MAE
from webssl_toolbox import Need, Space, Tower
from webssl_toolbox.compat import import_torchvision
from webssl_toolbox.data.loader import to_device
from webssl_toolbox.pretrainer import Pretrainer
from webssl_toolbox.registry import OBJECTIVES

META = torch.device("meta")
ENCODERS = {"kept patches": "MAE", "mask tokens": "MaskTokens"}
COUNTED = ("S", "B", "L")  # the paper reports L, which is too large to be timed on a CPU


@OBJECTIVES.register_module()
class MaskTokens(MAE):
    """MAE whose encoder sees all places."""

    def __init__(self) -> None:
        super().__init__()
        self.need = Need("image", self.view, mask="v1_mask")

    def setup(self, towers: Mapping[str, Tower], spaces: Mapping[str, Space]) -> None:
        """Leaves the decoder without the mask token that the encoder has now."""
        super().setup(towers, spaces)
        decoder: Any = spaces[self.space]
        decoder.mask_token.clear()


def build(arch: str, encoder: str) -> Pretrainer:
    """Returns a model of one of the ``ENCODERS``, at 224 px and with the paper's decoder."""
    tower = dict(type="ViT", arch=arch, patch_size=16, positions="sincos")
    objective = dict(type=ENCODERS[encoder])
    decoder = dict(type="MaskDecoder", dim=512, depth=8, heads=16)
    return Method(dict(mae=objective), dict(image=tower), dict(decoder=decoder)).model()


def draw(rows: int) -> dict[str, Tensor]:
    """Draws images, the patches to keep, and the same as a mask of those to hide."""
    with META:
        model = build("S", "kept patches")
    inputs = draw_inputs(model, rows)
    every = torch.ones(rows, cast(Tower, model.towers["image"]).num_patches(), dtype=torch.bool)
    return inputs | {"v1_mask": every.scatter(1, inputs["v1_keep"], False)}


def count_flops(arch: str, encoder: str, inputs: Mapping[str, Tensor]) -> tuple[int, int]:
    """Returns the FLOPs of forward and backward, and those of the tower's forward alone."""
    with META:  # where attention is counted, as it is not on a CPU
        model = build(arch, encoder)
    with FlopCounterMode(display=False) as counter:
        losses, _ = model(to_device(dict(inputs), META))
        losses["mae.loss"].backward()
    tower = counter.get_flop_counts()["Pretrainer.towers.image"]
    return counter.get_total_flops(), sum(tower.values())


def contrast(args: argparse.Namespace, device: torch.device) -> list[str]:
    """Compares the two encoders; returns a table in Markdown."""
    lines = [
        "| ViT | GFLOPs of an image, kept patches | mask tokens | ratio | of the encoder alone "
        "| ratio of time, median | min / min |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    inputs = draw(args.batch)
    for arch in dict.fromkeys([*args.archs, *COUNTED]):
        total, alone = zip(*(count_flops(arch, name, inputs) for name in ENCODERS), strict=True)
        row = [f"{x / 1e9 / args.batch:.1f}" for x in total]
        row += [f"{full / kept:.2f}" for kept, full in (total, alone)]
        if arch not in args.archs:
            row += ["", ""]
        else:
            steps = {
                name: training_step(build(arch, name), inputs, device, args.precision)
                for name in ENCODERS
            }
            row += compare(steps, "mask tokens", "kept patches", args.rounds, device)
        lines.append(f"| {arch} | {' | '.join(row)} |")
    return lines


def lightly_step(images: Tensor, precision: str) -> Step | None:
    """Returns a step of lightly's MAE; None where it, timm or torchvision is not installed."""
    try:
        import_torchvision()
        from lightly.models import utils
        from lightly.models.modules import (
            MaskedVisionTransformerDecoderTIMM,
            MaskedVisionTransformerTIMM,
        )
        from timm.models.vision_transformer import VisionTransformer
    except ImportError:
        return None
    size, cfg = VIT["patch_size"], DECODER["decoder"]
    vit = VisionTransformer(
        *(VIT["input_size"], size),
        embed_dim=VIT["width"],
        depth=VIT["depth"],
        num_heads=VIT["heads"],
        num_classes=0,
    )
    encoder = MaskedVisionTransformerTIMM(vit)
    embed = nn.Linear(VIT["width"], cfg["dim"])
    decoder = MaskedVisionTransformerDecoderTIMM(
        vit.patch_embed.num_patches, cfg["dim"], cfg["depth"], cfg["heads"]
    )
    head = nn.Linear(cfg["dim"], 3 * size**2)
    model = nn.ModuleList([encoder, embed, decoder, head]).to(images.device)
    optimizer = torch.optim.AdamW(model.parameters(), **OPTIMIZER, fused=True)
    places = len(images), encoder.sequence_length

    def step() -> None:
        keep, hidden = utils.random_token_mask(places, 1 - KEPT, device=images.device)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
            kept = embed(encoder.encode(images, idx_keep=keep))
            masked = utils.repeat_token(decoder.mask_token, places)
            decoded = decoder(utils.set_at_index(masked, keep, kept.type_as(masked)))
            predicted = head(utils.get_at_index(decoded, hidden))
            # The class token has the first place.
            target = utils.get_at_index(utils.patchify(images, size), hidden - 1)
            loss = F.mse_loss(predicted, target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def beside(args: argparse.Namespace, device: torch.device) -> list[str]:
    """Compares a step with lightly's; returns a table in Markdown, or why there is none."""
    method = METHODS["mae"]
    model = method.model()
    inputs = draw_inputs(model, method.batch)
    theirs = lightly_step(inputs["v1"].to(device), args.precision)
    if theirs is None:
        return ["lightly, timm or torchvision is not installed: no comparison with lightly's MAE"]
    step = training_step(model, inputs, device, args.precision)
    return beside_lightly(step, theirs, args.rounds, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archs", nargs="*", default=["S", "B"], help="sizes of ViT to be timed")
    parser.add_argument("--batch", type=int, default=8, help="images, of the first table")
    args, device = parse(parser, rounds=5)
    print("\n".join([*beside(args, device), "", *contrast(args, device)]), flush=True)


if __name__ == "__main__":
    main()
