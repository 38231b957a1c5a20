"""What of the contracts is in the slow tier."""

from __future__ import annotations

import pytest

THINKING = {"auto", "nsga2", "cmaes", "tpe", "autocompress"}
"""Searchers that think for hundredths of a second before a proposal."""
USUAL = {"plain", "two limits", "branches", "settings"}
"""Cases that the default tier tries with them."""


@pytest.hookimpl(tryfirst=True)  # before marks are looked at
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks a searcher's less usual cases as slow, if it thinks long."""
    for item in items:
        chosen = getattr(getattr(item, "callspec", None), "params", {})
        unusual = chosen.get("case_name", "plain") not in USUAL or "three_hundred_groups" in item.name
        if chosen.get("_named") in THINKING and unusual:
            item.add_marker(pytest.mark.slow)
