# CLIP at laptop size: the yardstick of declip_r50_laptop.py, at an equal number of pairs.
#
#   python tools/train.py configs/clip_r50_laptop.py
#
# Hardware: 2 CPU cores, about 4 minutes, evaluation included. Data: the embedded corpus.
# Result: see docs/results.md, which also has CLIP at equal minutes.
_base_ = ["declip_r50_laptop.py"]

model = dict(
    objectives=dict(clip=dict(weight=1.0), multi_view=None, simsiam=None, mlm=None, nn_queue=None)
)
