"""What a config may say: every section is a dataclass, and a name outside it is an error."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim import Optimizer

from ..data.views import check_views
from ..pretrainer import Pretrainer
from ..registry import (
    DATASETS,
    EVALUATORS,
    HOOKS,
    MODELS,
    OBJECTIVES,
    SPACES,
    VIEWS,
    check_arguments,
    check_value,
    nearest,
)
from ..schedules import build as build_schedule

Dict = Mapping[str, Any]
STRATEGIES = ("single", "ddp", "fsdp2")
SCHEDULED = ("lr", "weight_decay")  # arguments of an optimizer


@dataclass
class TrainDataloader:
    """``train_dataloader``.

    Attributes:
        dataset: ``dict(type=...)``.
        views: ``{name: [dict(type=...), ...]}``; only those that objectives need are computed.
        batch_size: the global batch, over all ranks.
        num_workers: loader processes of each rank.
        max_bad_fraction: stop when more of the samples drawn, at least 1,000, cannot be read.
        timeout: seconds to wait for a batch before the loader processes are taken to hang.
    """

    dataset: Dict
    views: Dict
    batch_size: int
    num_workers: int = 2
    max_bad_fraction: float = 0.05
    timeout: float = 600


@dataclass
class OptimizerPart:
    """An entry of ``optim_wrapper.parts``.

    Attributes:
        of: path of a module or a parameter of the model, such as ``'towers.image'``.
        optimizer: as ``optim_wrapper.optimizer``, for the parameters there.
    """

    of: str
    optimizer: Dict


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a parameter gets of its optimizer's rates; those of equal shares are one group.

    Attributes:
        lr_mult: times the learning rate.
        decay_mult: times the weight decay.
        freeze: first steps, in which the learning rate is 0.
    """

    lr_mult: float = 1.0
    decay_mult: float = 1.0
    freeze: int = 0


@dataclass(frozen=True, kw_only=True)
class ParameterGroup(Share):
    """An entry of ``optim_wrapper.groups``; ``of`` is the path of a module or a parameter."""

    of: str


@dataclass
class OptimWrapper:
    """``optim_wrapper``.

    Attributes:
        optimizer: ``dict(type='AdamW', lr=..., weight_decay=...)``; both may be schedules.
        parts: ``{name: dict(of='towers.image', optimizer=...)}``: modules with another optimizer.
        layer_decay: the learning rate of a tower's layer is this times that of the next.
        groups: ``{name: dict(of='towers.image.patch_embed', lr_mult=0.2)}``: other rates and decay.
        clip_grad: largest gradient norm; None for no bound.
        clip_per: the norm of ``'model'``, or of each ``'module'``: tower, space, objective.
        precision: ``'fp32'``, ``'bf16'``, or ``'auto'``: bf16 where the hardware computes it.
    """

    optimizer: Dict
    parts: Dict = field(default_factory=dict)
    layer_decay: float = 1.0
    groups: Dict = field(default_factory=dict)
    clip_grad: float | None = None
    clip_per: str = "model"
    precision: str = "auto"


@dataclass
class TrainCfg:
    """``train_cfg``: intervals are in optimizer steps.

    Attributes:
        max_iters: steps of the run.
        log_interval: steps between lines of ``metrics.jsonl``; losses are read back only then.
        checkpoint_interval: steps between checkpoints; one is always written at the end.
        keep_checkpoints: how many of them stay.
        keep_every: those at multiples of so many steps stay besides; 0 for none.
        max_skipped: stop at so many skipped steps in a row, whose gradient is not finite; 1 stops
            at once.
    """

    max_iters: int
    log_interval: int = 20
    checkpoint_interval: int = 200
    keep_checkpoints: int = 2
    keep_every: int = 0
    max_skipped: int = 10


@dataclass
class EvaluationCfg:
    """``evaluation``.

    Attributes:
        evaluators: ``{name: dict(type=...)}``.
        interval: steps between evaluations; 0 for the end alone.
        before: also evaluate the untrained network, to compare with.
    """

    evaluators: Dict = field(default_factory=dict)
    interval: int = 0
    before: bool = True


@dataclass
class Settings:
    """A whole config.

    Attributes:
        model: towers, spaces and objectives of a ``Pretrainer``.
        train_dataloader: data and views.
        optim_wrapper: optimizer and precision.
        train_cfg: length and intervals.
        test_view: transforms that prepare an image for evaluation and inference.
        test_tower: the image tower that they encode with: a teacher, where there is one.
        evaluation: evaluators and when they run.
        hooks: ``{name: dict(type=...)}``, mmengine hooks, beside those of ``DEFAULT_HOOKS``.
        vis_backends: ``{name: dict(type=...)}``, mmengine's (``TensorboardVisBackend`` ...).
        load_from: a work dir, or a checkpoint in it, whose weights the run starts from.
        data_root: the folder of images that the config's data come from: a variable of config
            files, from which they derive the datasets.
        strategy: how ranks hold the model: ``'single'``, ``'ddp'`` or ``'fsdp2'``; by default one
            of the first two, by their number.
        seed: of weights, data order and every draw.
        work_dir: where everything is written; ``work_dirs/<config name>`` by default.
    """

    model: Dict
    train_dataloader: TrainDataloader
    optim_wrapper: OptimWrapper
    train_cfg: TrainCfg
    test_view: Sequence[Dict] = ()
    test_tower: str = "image"
    evaluation: EvaluationCfg = field(default_factory=EvaluationCfg)
    hooks: Dict = field(default_factory=dict)
    vis_backends: Dict = field(default_factory=dict)
    load_from: str | None = None
    data_root: str | None = None
    strategy: str | None = None
    seed: int = 0
    work_dir: str | None = None


