# DINO at laptop size: 6 blocks of 128 channels, 2 crops of 48 px and 4 of 24, in patches of 8.
#
#   python tools/train.py configs/dino_vit_s16_laptop.py
#   python tools/train.py configs/dino_vit_s16_laptop.py --cfg-options data_root=PHOTOS
#
# Hardware: 2 CPU cores, meant for about 10 minutes. Data: the embedded corpus, or a folder.
# Result, seed 0 / 1, on fluent-flat: kNN over groups 47.3 / 48.3 % (untrained 33.3, pixels 65.4),
# logistic regression 48.2 / 51.8 % (36.2, 39.1); see docs/results.md.
_base_ = ["dino_vit_s16.py"]

_locals = ["l1", "l2", "l3", "l4"]
_momentum = dict(start=0.95, end=0.99)
# An untrained network tells crops hardly apart. Temperatures below the paper's, 0.04 and 0.1, and
# targets spread over each batch, make enough of the difference to learn from in the first steps.
_targets = dict(centring="sinkhorn", temperature=0.04, teacher_temperature=0.01)
_batch = 128 if _base_.data_root is None else _base_._batch_size

model = dict(
    towers=dict(
        image=dict(width=128, depth=6, heads=4, patch_size=8, input_size=48, drop_path=0.0),
        image_ema=dict(momentum=_momentum),
    ),
    spaces=dict(
        proto=dict(count=256, hidden=512, bottleneck=64), proto_ema=dict(momentum=_momentum)
    ),
    objectives=dict(dino=dict(locals=_locals, **_targets)),
)

train_dataloader = dict(
    batch_size=_batch,
    views=dict(
        g1=_base_._global_48px,
        g2=_base_._global_48px,
        **{name: _base_._local_24px for name in _locals},
        **{name: None for name in _base_._locals[4:]},
    ),
)

# A run of minutes: a higher rate than the paper's, which would be 2.5e-4, and a faster teacher.
optim_wrapper = dict(
    optimizer=dict(lr=dict(start=2e-3 * _batch / 128, warmup=50)),
    groups=dict(last_layer=dict(freeze=10)),
)

train_cfg = dict(max_iters=840, checkpoint_interval=200)

# Maps of 12 patches a side, in place of 6.
_finer = dict(zoom=2)
evaluation = dict(interval=280, evaluators=dict(attention=_finer, patches=_finer))
