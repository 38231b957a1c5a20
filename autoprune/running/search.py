"""The only loop: ask, write it down, evaluate, write it down, tell."""

from __future__ import annotations

from autoprune import registry
from autoprune.core.budget import Limits, within
from autoprune.core.ledger import History
from autoprune.core.trial import Candidate, Trial, ranked, reasons
from autoprune.errors import AllTrialsFailed, AutopruneError
from autoprune.running.context import RunContext
from autoprune.running.inline import Executor, Inline
from autoprune.searchers.base import Searcher, SearchProblem


class ReplayError(AutopruneError):
    """A searcher does not propose again what the ledger says it proposed."""


def search(run: RunContext, problem: SearchProblem) -> list[Trial]:
    """Every trial of the run; candidates that were asked but not told run again under their own number.

    Raises:
        AllTrialsFailed: no candidate could be scored.
        LedgerWriteError: a record could not be written; the run can be resumed.
    """
    searcher: Searcher = registry.resolve("searcher", run.setup.experiment.search.searcher)(problem)
    trials = replay(run.history, searcher)
    for trial in trials:
        run.tracker.told(trial)
    for remark in searcher.remarks:
        run.display.say(remark)
    _loop(run, problem, searcher, Inline(run.evaluator), trials)
    if not ranked(trials, problem.objective):
        raise AllTrialsFailed(f"{searcher.failure or _why(trials)}; see {run.folder.ledger}")
    return trials


def _loop(run: RunContext, problem: SearchProblem, searcher: Searcher, executor: Executor, trials: list[Trial]) -> None:
    pending = [candidate for candidate in run.history.open_candidates() if candidate.role != "finalist"]
    running = 0
    if any(trial.candidate.role == "finalist" for trial in trials):
        return  # the search was over
    with run.display.stage("search", problem.trials, len(trials)) as advance:
        while True:
            while running < executor.slots and (candidate := _next(run, pending, searcher)) is not None:
                executor.submit(candidate)
                running += 1
            if not running:
                return
            trial = executor.collect()
            running -= 1
            trials.append(trial)
            run.ledger.told(trial)
            run.tracker.told(trial)
            searcher.tell(trial)
            _drop_weights(run, trials, problem, searcher.parents)
            advance(_note(trials, problem))


def _next(run: RunContext, pending: list[Candidate], searcher: Searcher) -> Candidate | None:
    if pending:
        return pending.pop(0)
    for candidate in searcher.ask(1):
        if not within(candidate.allocation, run.setup.subject.costs, _limits(run, candidate)):
            raise AutopruneError(f"the searcher proposed {candidate.allocation}, which is above the budget")
        run.ledger.asked(candidate)
        return candidate
    return None


def _limits(run: RunContext, candidate: Candidate) -> Limits:
    """What a candidate may cost: the run's limits, or its own if it is a round on the way."""
    if candidate.role == "final":
        return run.limits
    return {kind: candidate.limits[kind] for kind in run.limits}


def _drop_weights(run: RunContext, trials: list[Trial], problem: SearchProblem, parents: frozenset[int]) -> None:
    """Deletes the networks of trials that are not among the best, and from which no candidate will start."""
    best = ranked(trials, problem.objective)[: run.setup.experiment.finalists.count]
    keep = parents.union(trial.number for trial in best)
    for path in run.folder.weights.glob("*.pt"):
        if path.stem.isdigit() and int(path.stem) not in keep:
            path.unlink()


def replay(history: History, searcher: Searcher) -> list[Trial]:
    """Brings a searcher to the state in which the ledger left it; the finished trials, in the order told.

    Raises:
        ReplayError: the searcher now proposes something else (another release wrote the ledger, say).
    """
    trials = []
    for step in history.steps():
        if isinstance(step, Trial):
            trials.append(step)
        if (step.candidate if isinstance(step, Trial) else step).role == "finalist":
            continue  # no searcher proposed it
        if isinstance(step, Trial):
            searcher.tell(step)
            continue
        again = searcher.ask(1)
        if [(candidate.number, candidate.key) for candidate in again] != [(step.number, step.key)]:
            found = again[0].allocation if again else "nothing"
            raise ReplayError(
                f"candidate {step.number} cannot be replayed: the ledger has {step.allocation}, the searcher proposes "
                f"{found}; was the run made by another release of autoprune or of a library it stands on?"
            )
    return trials


def _why(trials: list[Trial]) -> str:
    return f"none of {len(trials)} candidates could be scored ({reasons(trials)})"


def _note(trials: list[Trial], problem: SearchProblem) -> str:
    best = ranked(trials, problem.objective)
    if not best or best[0].score is None:
        return "no score yet"
    return f"best {problem.objective} {getattr(best[0].score, problem.objective):.4f} (trial {best[0].number})"
