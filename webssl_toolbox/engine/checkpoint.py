"""Checkpoints that a crash cannot tear and that cannot run code.

A checkpoint is a folder ``step_00001200`` of three files::

    model.safetensors      the whole state dict: weights, EMA, queues, centres
    optimizer.safetensors  its state as ``<parameter name>/<state key>``; absent without one
    state.json             step, format, versions, the caller's meta, sizes and SHA-256

It is written under a hidden name, synced, read back, and only then renamed: whatever carries a
checkpoint's name was complete. Hyper-parameters of the optimizer are functions of config and step.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import dist
from . import stream
from .fit import check_fit, described
from .parts import kind

FORMAT = 1
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"

_NAME = re.compile(r"step_(\d+)(\.old)?")  # `.old`: being replaced, valid until the new one is in
_HIDDEN = ".tmp-"  # half-written or half-deleted; swept at the next save
_RESERVED = ("format", "step", "versions", "files", "optimizer")


def save(
    root: Path,
    step: int,
    model: nn.Module,
    optimizer: Optimizer | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the checkpoint of a step and returns its folder.

    Call it on all ranks: the first one writes, and the others hand it their shards.

    Args:
        root: Folder of the checkpoints of one run; one process at a time may save there.
        step: Number of finished optimizer steps. An existing checkpoint of it is replaced.
        model: The bare module, not its DDP or compile wrapper, whose prefix would enter the names.
        optimizer: Optimizer over parameters of ``model``.
        meta: Plain JSON data stored at the top level of ``state.json``: config, world size ...

    Raises:
        OSError: It could not be written. The earlier checkpoints are untouched.
        ValueError: ``meta`` is not JSON or takes a reserved key, or a state is not a tensor.
    """
    root = Path(root)
    meta = dict(meta or {})
    if taken := sorted(meta.keys() & set(_RESERVED)):
        raise ValueError(f"checkpoint meta may not use the reserved keys {taken}: rename them")
    try:
        json.dumps(meta)
    except TypeError as error:
        raise ValueError(f"checkpoint meta must be plain JSON data: {error}") from error
    contents = {MODEL: model_tensors(model)}
    versions = {"torch": str(torch.__version__), "webssl_toolbox": version("webssl-toolbox")}
    state: dict[str, Any] = {**meta, "format": FORMAT, "step": step, "versions": versions}
    if optimizer is not None:
        contents[OPTIMIZER] = optimizer_tensors(model, optimizer)
        names = sorted(_named_parameters(model, optimizer))
        state["optimizer"] = {"type": kind(optimizer), "parameters": names}

    final = root / f"step_{step:08d}"
    if dist.rank() > 0:
        for tensors in contents.values():
            stream.take_part(tensors)
        return final
    old, hidden = root / f"{final.name}.old", root / f"{_HIDDEN}{final.name}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        for left_over in root.glob(f"{_HIDDEN}step_*"):  # of a killed process
            shutil.rmtree(left_over)
        hidden.mkdir()
        _write(hidden, contents, state)
        _publish(hidden, final, old)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"the checkpoint of step {step} was not written to {root}: {error}. Earlier ones are "
            "untouched; check the free space, quota and permissions there"
        ) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    _remove(old)
    return final


def latest(root: Path) -> Path | None:
    """Returns the newest checkpoint that verifies, or None; warns about each one it skips.

    Raises:
        ValueError: None of those that there are verifies; says why the newest does not.
    """
    skipped: dict[Path, Exception] = {}
    for path in listed(Path(root)):
        try:
            verify(path)
        except (OSError, ValueError) as error:
            skipped[path] = error
        else:
            for other, reason in skipped.items():
                warnings.warn(f"checkpoint {other} is skipped: {reason}", stacklevel=2)
            return path
    for reason in skipped.values():
        raise ValueError(f"no checkpoint in {root} can be read: {reason}") from reason
    return None


def prune(root: Path, keep: int, every: int = 0) -> None:
    """Leaves ``keep``, counted from the newest that verifies, and each ``every``-th step's."""
    if keep < 1:
        raise ValueError(f"keep={keep}: at least one checkpoint must stay")
    newest, paths = latest(root), listed(Path(root))
    for path in paths[paths.index(newest) + keep :] if newest else ():
        if not every or step_of(path) % every:
            _remove(path)


