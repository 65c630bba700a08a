# DINOv2 (Oquab et al. 2023, arXiv 2304.07193) with a ViT-S/14: DINO on crops, iBOT on hidden
# patches, and KoLeo, which spreads images out. The two heads are separate, as in its large models.
#
#   python tools/train.py configs/dinov2_vit_s14.py
#   python tools/train.py configs/dinov2_vit_s14.py --cfg-options data_root=PHOTOS
#
# Hardware: one GPU. On a CPU it is slow, and says so: configs/dinov2_vit_s14_laptop.py is made for
# one.
# Data: the embedded corpus, in crops of 98 and 42 px; or any folder of images, in 224 and 98.
# Small batches: DINOv2 trains with 2,048 or 3,072 images. For one GPU this has fewer prototypes,
# Sinkhorn-Knopp, which needs no running mean, KoLeo over the batches of all GPUs, and a rate that
# grows with the root of the batch. Expect less than from large batches: of the authors' ViT-L/16
# on ImageNet-1k, users have reported 77.4 % in place of 81.6 (kNN) for a batch of 512. DINOv2's own
# ViT-S is distilled from a giant, which gives far more than training it.
# Blur is that of the released models, with probability 0, 0.9 and 0.5 for the first and second
# global and the local crops: DINOv2's code inverts those of its paper, 1, 0.1 and 0.5.
# Result: not yet measured.
_base_ = ["dino_vit_s16.py"]

_photos = _base_.data_root is not None
_steps = _base_._steps
_prototypes = dict(type="Prototypes", count=16_384, learn_norm=True)
_momentum = dict(type="cosine", start=0.994, end=1.0)
_teacher = dict(
    centring="sinkhorn",
    teacher_temperature=dict(
        type="linear", start=0.07, end=0.07, warmup=_steps // 10, warmup_start=0.04
    ),
)
_masks = ("g1_mask", "g2_mask")

model = dict(
    towers=dict(
        image=dict(patch_size=14, input_size=224 if _photos else 98, layer_scale=1e-5),
        image_ema=dict(momentum=_momentum),
    ),
    spaces=dict(
        proto=_prototypes,
        proto_ema=dict(momentum=_momentum),
        patches=_prototypes,
        patches_ema=dict(type="EMA", of="spaces.patches", momentum=_momentum),
    ),
    objectives=dict(
        dino=dict(masks=_masks, **_teacher),
        ibot=dict(type="IBOT", space="patches", teacher_space="patches_ema", **_teacher),
        koleo=dict(type="KoLeo", masks=_masks, weight=0.1),
    ),
)

_ground = dict(type="Background", white=0.7)
_distort = _base_._distort
_sigma = _base_._sigma
_global = [
    _ground,
    dict(type="RandomResizedCrop", scale=(0.32, 1.0), interpolation="cubic"),
    *_distort,
]
_local = [
    _ground,
    dict(
        type="RandomResizedCrop",
        size=98 if _photos else 42,
        scale=(0.05, 0.32),
        interpolation="cubic",
    ),
    *_distort,
    dict(type="GaussianBlur", sigma=_sigma, prob=0.5),
    dict(type="Normalize"),
]

train_dataloader = dict(
    views=dict(
        g1=[*_global, dict(type="Normalize")],
        g2=[
            *_global,
            dict(type="GaussianBlur", sigma=_sigma, prob=0.9),
            dict(type="Solarize", prob=0.2),
            dict(type="Normalize"),
        ],
        **{name: _local for name in _base_._locals},
        g1_mask=[dict(type="BlockMask")],
        g2_mask=[dict(type="BlockMask")],
    )
)

optim_wrapper = dict(
    optimizer=dict(lr=dict(start=1e-3 * (_base_._batch_size / 1024) ** 0.5)),
    layer_decay=0.9,
    groups=dict(
        patch_embed=dict(of="towers.image.patch_embed", lr_mult=0.2),
        patches_last_layer=dict(of="spaces.patches.last_layer", freeze=_steps // 100),
    ),
)

if not _photos:
    # What single patches tell, which can decay while scores of whole images rise.
    _dense = dict(
        type="DenseProbe",
        train=_base_._grouped_drawings,
        splits={name: _base_._groups[name] for name in ("noto-v1", "fluent-flat")},
    )
    evaluation = dict(evaluators=dict(dense=_dense, dense_pixels=dict(_dense, pixels=True)))
