"""Tasks that need no download against the published contract."""

from __future__ import annotations

import pytest

from autoprune.tasks.datasets.digits import DigitsTask
from autoprune.testing import TaskContract


@pytest.mark.usefixtures("workdir")
class TestDigits(TaskContract):
    task = DigitsTask()


class TestSimpleTask(TaskContract):
    task = "tests.user_tasks:task"
