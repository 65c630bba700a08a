# DINO (Caron et al. 2021, arXiv 2104.14294) with a ViT-S/16: the student's crops, 2 global and 8
# local ones, are to look like what its own average sees in the global ones.
#
#   python tools/train.py configs/dino_vit_s16.py
#   python tools/train.py configs/dino_vit_s16.py --cfg-options data_root=PHOTOS
#
# Hardware: one GPU. On a CPU it is slow, and says so: configs/dino_vit_s16_laptop.py is made for
# one.
# Data: the embedded corpus, in crops of 96 and 48 px; or any folder of images, in 224 and 96.
# Small batches: the paper trains with 1,024 images. Its authors advise a slower average for fewer,
# towers.image_ema.momentum.start=0.9995 for 256, in runs that are long enough to follow it.
# Result: not yet measured.
_base_ = ["_base_/images.py", "_base_/multi_crop.py", "_base_/guards.py"]

_photos = _base_.data_root is not None
_steps = 20_000
_momentum = dict(type="cosine", start=0.996, end=1.0)

model = dict(
    towers=dict(
        image=dict(
            type="ViT",
            arch="S",
            patch_size=16,
            input_size=224 if _photos else 96,
            drop_path=0.1,
        ),
        image_ema=dict(type="EMA", of="towers.image", momentum=_momentum),
    ),
    spaces=dict(
        proto=dict(type="Prototypes", count=65_536),
        proto_ema=dict(type="EMA", of="spaces.proto", momentum=_momentum),
    ),
    objectives=dict(
        dino=dict(
            type="DINO",
            locals=_base_._locals,
            teacher_temperature=dict(
                type="linear", start=0.07, end=0.07, warmup=_steps // 10, warmup_start=0.04
            ),
        )
    ),
)

_ground = dict(type="Background", white=0.7)
# What 2.0 is to 224 px, 0.9 is to 96.
_sigma = (0.1, 2.0) if _photos else (0.1, 0.9)
_global = [
    _ground,
    dict(type="RandomResizedCrop", scale=(0.4, 1.0), interpolation="cubic"),
    *_base_._distort,
]
_local = [
    _ground,
    dict(
        type="RandomResizedCrop",
        size=96 if _photos else 48,
        scale=(0.05, 0.4),
        interpolation="cubic",
    ),
    *_base_._distort,
    dict(type="GaussianBlur", sigma=_sigma, prob=0.5),
    dict(type="Normalize"),
]

train_dataloader = dict(
    views=dict(
        g1=[
            *_global,
            dict(type="GaussianBlur", sigma=_sigma, prob=1.0),
            dict(type="Normalize"),
        ],
        g2=[
            *_global,
            dict(type="GaussianBlur", sigma=_sigma, prob=0.1),
            dict(type="Solarize", prob=0.2),
            dict(type="Normalize"),
        ],
        **{name: _local for name in _base_._locals},
    )
)

optim_wrapper = dict(
    optimizer=dict(
        type="AdamW",
        lr=dict(
            type="cosine", start=5e-4 * _base_._batch_size / 256, end=1e-6, warmup=_steps // 10
        ),
        weight_decay=dict(type="cosine", start=0.04, end=0.4),
    ),
    # DINO clips each tensor by itself; here each module.
    clip_grad=3.0,
    clip_per="module",
    # For the paper's first epoch of a hundred.
    groups=dict(last_layer=dict(of="spaces.proto.last_layer", freeze=_steps // 100)),
)

train_cfg = dict(max_iters=_steps, checkpoint_interval=1000)

test_tower = "image_ema"

_shown = _base_._shown
evaluation = dict(
    interval=2000,
    evaluators=dict(
        rank_me=dict(type="RankMe", splits={"photos" if _photos else "noto-v1": _shown}),
        attention=dict(type="AttentionMaps", data=_shown),
        patches=dict(type="PatchPCA", data=_shown),
        prototypes=dict(type="PrototypeNeighbours", data=_shown),
    ),
)
