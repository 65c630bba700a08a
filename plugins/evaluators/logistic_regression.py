"""Logistic regression on frozen features: what a linear classifier gets out of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from webssl_toolbox.encoder import Encoder
from webssl_toolbox.registry import DATASETS

from ._common import Config, check_positive, check_splits
from ._labelled import check_validation, hold_out, read_labelled
from ._logistic import Problem

logger = logging.getLogger("webssl_toolbox")
CONVERGED = 1e-4  # largest entry of the gradient; what scikit-learn asks for
CHOICE = 1e-5  # the same while penalties are compared: accuracies change no more


class LogisticRegression:
    """Multinomial logistic regression with an L2 penalty (CLIP, Radford et al. 2021, A.3; DINOv2).

    It has one minimum, so no learning rate and no seed is in the result. The penalty is chosen on
    samples that are neither fitted nor tested; the classifier is then fitted on all of ``train``.
    Features, the image tower's pooled output, are standardised by the training set: the penalty is
    the same for channels of any scale, so that one grid serves towers of any kind, raw pixels too.
    Labels are compared by class name. Samples without a label are left out.

    Args:
        train: dataset config of the samples that are fitted.
        splits: name to dataset config of test sets; None removes an inherited one.
        validation: what the penalty is chosen on: a dataset config, or a share of ``train``.
        cs: inverse penalties C to choose from, as scikit-learn counts them: of
            ``C * sum(cross_entropy) + |weight|^2 / 2``. Of equally good ones the smallest is taken.

    Raises:
        ValueError: an unknown dataset or argument in ``train``, ``splits`` or ``validation``, or a
            number that is not positive.
    """

    def __init__(
        self,
        train: Config,
        splits: Mapping[str, Config | None],
        validation: Config | float = 0.1,
        cs: Sequence[float] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1),
    ) -> None:
        for value in cs:
            check_positive(cs=value)
        if not cs:
            raise ValueError("cs is empty: give inverse penalties to choose from")
        DATASETS.check(train, "train")
        check_validation(validation)
        self.train, self.splits, self.validation = train, check_splits(splits), validation
        self.cs = sorted(cs)  # strong penalties first: their minima are near zero and one another

    def run(self, model: Encoder) -> dict[str, float]:
        """Returns ``<split>/top1``, and ``validation/top1`` of the chosen penalty, in percent."""
        names: dict[str, int] = {}
        train = read_labelled(model, self.train, "train", names)
        if isinstance(self.validation, Mapping):
            fitted, held = train, read_labelled(model, self.validation, "validation", names)
        else:
            rows, others = hold_out(len(train.labels), self.validation)
            fitted, held = train.at(rows), train.at(others)
        problem, fit = Problem(fitted, model.device), None
        scores = []
        for c in self.cs:
            fit = problem.fit(c, fit, tolerance=CHOICE)
            scores.append(problem.accuracy(fit, held))
        best = max(range(len(scores)), key=scores.__getitem__)  # the first of equals
        problem = Problem(train, model.device)
        fit = problem.fit(self.cs[best])
        about = self.cs[best], fit.gradient
        logger.info("logistic regression: C=%g, the gradient of its minimum is %.1e", *about)
        if fit.gradient > CONVERGED:
            logger.warning(
                "logistic regression did not converge at C=%g (gradient %.1e); leave such weak "
                "penalties out of cs",
                *about,
            )
        metrics = {"validation/top1": scores[best]}
        for name, cfg in self.splits.items():
            test = read_labelled(model, cfg, f"splits[{name!r}]", names)
            metrics[f"{name}/top1"] = problem.accuracy(fit, test)
        return metrics
