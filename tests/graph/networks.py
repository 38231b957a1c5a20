"""Small networks of the well-known families, each with the groups that must be found in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.tasks.models.cifar_resnet import CifarResNet


@dataclass(frozen=True)
class Case:
    """A network, the shape of one sample, and group names to widths as they must be found."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    groups: Mapping[str, int]
    integers: bool = False
    dtype: torch.dtype = torch.float64


class LeNet(nn.Module):
    def __init__(self, view: str) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * 5 * 5, 12), nn.Linear(12, 8), nn.Linear(8, 10)
        self.view = view

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), (2, 2))
        if self.view == "numbers":
            x = x.view(-1, 16 * 5 * 5)
        elif self.view == "size":
            x = x.view(x.size(0), -1)
        else:
            x = torch.flatten(x, 1)
        return self.fc3(F.relu(self.fc2(torch.sigmoid(self.fc1(x)))))


def conv_bn(ins: int, outs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(ins, outs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outs),
        nn.ReLU(inplace=True),
    )


def vgg() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 8), conv_bn(8, 8), nn.MaxPool2d(2), conv_bn(8, 12), nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten(),
        nn.Linear(48, 10), nn.ReLU(), nn.Dropout(0.5), nn.Linear(10, 4),
    )  # fmt: skip


class Residual(nn.Module):
    """A block with a 1x1 projection (option B); grouped if asked."""

    def __init__(self, ins: int, outs: int, groups: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(ins, outs, 1, bias=False), nn.BatchNorm2d(outs)
        self.conv2 = nn.Conv2d(outs, outs, 3, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(outs)
        self.conv3, self.bn3 = nn.Conv2d(outs, 2 * outs, 1, bias=False), nn.BatchNorm2d(2 * outs)
        self.down = nn.Sequential(nn.Conv2d(ins, 2 * outs, 1, bias=False), nn.BatchNorm2d(2 * outs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        y = self.bn3(self.conv3(y))
        y += self.down(x)
        return F.relu_(y)


def classifier(body: nn.Module, channels: int) -> nn.Module:
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))


def resnet_b(groups: int = 1) -> nn.Module:
    return classifier(nn.Sequential(conv_bn(3, 8), Residual(8, 8, groups), Residual(16, 8, groups)), 16)


class PreActivation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1, self.conv1 = nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3, padding=1)
        self.bn2, self.conv2 = nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3, padding=1)
        self.bn, self.linear = nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        return self.linear(F.relu(self.bn(x)).mean((2, 3)))


def mobilenet_v1() -> nn.Module:
    body = nn.Sequential(conv_bn(3, 8), conv_bn(8, 8, groups=8), conv_bn(8, 12, 1), conv_bn(12, 24, groups=12))
    return classifier(body, 24)


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1))))
        return F.hardsigmoid(scale, inplace=True) * x


class InvertedResidual(nn.Module):
    def __init__(self, channels: int, hidden: int, gate: bool) -> None:
        super().__init__()
        self.expand = conv_bn(channels, hidden, 1)
        self.depthwise = conv_bn(hidden, hidden, groups=hidden)
        self.gate = SqueezeExcite(hidden, 3) if gate else nn.Identity()
        self.project = nn.Sequential(nn.Conv2d(hidden, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.gate(self.depthwise(self.expand(x))))


def mobilenet_v2(gate: bool) -> nn.Module:
    return classifier(nn.Sequential(conv_bn(3, 6), InvertedResidual(6, 12, gate), InvertedResidual(6, 10, gate)), 6)


class DenseNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6 + 4 * i) for i in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(6 + 4 * i, 4, 3, padding=1) for i in range(3))
        self.norm, self.linear = nn.BatchNorm2d(18), nn.Linear(18, 4)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            features.append(conv(F.relu(norm(torch.cat(features, 1)))))
        x = F.relu(self.norm(torch.cat(features, dim=1)), inplace=True)
        return self.linear(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.branch1, self.branch2 = conv_bn(8, 4, 1), nn.Sequential(conv_bn(8, 3, 1), conv_bn(3, 6, 5))
        self.branch3 = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_bn(8, 5, 1))
        self.fc = nn.Linear(15, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([self.branch1(x), self.branch2(x), self.branch3(x)], 1)
        return self.fc(x.mean([2, 3]))


class UNet(nn.Module):
    def __init__(self, up: str) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = conv_bn(3, 4), conv_bn(4, 6), conv_bn(6, 8)
        self.up2 = nn.ConvTranspose2d(8, 6, 2, 2) if up == "transposed" else nn.Conv2d(8, 6, 1)
        self.conv2, self.conv1, self.head = conv_bn(12, 6), conv_bn(10, 4), nn.Conv2d(4, 2, 1)
        self.up = up

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        low = self.bottom(F.avg_pool2d(two, 2))
        high = self.up2(low)
        if self.up != "transposed":
            high = F.interpolate(high, size=two.shape[2:], mode="bilinear", align_corners=False)
        x = self.conv2(torch.cat([high, two], dim=1))
        x = self.conv1(torch.cat((F.interpolate(x, scale_factor=2), one), 1))
        return self.head(x)


class ShuffleUnit(nn.Module):
    """ShuffleNet v2: half of the channels pass by, the halves are shuffled."""

    def __init__(self, channels: int, computed: bool) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(conv_bn(half, half, 1), conv_bn(half, half, groups=half), conv_bn(half, half, 1))
        self.channels, self.computed = channels, computed

    def forward(self, x: Tensor) -> Tensor:
        one, two = x.chunk(2, dim=1)
        x = torch.cat((one, self.branch(two)), 1)
        b, c, h, w = x.shape
        c = c if self.computed else self.channels
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous()
        return x.view(b, c, h, w) if self.computed else x.view(b, -1, h, w)


def shufflenet_v2(computed: bool) -> nn.Module:
    return classifier(nn.Sequential(conv_bn(3, 12), ShuffleUnit(12, computed), ShuffleUnit(12, computed)), 12)


class ShuffleNetV1(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 12)
        self.conv1, self.conv2 = conv_bn(12, 18, 1, groups=3), nn.Conv2d(18, 12, 1, groups=3)
        self.depthwise, self.fc = conv_bn(18, 18, groups=18), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.conv1(x)
        n, c, h, w = y.size()
        y = y.view(n, 3, c // 3, h, w).permute(0, 2, 1, 3, 4).reshape(n, c, h, w)
        y = self.conv2(self.depthwise(y))
        return self.fc(F.relu(x + y).mean((-1, -2)))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(12, 10), nn.BatchNorm1d(10), nn.GELU(), nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 3)
    )


