"""Published contracts: whoever inherits one as a test class has a searcher, criterion, pattern, pruner or task checked.

    class TestMine(autoprune.testing.SearcherContract):
        searcher = MySearcher

The one room that imports pytest.
"""

from autoprune.testing.patterns import PatternContract
from autoprune.testing.pruners import CriterionContract, PrunerContract
from autoprune.testing.searchers import SearcherContract
from autoprune.testing.tasks import TaskContract

__all__ = ["CriterionContract", "PatternContract", "PrunerContract", "SearcherContract", "TaskContract"]
