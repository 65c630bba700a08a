# SimSiam (Chen and He 2021) with CLIP's ResNet-50: two views of an image predict each other.
#
#   python tools/train.py configs/simsiam_r50.py
#   python tools/train.py configs/simsiam_r50.py --cfg-options data_root=PHOTOS
#
# Hardware: one GPU. On a CPU it is slow, and says so: configs/simsiam_r50_laptop.py is made for
# one.
# Data: the embedded corpus, at 64 px; or any folder of images, at 224 px.
# Result: not yet measured.
_base_ = ["_base_/images.py", "_base_/guards.py"]

model = dict(
    towers=dict(
        image=dict(
            type="CLIPResNet",
            depths=(3, 4, 6, 3),
            width=64,
            pool="mean",
            input_size=64 if _base_.data_root is None else 224,
        )
    ),
    objectives=dict(simsiam=dict(type="SimSiam", dim=2048, hidden=512)),
)

_view = [
    dict(type="Background", white=0.7),
    dict(type="RandomResizedCrop", scale=(0.2, 1.0)),
    dict(type="RandomFlip"),
    dict(type="ColorJitter", brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, prob=0.8),
    dict(type="Grayscale", prob=0.2),
    dict(type="GaussianBlur", sigma=(0.1, 2.0), prob=0.5),
    dict(type="Normalize"),
]

train_dataloader = dict(views=dict(v1=_view, v2=_view))

_lr = 0.05 * _base_._batch_size / 256  # the paper's rule
_sgd = dict(type="SGD", momentum=0.9, weight_decay=1e-4)

optim_wrapper = dict(
    optimizer=dict(**_sgd, lr=dict(type="cosine", start=_lr)),
    # The predictor's rate stays as it is, so that it keeps up with the projections.
    parts=dict(predictor=dict(of="objectives.simsiam.predictor", optimizer=dict(**_sgd, lr=_lr))),
)

train_cfg = dict(max_iters=10_000, checkpoint_interval=1000)

evaluation = dict(interval=1000)
