"""Ranks that share an evaluation: each has what one process would have, and none waits for ever."""

import inspect
import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from _models import open_model
from safetensors.torch import load_file, save_file

from tests import cases
from tests.test_runner import finish, launch
from webssl_toolbox import dist, plugins, testing
from webssl_toolbox.data.sample import Sample, UnreadableSample
from webssl_toolbox.encoder import Encoder, MissingPart
from webssl_toolbox.evaluation import pieces
from webssl_toolbox.evaluation.runner import Evaluation
from webssl_toolbox.registry import DATASETS, EVALUATORS

torch.set_num_threads(1)

VIEW = [dict(type="ResizeCenterCrop"), dict(type="Normalize")]
SHAPES = ("disc", "bar", "post", "frame")
BROKEN = (5, 20)
MISSING_ON_SECOND = "first.py"


@DATASETS.register_module()
class Drawings:
    """Drawings of four shapes on a transparent ground; two of them cannot be read."""

    classes = SHAPES
    synonyms: dict = {}

    def __init__(self, count: int = 37, first: int = 0, fails_on: int = -1, fewer_on: int = -1):
        self.count, self.first, self.fails_on = count, first, fails_on
        if dist.rank() == fewer_on:
            self.count -= 2

    def __len__(self):
        return self.count

    def load(self, index, rng):
        if index in BROKEN:
            raise UnreadableSample(f"{index}.png: cannot be decoded")
        if dist.rank() == self.fails_on:
            raise ValueError("the disk of this rank is gone")
        label, drawn = index % 4, np.random.default_rng(self.first + index)
        y, x = np.mgrid[-12:12, -12:12] + drawn.uniform(-3, 3, (2, 1, 1))
        inside = [x**2 + y**2 < 64, abs(y) < 4, abs(x) < 4, np.maximum(abs(x), abs(y)) > 6][label]
        image = np.zeros((24, 24, 4), np.uint8)
        image[inside] = (*drawn.integers(0, 200, 3), 255)
        return Sample(image, (f"a {SHAPES[label]}",), label)


def drawings(**arguments):
    return dict(type="Drawings", **arguments)


TRAIN, TEST = drawings(count=37), drawings(count=23, first=100)
# What evaluators call their data; whatever else they need is given below.
DATA = dict(train=TRAIN, splits=dict(a=TEST, b=TRAIN), data=TRAIN, bank=TRAIN, queries=TEST)
HEADS = dict(epochs=2, batch_size=6, rates=(0.01, 0.1))
FURTHER = dict(
    DenseProbe=dict(count=12),
    Reconstructions=dict(count=3),
    ZeroShotSuite=dict(splits=dict(a=dict(dataset=TEST, templates=["{}", "a {}"]))),
    LinearProbe=HEADS | dict(blocks=(1,)),
    AttentiveProbe=HEADS,
)


def every_evaluator():
    """Returns a config for each built-in evaluator, by name."""
    plugins.load()
    found = {}
    for name in EVALUATORS._module_dict:
        cls = EVALUATORS.get(name)
        if cls.__module__.startswith("webssl_plugins"):
            asked = inspect.signature(cls).parameters
            given = {key: value for key, value in DATA.items() if key in asked}
            found[name] = dict(type=name) | given | FURTHER.get(name, {})
    return found


def encoder():
    """An untrained model with a part for each of them; a piece is two batches of six images."""
    pieces.ROWS = 14
    model = testing.build(cases.EVERYTHING).float()
    return Encoder(model, VIEW, batch_size=6)


def everything(folder):
    """Leaves all that the evaluators find, and an encoded dataset, in a folder."""
    model = encoder()
    metrics, pictures = Evaluation(every_evaluator()).run(model)
    split = model.encode_dataset(TRAIN)
    tensors = {name: torch.from_numpy(picture.copy()) for name, picture in pictures.items()}
    tensors |= dict(features=split.features, embeddings=split.embeddings, labels=split.labels)
    for count in (1, 2):  # fewer than ranks
        tensors[f"of {count}"] = model.encode_dataset(drawings(count=count)).features
    save_file(tensors, folder / "tensors")
    found = dict(metrics=metrics, captions=split.captions, indices=split.indices)
    (folder / "found.json").write_text(json.dumps(found))


