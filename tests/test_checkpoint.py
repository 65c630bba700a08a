"""Checkpoints: exact, untearable, and unable to run code."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from webssl_toolbox.engine import checkpoint


class Net(nn.Module):
    """A channels-last convolution, BatchNorm, tied weights, a frozen part and a queue."""

    def __init__(self, width=4, dtype=torch.float32):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, dtype=dtype).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(width, dtype=dtype)
        self.a = nn.Linear(width, width, dtype=dtype)
        self.b = nn.Linear(width, width, bias=False, dtype=dtype)
        self.b.weight = self.a.weight
        self.frozen = nn.Linear(width, 2, dtype=dtype).requires_grad_(False)
        self.scale = nn.Parameter(torch.tensor(1.0, dtype=dtype))
        self.register_buffer("queue", torch.randn(5, width).to(torch.bfloat16))
        self.register_buffer("pointer", torch.tensor(3))
        self.register_buffer("empty", torch.zeros(0, 2, dtype=torch.bool))

    def forward(self, images):
        pooled = self.norm(self.conv(images)).mean((2, 3))
        return self.frozen(self.b(self.a(pooled))) * self.scale


OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2),
    "sgd_momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
}


def build(kind="adamw", seed=0, **kwargs):
    torch.manual_seed(seed)
    model = Net(**kwargs)
    return model, OPTIMIZERS[kind](model.parameters())


def train(model, optimizer, start, stop):
    for step in range(start, stop):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(4, 3, 6, 6, generator=generator, dtype=model.scale.dtype)
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()


def flip(file):
    *content, last = file.read_bytes()
    file.write_bytes(bytes([*content, last ^ 1]))


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resume_equals_never_having_stopped(tmp_path, kind, dtype):
    model, optimizer = build(kind, dtype=dtype)
    train(model, optimizer, 0, 3)
    meta = {"config": {"lr": 1e-2, "views": ["v1"]}, "world_size": 1}
    path = checkpoint.save(tmp_path, 3, model, optimizer, meta)
    saved = checkpoint.digest(model, optimizer)
    train(model, optimizer, 3, 6)

    other, other_optimizer = build(kind, seed=1, dtype=dtype)
    train(other, other_optimizer, 7, 8)  # a used optimizer is replaced, not merged
    pointers = {k: v.data_ptr() for k, v in other.state_dict().items()}
    state = checkpoint.load(path, other, other_optimizer)
    assert checkpoint.digest(other, other_optimizer) == saved
    assert {k: v.data_ptr() for k, v in other.state_dict().items()} == pointers
    assert state["step"] == 3
    assert meta.items() <= state.items()
    for parameter, values in other_optimizer.state.items():
        for key, value in values.items():
            assert key == "step" or value is None or value.stride() == parameter.stride()
    train(other, other_optimizer, 3, 6)
    assert checkpoint.digest(other, other_optimizer) == checkpoint.digest(model, optimizer)


def test_optimizer_state_goes_by_name_and_keeps_its_own_dtype(tmp_path):
    model, optimizer = build()
    train(model, optimizer, 0, 2)
    entry = optimizer.state[model.a.weight]
    entry["exp_avg"] = entry["exp_avg"].double()
    path = checkpoint.save(tmp_path, 2, model, optimizer)
    other, _ = build(seed=1)
    reverse = torch.optim.AdamW(list(other.parameters())[::-1], lr=1e-2)
    checkpoint.load(path, other, reverse)
    assert reverse.state[other.a.weight]["exp_avg"].dtype == torch.float64
    assert checkpoint.digest(other, reverse) == checkpoint.digest(model, optimizer)


def test_a_used_optimizer_becomes_fresh_again(tmp_path):
    model, optimizer = build()
    path = checkpoint.save(tmp_path, 0, model, optimizer)
    train(model, optimizer, 0, 1)
    checkpoint.load(path, model, optimizer)
    assert not optimizer.state


@pytest.mark.parametrize("capturable", [True, False])
def test_step_goes_where_the_kernel_counts(capturable):
    weight = nn.Parameter(torch.zeros(2, device="meta"))
    optimizer = torch.optim.AdamW([weight], capturable=capturable)
    stored = {"w/step": torch.tensor(3.0), "w/exp_avg": torch.ones(2)}
    checkpoint._load_optimizer(stored, optimizer, {"w": weight})
    devices = {key: value.device.type for key, value in optimizer.state[weight].items()}
    assert devices == {"step": "meta" if capturable else "cpu", "exp_avg": "meta"}


def test_files_are_plain_and_as_readable_as_the_folder(tmp_path):
    model, optimizer = build()
    train(model, optimizer, 0, 1)
    path = checkpoint.save(tmp_path, 1200, model, optimizer)
    assert path == tmp_path / "step_00001200"
    names = {"model.safetensors", "optimizer.safetensors", "state.json"}
    assert {file.name for file in path.iterdir()} == names
    assert len({file.stat().st_mode for file in path.iterdir()}) == 1
    assert "a.weight/exp_avg" in load_file(path / "optimizer.safetensors")


def test_digest_sees_names_dtypes_shapes_and_bits():
    model, optimizer = build()
    train(model, optimizer, 0, 1)
    before = checkpoint.digest(model, optimizer)
    optimizer.state[model.scale]["step"] += 1
    after = checkpoint.digest(model, optimizer)
    assert [after[key] == before[key] for key in ("model", "optimizer")] == [True, False]
    model.queue = model.queue.view(torch.int16)  # the same bytes under another dtype
    assert checkpoint.digest(model) != {"model": before["model"]}


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("harm", [lambda file: os.truncate(file, 99), flip, Path.unlink])
def test_a_damaged_newest_falls_back(tmp_path, name, harm):
    model, optimizer = build()
    train(model, optimizer, 0, 1)
    first = checkpoint.save(tmp_path, 9, model, optimizer)
    second = checkpoint.save(tmp_path, 10, model, optimizer)
    assert checkpoint.latest(tmp_path) == second
    harm(second / name)
    with pytest.warns(UserWarning, match=r"step_00000010.*is skipped"):
        assert checkpoint.latest(tmp_path) == first
    with pytest.raises((ValueError, FileNotFoundError), match="step_00000010"):
        checkpoint.load(second, model, optimizer)
    checkpoint.save(tmp_path, 10, model, optimizer)  # replaces the broken one
    assert checkpoint.latest(tmp_path) == second


def test_prune_keeps_the_newest_that_verifies(tmp_path):
    model, _ = build()
    paths = [checkpoint.save(tmp_path, step, model) for step in range(4)]
    checkpoint.prune(tmp_path, keep=3)
    assert [path.exists() for path in paths] == [False, True, True, True]
    flip(paths[3] / "model.safetensors")
    with pytest.warns(UserWarning, match="skipped"):
        checkpoint.prune(tmp_path, keep=1)
    assert [path.exists() for path in paths] == [False, False, True, True]
    with pytest.raises(ValueError, match="keep=0"):
        checkpoint.prune(tmp_path, keep=0)


@pytest.mark.parametrize("step", [2, 3])  # replacing the newest, and adding one
@pytest.mark.parametrize("broken", ["stream.write", "_sync", "_publish", "Path.rename"])
def test_a_failing_save_leaves_everything_as_it_was(tmp_path, monkeypatch, step, broken):
    model, optimizer = build()
    paths = [checkpoint.save(tmp_path, step, model, optimizer) for step in (1, 2)]

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"webssl_toolbox.engine.checkpoint.{broken}", fail)
        with pytest.raises(OSError, match=rf"step {step} was not written to .*No space left"):
            checkpoint.save(tmp_path, step, model, optimizer)
    assert sorted(tmp_path.iterdir()) == paths
    assert checkpoint.latest(tmp_path) == paths[-1]


def test_replacing_never_leaves_a_moment_without_a_valid_one(tmp_path, monkeypatch):
    """Looks at the folder before and after every rename, as a kill there would leave it."""
    model, optimizer = build()
    path = checkpoint.save(tmp_path, 1, model, optimizer)
    (tmp_path / ".tmp-step_00000007" / "half").mkdir(parents=True)  # of a killed process
    rename, seen = Path.rename, []

    def watched(self, target):
        seen.append(checkpoint.latest(tmp_path))
        result = rename(self, target)
        seen.append(checkpoint.latest(tmp_path))
        return result

    monkeypatch.setattr(Path, "rename", watched)
    checkpoint.save(tmp_path, 1, model, optimizer)
    assert None not in seen
    assert path.with_name("step_00000001.old") in seen
    assert list(tmp_path.iterdir()) == [path]


# The children run in one fresh interpreter, as a fork after torch's threads have started may hang.
CHILD = """
import os, random, resource, signal, sys, time, warnings
from pathlib import Path
import pytest, torch
from webssl_toolbox.engine import checkpoint

