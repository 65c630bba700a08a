# DINO with a ViT-S/16 (Caron et al. 2021, arXiv 2104.14294) on ImageNet-1k: 800 epochs.
#
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=HOST tools/dist_train.sh configs/paper/dino_vit_s16.py 8
#
# Hardware: 16 V100 GPUs; 300 epochs took 2.6 days, by the authors.
# Data: ImageNet-1k; any folder: --cfg-options data_root=FOLDER
# Published: 74.5 % kNN and 77.0 % linear on ImageNet-1k. Not run by us.
#
# The released model was trained with other arguments than the code's defaults, in a file that is
# not in the repository: to our knowledge 10 local crops, scales of (0.25, 1) and (0.05, 0.25), an
# end of the rate of 1e-5, no clipping, and lengths of prototypes that are learned. Compare with it
# before you rely on this: https://dl.fbaipublicfiles.com/dino/dino_deitsmall16_pretrain/args.txt
_base_ = ["../_base_/multi_crop.py", "../_base_/guards.py"]

data_root = "data/imagenet/train"

_images = dict(type="ImageFolder", root=data_root)
_epoch = 1251  # steps: 1,281,167 / 1,024
_locals = [*_base_._locals, "l9", "l10"]
_momentum = dict(type="cosine", start=0.996, end=1.0)

model = dict(
    towers=dict(
        image=dict(type="ViT", arch="S", patch_size=16, drop_path=0.1),
        image_ema=dict(type="EMA", of="towers.image", momentum=_momentum),
    ),
    spaces=dict(
        proto=dict(type="Prototypes", count=65_536, learn_norm=True),
        proto_ema=dict(type="EMA", of="spaces.proto", momentum=_momentum),
    ),
    objectives=dict(
        dino=dict(
            type="DINO",
            locals=_locals,
            teacher_temperature=dict(
                type="linear", start=0.07, end=0.07, warmup=30 * _epoch, warmup_start=0.04
            ),
        )
    ),
)

_global = [
    dict(type="RandomResizedCrop", scale=(0.25, 1.0), interpolation="cubic"),
    *_base_._distort,
]
_local = [
    dict(type="RandomResizedCrop", size=96, scale=(0.05, 0.25), interpolation="cubic"),
    *_base_._distort,
    dict(type="GaussianBlur", prob=0.5),
    dict(type="Normalize", mean="imagenet"),
]

train_dataloader = dict(
    batch_size=1024,
    num_workers=10,
    dataset=_images,
    views=dict(
        g1=[
            *_global,
            dict(type="GaussianBlur", prob=1.0),
            dict(type="Normalize", mean="imagenet"),
        ],
        g2=[
            *_global,
            dict(type="GaussianBlur", prob=0.1),
            dict(type="Solarize", prob=0.2),
            dict(type="Normalize", mean="imagenet"),
        ],
        **{name: _local for name in _locals},
    ),
)

optim_wrapper = dict(
    optimizer=dict(
        type="AdamW",
        lr=dict(type="cosine", start=5e-4 * 1024 / 256, end=1e-5, warmup=10 * _epoch),
        weight_decay=dict(type="cosine", start=0.04, end=0.4),
    ),
    groups=dict(last_layer=dict(of="spaces.proto.last_layer", freeze=_epoch)),
    precision="bf16",  # float16 in the reference
)

train_cfg = dict(max_iters=800 * _epoch, log_interval=100, checkpoint_interval=1000)

test_view = [
    dict(type="ResizeCenterCrop", resize=256, interpolation="cubic"),
    dict(type="Normalize", mean="imagenet"),
]
test_tower = "image_ema"

evaluation = dict(
    interval=12_510,
    evaluators=dict(
        rank_me=dict(type="RankMe", splits=dict(train=dict(_images, limit=4096))),
        attention=dict(type="AttentionMaps", data=_images),
    ),
)
