"""Penalties: terms of the training loss that make a network sparse. Group lasso and ADMM have their own files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.core.space import Group
from autoprune.errors import UserError
from autoprune.graph.groups import ChannelGraph
from autoprune.graph.layers import qualified_name
from autoprune.pruning.surgery.masks import Masks
from autoprune.pruning.training.targets import matching_groups


class Penalty(Protocol):
    """Makes the network that it was built over sparse while it trains.

    In a training loop `term()` is added to every batch's loss, `step` is called after every step of the optimizer, and
    `finish` at the end.
    """

    def term(self) -> Tensor | None:
        """Returns a scalar, `[]`, of the present weights to add to the loss; None where nothing is added."""

    def step(self, rate: float) -> None:
        """Follows a step of the optimizer.

        Args:
            rate: how far the optimizer goes along a lasting gradient of 1 with every step: for SGD its learning rate
                divided by 1 − momentum.
        """

    def finish(self) -> Masks:
        """Masks what the penalty led to zero.

        Returns:
            Parameter name to a boolean mask of the shape of its parameter, e.g. `[out, in, kh, kw]`, true where it
            stays; empty where masking is left to a pruner.
        """

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint must hold to go on: tensors and plain values."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` gave, on a network that has the weights of that time."""


class ScaleL1:
    """L1 on the scales of batch norms, times a strength; whole channels go to zero.

    Source: Liu et al. 2017 (network slimming), arXiv:1708.06519, section 3, by subgradient descent as there.
    Nothing is masked: pruner 'slim' ranks the scales over all layers and thins.

    Args:
        network: the one that is trained.
        source: what `find_groups` found in the network, or samples as it takes them; not looked at.
        strength: above 0.
        layers: shell patterns of the batch norms' names.

    Raises:
        UserError: no batch norm with scales matches, or the strength is out of range.
    """

    def __init__(
        self, network: nn.Module, source: ChannelGraph | Any, strength: float, layers: Sequence[str] = ("*",)
    ) -> None:
        self._network, self._strength = network, check_strength(strength)
        groups = [
            Group(name, module.num_features, (name,), (type(module).__name__,))
            for name, module in network.named_modules()
            if isinstance(module, _BatchNorm) and module.affine
        ]
        self._names = [qualified_name(group.name, "weight") for group in matching_groups(groups, layers)]

    def term(self) -> Tensor:
        """Returns strength · Σ |γ| over all scales γ, a scalar `[]` to add to the loss of a batch."""
        sums = [self._network.get_parameter(name).abs().sum() for name in self._names]
        total: Tensor = torch.stack(sums).sum()
        return self._strength * total

    def step(self, rate: float) -> None:
        """Does nothing: the term alone shrinks the scales."""

    def finish(self) -> Masks:
        """Returns no masks: the scales, `[channels]` of each batch norm, only shrink; a pruner chooses what goes."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Returns nothing: all of its state is in the network's weights."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Does nothing, as there is no state."""


def check_strength(strength: float) -> float:
    """Returns the strength.

    Raises:
        UserError: it is no number above 0.
    """
    if not (math.isfinite(strength) and strength > 0):
        raise UserError(f"the strength of a penalty should be a number above 0 but is {strength}")
    return strength
