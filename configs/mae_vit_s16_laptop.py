# MAE at laptop size: 6 blocks of 192 channels at 48 px in 36 patches, of which 9 are encoded.
#
#   python tools/train.py configs/mae_vit_s16_laptop.py
#   python tools/train.py configs/mae_vit_s16_laptop.py --cfg-options data_root=PHOTOS
#
# Hardware: 2 CPU cores, meant for about 10 minutes. Data: the embedded corpus, or a folder.
# Result, seed 0 / 1, on fluent-flat: kNN over groups 49.5 / 50.4 % (untrained 30.2, pixels 65.4),
# over subgroups 24.8 / 25.5 (9.5, 41.2); see docs/results.md.
_base_ = ["mae_vit_s16.py"]

model = dict(
    # Pooled by the mean of the patches, which tells subgroups apart better than the class token.
    towers=dict(image=dict(width=192, depth=6, heads=3, patch_size=8, input_size=48, pool="mean")),
    spaces=dict(decoder=dict(dim=128, depth=2, heads=4)),
)

# Ten times the paper's rate: a run of minutes ends long before one that is slow and safe.
optim_wrapper = dict(optimizer=dict(lr=dict(start=1.5e-3 * _base_._batch_size / 256, warmup=50)))

train_cfg = dict(max_iters=1400, checkpoint_interval=200)

evaluation = dict(interval=700)
