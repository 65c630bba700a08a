"""The linear probe: a grid of linear classifiers on a frozen tower, trained in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, product

import torch
from torch import Tensor

from webssl_toolbox.encoder import Encoder

from ._common import Config, check_positive
from ._heads import LinearHeads
from ._probe import Setup, TrainedProbe, last_layers, try_layers

# What dinov2/eval/linear.py tries, for a batch of 256.
RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)


class LinearProbe(TrainedProbe):
    """Linear classifiers by stochastic gradients; the best by validation is tested (DINOv2, B.3).

    One forward of the frozen tower feeds all of them: each learning rate, on each number of last
    blocks, with the mean of the last block's patches or without. A block gives its class token, or
    the mean of its patches where there is none. DINOv2's code (``eval/linear.py``) chooses the head
    on the set that it reports, which is why published numbers are slightly higher than those of a
    choice on held-out training images, as here. Ranks share each batch.

    Args:
        train: dataset config of the samples that are fitted.
        splits: name to dataset config of test sets; None removes an inherited one.
        validation: what the best head is chosen on: a dataset config, or a share of ``train``,
            which is then not fitted.
        rates: learning rates at a batch of 256; they grow in proportion to the batch.
        blocks: how many of the last blocks are read: of these, each head has one number.
        means: whether the mean of patches is read, too; for each entry there are heads.
        epochs: over the training set.
        batch_size: over all ranks.
        view: transforms of training images; None encodes each once, by ``test_view``, and keeps
            what was read in memory.
        workers: processes that load augmented images.
        warmup: epochs in which the rate grows.
        batch_norm: normalise features by the batch, without a learned scale: MAE's variant
            (arXiv 2111.06377, A.1), with ``lars``.
        lars: steps of LARS in place of SGD.

    Raises:
        ValueError: an unknown dataset, transform or argument, or a number that is not positive.
    """

    def __init__(
        self,
        train: Config,
        splits: Mapping[str, Config | None],
        validation: Config | float = 0.1,
        rates: Sequence[float] = RATES,
        blocks: Sequence[int] = (1, 4),
        means: Sequence[bool] = (False, True),
        epochs: int = 10,
        batch_size: int = 256,
        view: Sequence[Config] | None = None,
        workers: int = 0,
        warmup: int = 0,
        batch_norm: bool = False,
        lars: bool = False,
    ) -> None:
        super().__init__(train, splits, validation, epochs, batch_size, view, workers)
        for name, values in (("rates", rates), ("blocks", blocks)):
            for value in values:
                check_positive(**{name: value})
        if warmup < 0:
            raise ValueError(f"warmup={warmup}: give a number of epochs, 0 for none")
        if not rates or not blocks or not means:
            raise ValueError(
                "rates, blocks and means need an entry each: there is no head to train"
            )
        self.rates, self.blocks, self.means = rates, blocks, means
        self.warmup, self.batch_norm, self.lars = warmup, batch_norm, lars

    def setup(self, model: Encoder, classes: int) -> Setup:
        count = max(self.blocks)
        layers = try_layers(model, count)
        widths = [layers[0].map.shape[1], *(layer.pooled.shape[1] for layer in layers)]
        ends = list(accumulate(widths))  # of the mean, the last block, the one before it ...
        inputs = list(product(self.blocks, self.means))
        heads = LinearHeads(
            [slice(0 if mean else ends[0], ends[blocks]) for blocks, mean in inputs],
            classes,
            [rate * self.batch_size / 256 for rate in self.rates],
            model.device,
            warmup=self.warmup / self.epochs,
            batch_norm=self.batch_norm,
            lars=self.lars,
        )

        def read(images: Tensor) -> Tensor:
            layers = last_layers(model, images, count)
            mean = layers[0].map.mean((2, 3))
            return torch.cat([mean, *(layer.pooled for layer in layers)], dim=1).float()

        return Setup(
            read,
            {"last": count},
            heads,
            [
                f"lr={rate:g} blocks={blocks} mean={mean}"
                for (blocks, mean), rate in product(inputs, self.rates)
            ],
        )
