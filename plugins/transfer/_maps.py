"""What dense tasks want of a tower: images of any size, and no parameter that maps leave unused."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call


def center_pad(images: Tensor, multiple: int) -> Tensor:
    """Pads ``[B, C, H, W]`` with zeros to multiples, evenly on both sides.

    As DINOv2 does for patches of 14 (``CenterPadding``): heads resize what comes of it to the image
    as if it were not padded.
    """
    height, width = (-size % multiple for size in images.shape[-2:])
    if not height and not width:
        return images
    return F.pad(images, (width // 2, width - width // 2, height // 2, height - height // 2))


def freeze_unused(module: nn.Module, images: Tensor) -> None:
    """Freezes the parameters that the outputs of a module do not depend on; computes nothing.

    One without a gradient would stall data parallelism: an attention pool behind the maps, a norm
    of features that are read before it.

    Args:
        module: which maps images to tensors.
        images: ``[B, 3, H, W]`` on the meta device.
    """
    tensors = [*module.named_parameters(), *module.named_buffers()]
    state = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    was_training = module.training
    module.eval()  # batch norms would gather
    with torch.enable_grad():
        leaves = [state[name].requires_grad_() for name in trained]
        outputs = functional_call(module, state, (images,))
        total = torch.stack([output.sum() for output in outputs]).sum()
        gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    module.train(was_training)
    for parameter, gradient in zip(trained.values(), gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
