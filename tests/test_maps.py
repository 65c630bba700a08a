"""Pictures of attention, of patch tokens and of prototypes, against plain loops and numpy."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from webssl_plugins.evaluators._grid import CELL, FRAME, GAP, HEADER
from webssl_plugins.evaluators._maps import enlarge, heat, palette, with_legend
from webssl_plugins.evaluators.attention_maps import AttentionMaps
from webssl_plugins.evaluators.patch_pca import PatchPCA, principal, rgb
from webssl_plugins.evaluators.prototype_neighbours import PrototypeNeighbours
from webssl_toolbox.ema import EMA
from webssl_toolbox.encoder import Encoder, MissingPart
from webssl_toolbox.pretrainer import Pretrainer
from webssl_toolbox.spaces import Space
from webssl_toolbox.towers import encode_batch

from .test_pictures import COLOURS, SIDE, VECTORS, VIEW, VIT, Table, cells, plain, registered

__all__ = ["registered"]  # a fixture, for every test here

SIMSIAM = dict(toy=dict(type="SimSiam", dim=8, hidden=4))


def encoder(**vit):
    return Encoder(Pretrainer(dict(image=VIT | vit), SIMSIAM), VIEW)


# --- attention ------------------------------------------------------------------------------------


def by_hand(vit, images):
    """Softmax of the class token's query with each key, head by head, in float64."""
    inputs = []
    hook = vit.blocks[-1].register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    encode_batch(vit, images)
    hook.remove()
    attn = vit.blocks[-1].attn
    x = vit.blocks[-1].norm1(inputs[0]).unflatten(0, (len(images), -1))
    q, k, _ = (x @ attn.qkv.weight.T + attn.qkv.bias).double().chunk(3, dim=2)
    maps = np.zeros((len(images), attn.heads, x.shape[1]))
    size = q.shape[2] // attn.heads
    for row, head in np.ndindex(*maps.shape[:2]):
        part = slice(head * size, (head + 1) * size)
        scores = np.array([float(q[row, 0, part] @ key) for key in k[row, :, part]])
        maps[row, head] = np.exp(scores / size**0.5) / np.exp(scores / size**0.5).sum()
    return torch.from_numpy(maps)


@torch.no_grad()
def test_attention_is_that_of_the_class_token_in_the_last_block():
    model = encoder(heads=2, depth=3, registers=2, pre_norm=True)
    tower = model.tower("image").eval()
    torch.nn.init.normal_(tower.blocks[-1].attn.qkv.weight)
    torch.nn.init.normal_(tower.blocks[-1].attn.qkv.bias)
    images = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    found, wanted = tower.class_attention(images), by_hand(tower, images)
    assert found.shape == (2, 2, 36) and found.std() > 0.01
    torch.testing.assert_close(found, wanted[:, :, 3:].float())
    teacher = EMA("towers.image")
    teacher.follow(tower)
    assert teacher.class_attention(images).equal(found)
    (mine,), (its,) = (x.layers(images, [-1]) for x in (tower, teacher))
    assert its.map.equal(mine.map) and its.pooled.equal(mine.pooled)


