"""The parts in `plugins.py`, checked by the published contracts: `pytest test_plugins.py`."""

import plugins

from autoprune.testing import CriterionContract, PatternContract, SearcherContract, TaskContract


class TestHillClimbing(SearcherContract):
    searcher = plugins.HillClimbing


class TestMaxNorm(CriterionContract):
    criterion = plugins.MAX_NORM


class TestFibre(PatternContract):
    pattern = plugins.FIBRE


class TestQuadrants(TaskContract):
    task = "plugins:task"
