# MAE (He et al. 2022): its views, its decoder for every size of encoder, and its schedule on
# ImageNet-1k, 800 epochs. Any folder of images will do:
#   --cfg-options data_root=FOLDER
_base_ = ["../../_base_/guards.py"]
data_root = "data/imagenet/train"

_epoch = 312  # steps: 1,281,167 / 4,096
_images = dict(type="ImageFolder", root=data_root)

model = dict(
    towers=dict(image=dict(type="ViT", positions="sincos")),
    spaces=dict(decoder=dict(type="MaskDecoder", dim=512, depth=8, heads=16)),
    objectives=dict(mae=dict(type="MAE", normalize=True)),
)

train_dataloader = dict(
    batch_size=4096,
    num_workers=8,
    dataset=_images,
    views=dict(
        v1=[
            dict(type="RandomResizedCrop", scale=(0.2, 1.0), interpolation="cubic"),
            dict(type="RandomFlip"),
            dict(type="Normalize", mean="imagenet"),
        ],
        v1_keep=[dict(type="RandomKeep", ratio=0.25)],
    ),
)

optim_wrapper = dict(
    optimizer=dict(
        type="AdamW",
        lr=dict(type="cosine", start=1.5e-4 * 4096 / 256, warmup=40 * _epoch),
        betas=(0.9, 0.95),
        weight_decay=0.05,
    ),
    precision="bf16",  # float16 in the reference
)

train_cfg = dict(max_iters=800 * _epoch, log_interval=100, checkpoint_interval=1000)

test_view = [
    dict(type="ResizeCenterCrop", resize=256, interpolation="cubic"),
    dict(type="Normalize", mean="imagenet"),
]

evaluation = dict(
    interval=10_000,
    evaluators=dict(reconstructions=dict(type="Reconstructions", data=_images)),
)
