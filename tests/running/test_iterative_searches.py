"""Searches whose candidates start from each other: their weights, their end, and how they go on after a kill."""

from __future__ import annotations

import csv
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from autoprune.core.costs import within
from autoprune.core.ledger import Ledger
from autoprune.core.trial import Trial
from autoprune.running.setup import Setup
from tests import user_tasks
from tests.journeys import OWN, SEARCH, Cli, history_of, left_behind, search_in_child, trial_results, unbroken_runs
from tests.running.test_resuming import dying
from tests.tiers import rest_slow

SHORT = ("--task", "tests.user_tasks:faulty", "--set", "search.trials=30")
SHORT = (*OWN, *SHORT, "--set", "search.rounds={count: 3, probes: 3, finetune: {steps: 2, batch_size: 16}}")
SHORT = (*SHORT, "--set", "search.rounds.admm={steps: 2, batch_size: 16}")
BOTH = pytest.mark.parametrize("searcher", ["netadapt", "autocompress"])


@BOTH
def test_rounds_lead_to_a_network_within_the_budget_and_leave_only_the_best_weights(
    autoprune: Cli, workdir: Path, searcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[tuple[Trial, list[str]]] = []
    told = Ledger.told

    def note(self: Ledger, trial: Trial) -> None:
        kept.append((trial, left_behind(workdir / "run" / "weights")))
        told(self, trial)

    monkeypatch.setattr(Ledger, "told", note)
    out = autoprune.succeed(*SHORT, "--searcher", searcher, "--output", "run").out
    trials = history_of(workdir / "run").trials()
    finals = [trial.number for trial in trials if trial.candidate.role == "final"]
    assert len({trial.candidate.parent for trial in trials}) == 3
    for trial, weights in kept:
        parent = trial.candidate.parent
        assert parent is None or f"{parent}.pt" in weights
        assert len(weights) <= 3 + len(finals)  # the parent, the best so far, the one just judged, and finals
    assert left_behind(workdir / "run" / "weights") == sorted(f"{number}.pt" for number in finals)
    assert any(f"best (trial {number})" in out for number in finals)
    uniform, best = list(csv.DictReader((workdir / "run" / "results.csv").open()))[1:]
    assert int(uniform["training_steps"]) == 0
    assert int(best["training_steps"]) == {"netadapt": 3 * 2, "autocompress": 3 * (2 + 2)}[searcher]


@pytest.fixture(scope="module")
def unbroken(trained_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of an unbroken run by searcher."""
    return unbroken_runs(tmp_path_factory, lambda _: SHORT)


def test_a_step_of_a_round_can_be_applied_while_its_weights_are_there(
    autoprune: Cli, workdir: Path, unbroken: Callable[[str], Path]
) -> None:
    run = unbroken("netadapt")
    trials = history_of(run).trials()
    named = ("apply", run, "--task", "tests.user_tasks:task", "--output", "p.pt", "--trial")
    first, second = (next(t for t in trials if (t.candidate.parent is None) == new) for new in (True, False))
    out = autoprune.succeed(*named, first.number).out  # it is made again from the dense network
    assert f"trial {first.number} is a step of a round on the way: the run's budget was not its limit" in out
    assert f"{100 * first.score.metrics['accuracy']:.2f} % accuracy and a loss of {first.score.loss:.4f} on" in out
    said = autoprune.refused(*named, second.number, "--overwrite")
    assert f"trial {second.number} of {run} cannot be made again: the weights of the parent, trial " in said
    assert "runs keep the weights of their best trials, choose one of those" in said
    said = autoprune.refused(*named, second.number, "--overwrite", "--reconstruct", "64")
    assert "was trained on the way, which --reconstruct would undo" in said


@BOTH
@pytest.mark.parametrize(
    ("event", "count"), rest_slow([("told", 4), ("asked", 1), ("asked", 2), ("told", 2), ("told", 5)])
)
def test_a_search_in_rounds_that_is_killed_ends_as_if_it_had_not_been(
    autoprune: Cli, workdir: Path, unbroken: Callable[[str], Path], searcher: str, event: str, count: int
) -> None:
    run, whole = workdir / "run", unbroken(searcher)
    command = (*SHORT, "--searcher", searcher, "--output", "run")
    assert search_in_child(*command, before=dying(event, count)) == -signal.SIGKILL
    autoprune.succeed("search", "--resume", "run")
    assert trial_results(history_of(run)) == trial_results(history_of(whole))
    assert left_behind(run / "weights") == left_behind(whole / "weights")
    assert (run / "best.yaml").read_text() == (whole / "best.yaml").read_text()


def test_a_round_that_fails_is_named_with_its_reason(autoprune: Cli, workdir: Path) -> None:
    def spoilt(_: int, loss: object) -> object:
        raise ValueError("no luck")

    # The first round ends with its second candidate.
    told = Ledger.told

    def told_and_spoil(self: Ledger, trial: Trial) -> None:
        told(self, trial)
        if trial.number == 1:
            user_tasks.faults.append(spoilt)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "told", told_and_spoil)
        message = autoprune.refused(*SHORT, "--searcher", "netadapt", "--output", "run", code=1)
    assert "round 2 of 3 (flops at most " in message
    assert "failed: none of 2 candidates could be scored (exception: ValueError: no luck); see " in message
    assert "run/ledger.jsonl" in message
    again = autoprune.refused("search", "--resume", "run", code=1)
    assert "round 2 of 3" in again


def test_what_the_trials_do_not_allow_is_said_once(autoprune: Cli, workdir: Path) -> None:
    said = autoprune.succeed(*SHORT, "--set", "search.trials=3", "--searcher", "netadapt", "--output", "run").err
    wanted = "about 1 of 2 groups are tried in each of 3 rounds, as the limit of 3 trials allows no more"
    assert " ".join(said.split()).count(wanted) == 1


def test_rounds_that_a_searcher_does_not_use_are_said_to_be_of_no_use(autoprune: Cli, workdir: Path) -> None:
    said = autoprune.succeed(*OWN, "--task", "tests.user_tasks:task", "--set", "search.rounds.count=2").err
    assert " ".join(said.split()).count("search.rounds is not used: this searcher does not work in rounds") == 1
    quiet = autoprune.succeed(*OWN, "--task", "tests.user_tasks:task").err
    assert "search.rounds" not in quiet


def test_too_few_evaluations_for_a_round_are_the_users_to_mend(autoprune: Cli, workdir: Path) -> None:
    command = (*SEARCH, "--searcher", "netadapt", "--set", "search.trials=null", "--evaluations", "40")
    assert "the limit on evaluations does not suffice for one round" in autoprune.refused(*command)


@pytest.mark.slow
def test_with_enough_evaluations_no_more_are_spent(autoprune: Cli, workdir: Path) -> None:
    rounds = "search.rounds={count: 4, finetune: {steps: 1, batch_size: 10}}"
    command = (*SEARCH, "--searcher", "netadapt", "--set", "search.trials=null", "--evaluations", "60")
    autoprune.succeed(*command, "--set", rounds, "--set", "evaluation.recalibrate.samples=100", "--output", "run")
    history = history_of(workdir / "run")
    dense = history.last("dense")
    assert dense is not None
    unit = 100 * dense["costs"]["flops"] // 2
    spent = sum(record.get("work", 0) for record in history.records)
    assert 45 * unit < spent <= 60 * unit
    assert history.trials()[-1].candidate.role == "final"


def test_a_round_keeps_its_own_limits_and_the_last_one_the_runs(
    autoprune: Cli, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setups: list[Setup] = []
    limits = Setup.limits
    monkeypatch.setattr(Setup, "limits", lambda self: (setups.append(self), limits(self))[1])
    autoprune.succeed(*SHORT, "--searcher", "netadapt", "--output", "run")
    costs = setups[0].prunable.costs
    for trial in history_of(workdir / "run").trials():
        own = {"flops": trial.candidate.limits["flops"]}
        assert within(trial.candidate.allocation, costs, own)
        final = trial.candidate.role == "final"
        assert (own == limits(setups[0])) == final
        assert trial.costs == costs.costs(trial.candidate.allocation)


def test_children_go_on_from_their_parents_weights(autoprune: Cli, workdir: Path) -> None:
    command = (*SEARCH, "--searcher", "netadapt", "--set", "search.trials=30", "--output", "run")
    autoprune.succeed(*command, "--set", "search.rounds={count: 3, finetune: {steps: 5, rate: 0.01}}")
    trials = history_of(workdir / "run").trials()
    assert len({trial.candidate.parent for trial in trials}) == 3
    best = min(t.score.loss for t in trials if t.candidate.role == "final" and t.score)
    autoprune.succeed(*SEARCH, "--searcher", "uniform", "--output", "uniform")
    (uniform,) = history_of(workdir / "uniform").trials()
    assert uniform.score
    assert best < uniform.score.loss
