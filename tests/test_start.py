"""Runs that start from the weights of another: sizes, objectives and teachers may differ."""

import json
import logging

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from webssl_toolbox import Need, Objective
from webssl_toolbox.engine import checkpoint
from webssl_toolbox.engine.config import load_config
from webssl_toolbox.engine.optim import OptimWrapper
from webssl_toolbox.engine.runner import Runner
from webssl_toolbox.engine.settings import settings_from
from webssl_toolbox.engine.start import load_from
from webssl_toolbox.registry import MODELS, OBJECTIVES
from webssl_toolbox.towers import Part, Segment

from . import cases
from .test_runner import config

VIT = cases.VIT | dict(registers=1, layer_scale=0.1)
TEACHER = dict(type="EMA", of="towers.image", momentum=0.9)
GRAM = dict(type="EMA", of="towers.image_ema", momentum=0.0, every=4)


@pytest.fixture(autouse=True)
def distance():
    @OBJECTIVES.register_module(name="Distance")
    class Distance(Objective):
        """How far towers are apart; a head of its own, too."""

        def __init__(self, towers=("image",), dim=3):
            super().__init__()
            self.read = [Need(tower, "v1") for tower in towers]
            self.dim = dim

        def needs(self):
            return frozenset(self.read)

        def setup(self, towers, spaces):
            self.head = torch.nn.Linear(towers["image"].width, self.dim)

        def forward(self, features):
            first, *others = (self.head(features[need].pooled) for need in self.read)
            return {"loss": sum(((first - o) ** 2).mean() for o in others) + first.square().mean()}

    yield
    OBJECTIVES._module_dict.pop("Distance")


def model(*averages, vit=VIT, seed=0, **objectives):
    towers = dict(image=vit, image_ema=TEACHER, image_gram=GRAM, text=cases.TEXT)
    objectives = objectives or dict(far=dict(type="Distance", towers=("image", *averages)))
    cfg = dict(towers=towers, spaces=cases.JOINT | cases.DECODER, objectives=objectives)
    return dict(type="Pretrainer", seed=seed) | cfg


def built(cfg):
    """A model as after some training: no tensor is what an initialisation gives."""
    made = MODELS.create(cfg, "model")
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for value in made.parameters():
            value += 0.1 * torch.randn(value.shape, generator=generator)
    return made


@pytest.fixture
def saved(tmp_path):
    """Saves a model as a run, and returns its state and its work dir."""

    def save(cfg):
        source = built(cfg)
        checkpoint.save(tmp_path / "run/checkpoints", 5, source)
        return source.state_dict(), tmp_path / "run"

    return save


def log(caplog):
    return [(record.levelname, record.message) for record in caplog.records]


def test_the_same_model_takes_all_of_it(saved, caplog):
    state, run = saved(model("image_ema"))
    other = MODELS.create(model("image_ema", seed=1), "model")
    caplog.set_level(logging.INFO, "webssl_toolbox")
    load_from(run, other)
    assert all(value.equal(state[name]) for name, value in other.state_dict().items())
    step = run / "checkpoints/step_00000005"
    assert log(caplog) == [("INFO", f"starting from the weights in {step}")]
    load_from(step, MODELS.create(model("image_ema"), "model"))


@pytest.mark.parametrize("positions", ["learned", "sincos"])
def test_positions_take_the_size_of_the_input(saved, positions):
    vit = VIT | dict(positions=positions)
    state, run = saved(model("image_ema", vit=vit))
    large = MODELS.create(model("image_ema", vit=vit | dict(input_size=40)), "model")
    load_from(run, large)
    for name, value in large.state_dict().items():
        if not name.endswith("pos_embed"):
            assert value.equal(state[name]), name
            continue
        assert value.shape == (1, 1 + 5 * 5, 16)
        grid = state[name][:, 1:].view(1, 2, 2, 16).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, (5, 5), mode="bicubic", antialias=True)
        torch.testing.assert_close(value[:, 1:], grid.permute(0, 2, 3, 1).flatten(1, 2))
        assert value[:, :1].equal(state[name][:, :1])  # of the class token
    assert not large.towers.image_ema.module.pos_embed.requires_grad


