"""Data that goes wrong in a run: files that cannot be read, workers that die or hang, no folder."""

import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from io import BytesIO
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import simplejpeg
import torch
from mmengine.hooks import Hook
from PIL import Image

from webssl_plugins.hooks.unreadable import SHOWN, Unreadable
from webssl_toolbox import dist
from webssl_toolbox.data import loader
from webssl_toolbox.data.image import read_image
from webssl_toolbox.data.sample import UnreadableSample
from webssl_toolbox.engine.runner import Runner

from . import cases
from .test_data import Numbers, loaded, registered, same, views  # noqa: F401 - a fixture

ROOT = Path(__file__).parents[1]
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
HUGE = 50_000


def encoded(format, mode="RGB", **options):
    stream = BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(stream, format, **options)
    return stream.getvalue()


def bomb(format, **options):
    """A small file whose header says 50000 x 50000 pixels."""
    data = bytearray(encoded(format, **options))
    if format == "JPEG":
        at = max(data.find(b"\xff\xc0\0"), data.find(b"\xff\xc2\0")) + 5
        data[at : at + 4] = HUGE.to_bytes(2, "big") * 2
    elif format == "PNG":
        data[16:24] = HUGE.to_bytes(4, "big") * 2
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    elif format == "BMP":
        data[18:26] = HUGE.to_bytes(4, "little") * 2
    elif format == "GIF":
        data[6:10] = HUGE.to_bytes(2, "little") * 2
    else:  # WebP: a canvas around the picture
        canvas = b"VP8X\x0a\0\0\0" + bytes(4) + (HUGE - 1).to_bytes(3, "little") * 2
        body = b"WEBP" + canvas + data[12:]
        return b"RIFF" + len(body).to_bytes(4, "little") + body
    return bytes(data)


HALF = {f: encoded(f)[: len(encoded(f)) // 2] for f in ("JPEG", "PNG", "WEBP", "BMP", "GIF")}
PAGE = b"<!DOCTYPE html><html><body>404</body></html>"
FLIPPED = bytes(b ^ (i % 97 == 60) * 255 for i, b in enumerate(encoded("PNG")))
CORRUPT = {
    "truncated": encoded("JPEG")[:-200],
    "empty": b"",
    "not an image": PAGE,
    "too many pixels": bomb("JPEG"),
}

# -- what is wrong with a file -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "data"),
    [*CORRUPT.items(), *(("truncated", data) for data in HALF.values()), ("broken", FLIPPED)],
)
def test_a_bad_file_is_of_a_kind(kind, data):
    with pytest.raises(UnreadableSample, match=r"a\.jpg: ") as raised:
        read_image(data, "a.jpg")
    assert raised.value.kind == kind


def test_a_file_that_is_not_there_is_missing(tmp_path):
    with pytest.raises(UnreadableSample) as raised:
        read_image(tmp_path / "a.jpg")
    assert raised.value.kind == "missing"


EXIF = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\0\0\0\0\0"
BOMBS = {
    "simplejpeg": bomb("JPEG"),
    "simplejpeg, a camera's": bomb("JPEG", exif=EXIF),
    "simplejpeg, progressive": bomb("JPEG", progressive=True),
    "simplejpeg, gray": bomb("JPEG", mode="L"),
    "Pillow, CMYK": bomb("JPEG", mode="CMYK"),
    "OpenCV, PNG": bomb("PNG"),
    "OpenCV, one bit": bomb("PNG", mode="1"),
    "OpenCV, WebP": bomb("WEBP"),
    "Pillow, BMP": bomb("BMP"),
    "Pillow, GIF": bomb("GIF"),
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
def test_no_decoder_sees_a_bomb(data, monkeypatch):
    for module, name in (
        (simplejpeg, "decode_jpeg"),
        (cv2, "imdecode"),
        (Image.Image, "load"),
    ):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("it is decoded"))
    with pytest.raises(UnreadableSample) as raised:
        read_image(data)
    assert raised.value.kind == "too many pixels"


# -- a run ---------------------------------------------------------------------------------------


def photos(folder, count, bad):
    """Writes images of which those in ``bad``, by number, hold other bytes."""
    (folder / "photos").mkdir()
    for i in range(count):
        (folder / f"photos/{i:03}.jpg").write_bytes(bad.get(i, encoded("JPEG")))
    return folder / "photos"


def config(root, **changes):
    view = [dict(type="RandomResizedCrop", size=16), dict(type="Normalize")]
    data = dict(
        dataset=dict(type="ImageFolder", root=str(root)),
        views=dict(v1=view, v2=view),
        batch_size=20,
        num_workers=0,
    )
    return dict(
        model=dict(
            towers=dict(image=cases.VIT),
            objectives=dict(simclr=dict(type="SimCLR", dim=6, hidden=16)),
        ),
        train_dataloader=data | changes,
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=1e-3)),
        train_cfg=dict(max_iters=20, log_interval=5, checkpoint_interval=5),
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_with_one_percent_of_corrupt_images_ends_and_lists_them(tmp_path, caplog, workers):
    bad = dict(zip((7, 77, 177, 277), CORRUPT.values(), strict=True))
    root = photos(tmp_path, 400, bad)  # 20 steps of 20: each is drawn once
    with caplog.at_level(logging.WARNING, "webssl_toolbox"):
        Runner(config(root, num_workers=workers), tmp_path / "run", device="cpu").train()
    lines = (tmp_path / "run/unreadable.txt").read_text().splitlines()
    expected = {f"{kind}: {root}/{i:03}.jpg" for i, kind in zip(bad, CORRUPT, strict=True)}
    assert {line.rpartition(".jpg")[0] + ".jpg" for line in lines} == expected
    (report,) = [text for text in caplog.messages if "could not be read" in text]
    for kind in CORRUPT:
        assert f"1 {kind}" in report
    assert all(line in report for line in lines)


