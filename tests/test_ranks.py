"""Any number of ranks, whole or sharded, and any number of chunks: one run at one global batch."""

import copy
import hashlib
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import cases
from tests.test_runner import finish, launch, rows
from tools import plan
from webssl_toolbox import Progress, dist, testing
from webssl_toolbox.compat import wait_for_gloo
from webssl_toolbox.engine import checkpoint, settings, strategies
from webssl_toolbox.engine.optim import OptimWrapper

torch.set_num_threads(1)

CPU = torch.device("cpu")
ALL = cases.OBJECTIVES | dict(declip=cases.DECLIP, everything=cases.EVERYTHING)
ROWS = 8  # which four ranks share
OPTIM = settings.OptimWrapper(
    dict(type="AdamW", lr=dict(type="cosine", start=1e-3, warmup=5), weight_decay=0.05),
    clip_grad=1.0,
    clip_per="module",
    precision="fp32",
)
BATCHNORM = ("CLIPResNet", "RegNetY")
spawn = torch.multiprocessing.spawn

# All objectives in four models, for what takes many steps.
CONTRAST = testing.Case(
    dict(
        towers=dict(image=cases.VIT, text=cases.TEXT),
        spaces=cases.JOINT | cases.TOKENS,
        objectives=dict(
            simclr=dict(type="SimCLR", dim=6, hidden=8),
            siglip=dict(type="SigLIP"),
            filip=dict(type="FILIP", images=("v1", "v2"), top_k=6),
        ),
    )
)
MODELS = {name: ALL[name] for name in ("declip", "dinov2", "everything")} | dict(contrast=CONTRAST)


def curve(case, strategy, steps, rank=0, ranks=1, folder=None):
    """Trains from the checkpoint in ``folder``, if there is one, and leaves one there.

    Returns:
        The mean losses of each step, the norm of its gradient, and the last weights.
    """
    model = testing.build(case)
    if strategy == "fsdp2":
        strategies.shard(model, CPU)
    optim = OptimWrapper(OPTIM, model, CPU)
    wrapped = strategies.wrap(model, strategy)
    found = checkpoint.latest(folder) if folder else None
    begin = checkpoint.load(found, model, optim.optimizer)["step"] if found else 0
    values = []
    for step in range(begin, steps):
        model.step, model.total = step, 50
        optim.schedule(step, 50)
        losses, _ = wrapped(testing.inputs(model, case, step, rank, ranks))
        finite, norm = optim.update(torch.stack(list(losses.values())).sum())
        model.after_step(Progress(step + 1, 50, finite))
        values.append(torch.stack([*map(dist.average, losses.values()), norm]))
    if folder:
        checkpoint.save(folder, steps, model, optim.optimizer)
    state = {name: dist.whole(value).clone() for name, value in model.state_dict().items()}
    return {"curve": torch.stack(values), **state}


def one_rank(rank, ranks, jobs, folder):
    torch.set_num_threads(1)
    where = f"file://{folder}/rendezvous{ranks}"
    torch.distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=ranks)
    for name, strategy, steps, resumed in jobs:
        case = replace(MODELS[name], rows=ROWS)
        run = folder / f"{name}.run" if resumed else None
        outcome = curve(case, strategy, steps, rank, ranks, run)
        if rank == 0:
            save_file(outcome, folder / f"{name}.{strategy}.{ranks}")
    dist.shutdown()


def compare(alone, together, where):
    assert alone.keys() == together.keys()
    for name, value in alone.items():
        scale = value.double().abs().max().clamp(min=1e-4)  # some weights should be zero
        error = float((value.double() - together[name].double()).abs().max() / scale)
        assert error < 1e-9, f"{where}: {name} differs by {error:.1e}"


