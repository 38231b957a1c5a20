from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autoprune.core.settings import Choice, Range, defaults
from autoprune.core.trial import Candidate, Score, Trial
from autoprune.searchers.auto import Auto
from autoprune.searchers.base.coordinates import Coordinates
from autoprune.searchers.base.model_based import PROBES
from autoprune.searchers.base.optuna_studies import GaussianStudy, ParzenStudy
from autoprune.searchers.base.warm_started import WarmStartedSearcher, starts
from autoprune.searchers.cmaes import CmaEs
from autoprune.searchers.evolution import Evolution
from autoprune.searchers.optuna_samplers import Tpe
from tests.searchers.landscapes import make_problem, with_curves

SETTINGS = {"criterion": Choice(("l1", "l2", "fpgm")), "finetune.rate": Range(0.001, 1.0, log=True, own=0.01)}
PLAIN = with_curves(make_problem(trials=60))
PROBLEM = replace(PLAIN, space=replace(PLAIN.space, settings=SETTINGS))


def told(candidate: Candidate, loss: float) -> Trial:
    return Trial(candidate, Score(loss, 0.5, 10))


def test_coordinates_return_to_the_same_widths_and_settings() -> None:
    coordinates = Coordinates(PROBLEM)
    settings = {"criterion": "fpgm", "finetune.rate": 0.1}
    allocation = starts(PROBLEM)[0]
    point = coordinates.of(allocation, settings)
    assert len(point) == len(coordinates.names) == len(PROBLEM.space.names) + 2
    assert coordinates.choices == {"settings/criterion": 3}
    assert coordinates.widths(point) == dict(allocation)
    assert coordinates.settings(point) == settings
    assert len(coordinates.of(allocation)) == len(PROBLEM.space.names)


def test_after_the_starts_settings_are_probed_under_the_widths_of_the_best_start() -> None:
    searcher = Tpe(PROBLEM)
    given = searcher.ask(len(starts(PROBLEM)))
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
def test_the_best_settings_are_found_and_kept(kind: type[WarmStartedSearcher]) -> None:
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
    given = searcher.ask(len(starts(PROBLEM)))
    for candidate in given:
        searcher.tell(told(candidate, 1.0 - 0.5 * (candidate.number == 2)))
    offspring = searcher.ask(30)
    retuned = [each for each in offspring if each.settings != defaults(SETTINGS)]
    assert 8 < len(retuned) < 22
    assert {each.allocation for each in retuned} == {given[2].allocation}
    assert all(sum(each.settings[n] != given[2].settings[n] for n in SETTINGS) == 1 for each in retuned)


@pytest.mark.parametrize("kind", [ParzenStudy, GaussianStudy])
def test_samplers_see_choices_as_categories(kind: type[ParzenStudy] | type[GaussianStudy]) -> None:
    study, rng = kind(["a", "b"], {"b": 3}), np.random.default_rng(0)
    for number in range(30):
        point = np.array([rng.random(), rng.integers(3)])
        study.add(number, point)
        study.finish(number, abs(point[0] - 0.8) + [0.5, 0.1, 0.5][int(point[1])])
    samples = np.array([study.sample(np.random.default_rng(i)) for i in range(10)])
    assert set(samples[:, 1]) <= {0.0, 1.0, 2.0}
    assert (samples[:, 1] == 1).sum() >= 7
    assert abs(float(np.median(samples[:, 0])) - 0.8) < 0.15


def test_the_gaussian_process_passes_over_failures_and_takes_a_loss_of_nothing() -> None:
    study = GaussianStudy(["a"])
    for number, loss in enumerate([0.0, None, 0.5, 0.25, 1.0]):
        study.add(number, np.array([number / 5]))
        study.finish(number, loss)
    assert 0 <= study.sample(np.random.default_rng(0))[0] <= 1


@pytest.mark.parametrize("kind", [Evolution, Auto])
def test_where_all_settings_were_tried_for_the_best_widths_others_are_sought_near_them(
    kind: type[WarmStartedSearcher],
) -> None:
    two = replace(PLAIN, space=replace(PLAIN.space, settings={"criterion": Choice(("l1", "l2"))}))
    searcher, first = kind(two), len(starts(two))
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
