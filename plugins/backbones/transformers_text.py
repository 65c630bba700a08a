"""Any text encoder of transformers as a text tower."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from webssl_toolbox.objective import Need
from webssl_toolbox.towers import Encoding, Part, Segment, Tower, refuse_patches

from ._captions import caption_lengths, send, valid_tokens
from ._common import refuse_fusion
from ._foreign import building, freeze_unused
from ._hf_tokenizer import FolderTokenizer
from ._transformers import build, read_config


class TransformersText(Tower):
    """A text model of transformers, from a local folder with config.json and tokenizer.json.

    All captions of a step are one batch, padded to its longest; padding is masked. A folder of
    several towers, such as CLIP's, gives its text model. Ids are those of the tokenizer, renumbered
    (see ``FolderTokenizer``); where it has no mask token, the embedding grows by one.

    Args:
        folder: the model's folder.
        pretrained: load ``model.safetensors`` from it; else weights are random.
        pool: ``'eot'``, the last token of a caption; ``'cls'``, the first, for models whose tokens
            see all others; or ``'mean'`` of all.
        context_length: the most tokens of a caption; None for 77, as CLIP, where the model has so
            many positions.

    Raises:
        ValueError: transformers is not installed or cannot build the model, or the folder names
            code.
        FileNotFoundError: a file is missing.
    """

    order: Tensor

    def __init__(
        self,
        folder: str,
        pretrained: bool = False,
        pool: str = "eot",
        context_length: int | None = None,
    ) -> None:
        super().__init__()
        if pool not in ("eot", "cls", "mean"):
            raise ValueError(f"pool={pool!r} is none of 'eot', 'cls', 'mean'")
        config = read_config(folder, "text_config")
        most = getattr(config, "max_position_embeddings", None) or 512
        context_length = min(77, most) if context_length is None else context_length
        if not 3 <= context_length <= most:
            raise ValueError(
                f"context_length={context_length}: the model in {folder} takes 3 to {most} tokens"
            )
        frame = (getattr(config, "bos_token_id", None), getattr(config, "eos_token_id", None))
        self.tokenizer = FolderTokenizer(folder, context_length, frame)
        self.pool, self.context_length = pool, context_length
        self.padding = getattr(config, "pad_token_id", None) or 0
        config.use_cache = False
        self.model = build(folder, config, pretrained, pooling=False)
        if self.tokenizer.vocab_size > config.vocab_size:
            self.model.resize_token_embeddings(self.tokenizer.vocab_size, mean_resizing=False)
        self.register_buffer("order", torch.tensor(self.tokenizer.order), persistent=False)

        ids = torch.zeros(2, 4, dtype=torch.int64, device="meta")
        with building(f"the {config.model_type} model in {folder}"):
            part = Part("text", ids, length=torch.tensor([4, 4], device="cpu"))
            encoding = freeze_unused(self, Segment(Need("", "text"), (part,)))
        self.width = self.token_width = encoding.tokens.shape[2]

    def plan(self, needs: frozenset[Need]) -> None:
        refuse_fusion(self, needs)
        refuse_patches(self, needs)

    def forward(self, segments: list[Segment]) -> list[Encoding]:
        parts = [segment.part for segment in segments]
        device = parts[0].data.device
        by_part = [caption_lengths(part, self.context_length) for part in parts]
        lengths = np.concatenate(by_part)
        longest = int(lengths.max())
        ids = torch.cat([F.pad(p.data, (0, longest - p.data.shape[1])) for p in parts])
        ids, mask = self.order[ids], None
        # transformers reads a mask on the host; without numbers, shapes will do.
        if lengths.min() < longest and not ids.is_meta:
            valid = send(valid_tokens(lengths), device)
            ids, mask = ids.masked_fill(~valid, self.padding), valid.long()
        tokens = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        views = tokens.split([len(n) for n in by_part])
        return [self._encoding(x[:, : n.max()], n) for x, n in zip(views, by_part, strict=True)]

    def _encoding(self, tokens: Tensor, lengths: np.ndarray) -> Encoding:
        uniform = lengths.min() == lengths.max()
        valid = None if uniform else send(valid_tokens(lengths), tokens.device)
        if self.pool == "cls":
            return Encoding(tokens[:, 0], tokens, valid)
        last = send(lengths, tokens.device)[:, None] - 1
        if self.pool == "eot":
            ends = tokens.take_along_dim(last[..., None], dim=1)
            return Encoding(ends.squeeze(1), tokens, valid)
        counted = tokens if valid is None else tokens * valid[..., None]
        return Encoding(counted.sum(1) / (last + 1), tokens, valid)
