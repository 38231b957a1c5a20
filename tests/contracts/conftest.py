"""What of the contracts is in the slow tier."""

from __future__ import annotations

import pytest

THINKING = {"auto", "nsga2", "cmaes", "tpe", "autocompress"}
"""Searchers that think for hundredths of a second before a proposal."""
USUAL = ("every_proposal", "a_replay_goes_on", "rounds_go_down", "it_finishes", "are_tried")
"""Parts of the names of the tests that the default tier runs with them."""


@pytest.hookimpl(tryfirst=True)  # before marks are looked at
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks most tests of searchers that think long as slow, of the usual ones all cases but the plain one."""
    for item in items:
        chosen = getattr(getattr(item, "callspec", None), "params", {})
        usual = any(part in item.name for part in USUAL) and chosen.get("case_name", "plain") == "plain"
        if chosen.get("_named") in THINKING and not usual:
            item.add_marker(pytest.mark.slow)
