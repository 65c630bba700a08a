# SLIP at laptop size: 4 blocks of 128 channels at 32 px in 16 patches, a small text tower.
#
#   python tools/train.py configs/slip_vit_s16_laptop.py
#
# Hardware: 2 CPU cores, meant for about 10 minutes. Data: the embedded corpus.
# Result, seed 0 / 1, on fluent-flat: kNN over groups 57.2 / 56.8 % (untrained 33.4, pixels 65.4),
# zero-shot top-1 of 1,949 concepts 10.4 / 9.8; see docs/results.md.
_base_ = ["slip_vit_s16.py", "_base_/strong_32px.py"]

model = dict(
    towers=dict(
        image=dict(width=128, depth=4, heads=4, patch_size=8, input_size=32),
        text=dict(width=128, depth=2, heads=4, vocab_size=4096),
    ),
    spaces=dict(joint=dict(dim=256)),
    objectives=dict(simclr=dict(dim=128, hidden=512)),
)

train_dataloader = dict(views=dict(v2=_base_._strong_32px, v3=_base_._strong_32px))

optim_wrapper = dict(optimizer=dict(lr=dict(start=2e-3, warmup=50)))

train_cfg = dict(max_iters=1000, checkpoint_interval=200)
