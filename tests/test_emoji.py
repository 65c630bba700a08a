"""The embedded corpus: what each split holds, what may not leak, how renders are kept."""

import json
import multiprocessing
import os
import pickle
from collections import Counter

import numpy as np
import pytest

from webssl_plugins.datasets import _emoji_render
from webssl_plugins.datasets._emoji_render import DATA, open_renders, read_data
from webssl_plugins.datasets.emoji import (
    SPLITS,
    TEST_DESIGNERS,
    TRAIN_DESIGNERS,
    Emoji,
    concepts,
    sources,
    synonyms,
)
from webssl_toolbox.data.rng import sample_rng
from webssl_toolbox.data.sample import Dataset

SIZE = 16
UNSEEN = {key for key, concept in concepts().items() if concept["unseen"]}


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("renders")


@pytest.fixture
def corpus(cache):
    return lambda split="train", **kwargs: Emoji(split, size=SIZE, cache_dir=cache, **kwargs)


def keys(dataset):
    """Returns (designer, concept) of one epoch."""
    found = [dataset.load(i, sample_rng(0, 0, i)).key for i in range(len(dataset))]
    return [tuple(key.split("/")) for key in found]


def test_shipped_files_agree_with_the_sources():
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 12e6
    assert len(concepts()) == 1949
    for designer in (*TRAIN_DESIGNERS, *TEST_DESIGNERS):
        drawn = {key for key, concept in concepts().items() if designer in concept["designers"]}
        assert drawn == read_data(f"drawings-{designer}").keys()
        assert len(drawn) == sources()[designer]["drawings"]
        assert sources()[designer]["licence"] in {"Apache-2.0", "MIT", "CC-BY-4.0"}
    counts = {name: sources()[name]["drawings"] for name in (*TRAIN_DESIGNERS, *TEST_DESIGNERS)}
    assert counts == {
        "noto": 1678,
        "twemoji": 1940,
        "emojione": 1106,
        "noto-v1": 1243,
        "fluent-flat": 1594,
        "fluent-high-contrast": 1594,
    }


@pytest.mark.parametrize("language", sources()["captions"]["languages"])
def test_every_language_labels_every_concept(language):
    captions = read_data(f"captions-{language}")
    assert captions.keys() == concepts().keys()
    assert all(found[0] for found in captions.values())


def test_sizes_of_the_splits():
    assert {split: len(Emoji(split)) for split in SPLITS} == {
        "train": 1736,
        "train-drawings": 4218,
        "noto-v1": 1106,
        "noto-v1-distinct": 1069,
        "fluent-flat": 1426,
        "fluent-high-contrast": 1426,
        "unseen/noto-v1": 137,
        "unseen/fluent-flat": 168,
        "unseen/fluent-high-contrast": 168,
    }


def test_an_epoch_holds_every_seen_concept_once_by_every_designer(corpus):
    epoch = keys(corpus())
    trained = [concept for _, concept in epoch]
    assert len(set(trained)) == len(trained)
    share = Counter(designer for designer, _ in epoch)
    assert share.keys() == set(TRAIN_DESIGNERS)
    assert share["twemoji"] > share["noto"] > share["emojione"] > 200
    drawings = keys(corpus("train-drawings"))
    assert len(set(drawings)) == len(drawings)
    assert {concept for _, concept in drawings} == set(trained)


def test_no_training_split_holds_an_unseen_concept(corpus):
    assert not UNSEEN & {concept for _, concept in keys(corpus())}
    assert not UNSEEN & {concept for _, concept in keys(corpus("train-drawings"))}
    for designer in TEST_DESIGNERS:
        assert not UNSEEN & {concept for _, concept in keys(corpus(designer))}
        assert {c for _, c in keys(corpus(f"unseen/{designer}"))} <= UNSEEN


