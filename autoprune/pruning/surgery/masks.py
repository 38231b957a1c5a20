"""Chooses which structures stay, exactly counted, and masks the others: sets them to zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoprune.errors import UserError
from autoprune.graph.groups import ChannelGraph, Kept
from autoprune.graph.layers import Side
from autoprune.graph.modules.weight_norm import find_weight_norms, weights_that_stay
from autoprune.pruning.surgery.copying import copy_network

SIDES: tuple[Side, ...] = ("out", "in", "passthrough")
Importance = Mapping[str, NDArray[np.float64]]
"""Group name to `[width]` scores of its structures, or `[choices, width]`; higher is kept."""

Widths = Mapping[str, int]
"""Group name to how many of its structures stay."""

Masks = Mapping[str, Tensor]
"""Parameter name to a boolean mask of its shape, true where it stays; only parameters of which something goes."""


def top_k_mask(scores: NDArray[np.float64], keep: int, least: int = 1) -> NDArray[np.bool_]:
    """Marks in each row the `keep` highest of `[…, width]` scores; of equal ones the lower index goes first.

    Args:
        scores: higher is kept.
        keep: how many stay of each row.
        least: how many have to stay at least.

    Returns:
        `[…, width]`, true where the structure stays.

    Raises:
        UserError: a score is not a number, or `keep` is not within `least` and the number of scores.
    """
    width = scores.shape[-1]
    if not least <= keep <= width:
        raise UserError(f"of {width} structures {least} to {width} can be kept, not {keep}")
    if np.isnan(scores).any():
        raise UserError("a structure's score is not a number; are the network's weights finite?")
    order = np.argsort(scores, axis=-1, kind="stable")
    stays = np.zeros(scores.shape, dtype=np.bool_)
    np.put_along_axis(stays, order[..., width - keep :], True, axis=-1)
    return stays


def by_rank(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns `[width]` scores of what goes first, second …: of `[choices, width]` scores the mean over the choices."""
    return scores if scores.ndim == 1 else np.asarray(np.sort(scores).mean(axis=0))


def choose_kept(importance: Importance, widths: Widths) -> dict[str, tuple[int, ...]]:
    """Chooses the structures that stay in each group: those with the highest scores.

    Args:
        importance: group name to `[width]` scores.
        widths: how many stay of each group; groups that are not named are not looked at.

    Returns:
        Group name to the ascending indices of its structures that stay; of equal scores the lower index goes first.

    Raises:
        UserError: there are no scores for a group, or a width does not fit them.
    """
    missing = set(widths) - set(importance)
    if missing:
        raise UserError(f"no scores for group {', '.join(sorted(missing))}; there are {', '.join(importance)}")
    stays = {group: top_k_mask(importance[group], keep) for group, keep in widths.items()}
    return {group: tuple(mask.nonzero()[0].tolist()) for group, mask in stays.items()}


def build_masks(
    network: nn.Module, graph: ChannelGraph, kept: Kept, sides: Sequence[Side] = SIDES
) -> dict[str, Tensor]:
    """Builds the masks of the channels that `kept` leaves out, each `[…]` of its parameter's shape.

    Both what makes a channel and what uses it is masked, so that a channel is gone even where an activation function
    or a bias would turn zeros into something else.

    Args:
        network: its parameters' shapes and devices are those of the masks.
        graph: what `find_groups` found in this network, or in one of the same architecture.
        kept: by group, the channels that stay.
        sides: which axes are masked; "in" alone leaves what makes a channel as it is, and only its consumers ignore it.
    """
    keep = graph.keep_mask(kept)
    parameters = dict(network.named_parameters())
    # The scale makes a row of a computed weight zero: a direction of zeros would be divided by its norm.
    scales = {(norm.direction, norm.dim): norm.scale for norm in find_weight_norms(network)}
    used = [(layer.weight_name, layer.incoming) for layer in graph.layers if layer.incoming is not None]
    masks: dict[str, Tensor] = {}
    for axis in graph.axes:
        stays = keep[axis.ids]
        name = scales.get((axis.tensor, axis.dim), axis.tensor)
        # A tensor that is tied may be used by one layer along the axis along which another makes channels with it.
        own = {axis.side} | {"in" for tensor, ids in used if tensor == axis.tensor and torch.equal(ids, axis.ids)}
        if not own & set(sides) or name not in parameters or bool(stays.all()):
            continue
        parameter = parameters[name]
        mask = masks.setdefault(name, torch.ones_like(parameter, dtype=torch.bool, requires_grad=False))
        mask.index_fill_(axis.dim, (~stays).nonzero().flatten().to(parameter.device), False)
    return masks


def masked_copy(network: nn.Module, masks: Masks) -> nn.Module:
    """Copies the network with everything masked set to zero; shapes stay.

    Args:
        network: left as it is.
        masks: parameter name to a mask of the shape of its parameter, e.g. `[out, in, kh, kw]`, true where it stays.
    """
    masked = copy_network(network)
    parameters = dict(masked.named_parameters())
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].mul_(mask)
    return masked


def mask_network(network: nn.Module, graph: ChannelGraph, kept: Kept, sides: Sequence[Side] = SIDES) -> nn.Module:
    """Copies the network with the channels that `kept` leaves out set to zero; see `build_masks`.

    Args:
        network: left as it is.
        graph: what `find_groups` found in this network, or in one of the same architecture.
        kept: by group, the channels that stay.
        sides: which axes are masked.
    """
    masks, masked = build_masks(network, graph, kept, sides), copy_network(network)
    parameters = dict(masked.named_parameters())
    with weights_that_stay(masked, masks), torch.no_grad():
        for name, mask in masks.items():
            parameters[name].mul_(mask)
    return masked
