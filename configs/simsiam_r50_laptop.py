# SimSiam at laptop size: a ResNet-50 of a quarter of the width at 32 px.
#
#   python tools/train.py configs/simsiam_r50_laptop.py
#   python tools/train.py configs/simsiam_r50_laptop.py --cfg-options data_root=PHOTOS
#
# Hardware: 2 CPU cores, meant for about 10 minutes. Data: the embedded corpus, or a folder.
# Result, seed 0 / 1, on fluent-flat: kNN over groups 50.3 / 49.9 % (untrained 44.9, pixels 65.4),
# over subgroups 25.2 / 21.4 (16.9, 41.2); see docs/results.md.
_base_ = ["simsiam_r50.py", "_base_/strong_32px.py"]

model = dict(
    towers=dict(image=dict(width=16, input_size=32)),
    objectives=dict(simsiam=dict(dim=512, hidden=128)),
)

train_dataloader = dict(views=dict(v1=_base_._strong_32px, v2=_base_._strong_32px))

train_cfg = dict(max_iters=1200, checkpoint_interval=200)

evaluation = dict(interval=600)
