from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autoprune.core.settings import Choice, Range, defaults
from autoprune.core.trial import Candidate, Trial
from autoprune.searchers.auto import Auto
from autoprune.searchers.base.sequential import SequentialSearcher
from autoprune.searchers.cmaes import CmaEs
from autoprune.searchers.evolution import Evolution
from autoprune.searchers.knapsack import standard_starts
from autoprune.searchers.optuna_samplers import PROBES, Gp, Tpe
from tests.scores import scored
from tests.searchers.landscapes import make_problem, with_curves

SETTINGS = {"criterion": Choice(("l1", "l2", "fpgm")), "finetune.rate": Range(0.001, 1.0, log=True, own=0.01)}
PLAIN = with_curves(make_problem(trials=60))
PROBLEM = replace(PLAIN, space=replace(PLAIN.space, settings=SETTINGS))


def told(candidate: Candidate, loss: float) -> Trial:
    return Trial(candidate, scored(loss, 0.5, 10))


def test_after_the_starts_settings_are_probed_under_the_widths_of_the_best_start() -> None:
    searcher = Tpe(PROBLEM)
    given = searcher.ask(len(standard_starts(PROBLEM)))
    for candidate in given:
        searcher.tell(told(candidate, 1.0 - 0.5 * (candidate.number == 2)))
    probes = searcher.ask(PROBES)
    assert {each.allocation for each in probes} == {given[2].allocation}
    assert len({tuple(each.settings.values()) for each in probes}) == PROBES
    assert {each.allocation for each in searcher.ask(8)} != {given[2].allocation}


def _effect(candidate: Candidate) -> float:
    """A loss that settings alone decide: fpgm, and a rate of 0.1."""
    rate = abs(np.log10(float(candidate.settings["finetune.rate"])) + 1)
    return 1.0 + float(rate) + {"l1": 1.0, "l2": 0.5, "fpgm": 0.0}[str(candidate.settings["criterion"])]


@pytest.mark.parametrize("kind", [Tpe, Evolution, CmaEs, Auto])
def test_the_best_settings_are_found_and_kept(kind: type[SequentialSearcher]) -> None:
    searcher, found = kind(PROBLEM), []
    while asked := searcher.ask(1):
        found.extend(asked)
        searcher.tell(told(asked[0], _effect(asked[0])))
    best = min(found, key=_effect)
    assert best.settings["criterion"] == "fpgm"
    assert 0.05 < float(best.settings["finetune.rate"]) < 0.2
    assert sum(each.settings["criterion"] == "fpgm" for each in found[-15:]) > 7


def test_an_offspring_differs_from_its_parent_in_widths_or_in_one_setting() -> None:
    searcher = Evolution(PROBLEM)
    given = searcher.ask(len(standard_starts(PROBLEM)))
    for candidate in given:
        searcher.tell(told(candidate, 1.0 - 0.5 * (candidate.number == 2)))
    offspring = searcher.ask(30)
    with_other_setting = [each for each in offspring if each.settings != defaults(SETTINGS)]
    assert 8 < len(with_other_setting) < 22
    assert {each.allocation for each in with_other_setting} == {given[2].allocation}
    assert all(sum(each.settings[n] != given[2].settings[n] for n in SETTINGS) == 1 for each in with_other_setting)


@pytest.mark.parametrize("kind", [Evolution, Auto])
def test_where_all_settings_were_tried_for_the_best_widths_others_are_sought_near_them(
    kind: type[SequentialSearcher],
) -> None:
    two = replace(PLAIN, space=replace(PLAIN.space, settings={"criterion": Choice(("l1", "l2"))}))
    searcher, first = kind(two), len(standard_starts(two))
    for candidate in searcher.ask(first):
        searcher.tell(told(candidate, 1.0))
    found = searcher.ask(1)
    while found[-1].settings["criterion"] == "l1":
        searcher.tell(told(found[-1], 2.0))
        found += searcher.ask(1)
    searcher.tell(told(found[-1], 2.0))
    later = []
    for _ in range(12):
        later += searcher.ask(1)
        searcher.tell(told(later[-1], 2.0))
    assert {each.settings["criterion"] for each in later} == {"l1"}


@pytest.mark.parametrize("kind", [Tpe, Gp, Evolution, CmaEs, Auto])
def test_the_starts_are_tried_under_the_default_settings(kind: type[SequentialSearcher]) -> None:
    given = standard_starts(PROBLEM)
    found = kind(PROBLEM).ask(len(given))
    assert tuple(each.allocation for each in found) == given
    assert all(each.settings == defaults(SETTINGS) for each in found)
