"""The one wrapped module: towers, spaces and objectives, composed by a config."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from . import features
from .ema import EMA
from .objective import Objective, Progress, is_loss
from .registry import MODELS, OBJECTIVES, SPACES, nearest
from .running_stats import RunningStats
from .schedules import Schedule
from .schedules import build as build_schedule
from .seeding import seeded
from .spaces import Space
from .towers import Tower

Config = Mapping[str, Any]


class Pretrainer(nn.Module):
    """Encodes every view once and lets each objective read the encodings that it declared.

    ``losses, logs = pretrainer(inputs)`` is one step without any runner::

        losses, logs = pretrainer(inputs)
        sum(losses.values()).backward()
        optimizer.step()
        pretrainer.after_step(Progress(step, total))

    Args:
        towers: ``{name: dict(type=...)}``. Those that no objective needs are not built.
        objectives: ``{name: dict(type=..., weight=...)}``; None removes an inherited one. A weight
            is a number or a schedule. Without any, all towers are built: to be measured.
        spaces: ``{name: dict(type=...)}``, likewise.
        seed: initial weights are a function of it and of each module's name.
        chunks: towers run the batch in so many checkpointed pieces: less memory, equal gradients.
        compile: whether each tower is compiled, when it is first called with views of a size.

    Raises:
        ValueError: an unknown type, argument, tower or space, naming the nearest valid one.
    """

    def __init__(
        self,
        towers: Config,
        objectives: Config | None = None,
        spaces: Config | None = None,
        seed: int = 0,
        chunks: int = 1,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if chunks < 1:
            raise ValueError(f"model.chunks must be at least 1, but it is {chunks}")
        self.chunks = chunks
        self.step, self.total = 0, 1
        self.weights: dict[str, Schedule] = {}
        self.objectives = nn.ModuleDict(self._build_objectives(objectives or {}))
        self.plan = features.plan(self._objectives())
        with seeded(str(seed)):
            self._build_towers(_present(towers))
            attached = _Spaces(self._build_spaces(_present(spaces or {}), _present(towers)))
            for name, objective in zip(self.objectives, self._objectives(), strict=True):
                with seeded(f"objectives.{name}"):
                    objective.setup(self._towers(), attached)
        self.spaces = nn.ModuleDict(attached.used())
        for space in self._spaces().values():
            if isinstance(space, EMA):  # only now has its source all that objectives attach
                space.follow(self.spaces[_source(space.of, "spaces", self.spaces)])
        self._running_stats = RunningStats(self)
        if compile:
            for tower in self._towers().values():
                tower.compile()  # in place: names in the state dict stay

    # -- building ------------------------------------------------------------------------------

    def _build_objectives(self, cfg: Config) -> dict[str, Objective]:
        built = {}
        for name, entry in _present(cfg).items():
            where = f"model.objectives.{name}"
            OBJECTIVES.check(entry, where, extra=["weight"])
            entry = dict(entry)
            weight = entry.pop("weight", 1.0)
            self.weights[name] = build_schedule(weight, f"{where}.weight")
            with seeded(where):
                built[name] = OBJECTIVES.create(entry, where)
        return built

    def _build_towers(self, cfg: Config) -> None:
        wanted = list(self.plan if self.objectives else cfg)
        for name in wanted:
            if name not in cfg:
                raise ValueError(
                    f"an objective needs the tower {name!r}, which model.towers lacks"
                    f"{nearest(name, cfg)}"
                )
        for name in wanted:  # grows by the sources of averages, and by theirs
            if cfg[name].get("type") == "EMA":
                source = _source(cfg[name].get("of"), "towers", cfg)
                wanted.extend({source} - set(wanted))
        wanted.sort(key=_averages(cfg, "towers"))
        self.towers = nn.ModuleDict()
        for name in wanted:
            with seeded(f"towers.{name}"):
                tower = MODELS.create(cfg[name], f"model.towers.{name}")
                if isinstance(tower, EMA):
                    tower.follow(self.towers[_source(tower.of, "towers", self.towers)])
                tower.plan(frozenset(self.plan.get(name, ())))
            self.towers[name] = tower
        self.plan = {name: self.plan[name] for name in wanted if name in self.plan}

    def _build_spaces(self, cfg: Config, towers: Config) -> dict[str, Space]:
        built: dict[str, Space] = {}
        for name in sorted(cfg, key=_averages(cfg, "spaces")):
            with seeded(f"spaces.{name}"):
                built[name] = SPACES.create(cfg[name], f"model.spaces.{name}")
            built[name].check(f"model.spaces.{name}", towers)
        return built

    # -- one step ------------------------------------------------------------------------------

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Computes all losses of a batch.

        Args:
            inputs: the named tensors that views computed.

        Returns:
            Weighted losses to be summed and minimised, and detached values to log, both as
            ``'<objective>.<name>'``, and how far pooled rows of each trained tower's first view
            spread, ``'towers.<name>.std'``; nothing is read back from the device.
        """
        if self.training:
            self._running_stats.remember()
        encodings = features.encode(self.plan, self._towers(), inputs, self.chunks)
        now = self.step, self.total
        shared = features.Features(encodings, self._spaces(), inputs, *now)
        losses, logs = {}, {}
        for name, needs in self.plan.items():
            pooled = encodings[needs[0]].pooled
            if len(pooled) > 1 and not isinstance(self.towers[name], EMA):
                logs[f"towers.{name}.std"] = features.spread(pooled)
        for name, objective in self.objectives.items():
            weight = self.weights[name](*now)
            for key, value in objective(shared).items():
                logs[f"{name}.{key}"] = value.detach()
                if is_loss(key):
                    losses[f"{name}.{key}"] = value * weight
        return losses, logs

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        """Commits what the step staged: queues, centres, bounds, then averages."""
        self.step, self.total = progress.step, progress.total
        self._running_stats.commit(progress)
        for objective in self._objectives():
            objective.after_step(progress)
            objective.staged.clear()
        for space in self._spaces().values():
            space.after_step(progress)
        for ema in self._emas():
            ema.update(progress)

    def needed_inputs(self) -> frozenset[str]:
        """Names of the views that the plan reads; the view ``text`` also makes ``text.keep``."""
        read = (name for needs in self.plan.values() for need in needs for name in need.inputs)
        return frozenset(name.partition(".")[0] for name in read)

    # ModuleDict loses the types of what it holds; these give them back.

    def _objectives(self) -> list[Objective]:
        return list(self.objectives.values())  # type: ignore[arg-type]

    def _towers(self) -> dict[str, Tower]:
        return dict(self.towers.items())  # type: ignore[arg-type]

    def _spaces(self) -> dict[str, Space]:
        return dict(self.spaces.items())  # type: ignore[arg-type]

    def _emas(self) -> list[EMA]:
        return [m for m in (*self.towers.values(), *self.spaces.values()) if isinstance(m, EMA)]


