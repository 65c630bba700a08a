# MAE (He et al. 2022) with a ViT-S/16: a quarter of the patches is encoded, the others are painted.
#
#   python tools/train.py configs/mae_vit_s16.py
#   python tools/train.py configs/mae_vit_s16.py --cfg-options data_root=PHOTOS
#
# Hardware: one GPU. On a CPU it is slow, and says so: configs/mae_vit_s16_laptop.py is made for
# one.
# Data: the embedded corpus, at 96 px; or any folder of images, at 224 px.
# Result: not yet measured.
_base_ = ["_base_/images.py", "_base_/guards.py"]

model = dict(
    towers=dict(
        image=dict(
            type="ViT",
            arch="S",
            patch_size=16,
            input_size=96 if _base_.data_root is None else 224,
            positions="sincos",
        )
    ),
    spaces=dict(decoder=dict(type="MaskDecoder", dim=512, depth=8, heads=16)),
    objectives=dict(mae=dict(type="MAE")),
)

train_dataloader = dict(
    views=dict(
        v1=[
            dict(type="Background", white=0.7),
            dict(type="RandomResizedCrop", scale=(0.2, 1.0), interpolation="cubic"),
            dict(type="RandomFlip"),
            dict(type="Normalize"),
        ],
        v1_keep=[dict(type="RandomKeep", ratio=0.25)],
    )
)

optim_wrapper = dict(
    optimizer=dict(
        type="AdamW",
        # The paper's rate, 1.5e-4 x batch / 256; its warm-up is the same twentieth of the run.
        lr=dict(type="cosine", start=1.5e-4 * _base_._batch_size / 256, warmup=1000),
        betas=(0.9, 0.95),
        weight_decay=0.05,
    )
)

train_cfg = dict(max_iters=20_000, checkpoint_interval=1000)

evaluation = dict(
    interval=2000,
    evaluators=dict(reconstructions=dict(type="Reconstructions", data=_base_._shown)),
)
