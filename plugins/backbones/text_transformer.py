"""CLIP's text transformer (arXiv 2103.00020)."""

from __future__ import annotations

from torch import Tensor, nn

from ._captions import CaptionTower
from ._clip_bpe import CLIP_VOCABULARY
from ._common import Block, Layout


class TextTransformer(CaptionTower):
    """The transformer of CLIP's captions; with ``causal=False``, for masked language modelling.

    Args:
        width: channels.
        depth: blocks.
        heads: attention heads.
        context_length: the most tokens of a caption.
        causal: whether tokens see the tokens before them only.
        pool: ``'eot'``, the last token of a caption; ``'cls'``, the first; or ``'mean'`` of all.
        mlp_ratio: hidden width of the MLP over ``width``.
        activation: ``'quick_gelu'`` (OpenAI's models) or ``'gelu'``.
        vocab_size: ids of the tokenizer; with fewer than CLIP's a small tower is not mostly
            embedding, but rare words come in pieces, and are not known again in new captions.

    Raises:
        ValueError: the arguments contradict one another.
    """

    def __init__(
        self,
        width: int = 512,
        depth: int = 12,
        heads: int = 8,
        context_length: int = 77,
        causal: bool = True,
        pool: str = "eot",
        mlp_ratio: float = 4.0,
        activation: str = "quick_gelu",
        vocab_size: int = CLIP_VOCABULARY,
    ) -> None:
        super().__init__(width, context_length, vocab_size, causal, pool)
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio, activation=activation, norm_eps=1e-5, causal=causal)
            for _ in range(depth)
        )
        self.ln_final = nn.LayerNorm(width)
        self.init_weights()

    def init_weights(self) -> None:
        """Initialises as CLIP does (``clip/model.py``, ``initialize_parameters``)."""
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        residual = (2 * self.width * len(self.blocks)) ** -0.5
        stds = {
            "attn.qkv": self.width**-0.5,
            "attn.proj": residual,
            "mlp.fc1": (2 * self.width) ** -0.5,
            "mlp.fc2": residual,
        }
        for block in self.blocks:
            for name, std in stds.items():
                linear = block.get_submodule(name)
                assert isinstance(linear, nn.Linear)
                nn.init.normal_(linear.weight, std=std)
                nn.init.zeros_(linear.bias)

    def encode(self, x: Tensor, layout: Layout) -> Tensor:
        for block in self.blocks:
            x = block(x, layout)
        return self.ln_final(x)