class _Spaces(Mapping[str, Space]):
    """The spaces during ``setup``; remembers which an objective took, the others are dropped."""

    def __init__(self, built: Mapping[str, Space]) -> None:
        self.built, self.taken = built, set[str]()

    def __getitem__(self, name: str) -> Space:
        if name not in self.built:
            raise ValueError(
                f"an objective needs the space {name!r}, which model.spaces lacks"
                f"{nearest(name, self.built)}"
            )
        self.taken.add(name)
        return self.built[name]

    def __iter__(self) -> Any:
        return iter(self.built)

    def __len__(self) -> int:
        return len(self.built)

    def used(self) -> dict[str, Space]:
        """Returns the taken spaces, and those that a taken average follows."""
        taken = list(self.taken)
        for name in taken:  # grows likewise
            space = self.built[name]
            if isinstance(space, EMA):
                taken.append(_source(space.of, "spaces", self.built))
        self.taken.update(taken)
        return {name: space for name, space in self.built.items() if name in self.taken}


def _present(cfg: Config) -> Config:
    """Drops entries that a child config set to None."""
    return {name: entry for name, entry in cfg.items() if entry is not None}


def _averages(cfg: Config, kind: str) -> Callable[[str], int]:
    """Returns a key that sorts sources before their averages, which copy them."""

    def count(name: str, others: frozenset[str]) -> int:
        if cfg[name].get("type") != "EMA":
            return 0
        source = _source(cfg[name].get("of"), kind, others)  # which refuses to go in a circle
        return 1 + count(source, others - {source})

    return lambda name: count(name, frozenset(cfg) - {name})


def _source(of: Any, kind: str, names: Iterable[str]) -> str:
    """Returns the name that an EMA follows, ``of='towers.image'``; refuses another."""
    name = str(of).removeprefix(f"{kind}.")
    if name == of or name not in names:
        wanted = nearest(str(of), (f"{kind}.{n}" for n in names))
        raise ValueError(f"model.{kind}: an EMA cannot follow of={of!r}{wanted}")
    return name
