"""The embedded default: a small residual network for handwritten digits of 8x8 pixels."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.tasks.models.cifar_resnet import BasicBlock


def _projection(channels_in: int, channels: int) -> nn.Module:
    """Returns the shortcut of option B: a 1x1 convolution of stride 2 with a batch norm."""
    return nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride=2, bias=False), nn.BatchNorm2d(channels))


class DigitsResNet(nn.Module):
    """Three stages of 16, 32 and 64 channels on 8x8, 4x4 and 2x2 pixels; `[n, 1, 8, 8]` to `[n, 10]` logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.stage1 = BasicBlock(16, 16, stride=1)
        self.stage2 = BasicBlock(16, 32, stride=2, shortcut=_projection)
        self.stage3 = BasicBlock(32, 64, stride=2, shortcut=_projection)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the `[n, 10]` logits of `[n, 1, 8, 8]` images."""
        out = F.relu(self.bn(self.conv(x)))
        out = self.stage3(self.stage2(self.stage1(out)))
        out = F.adaptive_avg_pool2d(out, 1).flatten(1)
        return cast(Tensor, self.linear(out))


def digits_resnet() -> DigitsResNet:
    """Returns the network with random weights; about 78,000 parameters."""
    return DigitsResNet()
