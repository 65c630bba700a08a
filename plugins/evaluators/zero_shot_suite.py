"""Zero-shot classification on many data sets, as tables of papers report it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from webssl_toolbox.data.sample import MissingData
from webssl_toolbox.encoder import Encoder
from webssl_toolbox.registry import DATASETS, check_arguments, nearest

from ._common import Config, joint, labelled, missing
from ._metrics import METRICS
from ._prompts import TEMPLATES


class Split(NamedTuple):
    """What is measured on one data set.

    Attributes:
        dataset: its config.
        templates: sentences with ``{}`` where the class name goes, or the name of a list of them.
        metric: ``'top1'``, ``'top1_top5'``, ``'mean_per_class'`` or ``'roc_auc'``.
    """

    dataset: Config
    templates: str | Sequence[str]
    metric: str = "top1"


class ZeroShotSuite:
    """One number for each data set, by its own sentences and metric, and their mean.

    A published data set that is not there is left out of the mean, and named.

    Args:
        splits: name to ``dict(dataset=..., templates=..., metric='top1')``, see ``Split``; None
            removes an inherited one.

    Raises:
        ValueError: an unknown key, dataset, list of templates or metric in ``splits``.
    """

    def __init__(self, splits: Mapping[str, Config | None]) -> None:
        given = {name: cfg for name, cfg in splits.items() if cfg is not None}
        self.splits = {name: _checked(cfg, f"splits[{name!r}]") for name, cfg in given.items()}

    def run(self, model: Encoder) -> dict[str, float | None]:
        """Returns ``<split>/<metric>`` in percent, and their mean ``average/<n>_of_<all>``.

        Raises:
            MissingPart: the model has no text tower or no joint space.
        """
        metrics: dict[str, float | None] = {}
        classifiers: dict[Any, Tensor] = {}  # ImageNet and -Sketch share one
        for name, split in self.splits.items():
            key = f"{name}/{split['metric']}"
            try:
                encoded = model.encode_dataset(split["dataset"])
            except MissingData as error:
                metrics |= missing(error, [key])
                continue
            rows = labelled(encoded.labels, f"splits[{name!r}]")
            words = tuple(encoded.classes), tuple(split["templates"])
            if words not in classifiers:
                classifiers[words] = model.classifier(*words)
            scores = joint(encoded)[rows] @ classifiers[words].T
            metrics[key] = METRICS[split["metric"]](scores, encoded.labels[rows])
        found = [value for value in metrics.values() if value is not None]
        average = sum(found) / len(found) if found else None
        return metrics | {f"average/{len(found)}_of_{len(metrics)}": average}


def _checked(cfg: Config, where: str) -> dict[str, Any]:
    check_arguments(Split, {"type": "a data set", **cfg}, where)
    split = Split(**cfg)
    DATASETS.check(split.dataset, f"{where}.dataset")
    if split.metric not in METRICS:
        raise ValueError(
            f"{where}.metric {split.metric!r} is not known{nearest(split.metric, METRICS)}"
        )
    if isinstance(split.templates, str):
        if split.templates not in TEMPLATES:
            raise ValueError(
                f"{where}.templates {split.templates!r} are not known"
                f"{nearest(split.templates, TEMPLATES)}"
            )
        split = split._replace(templates=TEMPLATES[split.templates])
    return split._asdict()
