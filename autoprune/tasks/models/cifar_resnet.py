"""The residual networks for CIFAR-10 of He et al. 2015 (arXiv:1512.03385, section 4.2), with option-A shortcuts."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn


class PaddingShortcut(nn.Module):
    """Every second row and column, with zero channels on both sides: option A, without parameters, of stride 2."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.padding = (channels - channels_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Returns `[n, channels, rows / 2, columns / 2]` of `[n, channels_in, rows, columns]`."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut.

    Args:
        shortcut: makes the shortcut where the shape changes, out of the channels before and after; elsewhere it is the
            identity.
    """

    def __init__(
        self, channels_in: int, channels: int, stride: int, shortcut: Callable[[int, int], nn.Module] = PaddingShortcut
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Identity() if stride == 1 else shortcut(channels_in, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `[n, channels, rows / stride, columns / stride]` of `[n, channels_in, rows, columns]`."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """Three stages of 16, 32 and 64 channels on 32x32, 16x16 and 8x8 pixels; `[n, 3, 32, 32]` to `[n, 10]` logits."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(blocks, 16, 16, stride=1)
        self.layer2 = _stage(blocks, 16, 32, stride=2)
        self.layer3 = _stage(blocks, 32, 64, stride=2)
        self.linear = nn.Linear(64, 10)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the `[n, 10]` logits of `[n, 3, 32, 32]` images."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.adaptive_avg_pool2d(out, 1).flatten(1)
        return cast(Tensor, self.linear(out))


def _stage(blocks: int, channels_in: int, channels: int, stride: int) -> nn.Sequential:
    first = BasicBlock(channels_in, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))


def _initialise(module: nn.Module) -> None:
    """Initialises convolutions and linear layers as He et al. 2015, arXiv:1502.01852."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_normal_(module.weight)


def resnet20() -> CifarResNet:
    """Returns a ResNet of 20 layers and 269,722 parameters."""
    return CifarResNet(3)


def resnet32() -> CifarResNet:
    """Returns a ResNet of 32 layers and 464,154 parameters."""
    return CifarResNet(5)


def resnet44() -> CifarResNet:
    """Returns a ResNet of 44 layers and 658,586 parameters."""
    return CifarResNet(7)


def resnet56() -> CifarResNet:
    """Returns a ResNet of 56 layers and 853,018 parameters."""
    return CifarResNet(9)


def resnet110() -> CifarResNet:
    """Returns a ResNet of 110 layers and 1,727,962 parameters."""
    return CifarResNet(18)
