# M3AE (Geng et al. 2022) with a ViT-S/16 at 96 px: one transformer reads a quarter of the patches
# and of the words, and fills in the others.
#
#   python tools/train.py configs/m3ae_vit_s16.py
#
# Hardware: one GPU. On a CPU it is slow, and says so: configs/m3ae_vit_s16_laptop.py is made for
# one.
# Data: the embedded corpus, nothing to download. For your own pairs, override
#   train_dataloader.dataset with dict(type='ImageTextList', file='pairs.csv', root='images').
# Result: not yet measured.
_base_ = ["_base_/emoji_pictures.py", "_base_/guards.py"]

model = dict(
    towers=dict(fusion=dict(type="Fusion", arch="S", patch_size=16, input_size=96)),
    spaces=dict(decoder=dict(type="MaskDecoder", dim=512, depth=8, heads=16)),
    objectives=dict(
        mae=dict(type="MAE", tower="fusion", text="text_mae", weight=1.0),
        mae_text=dict(type="MAEText", weight=0.5),
    ),
)

train_dataloader = dict(
    views=dict(
        v1=[
            dict(type="Background", white=0.7),
            dict(type="RandomResizedCrop", scale=(0.2, 1.0), interpolation="cubic"),
            dict(type="Normalize"),
        ],
        v1_keep=[dict(type="RandomKeep", ratio=0.25, tower="fusion")],
        text_mae=[
            # The label and all tags: of a single word there is no quarter.
            dict(type="Caption", pick="joined"),
            dict(type="Tokenize", tower="fusion"),
            dict(type="DropTokens", ratio=0.75),
        ],
    )
)

optim_wrapper = dict(
    optimizer=dict(
        type="AdamW",
        # The rule of the authors' code: 1.5e-4 x batch / 256.
        lr=dict(type="cosine", start=1.5e-4, warmup=1000),
        betas=(0.9, 0.95),
        weight_decay=0.05,
    )
)

train_cfg = dict(max_iters=20_000, checkpoint_interval=1000)

test_tower = "fusion"

evaluation = dict(
    interval=2000,
    evaluators=dict(
        reconstructions=dict(type="Reconstructions", data=_base_._concepts["noto-v1"]),
        **dict.fromkeys(("zero_shot", "zero_shot_pixels", "retrieval", "retrieval_grid")),
    ),
)
