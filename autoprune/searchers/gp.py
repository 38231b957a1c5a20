"""A Gaussian process over all widths at once, in the space of allocations that keep the limits.

Source: Optuna's GPSampler: Matérn 5/2 with a length scale for each dimension (ARD), all of them fitted; the logarithm
of the expected improvement (Ament et al. 2023, arXiv:2310.20708) is maximised, for candidates that run beside others
over what these may come out at. It is told the logarithm of the loss, because small losses compound over depth. What
proposals are made of them is as in `tpe`: realised widths are seen, a proposal is crossed with the best candidate, the
sampler is seeded anew for every proposal. `auto` has a model of its own, which knows the sensitivity curves.
"""

from __future__ import annotations

from autoprune.searchers.coordinates import Coordinates
from autoprune.searchers.optuna_studies import GaussianStudy
from autoprune.searchers.sampled import Sampled, Study


class Gp(Sampled):
    """Proposes the starts, a few random draws, then what the process expects most of; never the same twice."""

    def _make_study(self, coordinates: Coordinates) -> Study:
        return GaussianStudy(coordinates.names, coordinates.choices)
