# Zero-shot on ImageNet, and where its pictures or their manner change: -A, -R, -Sketch, V2 and
# ObjectNet. -A and -R have 200 of its classes, ObjectNet 113: a model chooses among those alone.
#
#   python tools/test.py configs/eval/imagenet_robustness.py WORK_DIR --cfg-options data_root=FOLDER
_base_ = ["_base_/image_sets.py"]

_splits = {}
for _name in _base_._templates:
    _splits[_name] = _base_._sets[_name]

evaluation = dict(evaluators=dict(zero_shot=dict(type="ZeroShotSuite", splits=_splits)))