def test_too_many_stop_the_run_with_the_list_and_it_goes_on_with_a_higher_limit(tmp_path, caplog):
    root = photos(tmp_path, 100, {i: b"" for i in range(40)})
    whole = Runner(config(root, max_bad_fraction=1), tmp_path / "whole", device="cpu")
    whole.train()
    caplog.clear()
    few = Runner(config(root, max_bad_fraction=0.08), tmp_path / "run", device="cpu")
    with pytest.raises(
        ValueError, match=r"% of \d+ samples drawn cannot be read.*=0\.08: "
    ) as raised:
        few.train()
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400
    listed = (tmp_path / "run/unreadable.txt").read_text().splitlines()
    assert f": {len(listed)} empty" in caplog.text and caplog.text.count("is empty") == SHOWN
    assert few.iter == 10, "of 1,000 samples, 80 are allowed"
    resumed = Runner(config(root, max_bad_fraction=1), tmp_path / "run", True, device="cpu")
    assert resumed.iter == 5
    resumed.train()
    assert resumed.digest() == whole.digest()
    listed = (tmp_path / "run/unreadable.txt").read_text().splitlines()
    assert len(listed) == len(set(listed)) == 40


def test_ranks_count_and_stop_alike(tmp_path, monkeypatch):
    ranks = Unreadable(), Unreadable()
    for number, hook in enumerate(ranks):
        hook.before_train(SimpleNamespace(work_dir=tmp_path, iter=0))
        hook.here = [(50, [f"empty: {number}.jpg: the file is empty"] * (30 + number))] * 2
    here = [hook.here for hook in ranks]
    monkeypatch.setattr(dist, "gather_json", lambda value: here)
    for number, hook in enumerate(ranks):
        monkeypatch.setattr(dist, "rank", lambda number=number: number)
        with pytest.raises(ValueError, match=r"37\.9% of 322 samples"):
            hook.settle()
            hook.bound(0.1)
    assert len((tmp_path / "unreadable.txt").read_text().splitlines()) == 2


def test_what_a_resumed_run_would_not_meet_again_is_listed_when_it_is_saved(tmp_path):
    hook = Unreadable()
    hook.before_train(SimpleNamespace(work_dir=tmp_path, iter=0))
    hook.here = [(50, ["empty: 0.jpg: the file is empty"] * 50)]
    hook.before_save_checkpoint(SimpleNamespace(), checkpoint={})
    assert (tmp_path / "unreadable.txt").read_text() == "empty: 0.jpg: the file is empty\n"


class Loses(Hook):
    """The folder is gone at a step, as when a network disk is."""

    def __init__(self, root, step):
        self.root, self.step = root, step

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx == self.step:
            self.root.rename(self.root.with_name("away"))


def test_a_folder_that_disappears_is_named_and_nothing_saved_is_lost(tmp_path):
    root = photos(tmp_path, 100, {})
    whole = Runner(config(root), tmp_path / "whole", device="cpu")
    whole.train()
    run = Runner(config(root, num_workers=2), tmp_path / "run", device="cpu")
    run.hooks.append(Loses(root, 6))
    with pytest.raises(UnreadableSample, match=r"16 samples .*photos/.*No such file.*disk that it"):
        run.train()
    assert run.iter >= 7
    (tmp_path / "away").rename(root)
    resumed = Runner(config(root, num_workers=2), tmp_path / "run", True, device="cpu")
    assert resumed.iter >= 5
    resumed.train()
    assert resumed.digest() == whole.digest()


# -- workers -------------------------------------------------------------------------------------


@pytest.fixture
def running(monkeypatch, registered):  # noqa: F811
    monkeypatch.setattr(loader, "LOOK", 0.5)

    def start(dataset, **arguments):
        return loader.batches(dataset, views(), 4, seed=0, workers=2, **arguments)

    yield start
    loader._kill_workers()