def test_unseen_concepts_follow_the_subgroups():
    trained = set(TRAIN_DESIGNERS)
    drawn = [k for k, concept in concepts().items() if trained & set(concept["designers"])]
    everywhere = Counter(concepts()[key]["subgroup"] for key in drawn)
    unseen = Counter(concepts()[key]["subgroup"] for key in UNSEEN)
    assert len(unseen) > 60
    for subgroup, count in everywhere.items():
        assert abs(unseen[subgroup] - count * len(UNSEEN) / len(drawn)) < 1


def test_labels_follow_the_target(corpus):
    captions = read_data("captions-en")
    for split, classes in {"fluent-flat": 1949, "unseen/fluent-flat": 204}.items():
        dataset = corpus(split)
        assert len(set(dataset.classes)) == classes
        for i in range(0, len(dataset), 10):
            sample = dataset.load(i, sample_rng(0, 0, i))
            assert dataset.classes[sample.label] == sample.captions[0]
            assert sample.captions[1:] in [(), (", ".join(captions[sample.key[12:]][1:]),)]
    for target, classes in {"group": 10, "subgroup": 100}.items():
        dataset = corpus("train-drawings", target=target)
        labels = Counter()
        for i in range(len(dataset)):
            sample = dataset.load(i, sample_rng(0, 0, i))
            name = concepts()[sample.key.split("/")[1]][target]
            assert (dataset.classes[sample.label] if name else sample.label) == (name or -1)
            labels[sample.label] += 1
        assert len(dataset.classes) == classes
        letters = [key for key, concept in concepts().items() if not concept["group"]]
        assert len(letters) == 26 and labels[-1] == 3 * len(set(letters) - UNSEEN)


def test_a_language_names_captions_and_classes(corpus):
    dataset = corpus("unseen/noto-v1", language="de")
    assert "Pizza" in dataset.classes and "Elefant" in dataset.classes


def test_load_is_a_function_of_its_arguments(corpus):
    first, second = corpus(), pickle.loads(pickle.dumps(corpus()))
    for i in (0, 700, 1735):
        a, b = (dataset.load(i, sample_rng(3, 1, i)) for dataset in (first, second))
        assert a.key == b.key and np.array_equal(a.image, b.image)
    drawn = {first.load(700, sample_rng(0, epoch, 700)).key.split("/")[0] for epoch in range(30)}
    concept = keys(first)[700][1]
    assert drawn == set(TRAIN_DESIGNERS) & set(concepts()[concept]["designers"])


def test_images_belong_to_the_worker_and_state_is_small(corpus):
    dataset: Dataset = corpus()
    image = dataset.load(0, sample_rng(0, 0, 0)).image
    assert type(image) is np.ndarray and image.shape == (SIZE, SIZE, 4) and image.flags.writeable
    assert len(pickle.dumps(dataset)) < 1e6


def test_alpha_masks_the_drawing(cache):
    def covered(designer):
        return (open_renders(designer, SIZE, cache)[..., 3] > 127).mean()

    assert all(0.44 < covered(name) < 0.65 for name in (*TRAIN_DESIGNERS, *TEST_DESIGNERS[:2]))
    assert 0.25 < covered("fluent-high-contrast") < 0.4
    assert (open_renders("noto", SIZE, cache)[..., 3].max((1, 2)) > 0).all()


def test_rows_show_their_concept(corpus):
    strawberry, banana = "1f353", "1f34c"
    for split in ("train-drawings", "noto-v1", "fluent-flat"):
        dataset = corpus(split)
        for i, (_, concept) in enumerate(keys(dataset)):
            if concept in (strawberry, banana):
                image = dataset.load(i, sample_rng(0, 0, i)).image.astype(int)
                red, green, blue = image[image[..., 3] > 200][:, :3].mean(0)
                assert red > green > blue if concept == banana else red > 1.5 * max(green, blue)


