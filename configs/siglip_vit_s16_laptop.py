# SigLIP at laptop size: the towers of slip_vit_s16_laptop.py.
#
#   python tools/train.py configs/siglip_vit_s16_laptop.py
#
# Hardware: 2 CPU cores, meant for about 10 minutes. Data: the embedded corpus.
# Result, seed 0 / 1, on fluent-flat: kNN over groups 55.6 / 54.4 % (untrained 33.4, pixels 65.4),
# zero-shot top-1 of 1,949 concepts 10.1 / 10.5; see docs/results.md.
_base_ = ["slip_vit_s16_laptop.py"]

model = dict(
    spaces=dict(joint=dict(temperature=0.1)),
    objectives=dict(clip=None, simclr=None, siglip=dict(type="SigLIP", bias=-10.0)),
)

train_cfg = dict(max_iters=2600)  # one view where SLIP has three
