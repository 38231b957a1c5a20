"""What the tests of runs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import user_tasks


@pytest.fixture(autouse=True)
def _no_faults_left() -> Iterator[None]:
    """Every test begins and ends with the faulty task in order."""
    user_tasks.faults.clear()
    user_tasks.judged = 0
    yield
    user_tasks.faults.clear()