torch.set_num_threads(1)
root = Path(sys.argv[1])

def build():
    model = torch.nn.Linear(64, 64)
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
"""

KILLS = """
random.seed(0)
for kill in range(int(sys.argv[2])):
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        model, optimizer = build()
        if path := checkpoint.latest(root):
            checkpoint.load(path, model, optimizer)
        start = int(path.name[5:13]) if path else 0
        for step in range(start + 1, 10**6):
            model(torch.ones(2, 64)).sum().backward()
            optimizer.step()
            checkpoint.save(root, step, model, optimizer)
            os.write(write, b"%d\\n" % step)
            checkpoint.save(root, step, model, optimizer)  # replacing is killed as well
            checkpoint.prune(root, keep=2)
    os.close(write)
    with os.fdopen(read) as stream:
        finished = stream.readline()  # at least one save
        time.sleep(random.uniform(0, 0.06))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        last = int((finished + stream.read()).split()[-1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing under a checkpoint's name may even be broken
        path = checkpoint.latest(root)
    step = checkpoint.load(path, *build())["step"]
    assert last <= step <= last + 1, (last, step)
    print(kill, last, step, list(root.glob(".tmp-*")))
"""

FULL = """
model, optimizer = build()
model(torch.ones(2, 64)).sum().backward()
optimizer.step()
first = checkpoint.save(root, 1, model, optimizer)
for limit in (100, 10_000, (first / "model.safetensors").stat().st_size - 1):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for step in (1, 2):
        with pytest.raises(OSError, match="was not written to .*File too large"):
            checkpoint.save(root, step, model, optimizer)
        assert list(root.iterdir()) == [first], list(root.iterdir())
        assert checkpoint.latest(root) == first
"""


def run_child(body, root, kills=15, timeout=120):
    command = [sys.executable, "-c", CHILD + body, str(root), str(kills)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.splitlines()


def test_kill_9_at_any_moment_loses_at_most_one_interval(tmp_path):
    assert len(run_child(KILLS, tmp_path)) == 15


def test_disk_full_leaves_the_previous_checkpoint(tmp_path):
    run_child(FULL, tmp_path)


class Canary(str):  # unpickling it creates the file of that name
    def __reduce__(self):
        return (Path.touch, (Path(self),))


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "state.json", "evil.pth", "evil"]
)
def test_a_pickle_is_refused_and_never_run(tmp_path, name):
    canary, root = tmp_path / "canary", tmp_path / "checkpoints"
    model, optimizer = build()
    path = checkpoint.save(root, 1, model, optimizer)
    poison = pickle.dumps(Canary(canary))
    (path / name).write_bytes(poison)
    if name.startswith("evil"):
        path = path / name
    elif name != "state.json":  # an attacker writes a matching state.json as well
        state = json.loads((path / "state.json").read_text())
        state["files"][name] = checkpoint._fingerprint(path / name)
        (path / "state.json").write_text(json.dumps(state))
    for strict in (True, False):
        with pytest.raises(ValueError, match="refused" if "evil" in name else name):
            checkpoint.load(path, model, optimizer, strict)
    if not name.startswith("evil"):
        for call in (checkpoint.latest, lambda root: checkpoint.prune(root, keep=1)):
            with pytest.raises(ValueError, match=r"can be read: "):
                call(root)
    assert not canary.exists()
    pickle.loads(poison)
    assert canary.exists()  # it does sing


def test_paths_that_are_no_checkpoint(tmp_path):
    model, _ = build()
    (tmp_path / "step_notes").mkdir()
    for path in (tmp_path, tmp_path / "absent"):
        assert checkpoint.latest(path) is None
        with pytest.raises(FileNotFoundError, match=r"is not a checkpoint: .*work dir"):
            checkpoint.load(path, model)
    path = checkpoint.save(tmp_path, 1, model)
    with pytest.raises(ValueError, match="give its folder"):
        checkpoint.load(path / "model.safetensors", model)
    state = json.loads((path / "state.json").read_text()) | {"format": 2}
    for text, message in ((json.dumps(state), "reads format 1"), ("[" * 100_000, "damaged")):
        (path / "state.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            checkpoint.load(path, model)


def test_a_checkpoint_that_does_not_fit_changes_nothing(tmp_path):
    small, optimizer = build()
    path = checkpoint.save(tmp_path, 1, small, optimizer)
    wide, wide_optimizer = build(width=8)
    train(wide, wide_optimizer, 0, 1)
    before = checkpoint.digest(wide, wide_optimizer)
    for strict in (True, False):
        with pytest.raises(ValueError, match=r"of another shape or dtype \(.*; \.\.\.") as error:
            checkpoint.load(path, wide, wide_optimizer, strict)
        assert "conv.weight is [4, 3, 3, 3]" in str(error.value)
        assert str(error.value).count("expected") == 2  # the first two of many
    assert checkpoint.digest(wide, wide_optimizer) == before


def test_missing_unexpected_and_lenient(tmp_path):
    model, optimizer = build()
    train(model, optimizer, 0, 1)
    path = checkpoint.save(tmp_path, 1, model, optimizer)
    other, _ = build(seed=1)
    other.extra, other.norm = nn.Linear(2, 2), nn.Identity()
    other_optimizer = torch.optim.AdamW(other.parameters())
    with pytest.raises(ValueError, match=r"2 missing \(extra\.weight; extra\.bias\), 5 unexpec"):
        checkpoint.load(path, other, other_optimizer)
    with pytest.warns(UserWarning, match="missing"):
        checkpoint.load(path, other, other_optimizer, strict=False)
    assert torch.equal(other.a.weight, model.a.weight)
    assert other.extra.weight not in other_optimizer.state
    half, _ = build(seed=1, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"torch\.float32, expected .* torch\.bfloat16"):
        checkpoint.load(path, half)
    checkpoint.load(path, half, strict=False)
    assert torch.equal(half.a.weight, model.a.weight.bfloat16())


def test_optimizers_that_do_not_fit(tmp_path):
    model, optimizer = build("sgd_momentum")
    train(model, optimizer, 0, 1)
    path = checkpoint.save(tmp_path, 1, model, optimizer)
    with pytest.raises(ValueError, match="state of SGD with momentum, not of AdamW"):
        checkpoint.load(path, model, OPTIMIZERS["adamw"](model.parameters()))
    with pytest.raises(ValueError, match="state of SGD with momentum, not of SGD: "):
        checkpoint.load(path, model, torch.optim.SGD(model.parameters()))
    part = torch.optim.SGD(model.a.parameters(), momentum=0.9)
    with pytest.raises(ValueError, match=r"optimizer\.safetensors does not fit: .* unexpected"):
        checkpoint.load(path, model, part)
    with pytest.raises(ValueError, match="holds no optimizer state"):
        checkpoint.load(checkpoint.save(tmp_path, 2, model), model, optimizer)
    with pytest.raises(ValueError, match=r"shape \(2,\) that is not in the model"):
        checkpoint.save(tmp_path, 3, model, torch.optim.SGD([nn.Parameter(torch.zeros(2))]))


def test_what_cannot_be_stored_is_named(tmp_path, monkeypatch):
    model, optimizer = build()
    with pytest.raises(ValueError, match=r"reserved keys \['step'\]"):
        checkpoint.save(tmp_path, 1, model, meta={"step": 3})
    with pytest.raises(ValueError, match="plain JSON"):
        checkpoint.save(tmp_path, 1, model, meta={"config": {"type": object}})
    optimizer.state[model.scale]["history"] = [1]
    with pytest.raises(ValueError, match="'scale/history' is a list"):
        checkpoint.save(tmp_path, 1, model, optimizer)
    monkeypatch.setattr(nn.Linear, "get_extra_state", lambda self: {"a": 1}, raising=False)
    with pytest.raises(ValueError, match=r"'a\._extra_state' is a dict"):
        checkpoint.save(tmp_path, 1, model)
    assert list(tmp_path.iterdir()) == []