def test_a_resized_tower_sees_images_of_its_size_as_before(saved):
    _, run = saved(model())
    small, large = built(model()), MODELS.create(model(vit=VIT | dict(input_size=40)), "model")
    load_from(run, large)
    segment = Segment(Need("image", "v1"), (Part("v1", torch.randn(2, 3, 40, 40)),))
    (one,), (other,) = small.towers.image([segment]), large.towers.image([segment])
    torch.testing.assert_close(one.tokens, other.tokens)


def test_other_objectives_start_as_initialised(saved, caplog):
    state, run = saved(model(far=dict(type="Distance"), near=dict(type="Distance", dim=4)))
    cfg = model(far=dict(type="Distance"), mae=dict(type="MAE"), clip=dict(type="CLIP"))
    fresh, other = MODELS.create(cfg, "model").state_dict(), MODELS.create(cfg, "model")
    load_from(run, other)
    for name, value in other.state_dict().items():
        assert value.equal(state[name] if name in state else fresh[name]), name
    missing = len(fresh.keys() - state.keys())
    assert log(caplog) == [
        (
            "WARNING",
            "load_from: not stored there, so as initialised: objectives.mae, "
            "towers.text, spaces.joint, spaces.decoder "
            f"({missing} tensors)",
        ),
        ("WARNING", "load_from: stored there, but not in this config: objectives.near (2 tensors)"),
    ]


def test_averages_that_are_missing_start_from_their_source(saved, caplog):
    state, run = saved(model())
    caplog.set_level(logging.INFO, "webssl_toolbox")
    other = MODELS.create(model("image_ema", "image_gram"), "model")
    load_from(run, other)
    for name in ("image", "image_ema.module", "image_gram.module"):
        for key, value in other.towers.get_submodule(name).state_dict().items():
            assert value.equal(state[f"towers.image.{key}"]), (name, key)
    said = "load_from: towers.image_ema, towers.image_gram start from what they average"
    assert log(caplog)[1:] == [("INFO", said)]


def test_a_stored_average_is_kept_and_starts_another(saved):
    state, run = saved(model("image_ema"))
    other = MODELS.create(model("image_ema", "image_gram", vit=VIT | dict(input_size=24)), "model")
    load_from(run, other)
    teacher, anchor = (
        other.towers.get_submodule(f"image_{name}.module") for name in ("ema", "gram")
    )
    assert teacher.norm.weight.equal(state["towers.image_ema.module.norm.weight"])
    assert not teacher.norm.weight.equal(other.towers.image.norm.weight)
    for key, value in teacher.state_dict().items():
        assert value.equal(anchor.state_dict()[key]), key


def test_what_a_tower_has_in_addition_starts_as_initialised(saved, caplog):
    _, run = saved(model(vit=cases.VIT))
    masked = model(far=dict(type="Distance"), vit=VIT | dict(depth=3))
    load_from(run, MODELS.create(masked, "model"))
    ((_, missing),) = log(caplog)
    for name in ("reg_token", "blocks.0.ls1", "blocks.1.ls2", "blocks.2"):
        assert f"towers.image.{name}" in missing


