# Published data sets of images, as suites take them: where they are read from, the sentences that
# class names are put into, and the metric. docs/suites.md says what to put there.
data_root = "data"

_metrics = dict(
    aircraft="mean_per_class",
    pets="mean_per_class",
    caltech101="mean_per_class",
    flowers102="mean_per_class",
    kinetics700="top1_top5",
    hateful_memes="roc_auc",
)
# The sentences of other sets have the set's name.
_templates = {
    name: "imagenet_80"
    for name in (
        "imagenet",
        "imagenet_a",
        "imagenet_r",
        "imagenet_sketch",
        "imagenet_v2",
        "objectnet",
    )
}
_names = (
    "food101",
    "cifar10",
    "cifar100",
    "cub200",
    "sun397",
    "cars",
    "aircraft",
    "dtd",
    "pets",
    "caltech101",
    "flowers102",
    "mnist",
    "fashion_mnist",
    "fer2013",
    "stl10",
    "eurosat",
    "resisc45",
    "gtsrb",
    "kitti_distance",
    "country211",
    "patch_camelyon",
    "ucf101",
    "kinetics700",
    "clevr_counts",
    "hateful_memes",
    "rendered_sst2",
    *_templates,
)
_sets = {}
for _name in _names:
    _sets[_name] = dict(
        dataset=dict(type="Published", name=_name, root=data_root),
        templates=_templates.get(_name, _name),
        metric=_metrics.get(_name, "top1"),
    )
