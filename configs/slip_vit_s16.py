# SLIP (Mu et al. 2022) with a ViT-S/16 at 96 px: CLIP on a weak view, SimCLR between two strong.
#
#   python tools/train.py configs/slip_vit_s16.py
#
# Hardware: one GPU. On a CPU it is slow, and says so: configs/slip_vit_s16_laptop.py is made for
# one.
# Data: the embedded corpus, nothing to download. For your own pairs, override
#   train_dataloader.dataset with dict(type='ImageTextList', file='pairs.csv', root='images').
# Result: not yet measured.
_base_ = ["_base_/emoji_pictures.py", "_base_/adamw.py", "_base_/guards.py"]

model = dict(
    towers=dict(
        # Twelve heads, as MoCo v3 gave this size.
        image=dict(type="ViT", arch="S", heads=12, patch_size=16, input_size=96),
        text=dict(type="TextTransformer", width=512, depth=12, heads=8),
    ),
    spaces=dict(joint=dict(type="JointSpace", dim=512, temperature=0.07)),
    objectives=dict(clip=dict(type="CLIP"), simclr=dict(type="SimCLR", views=("v2", "v3"))),
)

_strong = [
    dict(type="Background", white=0.7),
    dict(type="RandomResizedCrop", scale=(0.08, 1.0)),
    dict(type="RandomFlip"),
    dict(type="ColorJitter", brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, prob=0.8),
    dict(type="Grayscale", prob=0.2),
    dict(type="GaussianBlur", sigma=(0.1, 2.0), prob=0.5),
    dict(type="Normalize"),
]

train_dataloader = dict(
    views=dict(
        v1=[
            dict(type="Background", white=0.7),
            dict(type="RandomResizedCrop", scale=(0.5, 1.0)),
            dict(type="Normalize"),
        ],
        v2=_strong,
        v3=_strong,
    )
)

# The paper has 3e-3 for batches of 4,096 and no rule; this is its rate by the square root.
optim_wrapper = dict(optimizer=dict(lr=dict(start=7.5e-4, warmup=200)))

train_cfg = dict(max_iters=5000, checkpoint_interval=500)
