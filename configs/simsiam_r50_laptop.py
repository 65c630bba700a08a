# SimSiam at laptop size: a ResNet-50 of a quarter of the width at 32 px.
#
#   python tools/train.py configs/simsiam_r50_laptop.py
#   python tools/train.py configs/simsiam_r50_laptop.py --cfg-options data_root=PHOTOS
#
# Hardware: 2 CPU cores, meant for about 10 minutes. Data: the embedded corpus, or a folder.
# Result: not yet measured.
_base_ = ["simsiam_r50.py"]

model = dict(
    towers=dict(image=dict(width=16, input_size=32)),
    objectives=dict(simsiam=dict(dim=512, hidden=128)),
)

# At 32 px a strong blur leaves nothing to see.
_view = [
    dict(type="Background", white=0.7),
    dict(type="RandomResizedCrop", scale=(0.3, 1.0)),
    dict(type="RandomFlip"),
    dict(type="ColorJitter", brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, prob=0.8),
    dict(type="Grayscale", prob=0.2),
    dict(type="Normalize"),
]

train_dataloader = dict(views=dict(v1=_view, v2=_view))

train_cfg = dict(max_iters=1000, checkpoint_interval=200)

evaluation = dict(interval=500)
