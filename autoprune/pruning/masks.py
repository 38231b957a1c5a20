"""Which structures stay, exactly counted, and the network with the others set to zero."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoprune.errors import UserError
from autoprune.graph.groups import ChannelGraph, Kept
from autoprune.graph.layers import Side, slots

SIDES: tuple[Side, ...] = ("out", "in", "through")
Importance = Mapping[str, NDArray[np.float64]]
"""Group name to `[width]` scores of its structures; higher is kept."""


def highest(scores: NDArray[np.float64], keep: int) -> tuple[int, ...]:
    """The indices of the `keep` highest scores, ascending; of equal ones the lower index goes first.

    Raises:
        UserError: a score is not a number, or `keep` is not within 1 and the number of scores.
    """
    if not 1 <= keep <= len(scores):
        raise UserError(f"of {len(scores)} structures 1 to {len(scores)} can be kept, not {keep}")
    if np.isnan(scores).any():
        raise UserError("a structure's score is not a number; are the network's weights finite?")
    order = np.argsort(scores, kind="stable")
    return tuple(sorted(order[len(scores) - keep :].tolist()))


def choose(importance: Importance, allocation: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The structures that stay in each group of an allocation: those with the highest scores."""
    missing = set(allocation) - set(importance)
    if missing:
        raise UserError(f"no scores for group {', '.join(sorted(missing))}; there are {', '.join(importance)}")
    return {group: highest(importance[group], keep) for group, keep in allocation.items()}


def build_masks(
    network: nn.Module, graph: ChannelGraph, kept: Kept, sides: Sequence[Side] = SIDES
) -> dict[str, Tensor]:
    """Parameter name to a mask of its shape, 1 where it stays; only parameters of which something goes.

    Both what makes a channel and what uses it is masked, so that a channel is gone even where an activation function
    or a bias would turn zeros into something else.

    Args:
        sides: which axes are masked; "in" alone leaves what makes a channel as it is, and only its users ignore it.
    """
    keep = graph.keep_mask(kept)
    parameters = dict(network.named_parameters())
    masks: dict[str, Tensor] = {}
    for layer in graph.layers:
        for slot in slots(layer, parameters):
            stays = keep[slot.ids]
            if slot.side not in sides or bool(stays.all()):
                continue
            parameter = parameters[slot.tensor]
            mask = masks.setdefault(slot.tensor, torch.ones_like(parameter, requires_grad=False))
            mask.index_fill_(slot.dim, (~stays).nonzero().flatten().to(parameter.device), 0)
    return masks


def mask_network(network: nn.Module, graph: ChannelGraph, kept: Kept, sides: Sequence[Side] = SIDES) -> nn.Module:
    """A copy of the network with everything that goes set to zero; shapes and outputs' meaning unchanged."""
    masked = copy.deepcopy(network)
    parameters = dict(masked.named_parameters())
    with torch.no_grad():
        for name, mask in build_masks(network, graph, kept, sides).items():
            parameters[name].mul_(mask)
    return masked
