from __future__ import annotations

import torch
from torch import fx

from autoprune.tasks.models.digits_resnet import digits_resnet


def test_network_is_traced_and_gives_ten_logits() -> None:
    network = digits_resnet().eval()
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    out = fx.symbolic_trace(network)(x)
    assert out.shape == (3, 10)
    assert torch.equal(out, network(x))


def test_shortcut_is_a_1x1_convolution_where_the_shape_changes() -> None:
    network = digits_resnet()
    assert isinstance(network.stage1.shortcut, torch.nn.Identity)
    for stage in (network.stage2, network.stage3):
        assert isinstance(stage.shortcut, torch.nn.Sequential)
        assert stage.shortcut[0].kernel_size == (1, 1)