# Of the stem's channels three pairs pass both units by, three pass one, six enter the first unit's branch.
SHUFFLED = {"0.0.0": 3, "0.0.0:2": 3, "0.0.0:3": 6, "0.1.branch.0.0": 6, "0.2.branch.0.0": 6}

WELL_KNOWN: Mapping[str, Case] = {
    "resnet20": Case(
        lambda: CifarResNet(3),
        (3, 16, 16),
        {
            "conv1": 16,
            **{f"layer1.{i}.conv1": 16 for i in range(3)},
            "layer2.0.conv1": 32, "layer2.0.conv2": 16, "layer2.1.conv1": 32, "layer2.2.conv1": 32,
            "layer3.0.conv1": 64, "layer3.0.conv2": 32, "layer3.1.conv1": 64, "layer3.2.conv1": 64,
        },
    ),
    "lenet_numbers": Case(lambda: LeNet("numbers"), (3, 32, 32), {"conv1": 6, "conv2": 16, "fc1": 12, "fc2": 8}),
    "lenet_size": Case(lambda: LeNet("size"), (3, 32, 32), {"conv1": 6, "conv2": 16, "fc1": 12, "fc2": 8}),
    "lenet_flatten": Case(lambda: LeNet("flatten"), (3, 32, 32), {"conv1": 6, "conv2": 16, "fc1": 12, "fc2": 8}),
    "vgg": Case(vgg, (3, 8, 8), {"0.0": 8, "1.0": 8, "3.0": 12, "6": 10}),
    "resnet_b": Case(
        resnet_b, (3, 8, 8),
        {"0.0.0": 8, "0.1.conv1": 8, "0.1.conv2": 8, "0.1.conv3": 16, "0.2.conv1": 8, "0.2.conv2": 8, "0.2.conv3": 16},
    ),
    "resnext": Case(
        lambda: resnet_b(4), (3, 8, 8),
        {"0.0.0": 8, "0.1.conv1": 2, "0.1.conv2": 2, "0.1.conv3": 16, "0.2.conv1": 2, "0.2.conv2": 2, "0.2.conv3": 16},
    ),
    "pre_activation": Case(PreActivation, (3, 8, 8), {"stem": 8, "conv1": 6}),
    "mobilenet_v1": Case(mobilenet_v1, (3, 8, 8), {"0.0.0": 8, "0.2.0": 12}),
    "mobilenet_v2": Case(
        lambda: mobilenet_v2(False), (3, 8, 8), {"0.0.0": 6, "0.1.expand.0": 12, "0.2.expand.0": 10}
    ),
    "mobilenet_v3": Case(
        lambda: mobilenet_v2(True), (3, 8, 8),
        {"0.0.0": 6, "0.1.expand.0": 12, "0.1.gate.fc1": 3, "0.2.expand.0": 10, "0.2.gate.fc1": 3},
    ),
    "densenet": Case(DenseNet, (3, 8, 8), {"stem": 6, "convs.0": 4, "convs.1": 4, "convs.2": 4}),
    "inception": Case(
        Inception, (3, 8, 8), {"stem.0": 8, "branch1.0": 4, "branch2.0.0": 3, "branch2.1.0": 6, "branch3.1.0": 5}
    ),
    "unet_transposed": Case(
        lambda: UNet("transposed"), (3, 8, 8),
        {"down1.0": 4, "down2.0": 6, "bottom.0": 8, "up2": 6, "conv2.0": 6, "conv1.0": 4},
    ),
    "unet_interpolate": Case(
        lambda: UNet("interpolate"), (3, 8, 8),
        {"down1.0": 4, "down2.0": 6, "bottom.0": 8, "up2": 6, "conv2.0": 6, "conv1.0": 4},
    ),
    "shufflenet_v2_computed": Case(
        lambda: shufflenet_v2(True), (3, 8, 8), SHUFFLED
    ),
    "shufflenet_v2_numbers": Case(
        lambda: shufflenet_v2(False), (3, 8, 8), SHUFFLED
    ),
    "shufflenet_v1": Case(ShuffleNetV1, (3, 8, 8), {"stem.0": 4, "conv1.0": 2}),
    "mlp": Case(mlp, (3, 2, 2), {"1": 10, "4": 8}),
}  # fmt: skip