class Fails:
    """Raises on one rank, behind its last collective or in the middle of them."""

    def __init__(self, error, early):
        self.error, self.early = error, early

    def run(self, model):
        if dist.rank() == 1 and self.early:
            raise self.error
        model.encode_dataset(drawings(count=8))
        if dist.rank() == 1:
            raise self.error
        return {"a/top1": 1.0}


def failures():
    """Returns what each kind of failure on the second rank becomes on this one."""
    said = {}
    for early in (True, False):
        for error in (ValueError("no luck"), MissingPart("no such tower")):
            EVALUATORS._module_dict["Fails"] = lambda error=error, early=early: Fails(error, early)
            evaluators = dict(
                first=dict(type="Fails"), next=dict(type="RankMe", splits=dict(a=TEST))
            )
            try:
                Evaluation(evaluators).run(encoder())
            except ValueError as raised:
                said[f"{type(error).__name__} {early}"] = str(raised)
    fewer = drawings(count=46, fewer_on=1)  # as many batches of six on either rank
    probe = every_evaluator()["LinearProbe"] | dict(train=fewer, validation=TEST, view=VIEW)
    for name, call in {
        "unreadable disk": lambda: encoder().encode_dataset(drawings(fails_on=1)),
        "fewer files": lambda: encoder().encode_dataset(fewer),
        "fewer to train on": lambda: EVALUATORS.create(probe, "probe").run(encoder()),
        "other weights": lambda: open_model("model.py", "cpu"),
        "no weights": lambda: open_model(MISSING_ON_SECOND, "cpu"),
        "same weights": lambda: open_model("webssl_toolbox::eval/models/pixels.py", "cpu"),
    }.items():
        try:
            call()
        except ValueError as raised:
            said[name] = str(raised)
    with dist.alone():
        if dist.rank() == 0 and int(os.environ["RANK"]) == 1:  # the others are elsewhere
            said["alone"] = len(encoder().encode_dataset(TEST).features)
    dist.barrier()
    return said


def probe(model, **options):
    few = drawings(count=5)  # each can be read
    options = HEADS | dict(train=TRAIN, validation=few, splits=dict(a=few)) | options
    return EVALUATORS.create(dict(type="LinearProbe", blocks=(1,), **options), "probe").run(model)


def one_rank(rank, ranks, folder):
    torch.set_num_threads(1)
    os.environ["RANK"] = str(rank)
    warned = []
    logging.getLogger("webssl_toolbox").addFilter(lambda record: warned.append(record.getMessage()))
    where = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=ranks)
    own = folder / str(rank)
    own.mkdir()
    everything(own)
    (own / "warned.json").write_text(json.dumps(warned))
    for name, view in (("read", None), ("augmented", VIEW)):
        warned.clear()
        probe(encoder(), view=view)
        (own / f"{name}.json").write_text(json.dumps(warned))
    if ranks == 2:
        os.chdir(own)  # a place of one name, with other files
        for name in ("model.py", MISSING_ON_SECOND)[: 2 - rank]:
            sections = dict(model=dict(towers=dict(image=cases.VIT)), test_view=VIEW, seed=rank)
            Path(name).write_text("".join(f"{k} = {value!r}\n" for k, value in sections.items()))
        (own / "failures.json").write_text(json.dumps(failures()))
    dist.shutdown()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    threads, rows = torch.get_num_threads(), pieces.ROWS
    torch.set_num_threads(1)
    everything(folder)
    torch.set_num_threads(threads)
    pieces.ROWS = rows
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    torch.multiprocessing.spawn(one_rank, (2, folder), nprocs=2)
    return folder


