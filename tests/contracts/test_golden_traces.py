from __future__ import annotations

import json

import pytest

from autoprune.registry import SEARCHERS
from tests.contracts.golden import path_of, trace


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=pytest.mark.slow if x == "gp" else ()) for x in sorted(SEARCHERS)]
)
def test_a_short_search_is_what_it_was(name: str) -> None:
    """If that is meant to change: `python -m tests.contracts.golden NAME`."""
    assert trace(name) == json.loads(path_of(name).read_text())
