# A linear classifier on a frozen ViT of a checkpoint, on the embedded corpus; minutes on a CPU.
#
#   python tools/downstream.py configs/downstream/mmpretrain/emoji_linear_vit.py
#
# With --cfg-options model.backbone.init_cfg=None it measures the untrained tower.
# Result, one seed, on noto-v1, after 840 steps of DINO: 47.4 % (untrained 32.1, always naming the
# largest group 19.2).
_base_ = "_base_/emoji.py"

model = dict(
    type="ImageClassifier",
    backbone=dict(
        type="webssl_toolbox.Backbone",
        tower=dict(type="ViT", patch_size=8, width=128, depth=6, heads=4, input_size=48),
        frozen=True,
        init_cfg=dict(type="Pretrained", checkpoint="work_dirs/dino_vit_s16_laptop"),
    ),
    # MAE's probe has such a norm, without parameters: one learning rate then fits all features.
    neck=dict(type="ClsBatchNormNeck", input_features=128),
    head=dict(type="LinearClsHead", num_classes=10, in_channels=128),
)
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.1, momentum=0.9))