def copy(path: Path, target: Path) -> None:
    """Copies a checkpoint; by hard links where they can be, which take space when it is deleted."""
    try:
        shutil.copytree(path, target, copy_function=os.link)
    except OSError:  # a file system without
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(path, target)


def step_of(path: Path) -> int:
    """Returns the step in the name of a checkpoint's folder."""
    match = _NAME.fullmatch(path.name)
    assert match is not None, path
    return int(match[1])


def verify(path: Path) -> dict[str, Any]:
    """Checks sizes, SHA-256 and headers of a checkpoint, and returns its ``state.json``.

    Raises:
        FileNotFoundError: ``path`` is not a checkpoint folder, or one of its files is missing.
        ValueError: A file is a pickle, damaged, or of a newer format.
    """
    path = Path(path)
    if path.is_file():
        if path.name in (MODEL, OPTIMIZER, STATE):
            raise ValueError(f"{path} is one file of a checkpoint: give its folder {path.parent}")
        raise ValueError(f"{path} is refused: a pickle may run code; give the work dir of a run")
    for name in (STATE, MODEL):
        if not (path / name).is_file():
            why = f"it has no {name}" if path.exists() else "there is no such folder"
            raise FileNotFoundError(
                f"{path} is not a checkpoint: {why}; give the work dir of a run"
            )
    state = _read_state(path / STATE)
    for name in (MODEL, OPTIMIZER) if "optimizer" in state else (MODEL,):
        _verify_file(path / name, state["files"].get(name))
    return state


def load(
    path: Path, model: nn.Module, optimizer: Optimizer | None = None, strict: bool = True
) -> dict[str, Any]:
    """Copies a verified checkpoint into a model and an optimizer, in place.

    Everything is checked before anything is changed. Parameters keep their storage and device,
    so that DDP buckets and flat views stay attached; optimizer states keep their stored dtype.

    Args:
        path: Folder of the checkpoint.
        model: The bare module, as in `save`.
        optimizer: Its state is replaced, not its hyper-parameters; None reads the model only.
        strict: Refuse missing and unexpected names and other dtypes, instead of loading what fits
            with a warning. A wrong shape is refused in either case.

    Returns:
        The content of ``state.json``: ``step``, ``versions`` and the caller's meta.

    Raises:
        ValueError: The checkpoint does not fit; further errors as `verify`.
    """
    path = Path(path)
    state = verify(path)
    tensors = load_file(path / MODEL)
    wanted = model_tensors(model)
    check_fit(path / MODEL, described(tensors, strict), described(wanted, strict), strict)
    if optimizer is not None:
        parameters = _named_parameters(model, optimizer)
        _check_optimizer(path, state.get("optimizer"), optimizer, parameters, strict)
        _load_optimizer(load_file(path / OPTIMIZER), optimizer, parameters)
    stream.copy_into(model, tensors)
    return state


def digest(model: nn.Module, optimizer: Optimizer | None = None) -> dict[str, str]:
    """Returns SHA-256 over names, dtypes, shapes and bytes, to compare two states exactly."""
    digests = {"model": stream.sha256(model_tensors(model))}
    if optimizer is not None:
        digests["optimizer"] = stream.sha256(optimizer_tensors(model, optimizer))
    return digests


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Returns the state dict, which must hold tensors only."""
    return _tensors_only("model", model.state_dict())


def optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Returns the optimizer state as ``<parameter name>/<state key>``, without empty entries."""
    values = {
        f"{name}/{key}": value
        for name, parameter in _named_parameters(model, optimizer).items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None  # SGD keeps None until momentum has something to remember
    }
    return _tensors_only("optimizer", values)


def _tensors_only(what: str, values: Mapping[str, Any]) -> dict[str, Tensor]:
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{what} state '{name}' is a {type(value).__name__}: make it a tensor")
        if value.dtype not in stream.DTYPES:
            raise ValueError(f"{what} state '{name}' is {value.dtype}: store it as another dtype")
    return dict(values)


def _named_parameters(model: nn.Module, optimizer: Optimizer) -> dict[str, nn.Parameter]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    named = {}
    for index, group in enumerate(optimizer.param_groups):
        for parameter in group["params"]:
            if parameter not in names:
                raise ValueError(
                    f"parameter group {index} of the optimizer has a parameter of shape "
                    f"{tuple(parameter.shape)} that is not in the model: pass the model it trains"
                )
            named[names[parameter]] = parameter
    return named


