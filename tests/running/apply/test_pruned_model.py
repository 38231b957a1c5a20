from __future__ import annotations

from dataclasses import replace

from autoprune.core.allocation import Allocation
from autoprune.core.recipe import Recipe
from autoprune.core.settings import resolved
from autoprune.core.trial import Candidate
from autoprune.running.apply.pruned_model import ApplyOptions

FOUND = Candidate(3, Allocation({"a": 4}), Recipe(64), {"reconstruct": 16, "criterion": "l2"})


def test_samples_to_reconstruct_on_take_the_place_of_those_that_were_searched_along() -> None:
    wanted = ApplyOptions(reconstruct=128).of(FOUND)
    assert resolved(wanted.recipe, wanted.settings) == replace(FOUND.recipe, reconstruct=128)
    assert wanted.settings["criterion"] == "l2"


def test_without_options_a_candidate_stays_as_it_is() -> None:
    assert ApplyOptions().of(FOUND) == FOUND
