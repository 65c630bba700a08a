# ruff: noqa: F811 - a fixture is imported, and then an argument
"""Files that the converter refuses, or says something of: nothing in them runs."""

import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from .stand_ins import Dino
from .test_convert import convert, image_model  # noqa: F401


class Named:
    """A pickle that names a function, and would call it."""

    def __reduce__(self):
        return os.system, ("touch canary",)


class Unknown:
    """A pickle that names a class."""


STATE = {"pos_embed": torch.zeros(1, 5, 48), "cls_token": torch.zeros(1, 1, 48)}
REFUSED = {
    "a function": (dict(STATE, evil=Named()), (), "it names posix.system, and a pickle may run"),
    "a class": (dict(STATE, x=Unknown()), (), "it names tests.test_convert_refusals.Unknown"),
    "a whole model": (nn.Linear(2, 2), (), "it names torch.nn.modules.linear.Linear"),
    "no weights": ({"epoch": 3}, (), "holds no weights by name, but epoch"),
    "a list": ([torch.zeros(2)], (), "holds no weights by name, but none"),
    "no such part": ({"model": STATE}, ("--part", "ema"), "no part 'ema'; it holds model"),
    "another model": ({"fc.weight": torch.ones(1)}, (), "none of its 1 tensors has a place"),
    "another width": ({"norm.weight": torch.ones(64)}, (), "is [64], but towers.image.norm.w"),
    "another shape": ({"cls_token": torch.tensor(1.0)}, (), "do not have the shapes of DINO"),
    "a name twice": ({"norm.bias": torch.ones(48), "module.norm.bias": torch.ones(48)}, (), "both"),
    "a stretched tensor": ({"norm.bias": torch.ones(1).expand(9**12)}, (), "holds no weights"),
}


@pytest.mark.parametrize(("content", "options", "why"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_leaves_nothing(content, options, why, convert, tmp_path):
    torch.save(content, "theirs.pth")
    with pytest.raises(SystemExit) as refused:
        convert("theirs.pth", image_model(), *options)
    (sentence,) = str(refused.value.code).splitlines()
    assert sentence.startswith("error: theirs.pth") and why in sentence
    assert not (tmp_path / "work_dirs").exists() and not (tmp_path / "canary").exists()


def test_what_is_no_file_of_weights_is_refused(convert):
    torch.save(STATE, "whole.pth")
    content = Path("whole.pth").read_bytes()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), "program.pt")
    for name, content, why in (
        ("cut.pth", content[:-40], "is not what torch.save writes of tensors"),
        ("old.pth", pickle.dumps(Named(), 2), "it names posix.system"),
        ("short.pth", b"\x80", "is not what torch.save writes of tensors"),
        ("page.pth", b"<html>", "is neither safetensors nor a torch.save"),
        ("empty.pth", b"", "is neither safetensors nor a torch.save"),
        ("program.pt", None, "a TorchScript archive is a program"),
        ("nowhere.pth", None, "no such file; weights are local"),
    ):
        if content is not None:
            Path(name).write_bytes(content)
        with pytest.raises(SystemExit, match=why):
            convert(name, image_model())
    assert not Path("canary").exists()


def test_what_is_written_names_its_source(convert):
    theirs = Dino(48, 2, 2, grid=2, patch=14, gated=False).state_dict()
    torch.save({"teacher": theirs}, "theirs.pth")
    _, said = convert("theirs.pth", image_model(layer_scale=1.0))
    folder = Path("work_dirs/theirs/checkpoints/step_00000000")
    source = json.loads((folder / "state.json").read_text())["source"]
    assert source["file"] == "theirs.pth" and source["part"] == "teacher"
    assert source["licence"] == "unknown" and "licence of theirs.pth is unknown" in said
    with Path("theirs.pth").open("rb") as file:
        assert source["sha256"] == hashlib.file_digest(file, "sha256").hexdigest()
    assert load_file(folder / "model.safetensors").keys() == {
        f"towers.image.{name}" for name in theirs if name != "mask_token"
    }
    with pytest.raises(SystemExit, match="work_dirs/theirs exists already"):
        convert("theirs.pth", image_model(layer_scale=1.0))


def test_positions_take_the_size_of_the_config(convert):
    torch.save(Dino(48, 2, 2, grid=4, patch=14, gated=False).state_dict(), "theirs.pth")
    model, _ = convert("theirs.pth", image_model(layer_scale=1.0))
    assert model.towers.image.pos_embed.shape == (1, 5, 48)
