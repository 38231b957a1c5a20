"""A hundred SIGKILLs in every phase, with eight searchers, inline and with workers; see `killing`."""

from __future__ import annotations

import pytest

from tests.running.killing import PHASES, Campaign
from tests.running.test_killed import SEED


@pytest.mark.slow
def test_runs_killed_a_hundred_times_end_as_if_they_had_not_been(tmp_path_factory: pytest.TempPathFactory) -> None:
    campaign = Campaign(tmp_path_factory.mktemp("k"), SEED)
    campaign.run(100)
    assert set(campaign.kills) == set(PHASES)
