# MAE and CLIP on one image tower (MAE-CLIP, Weers et al. 2023), a ViT-S/16 at 96 px.
#
#   python tools/train.py configs/mae_clip_vit_s16.py
#
# CLIP reads the whole view, which the tower encodes beside the kept patches. It can read the kept
# patches instead, as FLIP does; then the tower encodes those alone, and CLIP costs next to nothing:
#   --cfg-options model.objectives.clip.keep=v1_keep
#
# Hardware: one GPU. On a CPU it is slow, and says so: configs/mae_clip_vit_s16_laptop.py is made
# for one.
# Data: the embedded corpus, nothing to download. For your own pairs, override
#   train_dataloader.dataset with dict(type='ImageTextList', file='pairs.csv', root='images').
# Result: not yet measured.
_base_ = ["_base_/emoji_pictures.py", "_base_/adamw.py", "_base_/guards.py"]

model = dict(
    towers=dict(
        image=dict(type="ViT", arch="S", patch_size=16, input_size=96, positions="sincos"),
        text=dict(type="TextTransformer", width=512, depth=12, heads=8),
    ),
    spaces=dict(
        joint=dict(type="JointSpace", dim=512, temperature=0.07),
        decoder=dict(type="MaskDecoder", dim=512, depth=8, heads=16),
    ),
    objectives=dict(clip=dict(type="CLIP", weight=1.0), mae=dict(type="MAE", weight=1.0)),
)

train_dataloader = dict(
    views=dict(
        # Neither mirrored nor in strange colours: captions speak of them.
        v1=[
            dict(type="Background", white=0.7),
            dict(type="RandomResizedCrop", scale=(0.5, 1.0)),
            dict(type="Normalize"),
        ],
        v1_keep=[dict(type="RandomKeep", ratio=0.25)],
    )
)

optim_wrapper = dict(optimizer=dict(lr=dict(start=5e-4, warmup=200)))

train_cfg = dict(max_iters=5000, checkpoint_interval=500)

evaluation = dict(
    evaluators=dict(
        reconstructions=dict(type="Reconstructions", data=_base_._concepts["noto-v1"]),
    )
)
