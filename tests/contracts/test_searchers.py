"""Every searcher of the registry against the published contract, and what holds of ours beyond it."""

from __future__ import annotations

import itertools

import pytest

from autoprune.registry import SEARCHERS, resolve
from autoprune.testing import SearcherContract
from autoprune.testing.problems import candidates, case, tiny
from autoprune.testing.searchers import realisable

_SLOW = {"gp"}
"""Those that take seconds for some dozens of proposals."""


class TestEverySearcher(SearcherContract):
    @pytest.fixture(
        autouse=True,
        params=[*sorted(SEARCHERS.keys() - _SLOW), *(pytest.param(name, marks=pytest.mark.slow) for name in _SLOW)],
    )
    def _named(self, request: pytest.FixtureRequest) -> None:
        self.searcher = resolve("searcher", request.param)

    def test_draws_come_to_every_allocation_of_a_small_space(self) -> None:
        if not self.searcher.is_random or self.searcher.works_in_rounds:
            pytest.skip("proposes a few allocations")
        problem = tiny()
        found = {each.allocation for each in candidates(self.searcher(problem))}
        assert found == realisable(problem, self.searcher.fills_budget)
        assert len(found) < problem.trials


def test_no_two_searchers_propose_the_same_sequence() -> None:
    problem = case("plain")
    found = {name: [c.allocation for c in candidates(resolve("searcher", name)(problem))] for name in SEARCHERS}
    assert all(found[a] != found[b] for a, b in itertools.combinations(SEARCHERS, 2))
