"""A trained model as its users see it: images and strings in, embeddings out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import dist
from .data.collate import Tokens, collate
from .data.loader import to_device
from .data.rng import sample_rng
from .data.sample import Dataset, Sample, UnreadableSample
from .data.views import Context, Pipeline
from .evaluation.pieces import Piece, Store, in_pieces, joined
from .features import Features, encode, plan
from .objective import Objective
from .pretrainer import Pretrainer
from .registry import DATASETS
from .towers import Encoding, Tower, encode_batch

logger = logging.getLogger("webssl_toolbox")

Image = np.ndarray | str | Path
TEMPLATES = ("{}",)
ReadBatch = Callable[[list[Sample]], dict[str, Tensor]]
NO_IMAGE = "there is no image to encode, or none that can be read"


class MissingPart(ValueError):
    """The model lacks a tower or a space that an evaluation asks for."""


@dataclass(frozen=True)
class EncodedSplit:
    """A whole dataset through the image tower, without the samples that cannot be read.

    Attributes:
        features: ``[N, width]``, the tower's pooled output.
        embeddings: ``[N, dim]`` in the joint space, unit length; None without one.
        labels: int64 ``[N]``.
        captions: the first caption of each sample, ``""`` where there is none.
        classes: class names in label order.
        indices: each row's place in the dataset.
    """

    features: Tensor
    embeddings: Tensor | None
    labels: Tensor
    captions: list[str]
    classes: Sequence[str]
    indices: Sequence[int]


class Encoder:
    """Encodes with the towers of a pretrainer, in evaluation mode, without gradients.

    All results are float32 on the CPU.

    Args:
        model: the trained model.
        view: transforms that prepare an image, ``test_view`` of the config.
        image: name of the image tower, ``test_tower`` of the config.
        text: name of the text tower.
        space: name of the joint space.
        batch_size: rows encoded at a time.

    Attributes:
        origin: what decides on its results: its config, step, device, digest of its weights.
        store_of: gives the store of what a dataset config and its length become; None for none.
    """

    def __init__(
        self,
        model: Pretrainer,
        view: Sequence[Mapping[str, Any]],
        image: str = "image",
        text: str = "text",
        space: str = "joint",
        batch_size: int = 256,
    ) -> None:
        self.model, self.image, self.text, self.space = model, image, text, space
        self.batch_size = batch_size
        self.view = Pipeline("test_view", view, Context(dict(model.towers.items())))  # type: ignore[arg-type]
        self.origin: dict[str, Any] = {}
        self.store_of: Callable[[Mapping[str, Any], int], Store] | None = None
        self._splits: dict[str, EncodedSplit] = {}

    def encode_image(self, images: Sequence[Image] | Image) -> Tensor:
        """Embeds images in the joint space.

        Args:
            images: uint8 arrays ``[H, W, 3 or 4]`` or paths; one or many.

        Returns:
            Unit vectors, ``[N, dim]``.
        """
        return self._joint(self.encode_features(images), self.image)

    def encode_features(self, images: Sequence[Image] | Image) -> Tensor:
        """Returns the image tower's pooled features, ``[N, width]``: for probes and kNN."""
        if isinstance(images, str) or not isinstance(images, Sequence):
            images = [images]
        batches = _batches((Sample(_read(image)) for image in images), self.batch_size)
        pooled = [self._pooled(batch) for batch in batches]
        if not pooled:
            raise ValueError(NO_IMAGE)
        return torch.cat(pooled)

    def encode_text(self, texts: Sequence[str] | str) -> Tensor:
        """Embeds strings in the joint space, unit vectors ``[N, dim]``."""
        tower = self.tower(self.text)
        texts = [texts] if isinstance(texts, str) else list(texts)
        ids = [tower.tokenizer.encode(text) for text in texts]
        pooled = []
        for batch in _batches(ids, self.batch_size):
            rows = Tokens.collate("text", [Tokens(row, 0) for row in batch])
            pooled.append(self._run(tower, rows["text"], rows["text.length"]).pooled.float().cpu())
        return self._joint(torch.cat(pooled), self.text)

    def zero_shot(
        self,
        images: Sequence[Image] | Image,
        class_names: Sequence[str],
        templates: Sequence[str] = TEMPLATES,
    ) -> Tensor:
        """Returns class probabilities, ``[N, C]`` (CLIP, section 3.1.2: prompts are averaged).

        Args:
            images: as for ``encode_image``.
            class_names: what to tell apart.
            templates: sentences with ``{}`` where the name goes.
        """
        logits = self.encode_image(images) @ self.classifier(class_names, templates).T
        return (logits * self.scale()).softmax(dim=1)

    def classifier(
        self, class_names: Sequence[str], templates: Sequence[str] = TEMPLATES
    ) -> Tensor:
        """Returns one unit vector for each class, ``[C, dim]``: the mean over templates."""
        if isinstance(class_names, str) or isinstance(templates, str):
            raise ValueError("class_names and templates are lists of strings, not one string")
        texts = [template.format(name) for name in class_names for template in templates]
        embedded = self.encode_text(texts).unflatten(0, (len(class_names), len(templates)))
        return F.normalize(embedded.mean(1), dim=-1)

    def scale(self) -> float:
        """Returns the inverse temperature of the joint space; 1 where nothing learned one."""
        logit_scale = getattr(self._space(), "logit_scale", None)
        return 1.0 if logit_scale is None else float(logit_scale.detach().exp())

    def encode_dataset(self, cfg: Mapping[str, Any]) -> EncodedSplit:
        """Encodes all images of a dataset config, once until ``forget`` is called.

        Ranks share the work: all of them call it, and have all of the result.
        """
        key = repr(sorted(cfg.items()))
        if key not in self._splits:
            self._splits[key] = self._encode_dataset(cfg, key)
        return self._splits[key]

    def forget(self) -> None:
        """Drops encoded datasets: the weights have changed."""
        self._splits.clear()

    # -- what objectives see -------------------------------------------------------------------

    def prepare(self, samples: Iterable[Sample]) -> Tensor:
        """Returns the images of samples as the image tower reads them, ``[N, 3, S, S]``."""
        drawn = [self.view.draw(s, sample_rng(0, 0, i)) for i, s in enumerate(samples)]
        return self.view.finish(to_device(collate(drawn), self.device))

    def read_all(
        self, dataset: Dataset, where: str, read: ReadBatch, stored: Mapping[str, Any] | None
    ) -> Piece:
        """Returns what ``read`` makes of all samples, and ``[index, label, caption]`` of each.

        Ranks share the work, and all have the result. What cannot be read is left out, and named.
        ``stored`` is what the result depends on beside the weights, where it may be stored.
        """
        store = self.store_of(stored, len(dataset)) if stored and self.store_of else None

        def encode(rows: range) -> Piece:
            notes: list[Any] = []
            found = dict(load_samples(dataset, rows, notes.append))
            notes += ([i, s.label, next(iter(s.captions), "")] for i, s in found.items())
            return Piece(read([*found.values()]) if found else {}, notes)

        tensors, notes = joined([*in_pieces(where, len(dataset), self.batch_size, encode, store)])
        for failed in (note for note in notes if len(note) == 2):
            _warn(failed)
        return Piece(tensors, [note for note in notes if len(note) == 3])

    def tower(self, name: str) -> Tower:
        """Returns a tower; raises MissingPart where there is none."""
        return self._part("tower", name)

    def objective(self, name: str) -> Any:
        """Returns an objective with what it learned; raises MissingPart where there is none."""
        return self._part("objective", name)

    @property
    def device(self) -> torch.device:
        """Where the model is; pixels have no weights."""
        return next(self.model.parameters(), torch.empty(0)).device

    def features(self, objective: Objective, inputs: Mapping[str, Tensor]) -> Features:
        """Encodes what one objective needs, as a training step does; call it in ``evaluating``."""
        inputs = to_device(dict(inputs), self.device)
        towers: dict[str, Tower] = dict(self.model.towers.items())  # type: ignore[arg-type]
        spaces: dict[str, Any] = dict(self.model.spaces.items())
        return Features(encode(plan([objective]), towers, inputs), spaces, inputs)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode, without gradients."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():  # an objective may keep what it computes, such as positions
                yield
        finally:
            self.model.train(was_training)

    # ------------------------------------------------------------------------------------------

    def _encode_dataset(self, cfg: Mapping[str, Any], key: str) -> EncodedSplit:
        self.tower(self.image)  # before anything is read
        dataset: Dataset = DATASETS.create(cfg, "dataset")
        found = self.read_all(dataset, key, lambda each: {"features": self._pooled(each)}, cfg)
        if not found.tensors:
            raise ValueError(NO_IMAGE)
        features, embeddings = found.tensors["features"], None
        with suppress(MissingPart):
            embeddings = self._joint(features, self.image)
        indices, labels, captions = map(list, zip(*found.notes, strict=True))
        ids, classes = torch.tensor(labels), dataset.classes
        return EncodedSplit(features, embeddings, ids, captions, classes, indices)

    def _pooled(self, samples: Sequence[Sample]) -> Tensor:
        return self._run(self.tower(self.image), self.prepare(samples)).pooled.float().cpu()

    def _run(self, tower: Tower, data: Tensor, length: Tensor | None = None) -> Encoding:
        with self.evaluating():
            return encode_batch(tower, data.to(self.device), length)

    def _joint(self, pooled: Tensor, tower: str) -> Tensor:
        space = self._space()
        if not space.holds(tower):
            raise MissingPart(
                f"no objective embeds the tower {tower!r} in the space {self.space!r}"
            )
        with self.evaluating():
            return space(pooled.to(self.device), tower).float().cpu()

    def _space(self) -> Any:
        return self._part("space", self.space)

    def _part(self, kind: str, name: str) -> Any:
        parts = getattr(self.model, f"{kind}s")
        if name not in parts:
            known = ", ".join(parts) or "none"
            raise MissingPart(f"this model has no {kind} {name!r}; it has {known}")
        return parts[name]


def _warn(failed: Sequence[Any]) -> None:
    if dist.rank() == 0:  # all ranks know of it
        logger.warning("left out of the evaluation: %s", failed[1])


def load_samples(
    dataset: Dataset, indices: Iterable[int], leave_out: Callable[[list[Any]], None] = _warn
) -> Iterator[tuple[int, Sample]]:
    """Yields samples with their indices; ``leave_out`` gets ``[index, reason]`` of the others."""
    for i in indices:
        try:
            yield i, dataset.load(i, sample_rng(0, 0, i, "test"))  # the same at each evaluation
        except UnreadableSample as error:
            leave_out([i, str(error)])


def _batches(items: Any, size: int) -> Iterator[list[Any]]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def _read(image: Image) -> np.ndarray:
    if isinstance(image, str | Path):
        from .data.image import read_image

        return read_image(image)
    array = isinstance(image, np.ndarray)
    if array and image.dtype == np.uint8 and image.shape[2:] in ((3,), (4,)):
        return image
    found = f"one of {image.dtype} {list(image.shape)}" if array else type(image).__name__
    raise ValueError(
        f"an image is a path or a uint8 array [H, W, 3 or 4], not {found}; from Pillow: "
        "np.asarray(image.convert('RGB'))"
    )
