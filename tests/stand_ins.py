"""Models of other projects in plain torch, small, by the names of their published files."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn


class Dino(nn.Module):
    """DINOv2's vision transformer in plain torch, by its names; ``DinoVisionTransformer``."""

    def __init__(self, width, depth, heads, grid, patch, gated, registers=0):
        super().__init__()
        self.heads = heads
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + grid**2, width))
        self.mask_token = nn.Parameter(torch.randn(1, width))
        if registers:
            self.register_tokens = nn.Parameter(torch.randn(1, registers, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.blocks = nn.ModuleList(self._block(width, gated) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    @staticmethod
    def _block(width, gated):
        hidden = (int(4 * width * 2 / 3) + 7) // 8 * 8
        mlp = (
            dict(w12=nn.Linear(width, 2 * hidden), w3=nn.Linear(hidden, width))
            if gated
            else dict(fc1=nn.Linear(width, 4 * width), fc2=nn.Linear(4 * width, width))
        )
        return nn.ModuleDict(
            dict(
                norm1=nn.LayerNorm(width, eps=1e-6),
                attn=nn.ModuleDict(
                    dict(qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width))
                ),
                ls1=nn.ParameterDict(dict(gamma=torch.randn(width))),
                norm2=nn.LayerNorm(width, eps=1e-6),
                mlp=nn.ModuleDict(mlp),
                ls2=nn.ParameterDict(dict(gamma=torch.randn(width))),
            )
        )

    def forward(self, images):
        x = self.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        if hasattr(self, "register_tokens"):
            x = torch.cat([x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]], 1)
        for block in self.blocks:
            y = block["attn"]["qkv"](block["norm1"](x))
            q, k, v = y.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + block["ls1"]["gamma"] * block["attn"]["proj"](y)
            x = x + block["ls2"]["gamma"] * self._mlp(block["mlp"], block["norm2"](x))
        return self.norm(x)[:, 0]

    @staticmethod
    def _mlp(mlp, x):
        if "w12" in mlp:
            gate, value = mlp["w12"](x).chunk(2, dim=-1)
            return mlp["w3"](F.silu(gate) * value)
        return mlp["fc2"](F.gelu(mlp["fc1"](x)))


class Layer(nn.Module):
    """CLIP's ``ResidualAttentionBlock``."""

    def __init__(self, width, heads):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        layers = [("c_fc", nn.Linear(width, 4 * width)), ("c_proj", nn.Linear(4 * width, width))]
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x, mask=None):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        y = self.mlp.c_fc(self.ln_2(x))
        return x + self.mlp.c_proj(y * torch.sigmoid(1.702 * y))


def layers(width):
    return nn.ModuleDict({"resblocks": nn.ModuleList(Layer(width, 2) for _ in range(2))})


class Visual(nn.Module):
    """CLIP's ``VisionTransformer``."""

    def __init__(self, width=48, dim=24):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 16, 16, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn(5, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = layers(width)
        self.proj = nn.Parameter(torch.randn(width, dim))

    def forward(self, images):
        x = self.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1)
        x = self.ln_pre(x + self.positional_embedding)
        for layer in self.transformer["resblocks"]:
            x = layer(x)
        return self.ln_post(x[:, 0]) @ self.proj


class Clip(nn.Module):
    """CLIP in plain torch, by the names of OpenAI's and open_clip's files."""

    def __init__(self, visual, width=48, dim=24):
        super().__init__()
        self.visual = visual
        self.transformer = layers(width)
        self.token_embedding = nn.Embedding(49408, width)
        self.positional_embedding = nn.Parameter(torch.randn(77, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, dim))
        self.logit_scale = nn.Parameter(torch.tensor(1.0))

    def encode_text(self, ids):
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        mask = torch.full([ids.shape[1]] * 2, -torch.inf).triu(1)
        for layer in self.transformer["resblocks"]:
            x = layer(x, mask)
        return self.ln_final(x)[torch.arange(len(ids)), ids.argmax(1)] @ self.text_projection
