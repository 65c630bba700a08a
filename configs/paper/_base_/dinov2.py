# The recipe of DINOv2's largest model (Oquab et al. 2023, arXiv 2304.07193), by its released code:
# 625,000 steps of 3,072 images, with separate heads and Sinkhorn-Knopp. Any folder of images will
# do:
#   --cfg-options data_root=FOLDER
#
# Blur is as trained: the code inverts the probabilities of the paper, so that the first global crop
# is never blurred, the second with 0.9 and local ones with 0.5.
#
# Not reproduced: DINOv2's KoLeo sees the images of one GPU alone (per_rank=True does so); its
# positions are resized with an offset of 0.1 and without antialiasing; its blur is cut off at 9
# taps, weaker than here; it masks half of the crops of a GPU, here half of each view of the global
# batch; and it computes in float16.
_base_ = ["../../_base_/multi_crop.py", "../../_base_/guards.py"]

data_root = "data/lvd142m"

_images = dict(type="ImageFolder", root=data_root)
_epoch = 1250  # steps that DINOv2's code calls so
_momentum = dict(type="cosine", start=0.994, end=1.0)
_teacher = dict(
    centring="sinkhorn",
    teacher_temperature=dict(
        type="linear", start=0.07, end=0.07, warmup=30 * _epoch, warmup_start=0.04
    ),
)
_masks = ("g1_mask", "g2_mask")

model = dict(
    towers=dict(
        image=dict(
            type="ViT",
            patch_size=14,
            ffn="swiglu",
            layer_scale=1e-5,
            drop_path=0.4,
            drop_path_uniform=True,
        ),
        image_ema=dict(type="EMA", of="towers.image", momentum=_momentum),
    ),
    spaces=dict(
        proto=dict(type="Prototypes", count=131_072, bottleneck=384, learn_norm=True),
        proto_ema=dict(type="EMA", of="spaces.proto", momentum=_momentum),
        patches=dict(type="Prototypes", count=131_072, bottleneck=256, learn_norm=True),
        patches_ema=dict(type="EMA", of="spaces.patches", momentum=_momentum),
    ),
    objectives=dict(
        dino=dict(type="DINO", locals=_base_._locals, masks=_masks, **_teacher),
        ibot=dict(type="IBOT", space="patches", teacher_space="patches_ema", **_teacher),
        koleo=dict(type="KoLeo", masks=_masks, weight=0.1),
    ),
)

_global = [
    dict(type="RandomResizedCrop", scale=(0.32, 1.0), interpolation="cubic"),
    *_base_._distort,
]
_local = [
    dict(type="RandomResizedCrop", size=98, scale=(0.05, 0.32), interpolation="cubic"),
    *_base_._distort,
    dict(type="GaussianBlur", prob=0.5),
    dict(type="Normalize", mean="imagenet"),
]

train_dataloader = dict(
    batch_size=3072,
    num_workers=10,
    dataset=_images,
    views=dict(
        g1=[*_global, dict(type="Normalize", mean="imagenet")],
        g2=[
            *_global,
            dict(type="GaussianBlur", prob=0.9),
            dict(type="Solarize", prob=0.2),
            dict(type="Normalize", mean="imagenet"),
        ],
        **{name: _local for name in _base_._locals},
        g1_mask=[dict(type="BlockMask", ratio=(0.1, 0.5), prob=0.5)],
        g2_mask=[dict(type="BlockMask", ratio=(0.1, 0.5), prob=0.5)],
    ),
)

optim_wrapper = dict(
    optimizer=dict(
        type="AdamW",
        lr=dict(type="cosine", start=2e-4 * (3072 / 1024) ** 0.5, end=1e-6, warmup=80 * _epoch),
        weight_decay=dict(type="cosine", start=0.04, end=0.2),
    ),
    clip_grad=3.0,
    clip_per="module",
    groups=dict(
        patch_embed=dict(of="towers.image.patch_embed", lr_mult=0.2),
        last_layer=dict(of="spaces.proto.last_layer", freeze=_epoch),
        patches_last_layer=dict(of="spaces.patches.last_layer", freeze=_epoch),
    ),
    precision="bf16",  # float16 in the reference
)

train_cfg = dict(max_iters=500 * _epoch, log_interval=100, checkpoint_interval=1000)

test_view = [
    dict(type="ResizeCenterCrop", resize=256, interpolation="cubic"),
    dict(type="Normalize", mean="imagenet"),
]
test_tower = "image_ema"

evaluation = dict(
    interval=12_500,
    evaluators=dict(
        rank_me=dict(type="RankMe", splits=dict(train=dict(_images, limit=4096))),
        patches=dict(type="PatchPCA", data=_images),
    ),
)
