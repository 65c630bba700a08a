"""Towers of timm, mmpretrain and transformers keep the contract and equal their libraries."""

import pickle
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from webssl_toolbox import testing
from webssl_toolbox.objective import Need

from . import cases
from .adapters import (
    IMAGES,
    PACKAGE,
    TEXTS,
    TIMM_VIT,
    build,
    declip,
    each,
    local,
    model_folders,  # noqa: F401
    needs,
    segment,
)


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


# -- the contract --------------------------------------------------------------------------------


@each(IMAGES | TEXTS)
def test_a_declip_step_keeps_the_contract(tower, folders):
    case = declip(local(tower, folders))
    for name, law in testing.LAWS.items():
        if name != "two ranks equal one":
            law(case)


def test_two_ranks_equal_one(folders):
    installed = [
        local(tower, folders)
        for tower in (IMAGES | TEXTS).values()
        if find_spec(PACKAGE.get(tower["type"], "transformers"))
    ]
    testing.check_ranks([declip(tower) for tower in installed])


@each(dict(timm_vit=TIMM_VIT))
def test_a_timm_vit_keeps_and_masks_patches(tower):
    """Beside teachers, views of two sizes and a fusion tower, as the toolbox's own ViT."""
    towers = cases.EVERYTHING.model["towers"] | dict(image=tower)
    case = replace(cases.EVERYTHING, model=cases.EVERYTHING.model | dict(towers=towers))
    testing.check_gradients(case)
    testing.check_one_call_per_tower(case)
    testing.check_ranks([case])


@each(dict(vit=IMAGES["vit"], dinov2=IMAGES["dinov2"]))
def test_a_transformers_vit_masks_patches(tower, folders):
    towers = cases.EVERYTHING.model["towers"] | dict(image=local(tower, folders))
    objectives = dict(dino=dict(type="DINO", masks=cases.MASKS), ibot=dict(type="IBOT"))
    model = cases.EVERYTHING.model | dict(towers=towers, objectives=objectives)
    testing.check_gradients(replace(cases.EVERYTHING, model=model, sizes={}))


@each(IMAGES | TEXTS)
def test_initial_weights_are_a_function_of_the_seed(tower, folders):
    case = declip(local(tower, folders))
    first = testing.build(case).state_dict()
    torch.manual_seed(7)
    second = testing.build(case).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


# -- what the libraries themselves compute -------------------------------------------------------


@each({name: tower for name, tower in IMAGES.items() if name in ("timm_resnet", "timm_vit")})
def test_a_timm_tower_equals_timm(tower, double):
    import timm

    ours = build(tower)
    size = dict(img_size=16) if "vit" in tower["name"] else {}
    theirs = timm.create_model(tower["name"], num_classes=0, **size, **tower["kwargs"])
    theirs.load_state_dict(ours.model.state_dict(), strict=False)  # we count no batches
    views = [torch.randn(n, 3, tower["input_size"], tower["input_size"]) for n in (3, 2)]
    for view, encoding in zip(views, ours([segment(view) for view in views]), strict=True):
        features = theirs.forward_features(view)
        torch.testing.assert_close(encoding.pooled, theirs.forward_head(features))
        tokens = features[:, 1:] if size else features.flatten(2).transpose(1, 2)
        torch.testing.assert_close(encoding.tokens, tokens)
    for name, buffer in ours.model.named_buffers():
        torch.testing.assert_close(buffer, theirs.state_dict()[name])


@needs("timm")
def test_a_subset_of_all_patches_is_all_of_them(double):
    tower = build(TIMM_VIT)
    tower.plan(frozenset({Need("image", "v", mask="m")}))
    images, every = torch.randn(2, 3, 24, 24), torch.arange(9).expand(2, -1)
    hidden = torch.zeros(2, 9, dtype=torch.bool)
    plain, kept, masked, half = tower(
        [
            segment(images),
            segment(images, keep=every),
            segment(images, mask=hidden),
            segment(images, keep=every[:, 4:]),
        ]
    )
    for same in (kept, masked):
        torch.testing.assert_close(same.tokens, plain.tokens)
    assert half.tokens.shape == (2, 5, 16)
    assert (half.tokens - plain.tokens[:, 4:]).abs().max() > 1e-3
    (changed,) = tower([segment(images, mask=~hidden)])
    assert (changed.tokens - plain.tokens).abs().max() > 1e-3


@each(TEXTS)
def test_padding_changes_no_caption(tower, folders, double):
    text = build(tower, folders).eval()
    ids = torch.randint(3, 60, (3, 7))
    (whole,) = text([segment(ids, torch.tensor([4, 7, 5]))])
    assert whole.valid.sum(1).tolist() == [4, 7, 5]
    for row, length in enumerate((4, 7, 5)):
        (alone,) = text([segment(ids[row : row + 1, :length], torch.tensor([length]))])
        torch.testing.assert_close(whole.pooled[row], alone.pooled[0])
        torch.testing.assert_close(whole.tokens[row, :length], alone.tokens[0])


@needs("transformers")
def test_the_tokenizer_is_what_views_ask_for(folders):
    for tower, size in ((TEXTS["bert"], 70), (TEXTS["clip_text"], 71)):
        tokenizer = build(tower | dict(context_length=6), folders).tokenizer
        ids = tokenizer.encode("word3 word5 [SEP] [MASK] word8")
        assert (ids[0], ids[-1]) == (tokenizer.sot, tokenizer.eot) and ids.dtype == np.int64
        assert not {tokenizer.sot, tokenizer.eot, tokenizer.mask} & set(ids[1:-1])
        assert (ids[[1, 2]] < min(tokenizer.sot, tokenizer.eot)).all()
        assert tokenizer.vocab_size == size == len(tokenizer.order)
        assert tokenizer.decode(tokenizer.encode("word3 word5")) == "word3 word5"
        assert len(tokenizer.encode("word1 " * 9)) == 6
        twin = pickle.loads(pickle.dumps(tokenizer))
        assert twin.encode("word3").tolist() == tokenizer.encode("word3").tolist()
    frame = [tokenizer.order[i] for i in (tokenizer.sot, tokenizer.eot, tokenizer.mask)]
    assert frame == [1, 2, 70]  # bos and eos of config.json; the mask is a new row