def test_a_killed_worker_is_named_when_its_batch_is_missing(running):
    others = set(multiprocessing.active_children())
    batches = running(Numbers())
    first = next(iter(set(multiprocessing.active_children()) - others))
    os.kill(first.pid, signal.SIGKILL)
    first.join()  # torch itself would raise here, or wherever the trainer is
    began = time.monotonic()
    with pytest.raises(
        ChildProcessError, match=rf"pid.*{first.pid}.*samples \[[\d, ]*\].*--resume"
    ):
        list(islice(batches, 100))
    assert time.monotonic() - began < 60


def test_a_worker_that_dies_as_it_hands_a_batch_over_is_named(running, monkeypatch):
    batches = running(Numbers())
    iterator = torch.utils.data.dataloader._MultiProcessingDataLoaderIter
    lost = ConnectionResetError(104, "Connection reset by peer")
    monkeypatch.setattr(iterator, "_next_data", lambda _: raised(lost))
    with pytest.raises(ChildProcessError, match=r"worker died: .*reset by peer while .*--resume"):
        list(islice(batches, 100))


def raised(error):
    raise error


class Hangs(Numbers):
    def load(self, index, rng):
        if index == 5:
            time.sleep(600)
        return super().load(index, rng)


def test_a_worker_that_hangs_is_named_with_its_sample(running):
    with pytest.raises(
        TimeoutError, match=r"for 1 seconds.*\b5\b.*raise train_dataloader\.timeout"
    ):
        list(islice(running(Hangs(), timeout=1), 100))


def test_slow_workers_are_waited_for(running):
    class Slow(Numbers):
        def load(self, index, rng):
            time.sleep(0.2)
            return super().load(index, rng)

    same(list(islice(running(Slow(), timeout=60), 4)), loaded(4))


def test_a_signal_to_the_whole_job_leaves_the_workers_to_the_trainer(running):
    batches = running(Numbers())
    for worker in multiprocessing.active_children():
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(worker.pid, signum)
    same(list(islice(batches, 20)), loaded(20))


# -- processes -----------------------------------------------------------------------------------


def train(folder, root, *options, ranks=1, **changes):
    """Starts ``tools/train.py``."""
    text = "".join(f"{key} = {value!r}\n" for key, value in config(root, **changes).items())
    (folder / "mine.py").write_text(text)
    command = [sys.executable]
    if ranks > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command += [ROOT / "tools/train.py", folder / "mine.py", "--work-dir", folder / "run"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, *options], env=env, stderr=subprocess.PIPE, text=True)


def ended(process, seconds):
    """Returns what a process says that must end in an error, and soon."""
    _, text = process.communicate(timeout=seconds)
    assert process.returncode == 1 and "Traceback" not in text, text
    return text


def children(pid):
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_killing_a_worker_ends_the_run_within_a_minute_and_it_can_be_resumed(tmp_path):
    root = photos(tmp_path, 100, {})
    run = train(tmp_path, root, "--cfg-options", "train_cfg.max_iters=1000000", num_workers=2)
    while not list((tmp_path / "run").glob("checkpoints/step_*")):
        assert run.poll() is None
        time.sleep(0.1)
    os.kill(children(run.pid)[0], signal.SIGKILL)
    text = ended(run, 60)
    assert "error: DataLoader worker" in text and "continue with --resume" in text
    saved = max((tmp_path / "run/checkpoints").iterdir()).name
    last = f"train_cfg.max_iters={int(saved.removeprefix('step_')) + 2}"
    again = train(tmp_path, root, "--resume", "--cfg-options", last, num_workers=2)
    _, text = again.communicate(timeout=120)
    assert again.returncode == 0 and f"resuming from {tmp_path}/run/checkpoints/{saved}" in text


@pytest.mark.slow
def test_a_file_that_never_opens_ends_the_run_and_leaves_no_process(tmp_path):
    root = photos(tmp_path, 100, {})
    (root / "050.jpg").unlink()
    os.mkfifo(root / "050.jpg")  # to open it waits for somebody who writes
    run = train(tmp_path, root, num_workers=2, timeout=20)
    while not (workers := children(run.pid)):
        assert run.poll() is None
        time.sleep(0.1)
    text = ended(run, 120)
    assert "no batch came for 20 seconds" in text and "50" in text
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


@pytest.mark.slow
def test_two_ranks_stop_together_with_the_files_of_both(tmp_path):
    root = photos(tmp_path, 100, {i: b"" for i in range(40)})
    run = train(tmp_path, root, ranks=2, max_bad_fraction=0.08)
    _, text = run.communicate(timeout=120)
    assert run.returncode != 0
    # Both say so, unless torchrun ends the second before it can.
    assert text.count("error: ") == text.count("samples drawn cannot be read") >= 1
    (alone,) = tmp_path.glob("run/unreadable.txt")
    listed = alone.read_text()
    shutil.rmtree(tmp_path / "run")
    assert "samples drawn cannot be read" in ended(train(tmp_path, root, max_bad_fraction=0.08), 60)
    assert sorted(alone.read_text().splitlines()) == sorted(listed.splitlines())
