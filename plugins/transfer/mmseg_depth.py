"""Linear depth of DINOv2 in mmsegmentation: the head, its losses, and NYU Depth V2 from a list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from mmseg.datasets import BaseSegDataset
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.utils import resize
from mmseg.registry import DATASETS, MODELS, TRANSFORMS
from torch import Tensor, nn

from ._depth import expected_depth, gradient_error, scale_invariant_error


@MODELS.register_module()
class LinearDepthHead(BaseDecodeHead):
    """Depth as the mean over bins of a linear map of each position (arXiv 2304.07193, 7.4).

    DINOv2 enlarges the features and maps them; bins are fewer, so here they are enlarged: the same,
    for a linear map and an interpolation commute.

    Args:
        in_channels: of each map.
        bins: how many, at even distances.
        min_depth: of the first bin, in metres.
        max_depth: of the last.
        upsample: times that bins are enlarged before they are weighted.
        loss_decode: configs of losses of depth.
        **kwargs: of mmsegmentation's ``BaseDecodeHead``: ``in_index`` ...
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        bins: int = 256,
        min_depth: float = 1e-3,
        max_depth: float = 10.0,
        upsample: int = 4,
        loss_decode: Sequence[dict[str, Any]] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            in_channels,
            sum(in_channels),
            num_classes=bins,
            dropout_ratio=0,
            input_transform="resize_concat",
            loss_decode=list(loss_decode),
            init_cfg=[],
            **kwargs,
        )
        self.out_channels = 1
        self.upsample = upsample
        self.register_buffer("bins", torch.linspace(min_depth, max_depth, bins), persistent=False)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Maps ``[B, C, H, W]`` each to depth ``[B, 1, upsample * H, upsample * W]``."""
        logits = self.cls_seg(self._transform_inputs(inputs))
        bins: Any = self.bins
        return expected_depth(
            resize(logits, scale_factor=self.upsample, mode="bilinear", align_corners=False), bins
        )

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: Any) -> dict[str, Tensor]:
        """Compares depth at the size of the truth."""
        depth = torch.stack([sample.gt_depth_map.data for sample in batch_data_samples])
        found = resize(seg_logits, depth.shape[2:], mode="bilinear", align_corners=False)
        losses: Any = self.loss_decode
        return {loss.loss_name: loss(found, depth) for loss in losses}


@MODELS.register_module()
class SigLoss(nn.Module):
    """The scale-invariant error of logarithms.

    Args:
        loss_weight: its factor.
        warmup: first steps in which the mean alone counts.
    """

    loss_name = "loss_depth"
    step: Tensor

    def __init__(self, loss_weight: float = 1.0, warmup: int = 100) -> None:
        super().__init__()
        self.loss_weight, self.warmup = loss_weight, warmup
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, found: Tensor, depth: Tensor) -> Tensor:
        error = scale_invariant_error(found, depth, scale_only=bool(self.step < self.warmup))
        self.step += self.training
        return self.loss_weight * error


@MODELS.register_module()
class GradientLoss(nn.Module):
    """The error of the gradients of logarithms.

    Args:
        loss_weight: its factor.
    """

    loss_name = "loss_grad"

    def __init__(self, loss_weight: float = 0.5) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, found: Tensor, depth: Tensor) -> Tensor:
        return self.loss_weight * gradient_error(found, depth)


@DATASETS.register_module()
class NYUList(BaseSegDataset):
    """NYU Depth V2 as it is passed around: lists of ``IMAGE DEPTH FOCAL_LENGTH`` lines.

    Paths are below ``data_root``, though they begin with a slash; an image whose depth is ``None``
    is left out. Depths are PNG files in millimetres.

    Args:
        ann_file: ``nyu_train.txt`` or ``nyu_test.txt`` in ``data_root``.
        **kwargs: of mmsegmentation's ``BaseSegDataset``: ``data_root``, ``pipeline`` ...

    Raises:
        ValueError: a line is not of that form.
    """

    METAINFO = {"classes": ("depth",)}

    def __init__(self, ann_file: str, **kwargs: Any) -> None:
        super().__init__(ann_file=ann_file, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Returns paths of images and depths."""
        root = Path(self.data_root or "")
        found: list[dict[str, Any]] = []
        with open(self.ann_file, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                image, _, rest = line.strip().partition(" ")
                depth = rest.partition(" ")[0]
                if not depth:
                    raise ValueError(
                        f"{self.ann_file}, line {number}: {line.strip()!r:.100} is not "
                        "'IMAGE DEPTH FOCAL_LENGTH'"
                    )
                if depth != "None":
                    paths = {"img_path": image, "depth_map_path": depth}
                    if ".." in Path(image).parts + Path(depth).parts:
                        raise ValueError(f"{self.ann_file}, line {number}: leads out of {root}")
                    found.append(
                        {key: str(root / path.lstrip("/")) for key, path in paths.items()}
                        | {"seg_fields": []}
                    )
        return found


@TRANSFORMS.register_module()
class NYUCrop(BaseTransform):
    """Cuts the white frame off images and depths of 480 x 640: rows from 45, columns from 43."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        for key in ("img", *results["seg_fields"]):
            results[key] = results[key][45:472, 43:608]
        results["img_shape"] = results["img"].shape[:2]
        return results


@TRANSFORMS.register_module()
class DepthColor(BaseTransform):
    """Changes gamma, brightness and each channel at random (AdaBins, arXiv 2011.14141).

    Args:
        prob: of doing so.
        gamma: range of the exponent.
        brightness: range of the factor of all channels.
        color: range of the factor of each.
    """

    def __init__(
        self,
        prob: float = 0.5,
        gamma: tuple[float, float] = (0.9, 1.1),
        brightness: tuple[float, float] = (0.75, 1.25),
        color: tuple[float, float] = (0.9, 1.1),
    ) -> None:
        self.prob, self.gamma, self.brightness, self.color = prob, gamma, brightness, color

    @cache_randomness
    def draw(self) -> tuple[float, np.ndarray] | None:
        """Returns an exponent and factors of channels, or None to change nothing."""
        if np.random.rand() >= self.prob:
            return None
        exponent = float(np.random.uniform(*self.gamma))
        return exponent, np.random.uniform(*self.brightness) * np.random.uniform(*self.color, 3)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        drawn = self.draw()
        if drawn is not None:
            exponent, factors = drawn
            ramp = np.arange(256, dtype=np.float32)[:, None] / 255
            table = (255 * ramp**exponent * factors).clip(0, 255).round().astype(np.uint8)
            results["img"] = cv2.LUT(results["img"], table[None])
        return results
