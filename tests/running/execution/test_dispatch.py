"""Jobs go out stage by stage; whoever does them, in whatever order and however often they die, it comes to the same."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from autoprune.config.sections import RunSection
from autoprune.core.recipe import Recipe
from autoprune.core.sensitivity import SensitivityCurves
from autoprune.core.trial import Failure
from autoprune.errors import AutopruneError, TaskError
from autoprune.evaluation.outcomes import EvaluationResult
from autoprune.evaluation.sensitivity.sweep import DENSE, GroupSweep, Level, Sweep, SweepSettings
from autoprune.running.execution.dispatch import Dispatch, RunningJob
from autoprune.running.execution.inline import run_inline
from autoprune.running.execution.jobs import Job, Stages, SweepJob, WorkerContext
from autoprune.running.search.sensitivity import SweepStage
from tests.evaluation.evaluators import evaluator_of, sweep
from tests.evaluation.sensitivity.test_sweep import chain
from tests.scores import scored

GRID = {"one.0": [1, 4, 6], "two.0": [1, 3, 7], "three.0": [1, 4]}
SETTINGS = SweepSettings(Recipe(recalibrate=24), 20, stop=0.9)
ALL_HOPELESS = SweepSettings(Recipe(recalibrate=24), 20, stop=1.01)
Recorded = dict[Level, EvaluationResult]


def context(settings: SweepSettings) -> WorkerContext:
    return WorkerContext(evaluator_of(chain()), GRID, settings)


def sweep_curves(
    settings: SweepSettings, recorded: Recorded, done: Mapping[Level, EvaluationResult]
) -> Stages[SensitivityCurves]:
    def record(group: str, width: int, result: EvaluationResult) -> None:
        assert (group, width) not in {**recorded, **done}
        recorded[group, width] = result

    sweep = Sweep(context(settings).levels, done, record)
    yield SweepStage(sweep)
    return sweep.curves()


@dataclass
class Worker:
    """Has a context until it dies, and at most one job."""

    settings: SweepSettings
    context: WorkerContext = field(init=False)
    key: str = ""
    job: Job[Any] | None = None
    running: RunningJob | None = None
    deaths: int = 0

    def __post_init__(self) -> None:
        self.context = context(self.settings)

    def begin(self, key: str, job: Job[Any]) -> None:
        self.key, self.job, self.deaths = key, pickle.loads(pickle.dumps(job)), 0
        self.running = RunningJob(self.context, self.job)

    def die(self) -> None:
        """And it is started again, as a library does that carries jobs."""
        assert self.job is not None
        self.context, self.deaths = context(self.settings), self.deaths + 1
        self.running = RunningJob(self.context, self.job)


def carry(dispatch: Dispatch[Any], workers: list[Worker], rng: np.random.Generator, death: float) -> None:
    """Carries jobs until all is over; at each step a worker drawn at random dies or brings a result."""
    number = 0
    while not dispatch.over:
        worker = workers[int(rng.integers(len(workers)))]
        if worker.running is None:
            job = dispatch.next(str(number))
            if job is not None:
                worker.begin(str(number), job)
                number += 1
        elif worker.deaths < 3 and rng.random() < death:
            worker.die()
        else:
            result, last = worker.running.step()
            dispatch.take(worker.key, pickle.loads(pickle.dumps(result)))
            if last:
                dispatch.end(worker.key, lost=False)
                worker.running = None


@pytest.mark.parametrize(("settings", "levels"), [(SETTINGS, 9), (ALL_HOPELESS, 4)])
@pytest.mark.parametrize(("workers", "known", "death"), [(1, 0, 0.0), (2, 3, 0.0), (3, 0, 0.3), (5, 2, 0.3)])
def test_workers_make_the_sweep_of_one_process(
    settings: SweepSettings, levels: int, workers: int, known: int, death: float
) -> None:
    expected: Recorded = {}
    curves = run_inline(sweep_curves(settings, expected, {}), context(settings))
    assert len(expected) == levels
    done, recorded = dict(list(expected.items())[:known]), Recorded()
    dispatch = Dispatch(sweep_curves(settings, recorded, done), RunSection(workers=workers))
    carry(dispatch, [Worker(settings) for _ in range(workers)], np.random.default_rng(workers), death)
    assert dispatch.value == curves
    assert {**done, **recorded} == expected
    assert curves == sweep(evaluator_of(chain()), GRID, settings, {}, lambda *_: None)


class Levels:
    """A stage with the levels of one group, which is given out again where it is lost."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        self.taken: Recorded = {DENSE: EvaluationResult(scored(1.0, 0.5, 20))}
        self.sweep = Sweep(
            WorkerContext(evaluator_of(chain()), {"two.0": widths}, SETTINGS).levels, self.taken, self.note
        )

    def note(self, group: str, width: int, result: EvaluationResult) -> None:
        self.taken[group, width] = result


