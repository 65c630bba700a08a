# A linear head on the frozen tower of a checkpoint, on scenes of the embedded corpus.
#   python tools/downstream.py configs/downstream/mmseg/emoji_linear_vit.py
# With model.backbone.init_cfg=None it measures the untrained tower.
# Result, seed 0, mIoU on noto-v1 / fluent-flat: 15.6 / 17.3 (untrained 13.6 / 15.0).
_base_ = "_base_/emoji_scenes.py"

model = dict(
    backbone=dict(
        type="webssl_toolbox.Backbone",
        # As in configs/dino_vit_s16_laptop.py.
        tower=dict(type="ViT", patch_size=8, width=128, depth=6, heads=4, input_size=48),
        out_indices=[-1],
        class_token=True,
        frozen=True,
        init_cfg=dict(type="Pretrained", checkpoint="work_dirs/dino_vit_s16_laptop"),
    ),
    decode_head=dict(type="LinearHead", in_channels=256, num_classes=11, dropout_ratio=0),
)
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=3e-3, weight_decay=1e-4))
