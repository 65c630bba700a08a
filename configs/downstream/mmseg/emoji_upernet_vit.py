# UPerNet on a ViT that is trained along, on scenes of the embedded corpus: the small sibling of
# ade20k_upernet_vit_b16.py.
#   python tools/downstream.py configs/downstream/mmseg/emoji_upernet_vit.py
# With model.backbone.init_cfg=None it starts from random weights.
_base_ = "emoji_linear_vit.py"
custom_imports = dict(
    imports=[
        "webssl_plugins.transfer.mmseg_emoji",
        "webssl_plugins.transfer.mmseg_picture",
        "webssl_plugins.transfer.mmseg_decay",
    ]
)

_norm = dict(type="BN", requires_grad=True)
model = dict(
    backbone=dict(out_indices=[2, 3, 4, 5], class_token=False, last_norm=False, frozen=False),
    neck=dict(type="Feature2Pyramid", embed_dim=128, rescales=[4, 2, 1, 0.5], norm_cfg=_norm),
    decode_head=dict(
        _delete_=True,
        type="UPerHead",
        in_channels=[128] * 4,
        in_index=[0, 1, 2, 3],
        channels=64,
        num_classes=11,
        norm_cfg=_norm,
    ),
)
optim_wrapper = dict(
    optimizer=dict(lr=1e-3, weight_decay=0.05),
    constructor="TowerLayerDecay",
    paramwise_cfg=dict(decay_rate=0.65),
)
