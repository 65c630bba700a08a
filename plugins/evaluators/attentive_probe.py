"""The attentive probe: a learned query looks at the patches of a frozen tower."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from webssl_toolbox import dist
from webssl_toolbox.encoder import Encoder
from webssl_toolbox.schedules import cosine

from ._common import Config, check_positive
from ._labelled import SEED
from ._probe import Setup, TrainedProbe, last_layers, try_layers


class AttentiveProbe(TrainedProbe):
    """One block of cross-attention on the last block's patches, then a linear classifier.

    It reads what a mean over patches hides, and is fairer to towers whose class token was never
    trained, such as MAE's (CAE, arXiv 2202.03026; V-JEPA, arXiv 2404.08471, section 4). One head
    for each learning rate; the best by validation is tested. Ranks share each batch.

    Args:
        train: dataset config of the samples that are fitted.
        splits: name to dataset config of test sets; None removes an inherited one.
        validation: what the best head is chosen on: a dataset config, or a share of ``train``,
            which is then not fitted.
        rates: learning rates of AdamW, each of a head of its own.
        weight_decay: of AdamW.
        heads: of the attention; they divide the tower's channels.
        epochs: over the training set.
        batch_size: over all ranks.
        view: transforms of training images; None encodes each once, by ``test_view``, and keeps
            all patches in memory.
        workers: processes that load augmented images.

    Raises:
        ValueError: an unknown dataset, transform or argument, or a number that is not positive.
    """

    def __init__(
        self,
        train: Config,
        splits: Mapping[str, Config | None],
        validation: Config | float = 0.1,
        rates: Sequence[float] = (3e-4, 1e-3, 3e-3),
        weight_decay: float = 0.01,
        heads: int = 4,
        epochs: int = 10,
        batch_size: int = 256,
        view: Sequence[Config] | None = None,
        workers: int = 0,
    ) -> None:
        super().__init__(train, splits, validation, epochs, batch_size, view, workers)
        for rate in rates:
            check_positive(rates=rate)
        check_positive(heads=heads)
        if not rates:
            raise ValueError("rates is empty: there is no head to train")
        self.rates, self.weight_decay, self.heads = rates, weight_decay, heads

    def setup(self, model: Encoder, classes: int) -> Setup:
        width = try_layers(model, 1)[0].map.shape[1]
        if width % self.heads:
            raise ValueError(f"heads={self.heads} do not divide the tower's {width} channels")

        def read(images: Tensor) -> Tensor:
            (layer,) = last_layers(model, images, 1)
            return layer.map.flatten(2).transpose(1, 2).float()

        heads = AttentiveHeads(
            width, classes, self.rates, self.weight_decay, self.heads, model.device
        )
        return Setup(read, {"patches": 1}, heads, [f"lr={rate:g}" for rate in self.rates])


class AttentiveHeads:
    """Equal heads, each trained by AdamW at a rate of its own, which falls to 0 by half a cosine.

    Args:
        width: channels of the patches.
        classes: C.
        rates: learning rates.
        weight_decay: of AdamW.
        heads: of the attention.
        device: where to train.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        rates: Sequence[float],
        weight_decay: float,
        heads: int,
        device: torch.device,
    ) -> None:
        self.rates = rates
        self.modules = []
        for _ in rates:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(SEED)
                self.modules.append(AttentiveHead(width, classes, heads).to(device))
        self.optimizer = torch.optim.AdamW(
            [{"params": module.parameters()} for module in self.modules], weight_decay=weight_decay
        )

    def update(self, features: Tensor, labels: Tensor, step: int, total: int) -> None:
        """Takes a step of all heads on ``[B, P, D]`` and int64 ``[B]``, -1 for none."""
        schedule = cosine(1.0)
        loss = features.new_zeros(())
        for module in self.modules:
            error = F.cross_entropy(module(features), labels, ignore_index=-1, reduction="sum")
            loss = loss + dist.mean(error, (labels >= 0).sum())
        self.optimizer.zero_grad()
        loss.backward()
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * schedule(step, total)
            for parameter in group["params"]:
                parameter.grad = dist.average(parameter.grad)
        self.optimizer.step()

    @torch.no_grad()
    def guess(self, features: Tensor) -> Tensor:
        """Returns the class that each head chooses, int64 ``[B, heads]``."""
        return torch.stack([module(features).argmax(1) for module in self.modules], dim=1)

    def state(self) -> dict[str, Tensor]:
        """Returns what a step changes."""
        found: dict[str, Tensor] = {}
        for name, parameter in self._named():
            moments = self.optimizer.state[parameter].items()
            found |= {name: parameter.detach()} | {f"{name}/{key}": x for key, x in moments}
        return found

    def load(self, stored: Mapping[str, Tensor]) -> None:
        """Goes on from a state that a step has left."""
        for name, parameter in self._named():
            parameter.data.copy_(stored[name])
            moments = {key: stored[f"{name}/{key}"] for key in ("exp_avg", "exp_avg_sq")}
            self.optimizer.state[parameter] = {
                "step": stored[f"{name}/step"],  # which torch keeps on the host
                **{key: x.to(parameter.device) for key, x in moments.items()},
            }

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        for i, module in enumerate(self.modules):
            for name, parameter in module.named_parameters():
                yield f"{i}.{name}", parameter


class AttentiveHead(nn.Module):
    """Logits of classes from what a learned query finds among patches.

    Args:
        width: channels of the patches.
        classes: C.
        heads: of the attention.
    """

    def __init__(self, width: int, classes: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(0.02 * torch.randn(heads, 1, width // heads))
        self.norm = nn.LayerNorm(width)
        self.key_value = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.norm_out = nn.LayerNorm(width)
        self.classify = nn.Linear(width, classes)

    def forward(self, patches: Tensor) -> Tensor:
        """Classifies ``[B, P, D]``; ``[B, C]``."""
        pairs = self.key_value(self.norm(patches)).unflatten(2, (2, self.heads, -1))
        key, value = pairs.permute(2, 0, 3, 1, 4)  # each [B, heads, P, D / heads]
        query = self.query.expand(len(patches), -1, -1, -1)
        found = F.scaled_dot_product_attention(query, key, value).flatten(1)
        return self.classify(self.norm_out(self.proj(found)))
