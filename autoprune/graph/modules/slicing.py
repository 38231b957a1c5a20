"""Slices a module's parameters in place."""

from __future__ import annotations

from torch import Tensor, nn


def keep_entries(module: nn.Module, name: str, kept: tuple[Tensor | None, ...]) -> None:
    """Replaces a parameter `[…]` of a module, if it has it, by one with only the given entries of each axis.

    Args:
        module: the module itself, not one around it.
        name: of the parameter.
        kept: per axis the indices of the entries that stay; None for all.
    """
    whole = getattr(module, name)
    if whole is None:
        return
    part = whole.detach()
    for dim, indices in enumerate(kept):
        part = part if indices is None else part.index_select(dim, indices.to(part.device))
    setattr(module, name, nn.Parameter(part.clone(), requires_grad=whole.requires_grad))
