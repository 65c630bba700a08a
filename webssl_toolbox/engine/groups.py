"""How much of its optimizer's learning rate and weight decay each parameter gets."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import accumulate

from torch import nn

from ..registry import nearest
from ..towers import Tower
from . import settings


def shares(cfg: settings.OptimWrapper, model: nn.Module) -> dict[str, settings.Share]:
    """Returns the share of each trainable parameter, by its name.

    Parameters of fewer than two dimensions are not decayed.

    Raises:
        ValueError: a group names nothing, or nothing to train; a tower has no layers to count.
    """
    owners = assign({name: group.of for name, group in cfg.groups.items()}, model, "groups")
    layers = {} if cfg.layer_decay == 1 else _by_layer(cfg.layer_decay, model)
    found = {}
    for name, parameter in _trainable(model).items():
        group = cfg.groups[owners[name]] if name in owners else settings.Share()
        found[name] = settings.Share(
            lr_mult=group.lr_mult * layers.get(name, 1.0),
            decay_mult=group.decay_mult * (parameter.ndim >= 2),
            freeze=group.freeze,
        )
    return found


def _by_layer(decay: float, model: nn.Module) -> dict[str, float]:
    """Returns the multipliers of layer-wise decay, as in BEiT (arXiv 2106.08254) and DINOv2.

    Those of towers: ``decay`` to the power of how many layers lie between a parameter and what
    follows the last block.
    """
    rates = {}
    for path, tower in model.named_modules():
        if isinstance(tower, Tower) and (names := _trainable(tower)):
            if not tower.num_layers:
                raise ValueError(
                    f"optim_wrapper.layer_decay: {path}, a {type(tower).__name__}, does not count "
                    "its layers, as a ViT does; leave it out, or set lr_mult by groups"
                )
            for name in names:
                rates[f"{path}.{name}"] = decay ** (tower.num_layers - tower.layer_of(name))
    return rates


def assign(paths: Mapping[str, str], model: nn.Module, section: str) -> dict[str, str]:
    """Returns which entry takes a trainable parameter: the one with the innermost path.

    Args:
        paths: for each entry, that of a module or of a parameter.
        model: whose parameters to assign; those that no path holds are left out.
        section: of ``optim_wrapper``, in which the entries are.

    Raises:
        ValueError: the model lacks a path, or an entry is left with nothing to train.
    """
    every = [name for name, _ in model.named_parameters()]
    for entry, path in paths.items():
        _check_path(path, every, f"optim_wrapper.{section}.{entry}.of")
    owners = {}
    for name in _trainable(model):
        takers = [entry for entry, path in paths.items() if f"{name}.".startswith(f"{path}.")]
        if takers:
            owners[name] = max(takers, key=lambda entry: len(paths[entry]))
    for entry in paths:
        if entry not in owners.values():
            raise ValueError(
                f"optim_wrapper.{section}.{entry} has nothing to train: its parameters are frozen, "
                f"or others of {section} take them; leave it out"
            )
    return owners


def _check_path(path: str, every: Iterable[str], where: str) -> None:
    inside = ""
    for piece in path.split("."):
        there = {n.removeprefix(inside).partition(".")[0] for n in every if n.startswith(inside)}
        if piece not in there:
            owner = inside.rstrip(".") or "the model"
            raise ValueError(f"{where}: {owner} has no {piece!r}{nearest(piece, there)}")
        inside += f"{piece}."


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def outermost(names: Collection[str], among: Iterable[str]) -> list[str]:
    """Returns the outermost modules of the model's entries that hold nothing but ``names``.

    Args:
        names: dotted names of parameters.
        among: all names that there are.
    """
    chosen = set(names)
    mixed = {path for name in among if name not in chosen for path in _paths(name)}
    return list(
        dict.fromkeys(next((p for p in _paths(name) if p not in mixed), name) for name in names)
    )


def _paths(name: str) -> list[str]:
    """Returns ``['towers.image', 'towers.image.norm', ...]`` of ``'towers.image.norm.bias'``."""
    paths = list(accumulate(name.split("."), "{}.{}".format))
    return paths[1:] or paths
