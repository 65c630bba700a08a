# DINOv2's nearest neighbours (dinov2/eval/knn.py), of all training images:
#   python tools/test.py configs/eval/imagenet_knn.py MODEL --cfg-options data_root=FOLDER
# FOLDER holds train/CLASS/*.JPEG and val/CLASS/*.JPEG. Papers report the best k, mostly 20 or 10.
data_root = "data/imagenet"

evaluation = dict(
    evaluators=dict(
        knn=dict(
            type="KNN",
            train=dict(type="ImageFolder", root=f"{data_root}/train", labels="folders"),
            splits=dict(val=dict(type="ImageFolder", root=f"{data_root}/val", labels="folders")),
            k=20,
            ks=(10, 100, 200),
        )
    )
)
