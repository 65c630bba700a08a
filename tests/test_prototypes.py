"""The prototypes of DINO and iBOT, against loops over scalars in float64."""

import pytest
import torch

from tests.plain import dot, linear, unit
from webssl_plugins.backbones.prototypes import Prototypes


def test_prototypes_are_compared_by_direction():
    space = Prototypes(count=4, hidden=6, layers=3, bottleneck=3, learn_norm=True).double()
    space.attach("image", 5)
    space.double()
    for parameter in space.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 5, dtype=torch.float64)
    rows = x
    for layer in space.mlp:
        if isinstance(layer, torch.nn.Linear):
            rows = linear(layer, rows)
        else:
            rows = [[v * (1 + torch.erf(v / 2**0.5)) / 2 for v in row] for row in rows]
    kinds = [unit(row) for row in space.last_layer.weight]
    gains = space.last_layer.gain[:, 0]
    wanted = [dot(unit(r), kind) * g for r in rows for kind, g in zip(kinds, gains)]
    torch.testing.assert_close(space(x, "image").flatten(), torch.stack(wanted))


def test_prototypes_refuse_what_does_not_fit():
    space = Prototypes(count=4)
    space.attach("image", 5), space.attach("image", 5)
    with pytest.raises(ValueError, match="take 5 channels for one objective, and 6 of 'image'"):
        space.attach("image", 6)
    with pytest.raises(ValueError, match="layers=0 must be at least 1"):
        Prototypes(layers=0)
