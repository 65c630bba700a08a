# M3AE at laptop size: 6 blocks of 192 channels at 48 px in 36 patches, of which 9 are encoded.
#
#   python tools/train.py configs/m3ae_vit_s16_laptop.py
#
# Hardware: 2 CPU cores, meant for about 10 minutes. Data: the embedded corpus.
# Result, seed 0 / 1, on fluent-flat: kNN over groups 44.7 / 45.0 % (untrained 30.6, pixels 65.4),
# over subgroups 17.5 / 18.9 (10.9, 41.2); see docs/results.md.
_base_ = ["m3ae_vit_s16.py"]

model = dict(
    towers=dict(
        fusion=dict(
            width=192,
            depth=6,
            heads=3,
            patch_size=8,
            input_size=48,
            vocab_size=4096,
            context_length=32,  # few captions are longer, and the decoder fills in every place
        )
    ),
    spaces=dict(decoder=dict(dim=128, depth=2, heads=4)),
)

optim_wrapper = dict(optimizer=dict(lr=dict(start=1.5e-3, warmup=50)))

train_cfg = dict(max_iters=700, checkpoint_interval=200)

evaluation = dict(interval=350)
