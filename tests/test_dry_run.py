"""The step without numbers, and what it refuses."""

import pytest
import torch
from torch import nn

from tests import cases
from tests.adapters import (
    IMAGES,
    TEXTS,
    declip,
    each,
    local,
    model_folders,  # noqa: F401
)
from webssl_toolbox import Need, Objective
from webssl_toolbox.engine.dry_run import dry_run
from webssl_toolbox.registry import OBJECTIVES


@OBJECTIVES.register_module()
class Forgetful(Objective):
    """Creates more than it uses, and may read a value on the host."""

    def __init__(self, reads: bool = False):
        super().__init__()
        self.reads = reads
        self.used, self.head = nn.Linear(1, 1), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        self.partial = nn.Linear(1, 1)

    def needs(self):
        return frozenset()

    def forward(self, features):
        x = self.used(self.partial.weight)
        return {"loss": x.sum() * x.sum().item() if self.reads else x.sum()}


@OBJECTIVES.register_module()
class Distil(Objective):
    """Masked patches imitate a teacher's."""

    def __init__(self):
        super().__init__()
        self.student = Need("image", "v1", mask="v1_mask")
        self.teacher = Need("image_ema", "v1")

    def needs(self):
        return frozenset([self.student, self.teacher])

    def forward(self, features):
        index = features.input("v1_mask.index")
        student, teacher = (
            features[need].tokens.flatten(0, 1)[index] for need in (self.student, self.teacher)
        )
        return {"loss": (student - teacher).square().mean()}


@pytest.mark.parametrize("name", cases.OBJECTIVES)
def test_every_objective_runs(name):
    model = dry_run(cases.OBJECTIVES[name].model)
    assert all(p.is_meta for p in model.parameters())


def test_a_teacher_and_masked_patches_run():
    towers = dict(image=cases.VIT, image_ema=dict(type="EMA", of="towers.image"))
    model = dry_run(dict(towers=towers, objectives=dict(distil=dict(type="Distil"))))
    assert all(p.is_meta and not p.requires_grad for p in model.towers["image_ema"].parameters())


@each(IMAGES | TEXTS)
def test_towers_of_other_libraries_run_without_their_weights(tower, folders):
    model = declip(local(tower, folders) | dict(pretrained="nowhere.safetensors")).model
    assert all(value.is_meta for value in dry_run(model).state_dict().values())


def test_each_chunk_has_rows_for_a_batch_norm():
    assert dry_run(cases.DECLIP.model | dict(chunks=3)).chunks == 3


def test_all_that_nothing_trains_is_named():
    objectives = dict(forgetful=dict(type="Forgetful"), mlm=dict(type="MLM"))
    with pytest.raises(ValueError) as caught:
        dry_run(dict(towers=dict(text=cases.TEXT), objectives=objectives))
    message = str(caught.value)
    names = "objectives.forgetful.head, objectives.forgetful.partial.bias"
    assert message.startswith(f"no objective trains {names} (5 parameters)")


def test_a_value_read_on_the_host_is_said_to_be():
    with pytest.raises(ValueError, match=r"item\(\)"):
        dry_run(dict(towers={}, objectives=dict(forgetful=dict(type="Forgetful", reads=True))))
    assert torch.get_default_device().type == "cpu"
