"""Named views: from one decoded sample to the inputs of a step.

A view is a list of transforms, in two stretches. The first runs in the loader's workers, on one
sample: crops are cut as uint8, captions tokenised and masked. The second runs on the device, on
the whole batch: colour, blur, normalisation, with parameters that were *drawn in the worker* and
travel with the sample, so that the device needs no random state and resume needs no saved one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..registry import VIEWS, nearest
from ..towers import Tower
from .rng import sample_rng, strata
from .sample import Dataset, Sample

BLACK = np.zeros((8, 8, 3), dtype=np.uint8)
RESERVED = ("index", "label", "unreadable")  # inputs that the loader adds to the views


@dataclass(frozen=True)
class Context:
    """What a transform may ask when it is bound: grids and tokenizers are never restated."""

    towers: Mapping[str, Tower]
    dataset: Dataset | None = None

    def tower(self, name: str) -> Any:
        """Returns a tower, or raises ValueError naming the nearest."""
        if name not in self.towers:
            raise ValueError(f"the model has no tower {name!r}{nearest(name, self.towers)}")
        return self.towers[name]

    def input_size(self) -> int | None:
        """Returns the side in pixels that images are encoded at, None where towers disagree."""
        image = self.towers.get("image")
        towers = [image] if image else self.towers.values()
        sizes = {tower.input_size for tower in towers if tower.input_size}
        return sizes.pop() if len(sizes) == 1 else None


class Transform:
    """One step of a view in a worker: ``value = transform(value, sample, rng)``.

    A view starts from ``sample.image`` or ``sample.captions``, whichever its first transform
    ``reads``; ``'nothing'`` starts from None (patch masks). One that is ``stratified`` finds a
    ``sample.stratum``.
    """

    reads: ClassVar[str] = "image"
    stratified: ClassVar[bool] = False

    def bind(self, context: Context) -> None:
        """Takes what it needs from towers and dataset, before workers start."""

    def __call__(self, value: Any, sample: Sample, rng: np.random.Generator) -> Any:
        raise NotImplementedError


class Optional(Transform):
    """First step of a view that some samples lack: lone images among pairs, or lone captions.

    Such a row is filled with a black image or an empty caption, and ``<view>.present`` is false
    there. Without this step, a sample that lacks the view is an error.
    """


class DeviceTransform:
    """One step of a view on the device, batched, with parameters drawn for each sample."""

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Draws one sample's parameters, float32 ``[P]``; P is the same for every sample."""
        return np.zeros(0, dtype=np.float32)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        """Transforms float images ``[B, 3, H, W]`` in [0, 1], which may be overwritten.

        Args:
            images: the batch.
            params: ``[B, P]``, as drawn.
        """
        raise NotImplementedError


