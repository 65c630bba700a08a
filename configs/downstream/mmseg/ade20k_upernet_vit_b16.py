# ADE20K, UPerNet on a ViT-B/16 that is trained along: MAE's transfer (arXiv 2111.06377, A.4), with
# the settings of mmsegmentation's own mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py.
#   python tools/downstream.py configs/downstream/mmseg/ade20k_upernet_vit_b16.py
# Published for MAE's ViT-B/16: 48.1 mIoU. Strides 4, 8, 16 and 32 are made of the maps of four
# blocks by transposed convolutions, none, and max pooling.
_base_ = "_base_/ade20k.py"
custom_imports = dict(imports=["webssl_plugins.transfer.mmseg_decay"])

_norm = dict(type="SyncBN", requires_grad=True)
model = dict(
    backbone=dict(
        type="webssl_toolbox.Backbone",
        tower=dict(type="ViT", arch="B", input_size=512, drop_path=0.1),
        out_indices=[3, 5, 7, 11],
        last_norm=False,
        init_cfg=dict(type="Pretrained", checkpoint="work_dirs/mae_vit_b16"),
    ),
    neck=dict(type="Feature2Pyramid", embed_dim=768, rescales=[4, 2, 1, 0.5], norm_cfg=_norm),
    decode_head=dict(
        type="UPerHead",
        in_channels=[768] * 4,
        in_index=[0, 1, 2, 3],
        channels=768,
        num_classes=150,
        norm_cfg=_norm,
    ),
    auxiliary_head=dict(
        type="FCNHead",
        in_channels=768,
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        num_classes=150,
        norm_cfg=_norm,
        loss_decode=dict(type="CrossEntropyLoss", loss_weight=0.4),
    ),
)
optim_wrapper = dict(
    optimizer=dict(lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    constructor="TowerLayerDecay",
    paramwise_cfg=dict(decay_rate=0.65),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="PolyLR", power=1.0, eta_min=0.0, by_epoch=False, begin=1500, end=160000),
]
train_cfg = dict(max_iters=160000, val_interval=16000)
default_hooks = dict(checkpoint=dict(interval=16000))
