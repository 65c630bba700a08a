# SigLIP at laptop size: the towers of slip_vit_s16_laptop.py.
#
#   python tools/train.py configs/siglip_vit_s16_laptop.py
#
# Hardware: 2 CPU cores, meant for about 10 minutes. Data: the embedded corpus.
# Result: not yet measured.
_base_ = ["slip_vit_s16_laptop.py"]

model = dict(
    spaces=dict(joint=dict(temperature=0.1)),
    objectives=dict(clip=None, simclr=None, siglip=dict(type="SigLIP", bias=-10.0)),
)

train_cfg = dict(max_iters=2000)  # one view where SLIP has three