SECTIONS = {
    "train_dataloader": TrainDataloader,
    "optim_wrapper": OptimWrapper,
    "train_cfg": TrainCfg,
    "evaluation": EvaluationCfg,
}
DEFAULT_HOOKS = {"unreadable": {"type": "Unreadable"}, "results": {"type": "Results"}}
LEAST = {
    "train_dataloader.batch_size": 1,
    "train_dataloader.num_workers": 0,
    "train_dataloader.max_bad_fraction": 0,
    "train_dataloader.timeout": 1,
    "train_cfg.max_iters": 1,
    "train_cfg.log_interval": 0,
    "train_cfg.checkpoint_interval": 0,
    "train_cfg.keep_checkpoints": 1,
    "train_cfg.keep_every": 0,
    "train_cfg.max_skipped": 1,
    "evaluation.interval": 0,
}


def settings_from(cfg: Dict) -> Settings:
    """Checks a whole config, before anything is built and any data is read.

    Names with a leading underscore are a config's own helpers.

    Raises:
        ValueError: an unknown or missing key, type or argument; names it and the nearest valid.
    """
    values = sections_of(cfg)
    _checked(Settings, values, "")
    settings = Settings(**values)
    settings.hooks = DEFAULT_HOOKS | dict(_entries(settings.hooks, "hooks"))
    if settings.strategy not in (None, *STRATEGIES):
        close = nearest(settings.strategy, STRATEGIES)
        raise ValueError(f"strategy {settings.strategy!r} is not known{close}")
    for key, section in (("parts", OptimizerPart), ("groups", ParameterGroup)):
        where = f"optim_wrapper.{key}"
        entries = _entries(getattr(settings.optim_wrapper, key), where)
        built = {name: section(**_checked(section, e, f"{where}.{name}")) for name, e in entries}
        setattr(settings.optim_wrapper, key, built)
    _check_types(settings)
    _check_optim(settings.optim_wrapper)
    return settings


def sections_of(cfg: Dict) -> dict[str, Any]:
    """Checks the keys of a config that need not say all, and returns what it says."""
    if not isinstance(cfg, Mapping):
        raise ValueError(f"a config must be a dict of sections, but it is {cfg!r:.100}")
    said = {key: value for key, value in cfg.items() if not key.startswith("_")}
    values = _checked(Settings, said, "", whole=False)
    for name, section in SECTIONS.items():
        if name in values:
            values[name] = section(**_checked(section, values[name], name))
    return values


def _checked(section: type, cfg: Any, where: str, whole: bool = True) -> dict[str, Any]:
    if not isinstance(cfg, Mapping):
        raise ValueError(f"{where} must be a dict, but it is {cfg!r:.100}")
    fields = {f.name: f for f in dataclasses.fields(section)}
    prefix = f"{where}." if where else ""
    for key in cfg:
        if key not in fields:
            raise ValueError(f"unknown config key {prefix}{key}{nearest(key, fields)}")
    for name, f in fields.items():
        required = f.default is f.default_factory is dataclasses.MISSING
        if required and whole and name not in cfg:
            raise ValueError(f"the config lacks {prefix}{name}")
        if name in cfg:
            check_value(f"{prefix}{name}", cfg[name], f.type)
            least = LEAST.get(f"{prefix}{name}")
            if least is not None and cfg[name] < least:
                raise ValueError(f"{prefix}{name} must be at least {least}, but it is {cfg[name]}")
    return dict(cfg)


def check_inference(model: Any, test_view: Any) -> None:
    """Checks all types and arguments of a model and of the view that prepares its images.

    Raises:
        ValueError: an unknown type or argument, also in an entry that nothing needs.
    """
    if not isinstance(model, Mapping) or not isinstance(test_view, Sequence):
        raise ValueError("model must be a dict and test_view a list of transforms")
    model = {"type": "Pretrainer"} | dict(model)
    if not issubclass(MODELS.check(model, "model"), Pretrainer):
        raise ValueError(f"model.type must be a Pretrainer, which {model['type']!r} is not")
    for section, registry, extra in (
        ("towers", MODELS, ()),
        ("spaces", SPACES, ()),
        ("objectives", OBJECTIVES, ("weight",)),
    ):
        for name, entry in _entries(model.get(section, {}), f"model.{section}"):
            registry.check(entry, f"model.{section}.{name}", extra)
            if "weight" in extra:
                build_schedule(entry.get("weight", 1.0), f"model.{section}.{name}.weight")
    for i, step in enumerate(test_view):
        VIEWS.check(step, f"test_view[{i}]")


