# DINOv2's linear probe (arXiv 2304.07193, B.3; dinov2/eval/linear.py): 52 heads in one pass over
# augmented images, the rates for a batch of 256.
#   python tools/test.py configs/eval/imagenet_linear.py MODEL --cfg-options data_root=FOLDER
# FOLDER holds train/CLASS/*.JPEG and val/CLASS/*.JPEG. The paper chooses the head on val, which it
# reports; here on 1 % of train, which is not fitted.
data_root = "data/imagenet"

_train = dict(type="ImageFolder", root=f"{data_root}/train", labels="folders")
_val = dict(type="ImageFolder", root=f"{data_root}/val", labels="folders")

evaluation = dict(
    evaluators=dict(
        linear=dict(
            type="LinearProbe",
            train=_train,
            splits=dict(val=_val),
            validation=0.01,
            epochs=10,
            batch_size=1024,
            view=[
                dict(type="RandomResizedCrop", scale=(0.08, 1.0), interpolation="cubic"),
                dict(type="RandomFlip"),
                dict(type="Normalize"),
            ],
            workers=8,
        )
    )
)