def levels(*widths: int) -> tuple[Levels, Dispatch[None]]:
    made = Levels(widths)

    def stages() -> Stages[None]:
        yield SweepStage(made.sweep)

    return made, Dispatch(stages(), RunSection(workers=2, retries=1, trial_timeout=1e-9))


SCORE = EvaluationResult(scored(1.0, 0.5, 20), 7)


def test_a_level_at_which_workers_always_die_is_a_failure_and_the_next_is_evaluated() -> None:
    made, dispatch = levels(6, 4)
    assert dispatch.next("a") is not None
    assert dispatch.next("b") is None
    dispatch.end("a", lost=True)
    assert made.taken["two.0", 6].outcome == Failure("timeout", "the trial took longer than 1e-09 s 2 times")
    job = dispatch.next("b")
    assert isinstance(job, SweepJob)
    assert job.group_sweep.widths == (4,)


def test_a_level_behind_one_that_came_back_is_tried_once_more_from_there() -> None:
    made, dispatch = levels(6, 4, 2)
    dispatch.next("a")
    dispatch.take("a", (6, SCORE))
    dispatch.end("a", lost=True)
    assert list(made.taken) == [DENSE, ("two.0", 6)]
    job = dispatch.next("b")
    assert isinstance(job, SweepJob)
    assert job.group_sweep.widths == (4, 2)


def test_a_result_that_comes_twice_counts_once() -> None:
    made, dispatch = levels(6, 4)
    dispatch.next("a")
    dispatch.take("a", (6, SCORE))
    dispatch.take("a", (6, EvaluationResult(scored(1.0, 0.7, 20), 7)))
    assert made.taken["two.0", 6] == SCORE
    assert dispatch.fault is None


@dataclass
class Some:
    """A stage of so many jobs, which notes what it is told."""

    left: int
    said: list[str] = field(default_factory=list)

    def next(self) -> SweepJob | None:
        self.left -= 1
        return SweepJob(GroupSweep("two.0", (6,))) if self.left >= 0 else None

    def take(self, job: SweepJob, result: object) -> None:
        self.said.append("taken")

    def lost(self, job: SweepJob, failure: Failure, seconds: float, worker: str) -> None:
        self.said.append(failure.kind)


def test_a_stage_begins_when_nothing_of_the_one_before_is_left() -> None:
    begun: list[int] = []

    def stages() -> Stages[str]:
        for count in (2, 0, 1):
            begun.append(count)
            yield Some(count)
        return "done"

    dispatch = Dispatch(stages(), RunSection(workers=3))
    assert [dispatch.next(key) is None for key in "abc"] == [False, False, True]
    dispatch.end("a", lost=False)
    assert dispatch.next("c") is None
    assert begun == [2]
    dispatch.end("b", lost=False)
    assert dispatch.next("c") is not None
    assert begun == [2, 0, 1]
    dispatch.end("c", lost=False)
    assert dispatch.next("d") is None
    assert dispatch.over
    assert dispatch.value == "done"


def test_no_more_jobs_go_out_than_there_are_workers() -> None:
    dispatch = Dispatch(iter_of(Some(9)), RunSection(workers=2))
    assert [dispatch.next(key) is None for key in "abc"] == [False, False, True]


def iter_of(stage: Some) -> Stages[None]:
    yield stage


@pytest.mark.parametrize("fault", [OSError(28, "full", "x"), AutopruneError("no data")])
def test_what_ends_the_run_waits_for_what_is_being_done_and_is_kept(fault: Exception) -> None:
    stage = Some(9)
    dispatch = Dispatch(iter_of(stage), RunSection(workers=2))
    dispatch.next("a")
    dispatch.next("b")
    dispatch.take("a", fault)
    dispatch.end("a", lost=False)
    assert dispatch.fault is fault
    assert dispatch.next("c") is None
    assert not dispatch.over
    dispatch.take("b", (6, SCORE))
    dispatch.end("b", lost=False)
    assert dispatch.over
    assert stage.said == ["taken"]


def test_what_goes_wrong_between_stages_is_kept() -> None:
    def stages() -> Iterator[Any]:
        yield Some(0)
        raise TaskError("no dense network")

    dispatch: Dispatch[Any] = Dispatch(stages(), RunSection(workers=1))  # type: ignore[arg-type]
    assert dispatch.next("a") is None
    assert dispatch.over
    assert str(dispatch.fault) == "no dense network"
