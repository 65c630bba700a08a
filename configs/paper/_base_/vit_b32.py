# OpenAI's ViT-B/32.
_vit_b32 = dict(
    type="ViT",
    arch="B",
    patch_size=32,
    activation="quick_gelu",
    pre_norm=True,
    norm_eps=1e-5,
)
