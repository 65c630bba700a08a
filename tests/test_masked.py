"""MAE and M3AE against a second plain implementation, and what they must not compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.cases import DECODER, FUSION, OBJECTIVES, VIT
from webssl_plugins.backbones._common import sincos_line, sincos_positions
from webssl_plugins.objectives._masked import hidden_places
from webssl_plugins.objectives.mae import patchify, unpatchify
from webssl_plugins.views.text import DropTokens
from webssl_toolbox import features
from webssl_toolbox.data.collate import Tokens, collate
from webssl_toolbox.data.sample import Sample
from webssl_toolbox.data.views import Context, Views
from webssl_toolbox.testing import Case, build, inputs


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def shared(model, batch):
    encodings = features.encode(model.plan, model._towers(), batch)
    return features.Features(encodings, model._spaces(), batch)


# -- the pieces, by hand -------------------------------------------------------------------------


def test_the_first_half_of_the_channels_is_the_column():
    table = sincos_positions(2, 3, 8)  # 2 rows of 3 columns, frequencies 1 and 1/100
    assert table.shape == (6, 8)
    row, column = 1, 2
    found = table[row * 3 + column]
    angles = [column, column / 100], [row, row / 100]
    wanted = [f(a) for part in angles for f in (np.sin, np.cos) for a in part]
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    np.testing.assert_allclose(sincos_line(3, 4)[column], wanted[:4], atol=1e-12)


def test_hidden_places_are_those_that_are_not_kept():
    keep = torch.tensor([[1, 4], [0, 5]])
    assert hidden_places(keep, 6).tolist() == [[0, 2, 3, 5], [1, 2, 3, 4]]


def test_patches_are_row_by_row_and_pixels_channel_last():
    images = torch.arange(3 * 4 * 4.0).view(1, 3, 4, 4)
    patches = patchify(images, 2)
    # The second patch of the first row: pixels (0, 2), (0, 3), (1, 2), (1, 3), each with channels.
    pixels = [(0, 2), (0, 3), (1, 2), (1, 3)]
    assert patches[0, 1].tolist() == [images[0, c, y, x] for y, x in pixels for c in range(3)]
    assert torch.equal(unpatchify(patches, 2), images)


def test_dropped_tokens_are_a_fixed_share_and_never_the_frame():
    tokens = Tokens(np.array([90, 1, 2, 3, 4, 5, 6, 7, 8, 91]), 0)
    for seed in range(20):
        found = DropTokens(0.75)(tokens, Sample(None), np.random.default_rng(seed))
        assert len(found.index) == 6 and len(found.keep) == 4
        assert {0, 9} <= set(found.keep)
        assert sorted([*found.index, *found.keep]) == list(range(10))
        assert (found.target == tokens.ids[found.index]).all()
    empty = DropTokens(0.75)(Tokens(tokens.ids[[0, 9]], 0), Sample(None), np.random.default_rng(0))
    assert len(empty.index) == 0 and len(empty.keep) == 2
    with pytest.raises(ValueError, match="ratio is a share"):
        DropTokens(0)


# -- the whole loss, a second time ---------------------------------------------------------------


def plain_mae(model, batch, normalize=True):
    """The loss image by image and patch by patch, with the decoder's layers called in loops."""
    decoder, objective, tower = (
        model.spaces["decoder"],
        model.objectives["mae"],
        model.towers["image"],
    )
    keep, images = batch["v1_keep"], batch["v1"]
    encoding = shared(model, batch)[objective.need]
    table = sincos_positions(2, 2, decoder.dim)
    losses = []
    for b in range(len(images)):
        tokens = [decoder.embed["image"](encoding.pooled[b])]
        kept = keep[b].tolist()
        for place in range(4):
            if place in kept:
                token = decoder.embed["image"](encoding.tokens[b, kept.index(place)])
            else:
                token = decoder.mask_token["image"][0]
            tokens.append(token + table[place])
        x = torch.stack(tokens)
        for block in decoder.blocks:
            y = block.norm1(x)
            q, k, v = block.attn.qkv(y).view(len(x), 3, block.attn.heads, -1).permute(1, 2, 0, 3)
            weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)
            x = x + block.attn.proj((weights @ v).transpose(0, 1).flatten(1))
            x = x + block.mlp(block.norm2(x))
        predicted = objective.head(decoder.norm(x))
        for place in set(range(4)) - set(kept):
            y, left = divmod(place, 2)
            size = tower.patch_size
            patch = images[b, :, y * size : (y + 1) * size, left * size : (left + 1) * size]
            target = patch.permute(1, 2, 0).flatten()
            if normalize:
                deviation = (target - target.mean()).square().sum() / (len(target) - 1)  # unbiased
                target = (target - target.mean()) / (deviation + 1e-6) ** 0.5
            losses.append(((predicted[1 + place] - target) ** 2).sum() / len(target))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("normalize", [True, False])
