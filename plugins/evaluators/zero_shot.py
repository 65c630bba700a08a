"""Zero-shot classification: the class whose name is nearest in the joint space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from webssl_toolbox.encoder import TEMPLATES, Encoder

from ._common import Config, check_splits, joint, labelled, nearest, percent


class ZeroShot:
    """Top-1 and top-5 accuracy over all classes of a dataset (CLIP, Radford et al. 2021, 3.1).

    Samples without a label are left out.

    Args:
        splits: name to dataset config; None removes an inherited one.
        templates: sentences with ``{}`` where the class name goes; their embeddings are averaged.

    Raises:
        ValueError: an unknown dataset or argument in ``splits``.
    """

    def __init__(
        self, splits: Mapping[str, Config | None], templates: Sequence[str] = TEMPLATES
    ) -> None:
        self.splits = check_splits(splits)
        self.templates = tuple(templates)

    def run(self, model: Encoder) -> dict[str, float]:
        """Returns ``<split>/top1`` and ``<split>/top5`` in percent.

        Raises:
            MissingPart: the model has no text tower or no joint space.
        """
        metrics: dict[str, float] = {}
        classifiers: dict[tuple[str, ...], Tensor] = {}  # test sets often share their classes
        for name, cfg in self.splits.items():
            split = model.encode_dataset(cfg)
            rows = labelled(split.labels, f"splits[{name!r}]")
            classes = tuple(split.classes)
            if classes not in classifiers:
                classifiers[classes] = model.classifier(classes, self.templates)
            hits = hits_at(joint(split)[rows], classifiers[classes], split.labels[rows])
            metrics |= {f"{name}/top{k}": percent(hits[:, :k].any(1)) for k in (1, 5)}
        return metrics


def hits_at(embeddings: Tensor, classifier: Tensor, labels: Tensor, k: int = 5) -> Tensor:
    """Tells at which rank the right class stands.

    Args:
        embeddings: unit vectors of images, ``[N, dim]``.
        classifier: unit vectors of classes, ``[C, dim]``.
        labels: int64 ``[N]``.
        k: ranks to look at.

    Returns:
        bool ``[N, min(k, C)]``, best rank first.
    """
    _, ranked = nearest(embeddings, classifier, k)
    return ranked == labels[:, None]
