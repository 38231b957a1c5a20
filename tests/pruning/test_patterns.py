from __future__ import annotations

import torch
from torch import nn

from autoprune.graph.layers import Layer
from autoprune.pruning.patterns import filters


def test_filters_of_a_transposed_convolution_are_its_output_channels() -> None:
    conv = nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False)
    layer = Layer("x", "transposed", "ConvTranspose2d", torch.arange(4), torch.arange(6), groups=2)
    rows = filters(layer, conv.weight.detach())
    assert rows.shape == (6, 2, 3, 3)
    for out in range(6):
        changed = nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False)
        with torch.no_grad():
            changed.weight.zero_()
            group, within = divmod(out, 3)
            changed.weight[2 * group : 2 * group + 2, within] = rows[out]
        x = torch.randn(1, 4, 5, 5)
        torch.testing.assert_close(changed(x)[:, out], conv(x)[:, out])
        assert not changed(x)[:, [i for i in range(6) if i != out]].any()
