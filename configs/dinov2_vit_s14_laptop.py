# DINOv2 at laptop size: 6 blocks of 128 channels, 2 crops of 48 px and 4 of 24, in patches of 8.
#
#   python tools/train.py configs/dinov2_vit_s14_laptop.py
#   python tools/train.py configs/dinov2_vit_s14_laptop.py --cfg-options data_root=PHOTOS
#
# Hardware: 2 CPU cores, meant for about 10 minutes. Data: the embedded corpus, or a folder.
# Result, seed 0 / 1, on fluent-flat: kNN over groups 47.8 / 45.0 % (untrained 28.0, pixels 65.4),
# logistic regression 44.2 / 43.3 % (29.1, 39.1), and 50.2 after four times the steps; see
# docs/results.md.
_base_ = ["dinov2_vit_s14.py"]

_locals = ["l1", "l2", "l3", "l4"]
_momentum = dict(start=0.95, end=0.99)
# Sharper than the paper's, as in dino_vit_s16_laptop.py.
_targets = dict(temperature=0.04, teacher_temperature=0.01)
_batch = 128 if _base_.data_root is None else _base_._batch_size
_prototypes = dict(count=256, hidden=512, bottleneck=64)

model = dict(
    towers=dict(
        # LayerScale would take more steps than there are to let blocks speak; and of few patches
        # the mean tells more than a class token does.
        image=dict(
            **dict(width=128, depth=6, heads=4, patch_size=8, input_size=48, drop_path=0.0),
            **dict(layer_scale=None, pool="mean"),
        ),
        image_ema=dict(momentum=_momentum),
    ),
    spaces=dict(
        proto=_prototypes,
        proto_ema=dict(momentum=_momentum),
        patches=_prototypes,
        patches_ema=dict(momentum=_momentum),
    ),
    objectives=dict(dino=dict(locals=_locals, **_targets), ibot=_targets),
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

optim_wrapper = dict(
    optimizer=dict(lr=dict(start=2e-3 * (_batch / 128) ** 0.5, warmup=50)),
    layer_decay=1.0,
    groups=dict(last_layer=dict(freeze=10), patches_last_layer=dict(freeze=10)),
)

train_cfg = dict(max_iters=620, checkpoint_interval=200)

# A map of 12 patches a side, in place of 6; and none of a class token that nothing reads.
evaluation = dict(interval=310, evaluators=dict(attention=None, patches=dict(zoom=2)))