def _check_types(settings: Settings) -> None:
    check_inference(settings.model, settings.test_view)
    if not any(settings.model.get("objectives", {}).values()):
        raise ValueError("model.objectives names no objective, so there is nothing to train")
    if settings.evaluation.evaluators and not settings.test_view:
        raise ValueError("evaluation.evaluators need a test_view: how images are prepared")
    towers = settings.model.get("towers", {})
    if settings.test_view and settings.test_tower not in towers:
        raise ValueError(
            f"test_tower={settings.test_tower!r} is no tower of the model"
            f"{nearest(settings.test_tower, towers)}"
        )
    DATASETS.check(settings.train_dataloader.dataset, "train_dataloader.dataset")
    check_views(settings.train_dataloader.views)
    for name, entry in _entries(settings.evaluation.evaluators, "evaluation.evaluators"):
        EVALUATORS.check(entry, f"evaluation.evaluators.{name}")
    for name, entry in _entries(settings.hooks, "hooks"):
        HOOKS.check(entry, f"hooks.{name}")
    for name, entry in _entries(settings.vis_backends, "vis_backends"):
        _check_backend(entry, f"vis_backends.{name}")


def _check_optim(cfg: OptimWrapper) -> None:
    check_optimizer(cfg.optimizer, "optim_wrapper.optimizer")
    for name, part in cfg.parts.items():
        check_optimizer(part.optimizer, f"optim_wrapper.parts.{name}.optimizer")
    for name, group in cfg.groups.items():
        for key in ("lr_mult", "decay_mult", "freeze"):
            if getattr(group, key) < 0:
                raise ValueError(f"optim_wrapper.groups.{name}.{key} must not be negative")
    if not 0 < cfg.layer_decay <= 1:
        raise ValueError("optim_wrapper.layer_decay must be above 0, and at most 1, which is none")
    if cfg.clip_grad is not None and cfg.clip_grad <= 0:
        raise ValueError("optim_wrapper.clip_grad must be positive, or None for no bound")
    for key, known in (("clip_per", ("model", "module")), ("precision", ("auto", "fp32", "bf16"))):
        if (value := getattr(cfg, key)) not in known:
            raise ValueError(f"optim_wrapper.{key} {value!r} is not known{nearest(value, known)}")


def check_optimizer(cfg: Dict, where: str) -> type[Optimizer]:
    """Checks an optimizer's type, the names of its arguments, and its schedules.

    Args:
        cfg: ``dict(type='AdamW', lr=...)``.
        where: path of ``cfg`` in the config, for the message.

    Returns:
        The class, one of torch's.

    Raises:
        ValueError: an unknown type, argument or schedule, or a type without a fused step.
    """
    name = str(cfg.get("type"))
    known = {cls.__name__: cls for cls in vars(torch.optim).values() if isinstance(cls, type)}
    del known["Optimizer"]  # of which they are made
    if name not in known:
        raise ValueError(f"{where}.type {name!r} is not known{nearest(name, known)}")
    valid = set(inspect.signature(known[name]).parameters)
    if "fused" not in valid:
        raise ValueError(
            f"{where}.type: {name} has no fused step, which a skipped step on the device "
            "needs; use AdamW, Adam or SGD"
        )
    valid -= {"params", "foreach", "maximize"}
    for key in cfg:
        if key != "type" and key not in valid:
            raise ValueError(f"{where}.{key}: {name} takes no such argument{nearest(key, valid)}")
    if "fused" in cfg:
        raise ValueError(f"{where}.fused: the step is always fused; leave it out")
    if cfg.get("momentum") and cfg.get("dampening"):
        raise ValueError(f"{where}.dampening is not supported; leave it out")
    for key in SCHEDULED:
        if key in cfg:
            build_schedule(cfg[key], f"{where}.{key}")
    return known[name]


def _check_backend(cfg: Any, where: str) -> None:
    import mmengine.visualization  # noqa: F401 - fills the registry
    from mmengine.registry import VISBACKENDS

    name = str(cfg.get("type") if isinstance(cfg, Mapping) else cfg)
    # Not `VISBACKENDS.get`, which imports any dotted path.
    if name not in VISBACKENDS.module_dict:
        raise ValueError(
            f"{where}.type {name!r} is not known{nearest(name, VISBACKENDS.module_dict)}"
        )
    check_arguments(VISBACKENDS.module_dict[name], cfg, where, extra=["save_dir"])


def _entries(cfg: Any, where: str) -> list[tuple[str, Dict]]:
    if not isinstance(cfg, Mapping):
        raise ValueError(f"{where} must be a dict of named entries, but it is {cfg!r:.100}")
    return [(name, entry) for name, entry in cfg.items() if entry is not None]