def test_the_loss_is_that_of_a_plain_implementation(normalize):
    objective = dict(mae=dict(type="MAE", normalize=normalize))
    case = Case(dict(towers=dict(image=VIT), spaces=DECODER, objectives=objective))
    model = build(case)
    batch = inputs(model, case)
    losses, _ = model(batch)
    torch.testing.assert_close(losses["mae.loss"], plain_mae(model, batch, normalize))


def test_a_reconstruction_keeps_what_was_seen_and_has_the_moments_of_what_was_not():
    case = OBJECTIVES["mae"]
    model = build(case)
    batch = inputs(model, case)
    mae = model.objectives["mae"]
    found = mae.reconstruct(shared(model, batch))
    patches, true = patchify(found, 8), patchify(batch["v1"], 8)
    for b, kept in enumerate(batch["v1_keep"].tolist()):
        for place in range(4):
            assert torch.equal(patches[b, place], true[b, place]) == (place in kept)
    assert found.shape == batch["v1"].shape and not found.requires_grad


def test_a_view_of_another_size_is_refused():
    case = OBJECTIVES["mae"]
    model = build(case)
    batch = inputs(model, Case(case.model, sizes=dict(v1=24)))
    with pytest.raises(ValueError, match="view 'v1' has 9 patches, but the decoder is made for 4"):
        model(batch)


def test_the_encoder_costs_what_it_keeps():
    """A quarter of the patches costs a quarter of the linear layers, and less of attention."""
    vit = dict(type="ViT", patch_size=8, width=64, depth=3, heads=4, input_size=128)
    flops = {}
    for name, objective in (
        ("kept", dict(type="MAE")),
        ("all", dict(type="CLIP")),
    ):
        towers = dict(
            image=vit, text=dict(type="TextTransformer", width=16, depth=1, heads=2, vocab_size=600)
        )
        spaces = DECODER | dict(joint=dict(type="JointSpace", dim=8))
        case = Case(
            dict(
                towers=towers,
                spaces=spaces,
                objectives={"mae" if name == "kept" else "clip": objective},
            )
        )
        model = build(case)
        batch = inputs(model, case)
        needs = model.plan["image"]
        with FlopCounterMode(display=False) as counter:
            model.towers["image"]([features.segment(need, batch) for need in needs])
        flops[name] = counter.get_total_flops()
    assert flops["kept"] / flops["all"] < 0.26


# -- M3AE ----------------------------------------------------------------------------------------

M3AE = OBJECTIVES["m3ae"]


def test_one_pass_of_the_decoder_serves_pixels_and_words():
    model = build(M3AE)
    calls = []
    model.spaces["decoder"].register_forward_hook(lambda *_: calls.append(1))
    model(inputs(model, M3AE))
    assert len(calls) == 1


