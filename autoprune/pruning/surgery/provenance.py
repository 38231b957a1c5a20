"""Provenance of a network, what it has lost since its first one: noted on itself, so that it goes where that goes.

The note is plain values and tensors under a private attribute of the module. It survives copying and pickling, and is
no part of the state dict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from autoprune.graph.groups import ChannelGraph, Kept
from autoprune.pruning.surgery.copying import copy_network
from autoprune.pruning.surgery.masks import Masks

_NOTE = "_autoprune"


@dataclass(frozen=True)
class PrunedShape:
    """The branches and channels that a network has lost at once.

    Attributes:
        removed: names of residual branches that went whole.
        kept: layer to the output channels that stay of those it had; layers that lost none are absent. It may name
            layers in `removed`.
    """

    removed: tuple[str, ...] = ()
    kept: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.removed or self.kept)

    def to_plain(self) -> dict[str, Any]:
        """Returns lists and dictionaries."""
        return {"removed": list(self.removed), "kept": {name: list(stays) for name, stays in self.kept.items()}}

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> PrunedShape:
        """Returns what `to_plain` gave."""
        return cls(tuple(content["removed"]), {name: list(stays) for name, stays in content["kept"].items()})


@dataclass(frozen=True)
class Provenance:
    """Provenance of a network: what was pruned of it before.

    Attributes:
        shapes: what it lost, in order: the first of the first network, each other of what the one before it left.
        masks: of its weights that are held at zero.
        first: what the first network costs; empty where nothing was pruned yet, or it is not known.
        others: plain entries that came beside the first weights: epoch, arguments, …
    """

    shapes: tuple[PrunedShape, ...] = ()
    masks: Masks = field(default_factory=dict)
    first: Mapping[str, int] = field(default_factory=dict)
    others: Mapping[str, Any] = field(default_factory=dict)

    def then(self, shape: PrunedShape, masks: Masks) -> Provenance:
        """Returns the provenance of what a change of shape leaves.

        Args:
            shape: what was lost, if anything.
            masks: of what is left.
        """
        return replace(self, shapes=(*self.shapes, shape) if shape else self.shapes, masks=masks)


def provenance_of(network: nn.Module) -> Provenance:
    """Returns what was pruned of a network before, as far as it is noted on it."""
    note = network.__dict__.get(_NOTE)
    if note is None:
        return Provenance()
    shapes = tuple(map(PrunedShape.from_plain, note["shapes"]))
    return Provenance(shapes, dict(note["masks"]), dict(note["first"]), dict(note["others"]))


def note_provenance(network: nn.Module, provenance: Provenance) -> None:
    """Writes onto a network what was pruned of it before, in place of what was noted."""
    network.__dict__.pop(_NOTE, None)
    if any(vars(provenance).values()):
        network.__dict__[_NOTE] = {
            "shapes": [shape.to_plain() for shape in provenance.shapes],
            "masks": dict(provenance.masks),
            "first": dict(provenance.first),
            "others": dict(provenance.others),
        }


def note_first(network: nn.Module, costs: Mapping[str, int]) -> None:
    """Writes onto a network what it costs, by kind, if it is the first one."""
    provenance = provenance_of(network)
    if not provenance.shapes and not provenance.masks and not provenance.first:
        note_provenance(network, replace(provenance, first=costs))


def zero_masked(network: nn.Module) -> None:
    """Sets to zero, in place, what the masks noted on a network hold there."""
    with torch.no_grad():
        for name, mask in provenance_of(network).masks.items():
            parameter = network.get_parameter(name)
            parameter.masked_fill_(~mask.to(parameter.device), 0)


def note_change(
    before: nn.Module, after: nn.Module, shape: PrunedShape, transform: Callable[[nn.Module], nn.Module]
) -> nn.Module:
    """Returns a network on which is noted what another one lost to become it; masks are carried over.

    Args:
        before: the network that was changed.
        after: what became of it.
        shape: what it lost.
        transform: makes the same change of a copy of the first.
    """
    provenance = provenance_of(before)
    masks = carry_masks(before, provenance.masks, transform) if provenance.masks else {}
    note_provenance(after, provenance.then(shape, masks))
    return after


def carry_masks(network: nn.Module, masks: Masks, transform: Callable[[nn.Module], nn.Module]) -> Masks:
    """Returns the masks of a network as masks of what a thinning or removal makes of it.

    Args:
        network: left as it is.
        masks: parameter name to a boolean mask of the shape of its parameter, e.g. `[out, in, kh, kw]`, true where it
            stays.
        transform: makes the change.
    """
    twin = copy_network(network)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            parameter.copy_(masks[name]) if name in masks else parameter.fill_(1)
    left = {name: parameter.detach() != 0 for name, parameter in transform(twin).named_parameters()}
    return {name: mask for name, mask in left.items() if not bool(mask.all())}


def joined_masks(*several: Masks) -> dict[str, torch.Tensor]:
    """Returns the masks of what stays under all of several, each `[…]` of its parameter's shape."""
    found: dict[str, torch.Tensor] = {}
    for name, mask in (item for masks in several for item in masks.items()):
        found[name] = found[name] & mask.to(found[name].device) if name in found else mask
    return found


def kept_by_layer(graph: ChannelGraph, kept: Kept) -> dict[str, list[int]]:
    """Returns the output channels that stay, ascending, of every layer that loses some."""
    keep = graph.keep_mask(kept)
    stays = {layer.name: keep[layer.outgoing] for layer in graph.layers if layer.produces}
    return {name: mask.nonzero().flatten().tolist() for name, mask in stays.items() if not bool(mask.all())}
