# MAE and CLIP at laptop size: 4 blocks of 128 channels at 32 px, in 16 patches; MAE reads 4.
#
#   python tools/train.py configs/mae_clip_vit_s16_laptop.py
#
# Hardware: 2 CPU cores, meant for about 10 minutes. Data: the embedded corpus.
# Result, seed 0 / 1, on fluent-flat: kNN over groups 53.9 / 58.7 % (untrained 33.8, pixels 65.4),
# zero-shot top-1 of 1,949 concepts 10.0 / 9.7; see docs/results.md.
_base_ = ["mae_clip_vit_s16.py"]

model = dict(
    towers=dict(
        image=dict(width=128, depth=4, heads=4, patch_size=8, input_size=32),
        text=dict(width=128, depth=2, heads=4, vocab_size=4096),
    ),
    spaces=dict(joint=dict(dim=256), decoder=dict(dim=128, depth=2, heads=4)),
)

optim_wrapper = dict(optimizer=dict(lr=dict(start=2e-3, warmup=50)))

train_cfg = dict(max_iters=1500, checkpoint_interval=200)