def _write(
    folder: Path, contents: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any]
) -> None:
    """Writes, syncs and reads back every file of a checkpoint, completing ``state``."""
    state["files"] = {}
    for name, tensors in contents.items():
        sha256 = stream.write(folder / name, tensors)
        _sync(folder / name)
        state["files"][name] = _fingerprint(folder / name)
        if state["files"][name]["sha256"] != sha256:
            raise OSError(f"what is read back from {name} is not what was written")
    file = folder / STATE
    file.write_text(json.dumps(state, indent=1), encoding="utf-8")
    _sync(file)
    _sync(folder)
    _read_state(file)


def _publish(hidden: Path, final: Path, old: Path) -> None:
    """Gives a complete checkpoint its name; the one it replaces stays valid until then."""
    if final.exists():
        _remove(old)
        final.rename(old)
    hidden.rename(final)
    _sync(final.parent)


def listed(root: Path) -> list[Path]:
    """Lists checkpoints by name, newest first, unverified."""
    names = root.iterdir() if root.is_dir() else ()
    found = [path for path in names if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: (step_of(path), path.suffix == ""), reverse=True)


def _remove(path: Path) -> None:
    # Renamed first: a kill halfway must not leave half a folder under a checkpoint's name.
    if path.exists():
        hidden = path.with_name(f"{_HIDDEN}{path.name}")
        shutil.rmtree(hidden, ignore_errors=True)
        path.rename(hidden)
        shutil.rmtree(hidden)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fingerprint(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": sha256}


def _read_state(file: Path) -> dict[str, Any]:
    try:
        state = json.loads(file.read_text("utf-8") if file.stat().st_size < 1 << 24 else "")
    except (ValueError, RecursionError) as error:  # also: not UTF-8, absurdly nested or long
        raise ValueError(f"{file} is damaged: not readable as JSON ({error})") from error
    kinds = {"files": dict, "step": int, "format": int}
    if not isinstance(state, dict) or any(type(state.get(k)) is not v for k, v in kinds.items()):
        raise ValueError(f"{file} is damaged or not from this toolbox: it lacks {', '.join(kinds)}")
    if state["format"] != FORMAT:
        wrote = f"{state.get('versions')!r} wrote it in format {state['format']}"
        raise ValueError(f"{file}: {wrote}; this toolbox reads format {FORMAT}, so use that one")
    return state


def _verify_file(file: Path, recorded: Any) -> None:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing, though {STATE} lists it")
    if _fingerprint(file) != recorded:
        raise ValueError(f"{file} is damaged: it is not what {STATE} recorded; copy it again")
    try:
        safe_open(file, "pt")  # reads the header
    except SafetensorError as error:
        raise ValueError(f"{file} is not a safetensors file: {error}") from error


def _check_optimizer(
    path: Path, recorded: Any, optimizer: Optimizer, parameters: Iterable[str], strict: bool
) -> None:
    if not isinstance(recorded, dict):
        raise ValueError(f"{path} holds no optimizer state: load the model alone")
    stored_types, types = recorded.get("type"), kind(optimizer)
    if types != stored_types:
        same = "use the same, or load the model alone"
        raise ValueError(f"{path} holds the state of {stored_types}, not of {types}: {same}")
    stored = dict.fromkeys(recorded.get("parameters", []), "")
    check_fit(path / OPTIMIZER, stored, dict.fromkeys(parameters, ""), strict)


def _load_optimizer(
    values: Mapping[str, Tensor], optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]
) -> None:
    # Torch keeps `step` on the host unless a kernel counts for itself.
    device_groups = [g for g in optimizer.param_groups if g.get("fused") or g.get("capturable")]
    counted_on_device = {parameter for group in device_groups for parameter in group["params"]}
    optimizer.state.clear()
    for full_name, value in values.items():
        name, _, key = full_name.rpartition("/")
        if (parameter := parameters.get(name)) is None:
            continue  # refused or warned about by `_check_optimizer`
        if key == "step" and parameter not in counted_on_device:
            value = value.clone()
        elif value.shape == parameter.shape:
            # Fused kernels want the parameter's memory layout, which a file does not record.
            own = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False)
            dist.fill(own, value)
            value = own
        else:
            value = value.to(parameter.device, copy=True)
        optimizer.state[parameter][key] = value
