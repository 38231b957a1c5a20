"""What the tests of runs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from autoprune.running.search import results as conclusion
from tests import user_tasks


@pytest.fixture(scope="module")
def without_latencies() -> Iterator[None]:
    """Measuring takes a second in each run, and never comes to the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conclusion, "measure_latency", lambda networks, _: [1.0] * len(networks))
        yield


@pytest.fixture(autouse=True)
def _no_faults_left() -> Iterator[None]:
    """Every test begins and ends with the faulty task in order."""
    user_tasks.faults.clear()
    user_tasks.batches_seen = 0
    yield
    user_tasks.faults.clear()