def test_a_smaller_fraction_is_a_subset(corpus):
    whole, half, tenth = (
        {concept for _, concept in keys(corpus(fraction=share))} for share in (1, 0.5, 0.1)
    )
    assert tenth < half < whole and len(tenth) == round(0.1 * len(whole))
    captions = read_data("captions-en")
    kept = {text.lower() for concept in tenth for text in captions[concept]}
    assert set(corpus(fraction=0.1).synonyms) <= kept


def test_synonyms_are_symmetric_and_know_seen_concepts_only(corpus):
    found = corpus().synonyms
    assert "jet" in found["airplane"]
    assert all(word in found[other] for word, others in found.items() for other in others)
    assert "face" not in found
    captions = read_data("captions-en")
    seen = {text.lower() for k in concepts() if k not in UNSEEN for text in captions[k]}
    assert set(found) <= seen
    assert synonyms([["Dog", "puppy", "man's friend"], ["red car", "auto"]]) == {
        "dog": ["puppy"],
        "puppy": ["dog"],
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "noto-v2"}, "did you mean noto-v1"),
        ({"target": "groups"}, "did you mean group"),
        ({"language": "zh-hans"}, "zh-hant"),
        ({"size": 0}, "size=0"),
        ({"fraction": 1.5}, "fraction=1.5"),
        ({"split": "noto-v1", "fraction": 0.5}, "thins the training set"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_rendered(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Emoji(cache_dir=tmp_path, **arguments)
    Emoji(cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def _open(folder, start, result):
    start.wait()
    result.put(int(open_renders("emojione", 8, folder).sum(dtype=np.int64)))


def test_processes_that_start_at_once_render_one_file(tmp_path):
    context = multiprocessing.get_context("fork")
    start, result = context.Barrier(3), context.Queue()
    # Daemons, as the workers of a loader are.
    workers = [
        context.Process(target=_open, args=(tmp_path, start, result), daemon=True) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    sums = {result.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    assert len(sums) == 1
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".lock", ".npy"]


def test_a_render_that_fails_leaves_no_file(tmp_path, monkeypatch):
    def broken(svgs, size):
        yield np.zeros((size, size, 4), np.uint8)
        raise RuntimeError("disk on fire")

    monkeypatch.setattr(_emoji_render, "render_all", broken)
    with pytest.raises(RuntimeError):
        open_renders("emojione", 8, tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_the_file_name_follows_source_and_size(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    monkeypatch.setattr(_emoji_render, "DATA", source)

    def files(colour, size):
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 2 2"><rect fill="{colour}"'
        drawings = {"a": f'{svg} width="1" height="2"/></svg>'}
        packed = _emoji_render.gzip.compress(json.dumps(drawings).encode(), mtime=0)
        (source / "drawings-x.json.gz").write_bytes(packed)
        image = open_renders("x", size, tmp_path / "cache")[0]
        return image, len(list((tmp_path / "cache").glob("*.npy")))

    image, count = files("red", 4)
    assert count == 1
    assert image[0].tolist() == [[255, 0, 0, 255]] * 2 + [[0, 0, 0, 0]] * 2
    assert [files("red", 4)[1], files("red", 8)[1], files("blue", 4)[1]] == [1, 2, 3]


def test_a_read_only_cache_falls_back_to_a_temporary_folder(tmp_path, monkeypatch, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("a file, not a folder")
    monkeypatch.setattr(_emoji_render.tempfile, "gettempdir", lambda: str(tmp_path))
    assert _emoji_render.writable(blocked) == tmp_path / f"webssl_toolbox-{os.getuid()}"
    assert "WEBSSL_CACHE" in caplog.text


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("WEBSSL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _emoji_render.cache_folder() == tmp_path / "webssl_toolbox"
    monkeypatch.setenv("WEBSSL_CACHE", str(tmp_path / "a"))
    assert _emoji_render.cache_folder() == tmp_path / "a"
    assert _emoji_render.cache_folder(tmp_path / "b") == tmp_path / "b"
