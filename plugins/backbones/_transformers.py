"""Models of transformers from a local folder: JSON and safetensors, never a stranger's code."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ._foreign import building, library, read_weights


def read_config(folder: str | Path, part: str) -> Any:
    """Returns the config of a model, or that of its part (``'text_config'``) where it has several.

    Args:
        folder: holds ``config.json``.
        part: the sub-config to take from a model of several towers, such as CLIP.

    Raises:
        ValueError: transformers is not installed or does not know the model; the config asks for
            code of its own or for quantised weights.
        FileNotFoundError: there is no such file; nothing is downloaded.
    """
    transformers = library("transformers", "transformers")
    file = Path(folder) / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; the model's folder is local and holds one")
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{file} is not a JSON object; take the config.json of a model")
    raw = _trusted(raw, file)
    with building(f"the model of {file}"):
        config = transformers.AutoConfig.for_model(raw.pop("model_type", "(unnamed)"), **raw)
    config = getattr(config, part, config)
    # These build on a model of another library, and would download its weights.
    for name in ("backbone", "backbone_config", "architecture"):
        if getattr(config, name, None):
            raise ValueError(
                f"{file} builds on the {name} of another model; take that model itself, by "
                "type='Timm' or by its own folder"
            )
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"{file} is of an encoder-decoder; a tower needs an encoder alone")
    return config


def _trusted(raw: dict[str, Any], file: Path) -> dict[str, Any]:
    """Drops private entries and choices of kernels, which may be downloads; refuses code."""
    for key in ("auto_map", "quantization_config"):
        if key in raw:
            raise ValueError(
                f"{file} has the entry {key!r}: code of its own, or weights that do not train, are "
                "never loaded; take a folder of a model that transformers itself knows"
            )
    kept = {k: v for k, v in raw.items() if not k.startswith("_") and "implementation" not in k}
    return {k: _trusted(v, file) if isinstance(v, dict) else v for k, v in kept.items()}


def build(folder: str | Path, config: Any, pretrained: bool, pooling: bool) -> Any:
    """Builds a model without a head, with random weights or with those of the folder.

    Args:
        folder: holds ``model.safetensors``, one file or several shards.
        config: as from ``read_config``.
        pretrained: whether to load it.
        pooling: whether the model's own pooling layer is wanted, if it can do without.

    Raises:
        ValueError: transformers has no such model, or the weights are of another.
        FileNotFoundError: there are no weights; ``.bin`` files are pickles and never read.
    """
    auto = library("transformers", "transformers").AutoModel
    how: dict[str, Any] = {"dtype": torch.get_default_dtype()}
    with building(f"the model in {folder}"):
        with torch.device("meta"):
            cls = type(auto.from_config(config))
        if "add_pooling_layer" in inspect.signature(cls).parameters:
            how["add_pooling_layer"] = pooling
        if not pretrained:
            return auto.from_config(config, **how)
    files = sorted(Path(folder).glob("model*.safetensors"))
    if not files:
        raise FileNotFoundError(
            f"{folder} holds no model.safetensors; a .bin file may run code, convert it first"
        )
    state: dict[str, torch.Tensor] = {}
    for file in files:
        state |= read_weights(file)
    with building(f"the model with the weights in {folder}"), _quiet():
        model, report = cls.from_pretrained(
            None, config=config, state_dict=state, output_loading_info=True, **how
        )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"the weights in {folder} lack {', '.join(missing[:3])}"
            f"{' and others' * (len(missing) > 3)}; a missing pooler is left out by pool='cls'"
        )
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Mutes a progress bar, and a report on towers that are left out by intent."""
    log = library("transformers.utils.logging", "transformers")
    level, bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bar:
            log.enable_progress_bar()
