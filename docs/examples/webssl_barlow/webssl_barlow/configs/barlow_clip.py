# CLIP and Barlow Twins at laptop size: `v1` is encoded once, for both.
#
#   python tools/train.py barlow::barlow_clip.py
_base_ = "webssl_toolbox::clip_r50_laptop.py"

model = dict(objectives=dict(barlow=dict(type="BarlowTwins", dim=256, weight=0.02)))
