"""The beginning of a search: allocations worth an evaluation, before anything is learnt from trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.trial import Trial
from autoprune.searchers.base.coordinates import Proposal, StopThresholds
from autoprune.searchers.base.draws import draw_new
from autoprune.searchers.base.history import History


class WarmStart:
    """The proposals of a search that begins with some allocations and goes on from what their trials say.

    Args:
        history: of the search.
        starts: allocations to begin with, under the default settings, evaluated on all samples.
        draws_settings: whether draws have settings of their own; else they have the default ones.
    """

    def __init__(self, history: History, starts: Sequence[Allocation], draws_settings: bool = False) -> None:
        self._history, self._starts, self._draws_settings = history, starts, draws_settings
        self.length = len(starts)

    @property
    def is_over(self) -> bool:
        """Whether the next candidate comes after the starts."""
        return self._history.number >= self.length

    def next(
        self,
        go_on: Callable[[Trial, np.random.Generator], Proposal | None],
        stop_thresholds: Callable[[], StopThresholds] = tuple,
    ) -> Proposal | None:
        """Returns the next start, then what `go_on` finds, or a draw where that finds nothing.

        Args:
            go_on: from the best trial so far and the draws of this candidate to something new, or None.
            stop_thresholds: of candidates after the starts.
        """
        history = self._history
        start = history.first_new(self._starts)
        if start is not None:
            return start
        rng, best = history.problem.generator(history.number), history.best()
        found = go_on(best, rng) if best is not None and self.is_over else None
        if found is None:
            found = draw_new(history, rng, self._draws_settings)
        return history.point(found, stop_thresholds()) if found is not None and self.is_over else found
