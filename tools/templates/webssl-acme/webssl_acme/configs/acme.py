# CLIP and Acme at laptop size: `v1` is encoded once, for both.
#
#   python tools/train.py acme::acme.py
_base_ = "webssl_toolbox::clip_r50_laptop.py"

model = dict(objectives=dict(acme=dict(type="Acme", weight=0.2)))
