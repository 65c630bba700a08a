# SLIP's downstream suite (Mu et al. 2022): zero-shot on 26 data sets, each by its own metric.
#
#   python tools/test.py configs/eval/slip_26.py WORK_DIR --cfg-options data_root=FOLDER
_base_ = ["_base_/image_sets.py"]

_others = ("fashion_mnist", "imagenet", "imagenet_a", "imagenet_r", "imagenet_sketch")
_others += ("imagenet_v2", "objectnet")
_splits = {}
for _name in _base_._sets:
    if _name not in _others:
        _splits[_name] = _base_._sets[_name]
_splits["imagenet"] = {**_base_._sets["imagenet"], "templates": "imagenet_7"}

evaluation = dict(evaluators=dict(zero_shot=dict(type="ZeroShotSuite", splits=_splits)))