REFUSED = {
    "width": (
        dict(vit=VIT | dict(width=32)),
        r"towers\.image\.\w+ is \[.*16\] in .*, but \[.*32\] in this config, and \d+ more differ; "
        r"take the size that it was saved with, or rename towers\.image",
    ),
    "class token": (
        dict(vit=VIT | dict(class_token=False, pool="mean")),
        r"towers\.image\.pos_embed is \[1, 5, 16\] in .*, but \[1, 4, 16\]",
    ),
    "patch size": (
        dict(vit=VIT | dict(patch_size=4)),
        r"towers\.image\.patch_embed\.proj\.weight is \[16, 3, 8, 8\] in .*, but \[16, 3, 4, 4\]",
    ),
    "head": (
        dict(far=dict(type="Distance", dim=5)),
        r"objectives\.far\.head\.weight is \[3, 16\] .* or rename objectives\.far, which then",
    ),
    "another tower": (dict(vit=cases.RESNET), "has no weights for the towers of this config"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_and_nothing_is_changed(saved, change, message):
    _, run = saved(model())
    other = MODELS.create(model(**change), "model")
    before = checkpoint.digest(other)
    with pytest.raises(ValueError, match=message):
        load_from(run, other)
    assert checkpoint.digest(other) == before


def test_no_checkpoint_no_start(saved, tmp_path):
    other = MODELS.create(model(), "model")
    pickle = tmp_path / "weights.pth"
    pickle.write_bytes(b"")
    with pytest.raises(ValueError, match=r"weights\.pth is refused: a pickle may run code"):
        load_from(pickle, other)
    with pytest.raises(FileNotFoundError, match="is not a checkpoint"):
        load_from(tmp_path / "nowhere", other)
    (tmp_path / "new/checkpoints").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="holds no checkpoint yet"):
        load_from(tmp_path / "new", other)
    _, run = saved(model())
    file = run / "checkpoints/step_00000005/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match="damaged"):
        load_from(run, other)


# -- runs ----------------------------------------------------------------------------------------


def small(**changes):
    parts = dict(towers=dict(image=cases.VIT), objectives=dict(a=dict(type="SimCLR", dim=4)))
    changes = dict(model=parts, train_cfg__max_iters=3, train_cfg__checkpoint_interval=2) | changes
    return config(**changes)


def test_a_run_starts_with_the_weights_and_a_fresh_optimizer(tmp_path):
    Runner(small(), tmp_path / "first").train()
    cfg = small(load_from=str(tmp_path / "first"), seed=1)
    runner = Runner(cfg, tmp_path / "second")
    stored = load_file(tmp_path / "first/checkpoints/step_00000003/model.safetensors")
    assert all(value.equal(stored[name]) for name, value in runner.model.state_dict().items())
    assert runner.iter == 0 and not runner.optim_wrapper.optimizer.state
    runner.train()
    whole = runner.digest()

    # Stopped at step 2: a run that resumes never looks at what it started from.
    for path in (tmp_path / "first/checkpoints").iterdir():
        path.rename(tmp_path / path.name)
    (tmp_path / "second/checkpoints/step_00000003").rename(tmp_path / "last")
    resumed = Runner(cfg, tmp_path / "second", resume=True)
    assert resumed.iter == 2
    resumed.train()
    assert resumed.digest() == whole


def test_a_refused_start_leaves_no_work_dir(tmp_path):
    with pytest.raises(FileNotFoundError, match="give the work dir of a run"):
        Runner(small(load_from=str(tmp_path / "nowhere")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_command_line_names_the_start(tmp_path):
    file = tmp_path / "config.py"
    file.write_text("".join(f"{key} = {value!r}\n" for key, value in small().items()))
    cfg = load_config(file, ["load_from=work_dirs/first"])
    assert settings_from(cfg).load_from == "work_dirs/first"
    assert json.loads(json.dumps(cfg))["load_from"] == "work_dirs/first"
    with pytest.raises(ValueError, match="load_from must be a string or None"):
        settings_from(cfg | {"load_from": 5})


def test_momentum_of_sgd_starts_at_zero(saved):
    _, run = saved(model())
    other = MODELS.create(model(), "model")
    cfg = settings_from(small(optim_wrapper__optimizer=dict(type="SGD", momentum=0.9)))
    wrapper = OptimWrapper(cfg.optim_wrapper, other, torch.device("cpu"))
    load_from(run, other)
    buffers = [state["momentum_buffer"] for state in wrapper.optimizer.state.values()]
    assert buffers and not any(buffer.any() for buffer in buffers)
