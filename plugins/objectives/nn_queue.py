"""Nearest-neighbour supervision: similar captions of the past describe an image too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from webssl_toolbox import Features, Need, Objective, Progress, Space, Tower
from webssl_toolbox.compat import full_precision

from ._common import ROWS, attach_pair, contrast, embedded, gather_rows, gathered, one_way


class NNQueue(Objective):
    """Contrasts images with the nearest neighbours of their captions in a first-in-first-out queue.

    DeCLIP (Li et al. 2022), section 3.2. The queue lives on the device and in the state, receives
    the captions of all ranks after the step, and is ignored until it is full. A neighbour never
    has the query's own caption: the same caption met again would be no new supervision.

    Args:
        images: views of the image tower.
        texts: views of the text tower whose neighbours are sought.
        enqueue: the text view that is remembered, or several, in the order in which they enter.
        size: embeddings remembered.
        space: joint space.
        symmetric: also tell the image of a neighbour from the others; False is from images to
            neighbours alone, as in the code that the authors released.
        rank_local: each rank remembers, and searches, its own captions alone, as that code does.
            A checkpoint holds the first rank's queue: after a resume all ranks search that one,
            until their own captions have replaced it. So only a run on one rank then equals one
            that never stopped.
    """

    queue: Tensor
    captions: Tensor
    seen: Tensor

    def __init__(
        self,
        images: Sequence[str] = ("v1", "v2"),
        texts: Sequence[str] = ("text", "text_aug"),
        enqueue: str | Sequence[str] = "text",
        size: int = 65536,
        space: str = "joint",
        symmetric: bool = True,
        rank_local: bool = False,
    ) -> None:
        super().__init__()
        self.images = [Need("image", view) for view in images]
        self.texts = [Need("text", view) for view in texts]
        remembered = [enqueue] if isinstance(enqueue, str) else enqueue
        self.enqueue = [Need("text", view) for view in remembered]
        self.size, self.space = size, space
        self.symmetric, self.rank_local = symmetric, rank_local

    def needs(self) -> frozenset[Need]:
        """All views of both towers."""
        return frozenset([*self.images, *self.texts, *self.enqueue])

    def setup(self, towers: Mapping[str, Tower], spaces: Mapping[str, Space]) -> None:
        """Attaches both towers and creates the empty queue."""
        space = spaces[self.space]
        attach_pair(towers, space)
        self.register_buffer("queue", torch.zeros(self.size, space.dim))
        self.register_buffer("captions", torch.zeros(self.size, dtype=torch.int64))
        self.register_buffer("seen", torch.zeros(1, dtype=torch.int64))

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Returns ``loss``, 0 until the queue is full, and ``similarity`` to the neighbours."""
        said = caption_ids(features, self.enqueue)
        if self.rank_local:
            embeddings = embedded(features, self.enqueue, self.space)
        else:
            embeddings, said = gathered(features, self.enqueue, self.space), gather_rows(said)
        self.stage("embedding", embeddings.flatten(0, 1))
        self.stage("caption", said.flatten())

        images = embedded(features, self.images, self.space)
        texts = embedded(features, self.texts, self.space).detach()
        asked = caption_ids(features, self.texts)
        near, similarity = neighbours(texts, asked, self.queue, self.captions)
        near, scale = gather_rows(near), features.space(self.space).scale()
        losses = contrast(images, near, scale) if self.symmetric else one_way(images * scale, near)
        # A factor, not an `if`: every rank runs the same collectives, and the host does not wait.
        full = (self.seen >= self.size).to(losses.dtype).squeeze()
        return {"loss": losses.mean() * full, "similarity": similarity * full}

    def after_step(self, progress: Progress) -> None:
        """Overwrites the oldest entries with the step's captions, view by view, in rank order."""
        embedding = self.staged["embedding"][-self.size :]
        caption = self.staged["caption"][-self.size :]
        rows = (self.seen + torch.arange(len(caption), device=caption.device)) % self.size
        progress.commit(self.queue, embedding, rows)
        progress.commit(self.captions, caption, rows)
        progress.commit(self.seen, self.seen + len(caption))


def neighbours(
    queries: Tensor, captions: Tensor, queue: Tensor, queue_captions: Tensor
) -> tuple[Tensor, Tensor]:
    """Finds the nearest entry that has another caption, in one search for all views.

    Args:
        queries: ``[n, B, D]`` unit vectors.
        captions: int64 ``[n, B]``, their caption ids.
        queue: ``[K, D]`` unit vectors.
        queue_captions: int64 ``[K]``.

    Returns:
        Neighbours ``[n, B, D]`` and their mean similarity ``[]``.
    """
    keys, found = queue.to(queries.dtype), []
    with full_precision(queries):
        pieces = zip(queries.flatten(0, 1).split(ROWS), captions.flatten().split(ROWS), strict=True)
        for rows, said in pieces:
            own = said.unsqueeze(-1) == queue_captions
            found.append((rows @ keys.T).masked_fill_(own, -2.0).max(-1))
    best, index = (torch.cat(values) for values in zip(*found, strict=True))
    return keys[index].view_as(queries), best.mean()


def caption_ids(features: Features, needs: Sequence[Need]) -> Tensor:
    """Returns the caption ids of text views, int64 ``[n, B]``."""
    return torch.stack([features.input(f"{need.view}.caption") for need in needs])
