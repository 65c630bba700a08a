"""Pairs, lone images and lone captions, from the files to a training step."""

import numpy as np
import pytest

from tests.own_data import write_own_data
from webssl_plugins.datasets.concat import Concat
from webssl_plugins.datasets.image_text import ImageTextList
from webssl_toolbox.data.loader import batches
from webssl_toolbox.data.sample import Sample
from webssl_toolbox.data.views import Context, Views

RNG = np.random.default_rng(0)


@pytest.fixture
def sources(tmp_path):
    write_own_data(tmp_path)
    listed = str(tmp_path / "pairs.csv")
    return dict(
        pairs=dict(type="ImageTextList", file=listed, root=str(tmp_path / "images")),
        images=dict(type="ImageFolder", root=str(tmp_path / "images/dog")),
        captions=dict(type="ImageTextList", file=listed, image=None),
    )


def test_each_sample_of_each_dataset_is_visited_once(sources):
    dataset = Concat(sources | dict(removed=None))
    assert len(dataset) == 16 + 8 + 16
    samples = [dataset.load(index, RNG) for index in range(40)]
    assert [s.key.split("/")[0] for s in samples] == 16 * ["pairs"] + 8 * ["images"] + 16 * [
        "captions"
    ]
    assert len({s.key for s in samples}) == 40
    having = [(s.image is not None, bool(s.captions)) for s in samples]
    assert having == 16 * [(True, True)] + 8 * [(True, False)] + 16 * [(False, True)]
    assert {s.label for s in samples} == {-1}


def test_captions_without_images(sources):
    file = sources["captions"]["file"]
    assert ImageTextList(file, image=None).load(3, RNG) == Sample(
        None, ("a cat with number 3",), -1, "row 3"
    )


def test_nothing_to_join_is_refused():
    with pytest.raises(ValueError, match="datasets names none"):
        Concat(dict(removed=None))
    with pytest.raises(ValueError, match=r"datasets\.x.*ImageFolder"):
        Concat(dict(x=dict(type="ImageFoldr", root=".")))


def test_views_say_what_a_row_lacks(sources):
    image = [dict(type="ResizeCenterCrop", size=8), dict(type="Normalize")]
    dataset = Concat(sources)

    def first(views):
        context = Context({}, dataset)
        return next(batches(dataset, Views(views, views, context), batch_size=40, seed=0))

    batch = first(dict(v1=[dict(type="Optional"), *image]))
    assert batch["v1"].shape == (40, 8, 8, 3)
    assert (batch["v1.present"] == (batch["index"] < 24)).all()
    assert (batch["v1"][~batch["v1.present"]] == 0).all()
    with pytest.raises(ValueError, match="view 'v1': step 0"):
        first(dict(v1=image))