def same(alone, folder):
    first, second = (load_file(place / "tensors") for place in (alone, folder))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    texts = [(place / "found.json").read_text() for place in (alone, folder)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("rank", ["0", "1"])
def test_every_evaluator_finds_on_two_ranks_what_it_finds_on_one(alone, two, rank):
    same(alone, two / rank)
    metrics = json.loads((alone / "found.json").read_text())["metrics"]
    found = {name.partition("/")[0] for name in [*metrics, *load_file(alone / "tensors")]}
    assert found >= set(every_evaluator()) - {"Retrieval", "ZeroShot", "RetrievalGrid"}


@pytest.mark.slow
def test_three_ranks_find_the_same(alone, tmp_path):
    torch.multiprocessing.spawn(one_rank, (3, tmp_path), nprocs=3)
    for rank in range(3):
        same(alone, tmp_path / str(rank))


def test_what_cannot_be_read_is_left_out_and_said_once(alone, two):
    found = json.loads((alone / "found.json").read_text())
    assert found["indices"] == [i for i in range(37) if i not in BROKEN]
    assert found["captions"][:5] == ["a disc", "a bar", "a post", "a frame", "a disc"]
    first, second = (json.loads((two / rank / "warned.json").read_text()) for rank in "01")
    said = "left out of the evaluation: 20.png: cannot be decoded"
    assert said in first, first
    assert said not in second


LEFT_OUT = [f"left out of the evaluation: {i}.png: cannot be decoded" for i in BROKEN]
STOOD_FOR = "replaced in the training of the probe: unreadable: {}.png: cannot be decoded"


def test_a_probe_names_what_any_rank_cannot_read(two):
    read, augmented = (json.loads((two / f"0/{n}.json").read_text()) for n in ("read", "augmented"))
    assert read == LEFT_OUT, "the second is of the second rank"
    assert sorted(augmented) == sorted(STOOD_FOR.format(i) for i in BROKEN), "each once"


def test_a_probe_names_what_cannot_be_read_of_stored_pieces(caplog, monkeypatch):
    monkeypatch.setattr(pieces, "ROWS", pieces.ROWS)  # which encoder() changes
    model, stores = encoder(), {}
    model.store_of = lambda cfg, count: stores.setdefault(repr(cfg), {})
    for _ in range(2):
        caplog.clear()
        probe(model)
        assert [record.message for record in caplog.records] == LEFT_OUT


def test_a_rank_that_fails_stops_all_of_them(two):
    first, second = (json.loads((two / rank / "failures.json").read_text()) for rank in "01")
    assert second.pop("alone") == 21
    assert first["ValueError True"] == first["ValueError False"] == "rank 1 failed: no luck"
    assert second["ValueError True"] == second["ValueError False"] == "no luck"
    assert first["unreadable disk"] == "rank 1 failed: the disk of this rank is gone"
    assert "ranks see [46, 44] rows; give all ranks the same files" in first["fewer files"]
    assert first["fewer to train on"].startswith("train: ranks see [46, 44] samples")
    assert first["other weights"].startswith("model.py: ranks opened different weights")
    assert first["no weights"] == f"rank 1 failed: {second['no weights']}"
    assert "same weights" not in first
    for name in ("fewer files", "fewer to train on", "other weights"):
        assert first[name] == second[name]
    assert "come apart" in first["MissingPart True"] and "MissingPart False" not in first
    assert first.keys() == second.keys(), "neither went on without the other"


@pytest.mark.slow
def test_in_training_the_first_rank_evaluates_alone(tmp_path):
    """Whatever strategy holds the model; nobody waits for ranks that do not evaluate."""
    stripes = dict(type="Stripes")
    changes = dict(test_view=VIEW, train_cfg__max_iters=2)
    changes["evaluation"] = dict(evaluators=dict(rank=dict(type="RankMe", splits=dict(a=stripes))))
    places = {"one": (None, 1), "copies": ("ddp", 2), "shards": ("fsdp2", 2)}
    runs = [
        launch(tmp_path / name, changes | dict(strategy=strategy), ranks=ranks)
        for name, (strategy, ranks) in places.items()
    ]
    for run in runs:
        finish(run)
    found = {
        json.loads((tmp_path / n / "untrained.json").read_text())["rank/a/rank"] for n in places
    }
    assert len(found) == 1, "the weights are the same before training"
    for name in places:
        assert "| rank " in (tmp_path / name / "results.md").read_text()
