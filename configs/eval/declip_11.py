# DeCLIP's downstream suite (Li et al. 2022): zero-shot on 11 data sets.
#
#   python tools/test.py configs/eval/declip_11.py WORK_DIR --cfg-options data_root=FOLDER
#
# Published, ViT-B/32 on YFCC15M: 41.3 on average (CLIP 31.8).
_base_ = ["_base_/image_sets.py"]

_names = (
    "pets",
    "cifar10",
    "cifar100",
    "sun397",
    "food101",
    "flowers102",
    "cars",
    "caltech101",
    "aircraft",
    "dtd",
    "imagenet",
)
_splits = {}
for _name in _names:
    _splits[_name] = _base_._sets[_name]

evaluation = dict(evaluators=dict(zero_shot=dict(type="ZeroShotSuite", splits=_splits)))
