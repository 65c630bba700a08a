# Two data sets that come as packages: scikit-learn's digits (pip install scikit-learn), and
# Fashion-MNIST (apt install dataset-fashion-mnist; or give the folder that fashion-mnist lies in).
#
#   python tools/test.py configs/eval/anywhere.py WORK_DIR
data_root = "/usr/share/datasets"

_digits, _fashion = {}, {}
for _split in ("train", "test"):
    _digits[_split] = dict(type="Digits", split=_split)
    _fashion[_split] = dict(type="Published", name="fashion_mnist", root=data_root, split=_split)

evaluation = dict(
    evaluators=dict(
        zero_shot=dict(
            type="ZeroShotSuite",
            splits=dict(
                digits=dict(dataset=_digits["test"], templates="mnist"),
                fashion_mnist=dict(dataset=_fashion["test"], templates="fashion_mnist"),
            ),
        ),
        knn_digits=dict(type="KNN", train=_digits["train"], splits=dict(digits=_digits["test"])),
        knn_fashion=dict(
            type="KNN", train=_fashion["train"], splits=dict(fashion_mnist=_fashion["test"])
        ),
    )
)
