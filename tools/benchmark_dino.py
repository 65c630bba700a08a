"""A step of DINO beside lightly's, with two global and four local crops.

    pip install -c constraints.txt timm torchvision
    pip install --no-deps lightly lightly-utils
    python tools/benchmark_dino.py [--rounds 11]

lightly's step is put together as its examples for DINO do it: the student encodes each crop by
itself, the teacher each global one, heads likewise. Sizes, images and the settings of a fused AdamW
are those of the method ``dino`` in ``tools/benchmark.py``. It takes no gradient norm: a little less
work than here.

Steps alternate in one run and are timed as in ``tools/benchmark.py``, whose words on load hold.
"""

from __future__ import annotations

import argparse
import copy

import torch
from benchmark import (
    METHODS,
    OPTIMIZER,
    PROTOTYPES,
    VIT,
    Step,
    beside_lightly,
    draw_inputs,
    parse,
    training_step,
)
from torch import Tensor, nn

from webssl_toolbox.compat import import_torchvision

MOMENTUM = 0.996  # of the teacher


def lightly_step(globals: list[Tensor], locals: list[Tensor], precision: str) -> Step | None:
    """Returns a step of lightly's DINO; None where it, timm or torchvision is not installed."""
    try:
        import_torchvision()
        from lightly.loss import DINOLoss
        from lightly.models.modules import DINOProjectionHead, MaskedVisionTransformerTIMM
        from lightly.models.utils import update_momentum
        from timm.models.vision_transformer import VisionTransformer
    except ImportError:
        return None
    device, count = globals[0].device, PROTOTYPES["count"]
    vit = VisionTransformer(
        *(VIT["input_size"], VIT["patch_size"]),
        embed_dim=VIT["width"],
        depth=VIT["depth"],
        num_heads=VIT["heads"],
        num_classes=0,
        dynamic_img_size=True,
    )
    backbone = MaskedVisionTransformerTIMM(vit, pos_embed_initialization="learn")
    backbone.mask_token.requires_grad_(False)
    student, teacher = (
        nn.Sequential(tower, DINOProjectionHead(VIT["width"], output_dim=count)).to(device)
        for tower in (backbone, copy.deepcopy(backbone))
    )
    teacher.requires_grad_(False).eval()
    criterion = DINOLoss(count).to(device)
    parameters = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, **OPTIMIZER, fused=True)

    def step() -> None:
        update_momentum(student, teacher, MOMENTUM)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            seen = [teacher(crop) for crop in globals]
            loss = criterion(seen, [student(crop) for crop in [*globals, *locals]])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args, device = parse(parser, rounds=11)
    method = METHODS["dino"]
    model = method.model()
    inputs = draw_inputs(model, method.batch)
    crops = [
        [crop.to(device) for name, crop in sorted(inputs.items()) if name.startswith(kind)]
        for kind in "gl"
    ]
    theirs = lightly_step(*crops, args.precision)
    if theirs is None:
        print("lightly, timm or torchvision is not installed: nothing measured")
        return
    step = training_step(model, inputs, device, args.precision)
    print("\n".join(beside_lightly(step, theirs, args.rounds, device)))


if __name__ == "__main__":
    main()