class Views:
    """All views of a config, restricted to those that some objective needs.

    Args:
        cfg: ``{name: [dict(type=...), ...]}``; None removes an inherited view.
        needed: names of the inputs that objectives read.
        context: towers and dataset, for binding.

    Raises:
        ValueError: an unknown transform or argument, or a needed view that is not declared.
    """

    def __init__(self, cfg: Mapping[str, Any], needed: Iterable[str], context: Context) -> None:
        declared = check_views(cfg)
        for name in sorted(set(needed)):
            if name not in declared:
                raise ValueError(
                    f"an objective needs the view {name!r}, which train_dataloader.views lacks"
                    f"{nearest(name, declared)}"
                )
        self.pipelines = {
            name: Pipeline(name, declared[name], context)
            for name in declared
            if name in set(needed)
        }

    def draw(
        self,
        sample: Sample,
        seed: int,
        epoch: int,
        index: int,
        place: tuple[int, int, int] | None = None,
    ) -> dict[str, Any]:
        """Computes every view of one sample, in the worker.

        Args:
            sample: what the dataset loaded.
            seed: of the run.
            epoch: which.
            index: of the sample in the dataset.
            place: number of the batch, rows of a batch, and which of them; None outside of one.
        """
        out: dict[str, Any] = {}
        for name, pipeline in self.pipelines.items():
            if place is not None and pipeline.stratified:
                batch, rows, row = place
                sample = replace(sample, stratum=strata(seed, epoch, batch, rows, name)[row])
            out.update(pipeline.draw(sample, sample_rng(seed, epoch, index, name)))
        return out

    def finish(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Runs the device stretch of every image view; other inputs pass through."""
        out = {key: value for key, value in batch.items() if "@" not in key}
        for name, pipeline in self.pipelines.items():
            if out[name].dtype == torch.uint8:
                out[name] = pipeline.finish(batch)
        return out


class Pipeline:
    """One view: worker transforms, then device transforms."""

    def __init__(self, name: str, cfg: Sequence[Mapping[str, Any]], context: Context) -> None:
        self.name = name
        where = name if name == "test_view" else f"train_dataloader.views.{name}"
        steps = [VIEWS.create(step, f"{where}[{i}]") for i, step in enumerate(cfg)]
        self.device = [step for step in steps if isinstance(step, DeviceTransform)]
        self.worker = steps[: len(steps) - len(self.device)]
        if any(isinstance(step, DeviceTransform) for step in self.worker):
            raise ValueError(
                f"{where}: colour, blur and normalisation run batched on the "
                "device, so they come after every crop and flip; move them to the end of the list"
            )
        self.optional = bool(self.worker) and isinstance(self.worker[0], Optional)
        self.worker = self.worker[self.optional :]
        self.reads = self.worker[0].reads if self.worker else "image"
        self.stratified = any(step.stratified for step in self.worker)
        for step in self.worker:
            step.bind(context)

    def draw(self, sample: Sample, rng: np.random.Generator) -> dict[str, Any]:
        """Returns the worker's value under the view's name and device parameters as ``name@i``."""
        out: dict[str, Any] = {}
        if self.optional:
            present = sample.image is not None if self.reads == "image" else bool(sample.captions)
            out[f"{self.name}.present"] = np.bool_(present)
            if not present:
                sample = replace(sample, image=BLACK, captions=("",))
        value = None if self.reads == "nothing" else getattr(sample, self.reads)
        for i, step in enumerate(self.worker):
            try:
                value = step(value, sample, rng)
            except (TypeError, AttributeError) as error:
                raise ValueError(
                    f"view {self.name!r}: step {i}, {type(step).__name__}, cannot take what comes "
                    f"before it, a {type(value).__name__} ({error}); check the order of the steps"
                ) from error
        out[self.name] = value
        for i, step in enumerate(self.device):
            out[f"{self.name}@{i}"] = step.draw(rng)
        return out

    def finish(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Turns uint8 ``[B, H, W, 3]`` into float ``[B, 3, H, W]`` through the device steps."""
        # Planar: the colour operations walk one channel at a time. It halves their cost on a CPU.
        planar = torch.contiguous_format
        images = batch[self.name].permute(0, 3, 1, 2).to(torch.float32, memory_format=planar)
        images = images.mul_(1 / 255)
        for i, step in enumerate(self.device):
            images = step.apply(images, batch[f"{self.name}@{i}"])
        return images


def check_views(cfg: Mapping[str, Any]) -> dict[str, Sequence[Mapping[str, Any]]]:
    """Checks names, types and arguments of all views; returns those that are not None."""
    declared = {name: steps for name, steps in cfg.items() if steps is not None}
    for name, steps in declared.items():
        where = f"train_dataloader.views.{name}"
        if name in RESERVED:
            raise ValueError(f"{where}: the loader itself fills {name!r}; choose another name")
        if not isinstance(steps, Sequence) or isinstance(steps, str) or not steps:
            raise ValueError(f"{where} must be a list of transforms, but it is {steps!r:.100}")
        for i, step in enumerate(steps):
            VIEWS.check(step, f"{where}[{i}]")
    return declared
