# The embedded corpus in mmpretrain: ten groups of drawings, by three designers for training and by
# one that is held out for validation, which is also the test. 400 iterations.
_base_ = "mmpretrain::_base_/default_runtime.py"
_ours = ("mmpretrain_emoji", "mmpretrain_picture")
custom_imports = dict(imports=[f"webssl_plugins.transfer.{name}" for name in _ours])
custom_hooks = [dict(type="Predictions")]

data_preprocessor = dict(
    num_classes=10,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=False,  # the drawings are RGB
)
train_dataloader = dict(
    batch_size=128,
    num_workers=1,
    dataset=dict(
        type="EmojiClassification",
        split="train-drawings",
        pipeline=[
            dict(type="RandomResizedCrop", scale=48, crop_ratio_range=(0.6, 1.0)),
            dict(type="RandomFlip", prob=0.5, direction="horizontal"),
            dict(type="PackInputs"),
        ],
    ),
    sampler=dict(type="InfiniteSampler", shuffle=True),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=1,
    dataset=dict(
        type="EmojiClassification",
        split="noto-v1",
        pipeline=[dict(type="Resize", scale=48), dict(type="PackInputs")],
    ),
    sampler=dict(type="DefaultSampler", shuffle=False),
)
val_evaluator = dict(type="Accuracy", topk=(1,))
test_dataloader, test_evaluator = val_dataloader, val_evaluator
val_cfg, test_cfg = dict(), dict()

train_cfg = dict(by_epoch=False, max_iters=400, val_interval=400)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, end=40),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=40, end=400),
]
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(by_epoch=False, interval=400))
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
