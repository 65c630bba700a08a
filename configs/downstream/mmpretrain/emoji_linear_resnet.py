# As emoji_linear_vit.py, with the ResNet of configs/simsiam_r50_laptop.py at its 32 px.
#
#   python tools/downstream.py configs/downstream/mmpretrain/emoji_linear_resnet.py
_base_ = "_base_/emoji.py"

model = dict(
    type="ImageClassifier",
    backbone=dict(
        type="webssl_toolbox.Backbone",
        tower=dict(type="CLIPResNet", depths=(3, 4, 6, 3), width=16, pool="mean", input_size=32),
        frozen=True,
        init_cfg=dict(type="Pretrained", checkpoint="work_dirs/simsiam_r50_laptop"),
    ),
    neck=dict(type="ClsBatchNormNeck", input_features=512),
    head=dict(type="LinearClsHead", num_classes=10, in_channels=512),
)
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.1, momentum=0.9))

_crop = dict(type="RandomResizedCrop", scale=32, crop_ratio_range=(0.6, 1.0))
_flip = dict(type="RandomFlip", prob=0.5, direction="horizontal")
_test = [dict(type="Resize", scale=32), dict(type="PackInputs")]
train_dataloader = dict(dataset=dict(pipeline=[_crop, _flip, dict(type="PackInputs")]))
val_dataloader = dict(dataset=dict(pipeline=_test))
test_dataloader = dict(dataset=dict(pipeline=_test))