@pytest.fixture(autouse=True)
def one_thread():
    """As each rank has: another number may round sums otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_four_ranks_equal_one():
    testing.check_ranks([replace(case, rows=ROWS) for case in ALL.values()], ranks=4)


def test_the_models_of_many_steps_have_every_objective():
    def types(models):
        return {entry["type"] for case in models for entry in case.model["objectives"].values()}

    assert types(MODELS.values()) == types(ALL.values())


@pytest.mark.slow
def test_fifty_steps_are_the_same_curve_on_one_two_and_four_ranks(tmp_path):
    """AdamW, clipping by module, a schedule, averages and queues, in float64."""
    jobs = [(name, "ddp", 50, False) for name in MODELS]
    sharded = [(name, "fsdp2", 50, False) for name in MODELS]
    spawn(one_rank, (2, jobs + sharded, tmp_path), nprocs=2)
    spawn(one_rank, (4, jobs, tmp_path), nprocs=4)
    for name, case in MODELS.items():
        alone = curve(replace(case, rows=ROWS), "single", 50)
        for strategy in ("ddp.2", "fsdp2.2", "ddp.4"):
            where = f"{name}.{strategy}"
            compare(alone, load_file(tmp_path / where), where)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 1])
def test_a_checkpoint_of_four_sharded_ranks_goes_on(tmp_path, ranks):
    names = ("declip", "dinov2")
    spawn(one_rank, (4, [(name, "fsdp2", 4, True) for name in names], tmp_path), nprocs=4)
    strategy = "fsdp2" if ranks > 1 else "single"
    jobs = [(name, strategy, 8, True) for name in names]
    spawn(one_rank, (ranks, jobs, tmp_path), nprocs=ranks)
    for name in names:
        alone = curve(replace(MODELS[name], rows=ROWS), "single", 8)
        alone["curve"] = alone["curve"][4:]
        compare(alone, load_file(tmp_path / f"{name}.{strategy}.{ranks}"), name)


@pytest.mark.slow
def test_torchrun_shards_resumes_exactly_and_equals_replicas(tmp_path):
    """The whole runner: data, meta-device start, checkpoints, evaluation of a copy."""
    lr = dict(type="AdamW", lr=1e-3)  # no schedule, so that a shorter run is a piece of it
    changes = dict(strategy="fsdp2", train_cfg__max_iters=6, optim_wrapper__optimizer=lr)
    changes["train_cfg__log_interval"] = 1
    for names, steps in ((("whole", "cut"), (6, 3)), (("cut",), (6,))):
        pairs = zip(names, steps, strict=True)
        runs = [
            launch(tmp_path / name, changes | dict(train_cfg__max_iters=step), ranks=2)
            for name, step in pairs
        ]
        for run in runs:
            finish(run)
    digests = [(tmp_path / name / "digest.json").read_text() for name in ("whole", "cut")]
    assert digests[0] == digests[1]

    runs = [launch(tmp_path / str(ranks), changes, "double", ranks) for ranks in (1, 2)]
    for run in runs:
        finish(run)
    one, two = (
        load_file(checkpoint.latest(tmp_path / name / "checkpoints") / "model.safetensors")
        for name in ("1", "2")
    )
    compare(one, two, "two sharded ranks")
    first, second = ([row["mlm.loss"] for row in rows(tmp_path / name)] for name in ("1", "2"))
    assert len(first) == 6 and first == pytest.approx(second, abs=2e-6)  # as they are written


def test_a_rank_that_fails_does_not_wait_for_the_others(monkeypatch):
    left = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: left.append(True))
    for error, leaves in ((OSError("disk full"), False), (SystemExit(75), True)):
        with pytest.raises(type(error)):
            try:
                raise error
            finally:
                dist.shutdown()
        assert bool(left) is leaves

    code = "import atexit, _terminal as t; atexit.register(print, 'late'); t.fail('disk full')"
    place = {"cwd": Path(__file__).parents[1] / "tools", "env": os.environ | {"WORLD_SIZE": "2"}}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, **place)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, b"", b"error: disk full\n")


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_the_end_waits_for_threads_of_gloo_that_still_work():
    done = []

    def work():
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text("pt_gloo_runloop")
        named.set()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000)  # without Python's lock
        done.append(True)

    named = threading.Event()
    threading.Thread(target=work).start()
    named.wait()
    wait_for_gloo()
    assert done


# -- chunks --------------------------------------------------------------------------------------


def chunked(case, chunks, plain=True):
    """Returns a case in chunks; statistics of a batch, which are a chunk's, belong to BatchNorm."""
    model = copy.deepcopy(dict(case.model)) | dict(chunks=chunks)
    for name, tower in model["towers"].items():
        if plain and tower["type"] in BATCHNORM:
            model["towers"][name] = cases.VIT
    return replace(case, model=model, rows=ROWS)


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_four_chunks_equal_the_whole_batch(case):
    """After two steps, so that queues and teachers act; a chunk has two rows."""
    whole, pieces = (testing._outcome(chunked(case, chunks)) for chunks in (1, 4))
    testing._compare(whole, pieces, "four chunks")


def test_chunks_of_a_tower_with_batchnorm_are_another_batch():
    whole, pieces = (
        testing._outcome(chunked(ALL["clip"], chunks, plain=False)) for chunks in (1, 4)
    )
    with pytest.raises(AssertionError, match="differs from one process"):
        testing._compare(whole, pieces, "four chunks")


def test_chunks_take_less_memory():
    """Of a deep tower, whose activations are most of a step's; at its peak, without numbers."""

    def peak(chunks):
        tower = cases.VIT | dict(depth=12, input_size=64)
        model = dict(towers=dict(image=tower, text=cases.TEXT), spaces=cases.JOINT)
        case = testing.Case(
            model | dict(objectives=dict(clip=dict(type="CLIP")), chunks=chunks), rows=32
        )
        built = testing.build(case)
        batch = testing.inputs(built, case)
        for parameter in built.parameters():
            parameter.grad = torch.zeros_like(parameter)
        known = [*built.parameters(), *built.buffers(), *batch.values()]
        with plan.Peak([*known, *(p.grad for p in built.parameters())]) as followed:
            losses, _ = built(batch)
            torch.stack(list(losses.values())).sum().backward()
        return followed.highest

    whole, two, eight = map(peak, (1, 2, 8))
    assert two < 0.6 * whole and eight < 0.25 * whole