def test_maps_lie_over_their_patches(monkeypatch):
    model = encoder(heads=2)
    tower = model.tower("image")
    attention = torch.full((3, 2, 16), 0.01)
    attention[:, 0, 6] = attention[1, 1, 3] = 0.4  # row 1, column 2; row 0, column 3
    monkeypatch.setattr(tower, "class_attention", lambda images: attention)
    grid = AttentionMaps(plain(), count=3, heads=1).run(model)["grid"]
    pitch, patch = SIDE + GAP, CELL // 4
    assert grid.shape == (HEADER + 3 * pitch, GAP + 3 * pitch, 3), "image, mean and one head"
    for row in range(3):
        top = HEADER + row * pitch + FRAME
        lefts = (GAP + FRAME + i * pitch for i in range(3))
        fields = [grid[top : top + CELL, x : x + CELL] for x in lefts]
        image, mean, head = (f[patch // 2 :: patch, patch // 2 :: patch] for f in fields)
        assert (image == COLOURS[(0, 2, 5)[row]]).all()
        assert brightest(head) == [[1, 2]]
        assert brightest(mean) == ([[0, 3], [1, 2]] if row == 1 else [[1, 2]])


def brightest(pixels):
    light = pixels.astype(int).sum(2)
    return np.argwhere(light == light.max()).tolist()


def test_attention_maps_say_what_they_lack(monkeypatch):
    evaluator = AttentionMaps(plain(), count=2, zoom=2)
    model = encoder()
    seen = []
    find = model.tower("image").class_attention
    monkeypatch.setattr(
        model.tower("image"), "class_attention", lambda x: seen.append(x.shape) or find(x)
    )
    assert (evaluator.run(model)["grid"] == evaluator.run(model)["grid"]).all()
    assert seen == [(2, 3, 32, 32)] * 2, "twice the side, four times the patches"
    with pytest.raises(MissingPart, match="'image' has no attention of a class token"):
        evaluator.run(encoder(class_token=False, pool="mean"))


# --- principal components -------------------------------------------------------------------------


def test_components_are_those_of_numpy():
    x = np.random.default_rng(0).normal(size=(40, 6)) * (9, 1, 5, 1, 3, 1) + 100
    centred = x - x.mean(0)
    _, _, loadings = np.linalg.svd(centred)
    signs = [np.sign(row[np.abs(row).argmax()]) for row in loadings]
    wanted = centred @ (loadings.T * signs)
    np.testing.assert_allclose(principal(torch.from_numpy(x).float(), 3), wanted[:, :3], atol=1e-4)


def test_colours_follow_the_scores():
    scores = torch.arange(300.0).view(100, 3) * torch.tensor([1, -1, 0])
    painted = rgb(scores)
    assert painted.dtype == np.uint8 and painted[0].tolist() == [0, 255, 0]
    assert painted[-1].tolist() == [255, 0, 0] and (np.diff(painted[:, 0].astype(int)) >= 0).all()


def test_patches_of_one_look_have_one_colour():
    evaluator = PatchPCA(plain(broken=(0,)), count=6, zoom=2)
    model = encoder()
    torch.nn.init.zeros_(model.tower("image").pos_embed)
    grid = evaluator.run(model)["grid"]
    assert (grid == evaluator.run(model)["grid"]).all()
    middles, _ = cells(grid, rows=2, columns=8)
    assert [row[::2] for row in middles] == [COLOURS[1:5], [COLOURS[5], *middles[1][2::2]]]
    painted = [*middles[0][1::2], middles[1][1]]
    assert len(set(painted)) == 5, "plain images of five colours"
    corner = grid[HEADER + FRAME + 2, GAP + SIDE + GAP + FRAME + 2]
    assert tuple(corner.tolist()) == painted[0], "all patches of the first"


def test_a_tower_without_patches_is_skipped():
    resnet = dict(type="CLIPResNet", depths=(1, 1, 1, 1), width=8, input_size=32)
    model = Encoder(Pretrainer(dict(image=resnet), SIMSIAM), VIEW)
    for evaluator in (PatchPCA(plain()), AttentionMaps(plain())):
        with pytest.raises(MissingPart):
            evaluator.run(model)
    with pytest.raises(ValueError, match="none of the images to draw can be read"):
        PatchPCA(plain(broken=range(6))).run(encoder())


# --- prototypes -----------------------------------------------------------------------------------


class Angles(Space):
    """Three prototypes, of which the last is the most probable of no image."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0.1, 0.1, 0]]))

    def forward(self, x, tower):
        assert tower == "image_ema" and not torch.is_grad_enabled()
        return x @ self.weight.T + torch.tensor([100.0, 0, 0])  # what all share is centred away


def test_prototypes_show_the_images_that_are_surest_of_them():
    data = plain(labels=(0, 1, 0, -1, 1, 0), classes=("cat", "dog"), broken=(5,))
    space, model = Angles(), Table(VECTORS)
    model.image, model.evaluating = "image_ema", torch.no_grad
    model.model = SimpleNamespace(spaces={"proto_ema": space})
    evaluator = PrototypeNeighbours(data, k=2, temperature=0.1)
    grid = evaluator.run(model)["grid"]
    logits = np.array(VECTORS[:5]) @ space.weight.detach().numpy().T
    chances = np.exp((logits - logits.mean(0)) / 0.1)
    chances /= chances.sum(1, keepdims=True)
    assert set(chances.argmax(1)) == {0, 1}
    best = [[COLOURS[i] for i in np.argsort(-chances[:, p])[:2]] for p in (0, 1)]
    middles, _ = cells(grid, rows=2, columns=2, text=True)
    assert sorted(middles) == sorted(best)
    assert (grid == evaluator.run(model)["grid"]).all()
    with pytest.raises(MissingPart, match="no space 'proto'; it has proto_ema"):
        PrototypeNeighbours(data, space="proto").run(model)


# --- drawing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("evaluator", [AttentionMaps, PatchPCA, PrototypeNeighbours])
def test_arguments_are_checked_when_the_evaluator_is_built(evaluator):
    with pytest.raises(ValueError, match=r"data\.caption: .*did you mean 'captions'"):
        evaluator(plain(caption=()))
    with pytest.raises(ValueError, match="count=0: give a number above 0"):
        evaluator(plain(), count=0)


def test_patches_become_squares_and_strengths_brightness():
    values = np.arange(8).reshape(2, 4)
    assert enlarge(values, 4)[1].tolist() == [[4, 4, 5, 5]] * 2 + [[6, 6, 7, 7]] * 2
    painted = heat(torch.tensor([[0.0, 0.1, 0.2], [0, 0, 0]])).astype(int).sum(-1)
    assert (np.diff(painted[0]) > 0).all() and len(set(painted[1])) == 1


def test_a_legend_names_each_colour():
    colours = palette(10)
    assert len({tuple(colour) for colour in colours}) == 10
    picture = np.zeros((5, 200, 3), np.uint8)
    named = {f"class number {i}": colour for i, colour in enumerate(colours)}
    page = with_legend(picture, named)
    assert page.shape[1] == 200 and (page[:5] == 0).all()
    found = {tuple(pixel) for pixel in page.reshape(-1, 3).tolist()}
    assert found > set(colours)
