"""Which cases of a parametrised test the default tier runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def rest_slow(cases: Iterable[Any], kept: int = 1) -> list[Any]:
    """Returns cases of which all but the first few are in the slow tier: they go the same way through the code.

    Args:
        cases: values of one parameter, or tuples of several.
        kept: how many the default tier runs.
    """
    cases = list(cases)
    rest = [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow) for case in cases[kept:]
    ]
    return cases[:kept] + rest
