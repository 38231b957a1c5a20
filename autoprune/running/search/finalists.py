"""The best few of a search, evaluated once more: on all validation samples, under the last recipe if there is one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from autoprune.core.recipe import Recipe
from autoprune.core.settings import resolved
from autoprune.core.trial import Candidate, Failure, Score, Setting, Trial, ranked, winners
from autoprune.core.trial import value as value_of
from autoprune.errors import AllTrialsFailed
from autoprune.evaluation.outcomes import EvaluationResult
from autoprune.running.execution.jobs import Evaluation, JobList, Reevaluation, Stages
from autoprune.running.search.loop import RunContext
from autoprune.searchers.base.searcher import SearchProblem


def choose_winner(run: RunContext, problem: SearchProblem, trials: list[Trial]) -> Stages[tuple[Trial, Score]]:
    """Runs the finalists as a stage, and returns the winner with its score on all validation samples.

    What the ledger holds is not evaluated again. Where finalists have a recipe of their own each becomes a trial, which
    is added to `trials`.

    Args:
        run: the run in progress.
        problem: of the search.
        trials: all of them, the finalists of an interrupted run included.

    Raises:
        AllTrialsFailed: none of them could be evaluated on all samples.
    """
    experiment = run.setup.experiment
    chosen = ranked(trials, problem.objective)[: experiment.search.rerank.top]
    recipe = experiment.final_recipe()
    if recipe != problem.recipe:
        trials += yield from _trials(run, chosen, recipe, trials)
        winner = winners(trials, problem.objective)[0]
        if winner.candidate.role == "finalist" and winner.score is not None:
            return winner, winner.score
    scores = yield from _on_all_samples(run, chosen)
    number = min(scores, key=lambda number: (value_of(scores[number], problem.objective), number))
    return next(trial for trial in chosen if trial.number == number), scores[number]


def _trials(run: RunContext, chosen: list[Trial], recipe: Recipe, trials: list[Trial]) -> Stages[list[Trial]]:
    """Returns the trials of the chosen allocations under another recipe that are not in `trials`, numbered on."""
    asked = {c.key: c for c in run.history.steps() if isinstance(c, Candidate) and c.role == "finalist"}
    told = {trial.number for trial in trials}
    found: list[Trial] = []
    with run.display.stage("finalists", len(chosen)) as advance:

        def jobs() -> Iterator[Evaluation]:
            for trial in chosen:
                settings = run.setup.experiment.final_settings(trial.candidate.settings)
                number = 1 + max(told | {candidate.number for candidate in asked.values()})
                wanted = _finalist(number, trial, recipe, settings)
                candidate = asked.setdefault(wanted.key, wanted)
                if candidate is wanted:
                    run.ledger.asked(candidate)
                if candidate.number in told:
                    advance("")
                else:
                    told.add(candidate.number)  # two that differed in what the last recipe says are one now
                    yield Evaluation(candidate)

        def take(_: Candidate, trial: Trial) -> None:
            found.append(trial)
            run.ledger.told(trial)
            advance("")

        yield JobList(jobs(), take)
    return found


def _finalist(number: int, trial: Trial, recipe: Recipe, settings: Mapping[str, Setting]) -> Candidate:
    """Returns the trial's allocation under another recipe, from its weights if those were trained, else the dense."""
    before = trial.candidate
    trained = before.parent is not None or resolved(before.recipe, before.settings).trains
    # ADMM was done before the trial was pruned, and its weights are what the finalist starts from.
    recipe = replace(recipe, admm=None) if trained else recipe
    parent = trial.number if trained else None
    limits = dict(before.limits)
    return Candidate(number, before.allocation, recipe, settings, parent, "finalist", limits)


def _on_all_samples(run: RunContext, chosen: list[Trial]) -> Stages[dict[int, Score]]:
    """Returns number to score on all validation samples: the search's own scores where it used all of them.

    Raises:
        AllTrialsFailed: none of them could be evaluated.
    """
    if run.evaluator.data.uses_all_samples():
        return {trial.number: trial.score for trial in chosen if trial.score}
    done = {record["number"]: Score.from_json(record["score"]) for record in run.history.of("reevaluated")}
    left = [Reevaluation(trial.candidate) for trial in chosen if trial.number not in done]
    reason = ""
    with run.display.stage("finalists", len(chosen), len(chosen) - len(left)) as advance:

        def take(candidate: Candidate, result: EvaluationResult) -> None:
            nonlocal reason
            number = candidate.number
            if isinstance(result.outcome, Failure):
                reason = f"{result.outcome.kind}: {result.outcome.reason}"
                run.display.say(f"finalist {number} is left out, as it cannot be evaluated on all samples ({reason})")
            else:
                done[number] = result.outcome
                run.ledger.write("reevaluated", number=number, score=result.outcome.to_json(), work=result.work)
            advance("")

        yield JobList(left, take)
    found = {trial.number: done[trial.number] for trial in chosen if trial.number in done}
    if not found:
        raise AllTrialsFailed(f"no finalist could be evaluated on all samples ({reason}); see {run.folder.ledger}")
    return found
