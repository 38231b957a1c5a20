"""Masking: masked weights held at zero while a network trains."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from autoprune.errors import UserError
from autoprune.graph.groups import ChannelGraph, Kept
from autoprune.pruning.surgery.masked_run import NormsOverKept
from autoprune.pruning.surgery.masks import Masks
from autoprune.pruning.surgery.provenance import joined_masks


class Masking:
    """Holds masked weights of a network at zero; several owners' masks act together.

    Gradients of masked weights are zeroed before the optimizer sees them, and `hold` puts back to zero what momentum
    or decay has moved since. What a weight was when it was masked is remembered, so that it can recover. Where whole
    channels are masked, norms over channels are taken over those that stay (`normalise_over`).
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._masks: dict[Hashable, Masks] = {}
        self._held: dict[str, Tensor] = {}
        self._remembered: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        self._kept: dict[Hashable, Kept] = {}
        self._norms: NormsOverKept | None = None

    @property
    def masks(self) -> dict[str, Tensor]:
        """Parameter name to a mask of its shape, true where it stays; only parameters of which something is masked."""
        return dict(self._held)

    def of(self, owner: Hashable) -> Masks:
        """Returns the masks of one owner; none if it has not set any.

        Returns:
            Parameter name to a boolean mask of the shape of its parameter, e.g. `[out, in, kh, kw]`, true where it
            stays.
        """
        return dict(self._masks.get(owner, {}))

    def others(self, owner: Hashable) -> Masks:
        """Returns the masks of all owners but one together.

        Returns:
            Parameter name to a boolean mask of the shape of its parameter, e.g. `[out, in, kh, kw]`, true where it
            stays.
        """
        return joined_masks(*(masks for each, masks in self._masks.items() if each != owner))

    def set(self, owner: Hashable, masks: Masks, recover: bool = True) -> None:
        """Replaces an owner's masks.

        Args:
            owner: who sets them; other owners' masks hold too.
            masks: parameter name to a boolean mask of the shape of its parameter, e.g. `[out, in, kh, kw]`, true where
                it stays; on any device.
            recover: whether weights that are masked no longer are what they were when they were masked; otherwise all
                weights stay as they are now (just loaded, say).

        Raises:
            UserError: a mask does not fit the network.
        """
        parameters = dict(self.network.named_parameters())
        for name, mask in masks.items():
            if name not in parameters or parameters[name].shape != mask.shape:
                raise UserError(f"a mask does not fit the network's parameter {name!r}")
        if recover:
            self.restore()
        self._masks[owner] = dict(masks)
        self._hold_product()

    def normalise_over(self, owner: Hashable, graph: ChannelGraph, kept: Kept) -> None:
        """Replaces the channels that an owner leaves: norms are taken over those that all owners leave.

        Args:
            owner: who masks the others.
            graph: of the network.
            kept: by group, the channels that stay.
        """
        self._norms = self._norms or NormsOverKept(self.network, graph)
        self._kept[owner] = kept
        self._set_norms()

    def _set_norms(self) -> None:
        if self._norms is None:
            return
        kept: dict[str, Sequence[int]] = {}
        for group, stays in (item for each in self._kept.values() for item in each.items()):
            kept[group] = [i for i in stays if i in kept[group]] if group in kept else stays
        self._norms.set({group: stays for group, stays in kept.items() if stays})

    def plain_norms(self) -> bool:
        """Lets all norms be as they were, until channels are masked anew; returns whether any was not."""
        return self._norms is not None and self._norms.remove()

    def _hold_product(self) -> None:
        """Holds what any owner masks, and remembers what these weights are now."""
        self._held = {}
        for name, mask in (item for masks in self._masks.values() for item in masks.items()):
            mask = mask.to(self.network.get_parameter(name).device)
            self._held[name] = self._held[name] & mask if name in self._held else mask
        self._remembered = {name: self.network.get_parameter(name).detach().clone() for name in self._held}
        self._watch_gradients()
        self.hold()

    def _watch_gradients(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = [
            self.network.get_parameter(name).register_hook(lambda gradient, gone=~mask: gradient.masked_fill(gone, 0))  # type: ignore[no-untyped-call]
            for name, mask in self._held.items()
            if self.network.get_parameter(name).requires_grad
        ]

    def hold(self) -> None:
        """Zeroes masked weights: call it after every step of an optimizer."""
        with torch.no_grad():
            for name, mask in self._held.items():
                self.network.get_parameter(name).masked_fill_(~mask, 0)

    def restore(self) -> None:
        """Gives masked weights the values they had when they were masked, until `hold` is called."""
        with torch.no_grad():
            for name, mask in self._held.items():
                parameter = self.network.get_parameter(name)
                parameter.copy_(torch.where(mask, parameter, self._remembered[name]))

    def remember(self, weights: Mapping[str, Tensor]) -> None:
        """Replaces the values that masked weights recover (by those of an early state, say).

        Args:
            weights: parameter name to `[…]` values of its shape, on any device.
        """
        for name in self._remembered.keys() & weights.keys():
            self._remembered[name] = weights[name].detach().to(self._remembered[name], copy=True)

    def release(self, owner: Hashable) -> Masks:
        """Releases what an owner masks, which is zero now but no longer held there.

        Returns:
            The owner's masks: parameter name to a boolean mask of the shape of its parameter, e.g. `[out, in, kh, kw]`,
            true where it stays.
        """
        self.hold()
        masks = self._masks.pop(owner, {})
        if self._kept.pop(owner, None) is not None:
            self._set_norms()
        remembered = self._remembered
        self._hold_product()
        self.remember({name: remembered[name] for name in self._held})
        return masks

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the remembered values, each `[…]` of its parameter's shape; who set the masks keeps those."""
        return dict(self._remembered)
