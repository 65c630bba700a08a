# Scenes of the embedded corpus: ten groups of drawings and the ground, by three designers for
# training and by one that is held out for validation, which is also the test. A window of 48 pixels
# holds about one drawing, as the images do that towers of this toolbox's laptop configs have seen.
_base_ = "runtime.py"
custom_imports = dict(
    imports=[
        "webssl_plugins.transfer.mmseg_emoji",
        "webssl_plugins.transfer.mmseg_linear",
        "webssl_plugins.transfer.mmseg_picture",
    ]
)
env_cfg = dict(cudnn_benchmark=False, dist_cfg=dict(backend="gloo"))

model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size=(48, 48),
    ),
    test_cfg=dict(mode="slide", crop_size=(48, 48), stride=(24, 24)),
)
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="EmojiScenes",
        split="train-drawings",
        count=2000,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="RandomCrop", crop_size=(48, 48)),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackSegInputs"),
        ],
    ),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="EmojiScenes",
        split="noto-v1",
        count=400,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="PackSegInputs"),
        ],
    ),
)
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_dataloader, test_evaluator = val_dataloader, val_evaluator
custom_hooks = [dict(type="SideBySide")]

param_scheduler = dict(type="CosineAnnealingLR", by_epoch=False, T_max=400)
train_cfg = dict(type="IterBasedTrainLoop", max_iters=400, val_interval=400)
default_hooks = dict(checkpoint=dict(interval=400))
