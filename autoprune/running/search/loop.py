"""A search in progress: the objects of its run, what is evaluated next, and what becomes of each outcome."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autoprune import registry
from autoprune.core.budget import COST_KINDS, Limits
from autoprune.core.costs import within
from autoprune.core.ledger import History, Ledger
from autoprune.core.trial import Candidate, Failure, Role, Trial, ranked, reasons
from autoprune.errors import AllTrialsFailed, AutopruneError
from autoprune.evaluation.evaluator import Evaluator
from autoprune.running.execution.jobs import Evaluation, Stages
from autoprune.running.progress import Display
from autoprune.running.run_folder import RunFolder
from autoprune.running.search.compute_budget import ComputeBudget
from autoprune.running.setup import Setup
from autoprune.running.threads import SingleThreaded
from autoprune.running.tracking.tracker import Tracking
from autoprune.searchers.base.searcher import Searcher, SearchProblem


@dataclass(frozen=True)
class RunContext:
    """The objects that every part of a run works with.

    Attributes:
        setup: the network and task, and what is searched.
        folder: where all of it is kept.
        ledger: of the run, open for writing.
        history: what the ledger said when the run was started or resumed.
        tracking: where it is mirrored; None where it is not.
        display: shows progress.
        evaluator: with its data, evaluates the dense network and candidates here.
        limits: the budget as whole numbers.
        compute_budget: what the run may cost, and what is left of that for candidates.
    """

    setup: Setup
    folder: RunFolder
    ledger: Ledger
    history: History
    tracking: Tracking | None
    display: Display
    evaluator: Evaluator
    limits: Limits
    compute_budget: ComputeBudget


class ReplayError(AutopruneError):
    """A searcher does not propose again what the ledger says it proposed."""


class SearchLoop:
    """The stage of candidates: the one place where a searcher is asked and told, each time with the ledger.

    Attributes:
        trials: every trial so far, in the order told.
    """

    def __init__(self, run: RunContext, problem: SearchProblem, searcher: Searcher) -> None:
        self._run, self._problem, self._searcher = run, problem, searcher
        self._search_algorithm = SingleThreaded(searcher)
        self.trials = replay(run.history, searcher)
        self.advance: Callable[[str], None] = lambda _: None
        # As many of the best as keep their weights, so that the cost of a trial does not grow with their number.
        self._best: dict[Role, list[Trial]] = {"final": [], "intermediate": []}
        self._told: set[int] = set()
        self._pending = [c for c in run.history.open_candidates() if c.role != "finalist"]
        self._over = any(trial.candidate.role == "finalist" for trial in self.trials)
        for trial in self.trials:
            self._rank(trial)
        if self.trials and not self._over:  # a run that was killed may not have come to it
            self._drop_weights()

    def next(self) -> Evaluation | None:
        """Returns the next candidate, written down; None while there is none before a trial is told, or at the end.

        Raises:
            LedgerWriteError: a record could not be written; the run can be resumed.
        """
        if self._over:
            return None
        candidate = self._pending.pop(0) if self._pending else self._ask()
        return None if candidate is None else Evaluation(candidate)

    def _ask(self) -> Candidate | None:
        for candidate in self._search_algorithm.ask():
            own: Limits = {kind: candidate.limits[kind] for kind in COST_KINDS if kind in candidate.limits}
            limits = self._run.limits if candidate.role == "final" else own  # a round may have limits of its own
            if not within(candidate.allocation, self._run.setup.prunable.costs, limits):
                raise AutopruneError(f"the searcher proposed {candidate.allocation}, which is above the budget")
            self._run.ledger.asked(candidate)
            return candidate
        return None

    def take(self, job: Evaluation, trial: Trial) -> None:
        """Writes an outcome down, and tells it to the searcher.

        Raises:
            LedgerWriteError: a record could not be written; the run can be resumed.
        """
        self.trials.append(trial)
        self._run.ledger.told(trial)
        self._searcher.tell(trial)
        self._rank(trial)
        self._drop_weights()
        self.advance(self._note())

    def lost(self, job: Evaluation, failure: Failure, seconds: float, worker: str) -> None:
        """Takes a candidate without an outcome: its trial is a failure.

        Args:
            job: the candidate.
            failure: what kept it from having an outcome.
            seconds: that it took.
            worker: the name of the process that had it.
        """
        self.take(job, job.failed(failure, seconds, worker))

    def why_early(self) -> str | None:
        """Returns in words why the search ended before its number of trials; None if it did not."""
        problem, count = self._problem, sum(trial.candidate.role != "finalist" for trial in self.trials)
        if problem.trials is None or count >= problem.trials:
            return None
        spent = sum(trial.work for trial in self.trials)
        if problem.work is not None and spent + problem.price > problem.work:
            why = "the rest of --evaluations does not pay for another"
        else:
            name = self._run.setup.experiment.search.searcher
            why = f"searcher {name!r} has nothing more to propose in this space and budget"
        return f"the search ended after {count} of {problem.trials} trials: {why}"

    def _rank(self, trial: Trial) -> None:
        self._told.add(trial.number)
        role, top = trial.candidate.role, self._run.setup.experiment.search.rerank.top
        if role in self._best:
            self._best[role] = ranked([*self._best[role], trial], self._problem.objective, role)[:top]

    def _drop_weights(self) -> None:
        """Deletes the networks of trials that are no longer among the best, and which no candidate will start from.

        A network that a worker has written, but whose trial has yet to be told, stays.
        """
        keep = {trial.number for trial in self._best["final"]} | self._searcher.parents
        for path in self._run.folder.weights.glob("*.pt"):
            if path.stem.isdigit() and int(path.stem) in self._told and int(path.stem) not in keep:
                path.unlink()

    def _note(self) -> str:
        objective = self._problem.objective
        for role, best in self._best.items():
            if best and best[0].score is not None:
                of = "" if role == "final" else " of the rounds so far"
                found = objective.text(best[0].score.get(objective.name))
                return f"best {objective.name}{of} {found} (trial {best[0].number})"
        return "no score yet"


def replay(history: History, searcher: Searcher) -> list[Trial]:
    """Brings a searcher to the state in which the ledger left it, and returns the trials in the order told.

    Raises:
        ReplayError: the searcher now proposes something else (another release wrote the ledger, say).
    """
    trials, asking = [], SingleThreaded(searcher)
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
    """Runs the search as a stage, and returns every trial of the run.

    Candidates that were asked but not told run again under their own number.

    Raises:
        AllTrialsFailed: no candidate could be scored.
        LedgerWriteError: a record could not be written; the run can be resumed.
    """
    searcher: Searcher = registry.resolve("searcher", run.setup.experiment.search.searcher)(problem)
    loop = SearchLoop(run, problem, searcher)
    for remark in searcher.remarks:
        run.display.say(remark)
    with run.display.stage("search", problem.trials, len(loop.trials)) as loop.advance:
        yield loop
    if not ranked(loop.trials, problem.objective):
        failed = f"none of {len(loop.trials)} candidates could be scored ({reasons(loop.trials)})"
        raise AllTrialsFailed(f"{searcher.failure or failed}; see {run.folder.ledger}")
    if why := loop.why_early():
        run.display.say(why)
    return loop.trials
