# The linear probes of DeCLIP's 11 data sets, as CLIP fits them: logistic regression on the frozen
# tower's pooled output. It needs their training images, too; no text tower.
#
#   python tools/test.py configs/eval/declip_11_linear.py WORK_DIR --cfg-options data_root=FOLDER
_base_ = ["declip_11.py"]

_probes = dict(zero_shot=None)
for _name in _base_._names:
    _test = dict(type="Published", name=_name, root=_base_.data_root)
    _train = dict(split="train", **_test)
    _probes[f"linear_{_name}"] = dict(
        type="LogisticRegression", train=_train, splits={_name: _test}
    )

evaluation = dict(evaluators=_probes)
