"""``tools/plan.py``: what it says of a run equals what one counts by hand."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tools import plan
from webssl_toolbox.engine.config import load_config
from webssl_toolbox.engine.settings import settings_from

ROOT = Path(__file__).parents[1]
WIDTH, DEPTH, PATCH, SIZE, ROWS = 32, 2, 8, 32, 64
PATCHES = (SIZE // PATCH) ** 2
TOKENS = PATCHES + 1
DIM, HIDDEN = 32, 16  # of SimSiam's heads

VIT = dict(type="ViT", patch_size=PATCH, width=WIDTH, depth=DEPTH, heads=2, input_size=SIZE)
VIEW = [dict(type="RandomResizedCrop"), dict(type="Normalize")]


def settings(precision="fp32", chunks=1, **image):
    return settings_from(
        dict(
            model=dict(
                towers=dict(
                    image=VIT | image,
                    image_ema=dict(type="EMA", of="towers.image"),
                ),
                spaces=dict(
                    proto=dict(type="Prototypes", count=24, hidden=DIM, bottleneck=HIDDEN),
                    proto_ema=dict(type="EMA", of="spaces.proto"),
                ),
                objectives=dict(dino=dict(type="DINO")),
                chunks=chunks,
            ),
            train_dataloader=dict(
                dataset=dict(type="Emoji"), views=dict(g1=VIEW, g2=VIEW), batch_size=ROWS
            ),
            optim_wrapper=dict(optimizer=dict(type="AdamW", lr=1e-3), precision=precision),
            train_cfg=dict(max_iters=1000),
        )
    )


TOWER = (
    3 * PATCH**2 * WIDTH + WIDTH  # patches
    + WIDTH + TOKENS * WIDTH  # class token, positions
    + DEPTH * (12 * WIDTH**2 + 13 * WIDTH)  # blocks
    + 2 * WIDTH  # norm
)  # fmt: skip
HEAD = WIDTH * DIM + DIM + DIM * DIM + DIM + DIM * HIDDEN + HIDDEN + HIDDEN * 24


def test_parameters_and_what_stays_in_memory():
    found = plan.make_plan(settings(), gpus=2)
    assert found.parameters["towers.image"] == (TOWER, TOWER)
    assert found.parameters["towers.image_ema"] == (TOWER, 0)
    assert found.parameters["spaces.proto"] == (HEAD, HEAD)
    trained = TOWER + HEAD
    assert found.fixed == {
        "weights, averages, queues": 4 * (2 * trained + 24),  # and the centre
        "gradients": 4 * trained,
        "optimizer": 8 * trained,
    }
    block = 12 * WIDTH**2 + 13 * WIDTH
    assert found.gathered == 4 * (3 * (trained - DEPTH * block) + 3 * block)


def test_flops_of_a_step():
    found = plan.make_plan(settings(), gpus=2)
    patches = 2 * PATCHES * 3 * PATCH**2 * WIDTH
    blocks = DEPTH * 24 * TOKENS * WIDTH**2
    attention = DEPTH * 4 * TOKENS**2 * WIDTH
    head = 2 * (WIDTH * DIM + DIM * DIM + DIM * HIDDEN + HIDDEN * 24)
    # A linear layer costs twice as much backward, the first one once; attention 2.5 times, since it
    # computes its matrix again. The teacher goes forward alone.
    student = 2 * patches + 3 * (blocks + head) + 3.5 * attention
    teacher = patches + blocks + head + attention
    assert found.rows == ROWS // 2
    assert found.step.flops == pytest.approx(found.rows * 2 * (student + teacher))
    one = plan.make_plan(settings(), gpus=1)
    assert one.step.flops == pytest.approx(2 * found.step.flops)


def test_activations_of_a_step():
    def peak(**options):
        return plan.make_plan(settings(**options), gpus=1).step.activations

    whole = peak()
    # What a block in float32 keeps for the backward pass, in channels of a token: its two inputs
    # and norms, query, key and value, the output of attention, and the MLP before and after GELU.
    kept = ROWS * 2 * TOKENS * DEPTH * 4 * (2 + 2 + 3 + 1 + 4 + 4) * WIDTH
    assert kept < whole < 2 * kept
    assert 0.5 * whole < peak(precision="bf16") < 0.8 * whole
    assert peak(checkpoint=True) < 0.8 * whole
    assert peak(chunks=4) < 0.9 * whole


def test_live_bytes_are_followed():
    known = torch.empty(1000, device="meta")
    with plan.Peak([known]) as peak:
        view = known[:10]
        first = known * 2
        second = first.view(10, 100) + 1
        assert peak.live == 8000
        del first
        assert peak.live == 4000
        third = second.sum()
    assert (peak.highest, peak.live) == (8000, 4004)
    del view, second, third
    assert peak.live == 0


def test_hours_at_a_share_of_the_peak():
    found = plan.make_plan(settings(), gpus=2)
    seconds = 1000 * found.step.flops / (0.5 * 1e12)
    assert found.hours(tflops=1, efficiency=0.5) == pytest.approx(seconds / 3600)


def test_the_batch_is_shared_evenly():
    with pytest.raises(ValueError, match="--gpus 3 cannot share a batch of 64 rows"):
        plan.make_plan(settings(), gpus=3)


CONFIGS = ROOT / "configs"
SHIPPED = [*CONFIGS.glob("*.py"), *CONFIGS.glob("paper/*.py")]


@pytest.mark.slow
@pytest.mark.parametrize("config", sorted(SHIPPED), ids=lambda path: path.stem)
def test_every_config_has_a_plan(config):
    found = plan.make_plan(settings_from(load_config(config)), gpus=1)
    assert 0 < found.step.flops < 1e20 and 0 < found.step.activations < 1e15


def test_captions_and_convolutions():
    found = plan.make_plan(settings_from(load_config(CONFIGS / "declip_r50_laptop.py")), gpus=1)
    assert found.step.flops > 0 and found.parameters["towers.text"][1] > 0


def test_the_command():
    command = [sys.executable, ROOT / "tools/plan.py", ROOT / "configs/paper/web_dino_300m.py"]
    done = subprocess.run(
        [*command, "--gpus", "64", "--tflops", "312"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "651,042 steps of 3,072 rows on 64 GPUs, 48 on each" in done.stdout
    assert "at 40% of 312 TFLOP/s" in done.stdout
    done = subprocess.run([*command, "--gpus", "7"], capture_output=True, text=True, check=False)
    assert done.stderr.startswith("error: --gpus 7 cannot share")