def mixed(model):
    """Pairs, lone images and lone captions in one batch, through real views."""
    views = dict(
        v1=[dict(type="Optional"), dict(type="RandomResizedCrop"), dict(type="Normalize")],
        v1_keep=[dict(type="RandomKeep", ratio=0.25, tower="fusion")],
        text_mae=[
            dict(type="Optional"),
            dict(type="Caption"),
            dict(type="Tokenize", tower="fusion"),
            dict(type="DropTokens"),
        ],
    )
    views = Views(views, model.needed_inputs(), Context(dict(model.towers.items())))
    noise = np.random.default_rng(0).integers(0, 256, (4, 20, 20, 3), dtype=np.uint8)
    samples = [
        Sample(noise[0], ("a small red house by the sea",)),
        Sample(noise[1]),
        Sample(None, ("two green birds",)),
        Sample(noise[2], ("a dog",)),
    ]
    drawn = [views.draw(sample, 0, 0, i) for i, sample in enumerate(samples)]
    batch = views.finish(collate(drawn))
    return {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}


def rows(batch, chosen):
    """The same batch with some of its rows alone; none of them lacks anything."""
    out = {k: v[chosen] for k, v in batch.items() if not k.endswith((".index", ".target"))}
    width = batch["text_mae"].shape[1]
    owner = batch["text_mae.index"] // width
    places = [torch.nonzero(owner == b)[:, 0] for b in chosen]
    shift = [(i - b) * width for i, b in enumerate(chosen)]
    out["text_mae.index"] = torch.cat(
        [batch["text_mae.index"][p] + s for p, s in zip(places, shift)]
    )
    out["text_mae.target"] = torch.cat([batch["text_mae.target"][p] for p in places])
    return out


def test_a_batch_may_mix_pairs_lone_images_and_lone_captions():
    model = build(M3AE)
    batch = mixed(model)
    assert batch["v1.present"].tolist() == [True, True, False, True]
    assert batch["text_mae.present"].tolist() == [True, False, True, True]
    losses, _ = model(batch)
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name

    # Images that are there: each has as many hidden patches, so the loss is the mean over them.
    alone = [model(rows(batch, [b]))[0]["mae.loss"] for b in (0, 1, 3)]
    torch.testing.assert_close(losses["mae.loss"], sum(alone) / 3)
    # Words weigh alike: each caption by the number that it lost.
    count = [
        int((batch["text_mae.index"] // batch["text_mae"].shape[1] == b).sum()) for b in (0, 2, 3)
    ]
    alone = [model(rows(batch, [b]))[0]["mae_text.loss"] for b in (0, 2, 3)]
    wanted = sum(n * loss for n, loss in zip(count, alone)) / sum(count)
    torch.testing.assert_close(losses["mae_text.loss"], wanted)


def test_what_a_row_lacks_does_not_reach_its_encoding():
    model = build(M3AE)
    batch = mixed(model)
    (need,) = model.plan["fusion"]
    tower = model.towers["fusion"]
    (before,) = tower([features.segment(need, batch)])
    noise = dict(batch)
    noise["v1"] = batch["v1"].clone()
    noise["v1"][2] = 7.0
    noise["text_mae"] = batch["text_mae"].clone()
    noise["text_mae"][1] = 5
    (after,) = tower([features.segment(need, noise)])
    torch.testing.assert_close(before.pooled, after.pooled)


def test_captions_alone_and_images_alone_have_losses_of_their_own():
    objectives = dict(
        pairs=dict(type="MAE", tower="fusion", text="text_mae"),
        words=dict(type="MAEText", weight=0.5),
        images=dict(type="MAE", tower="fusion", view="v2", keep="v2_keep"),
        captions=dict(type="MAEText", text="text_lone", view=None),
    )
    case = Case(dict(towers=dict(fusion=FUSION), spaces=DECODER, objectives=objectives))
    model = build(case)
    losses, _ = model(inputs(model, case))
    assert set(losses) == {f"{name}.loss" for name in objectives}
    kinds = model.spaces["decoder"]
    assert set(kinds.kind) == {"image", "text"}  # told apart in one sequence
    assert "kind.image" not in dict(build(OBJECTIVES["mae"]).spaces["decoder"].named_parameters())


def test_fusion_refuses_masks():
    towers, need = dict(fusion=FUSION), features.Need("fusion", "v1", mask="v1_mask")
    tower = build(Case(dict(towers=towers, spaces=DECODER, objectives=M3AE.model["objectives"])))
    with pytest.raises(ValueError, match="drops patches and words"):
        tower.towers["fusion"].plan(frozenset([need]))
