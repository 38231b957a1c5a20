"""A search in progress: what is to be evaluated next, and what becomes of an outcome; whoever evaluates asks here."""

from __future__ import annotations

from collections.abc import Callable

from autoprune import registry
from autoprune.core.budget import COST_KINDS, Limits
from autoprune.core.costs import within
from autoprune.core.ledger import History
from autoprune.core.trial import Candidate, Failure, Trial, ranked, reasons
from autoprune.errors import AllTrialsFailed, AutopruneError
from autoprune.running.execution.jobs import Evaluation, Stages
from autoprune.running.search.context import RunContext
from autoprune.running.threads import OneThread
from autoprune.searchers.base.searcher import Searcher, SearchProblem


class ReplayError(AutopruneError):
    """A searcher does not propose again what the ledger says it proposed."""


class SearchLoop:
    """The one place where a searcher is asked and told, each time with the ledger and the mirror.

    Attributes:
        trials: every trial so far, in the order told.
    """

    def __init__(self, run: RunContext, problem: SearchProblem, searcher: Searcher) -> None:
        self._run, self._problem, self._searcher = run, problem, searcher
        self._asking = OneThread(searcher)
        self.trials = replay(run.history, searcher)
        self.advance: Callable[[str], None] = lambda _: None
        over = any(trial.candidate.role == "finalist" for trial in self.trials)
        self._pending = [c for c in run.history.open_candidates() if c.role != "finalist"]
        self._over = over
        for trial in self.trials:
            run.tracker.told(trial)
        if self.trials and not over:  # a run that was killed may not have come to it
            self._drop_weights()

    def next(self) -> Evaluation | None:
        """The next candidate, written down; None while nothing can be asked before a trial comes back, or at the end.

        Raises:
            LedgerWriteError: a record could not be written; the run can be resumed.
        """
        if self._over:
            return None
        candidate = self._pending.pop(0) if self._pending else self._ask()
        return None if candidate is None else Evaluation(candidate)

    def _ask(self) -> Candidate | None:
        for candidate in self._asking.ask():
            limits = self._run.limits if candidate.role == "final" else _limits_of(candidate)
            if not within(candidate.allocation, self._run.setup.prunable.costs, limits):
                raise AutopruneError(f"the searcher proposed {candidate.allocation}, which is above the budget")
            self._run.ledger.asked(candidate)
            return candidate
        return None

    def take(self, job: Evaluation, trial: Trial) -> None:
        """An outcome: written down, mirrored, and told.

        Raises:
            LedgerWriteError: a record could not be written; the run can be resumed.
        """
        self.trials.append(trial)
        self._run.ledger.told(trial)
        self._run.tracker.told(trial)
        self._searcher.tell(trial)
        self._drop_weights()
        self.advance(self._note())

    def lost(self, job: Evaluation, failure: Failure, seconds: float, worker: str) -> None:
        """A candidate without an outcome: its trial is a failure."""
        self.take(job, job.failed(failure, seconds, worker))

    def _drop_weights(self) -> None:
        """Deletes the networks of trials that are no longer among the best, and which no candidate will start from."""
        best = ranked(self.trials, self._problem.objective)[: self._run.setup.experiment.search.rerank.top]
        keep = {trial.number for trial in best} | self._searcher.parents
        for path in self._run.folder.weights.glob("*.pt"):
            if path.stem.isdigit() and int(path.stem) not in keep:
                path.unlink()

    def _note(self) -> str:
        objective = self._problem.objective
        for role in ("final", "intermediate"):
            best = ranked(self.trials, objective, role)
            if best and best[0].score is not None:
                of = "" if role == "final" else " of the rounds so far"
                return f"best {objective}{of} {getattr(best[0].score, objective):.4f} (trial {best[0].number})"
        return "no score yet"


def _limits_of(candidate: Candidate) -> Limits:
    """What a candidate may cost in its round."""
    return {kind: candidate.limits[kind] for kind in COST_KINDS if kind in candidate.limits}


def replay(history: History, searcher: Searcher) -> list[Trial]:
    """Brings a searcher to the state in which the ledger left it; the finished trials, in the order told.

    Raises:
        ReplayError: the searcher now proposes something else (another release wrote the ledger, say).
    """
    trials, asking = [], OneThread(searcher)
    for step in history.steps():
        if isinstance(step, Trial):
            trials.append(step)
        if (step.candidate if isinstance(step, Trial) else step).role == "finalist":
            continue  # no searcher proposed it
        if isinstance(step, Trial):
            searcher.tell(step)
            continue
        again = asking.ask()
        if [(candidate.number, candidate.key) for candidate in again] != [(step.number, step.key)]:
            found = again[0].allocation if again else "nothing"
            raise ReplayError(
                f"candidate {step.number} cannot be replayed: the ledger has {step.allocation}, the searcher proposes "
                f"{found}; was the run made by another release of autoprune or of a library it stands on?"
            )
    return trials


def search(run: RunContext, problem: SearchProblem) -> Stages[list[Trial]]:
    """The search as a stage, and every trial of the run.

    Candidates that were asked but not told run again under their own number.

    Raises:
        AllTrialsFailed: no candidate could be scored.
        LedgerWriteError: a record could not be written; the run can be resumed.
    """
    searcher: Searcher = registry.resolve("searcher", run.setup.experiment.search.searcher)(problem)
    course = SearchLoop(run, problem, searcher)
    for remark in searcher.remarks:
        run.display.say(remark)
    with run.display.stage("search", problem.trials, len(course.trials)) as course.advance:
        yield course
    if not ranked(course.trials, problem.objective):
        raise AllTrialsFailed(f"{searcher.failure or _why(course.trials)}; see {run.folder.ledger}")
    return course.trials


def _why(trials: list[Trial]) -> str:
    return f"none of {len(trials)} candidates could be scored ({reasons(trials)})"
