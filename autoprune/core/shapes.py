"""Patterns whose name states a shape: blocks of any size, and N:M."""

from __future__ import annotations

import re

_BLOCK = re.compile(r"block_([1-9]\d*)x([1-9]\d*)x([1-9]\d*)(?:x([1-9]\d*))?")
_N_OF_M = re.compile(r"([1-9]\d*):([1-9]\d*)")

FORMS = "or block_HEIGHTxWIDTHxDEPTH[xFILTERS], or N:M such as 1:4"


def block_shape(text: str) -> tuple[int, int, int, int] | None:
    """Height, width, depth (input channels) and filters of `block_HEIGHTxWIDTHxDEPTH[xFILTERS]`, else None."""
    found = _BLOCK.fullmatch(text)
    if found is None:
        return None
    height, width, depth, filters = (int(number or 1) for number in found.groups())
    return height, width, depth, filters


def n_and_m(text: str) -> tuple[int, int] | None:
    """The numbers of `N:M` with N < M; None for other text."""
    found = _N_OF_M.fullmatch(text)
    if found is None or int(found[1]) >= int(found[2]):
        return None
    return int(found[1]), int(found[2])
