# DINOv2's logistic regression (dinov2/eval/log_regression.py), but on standardised features: 45
# penalties, chosen on a tenth of the training images, then fitted on all:
#   python tools/test.py configs/eval/imagenet_logistic.py MODEL --cfg-options data_root=FOLDER
# FOLDER holds train/CLASS/*.JPEG and val/CLASS/*.JPEG.
data_root = "data/imagenet"

evaluation = dict(
    evaluators=dict(
        logistic=dict(
            type="LogisticRegression",
            train=dict(type="ImageFolder", root=f"{data_root}/train", labels="folders"),
            splits=dict(val=dict(type="ImageFolder", root=f"{data_root}/val", labels="folders")),
            validation=0.1,
            cs=[10 ** (i / 4 - 6) for i in range(45)],
        )
    )
)
