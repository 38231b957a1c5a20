"""The search: ask, write it down, have it evaluated, write it down, tell."""

from __future__ import annotations

from autoprune import registry
from autoprune.core.trial import Trial, ranked, reasons
from autoprune.errors import AllTrialsFailed
from autoprune.running.context import RunContext
from autoprune.running.course import Course
from autoprune.running.jobs import Stages
from autoprune.searchers.base import Searcher, SearchProblem


def search(run: RunContext, problem: SearchProblem) -> Stages[list[Trial]]:
    """The search as a stage, and every trial of the run.

    Candidates that were asked but not told run again under their own number.

    Raises:
        AllTrialsFailed: no candidate could be scored.
        LedgerWriteError: a record could not be written; the run can be resumed.
    """
    searcher: Searcher = registry.resolve("searcher", run.setup.experiment.search.searcher)(problem)
    course = Course(run, problem, searcher)
    for remark in searcher.remarks:
        run.display.say(remark)
    with run.display.stage("search", problem.trials, len(course.trials)) as course.advance:
        yield course
    if not ranked(course.trials, problem.objective):
        raise AllTrialsFailed(f"{searcher.failure or _why(course.trials)}; see {run.folder.ledger}")
    return course.trials


def _why(trials: list[Trial]) -> str:
    return f"none of {len(trials)} candidates could be scored ({reasons(trials)})"
