"""What goes wrong with a candidate is its outcome; what goes wrong with all of them ends the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from autoprune import registry
from autoprune.core.allocation import Allocation
from autoprune.core.trial import Failure
from autoprune.searchers.base.sequential import SequentialSearcher
from tests import user_tasks
from tests.journeys import OWN, SEARCH, Cli, history_of

FAULTY = (*OWN, "--task", "tests.user_tasks:faulty", "--searcher", "tpe", "--output", "run")
# The dense network, the dense network re-estimated, and two levels of two groups are judged before the first trial.
FIRST_TRIAL = 6


def at(first: int, spoil: Callable[[Tensor], Tensor], last: int | None = None) -> None:
    """Spoils the losses of some judgements, counted from 0."""

    def fault(batches_seen: int, loss: Tensor) -> Tensor:
        return spoil(loss) if first <= batches_seen <= (first if last is None else last) else loss

    user_tasks.faults.append(fault)


def raising(error: BaseException) -> Callable[[Tensor], Tensor]:
    def spoil(_: Tensor) -> Tensor:
        raise error

    return spoil


@pytest.mark.parametrize(
    ("spoil", "kind", "reason"),
    [
        (raising(ValueError("no luck")), "exception", "ValueError: no luck"),
        (raising(MemoryError("too large")), "out_of_memory", "too large"),
        (raising(torch.OutOfMemoryError("CUDA out of memory")), "out_of_memory", "CUDA out of memory"),
        (lambda loss: loss * float("nan"), "nan", "loss nan"),
        (lambda loss: loss * float("inf"), "nan", "loss inf"),
    ],
)
def test_a_candidate_that_fails_is_a_failed_trial_and_the_run_goes_on(
    autoprune: Cli, workdir: Path, spoil: Callable[[Tensor], Tensor], kind: str, reason: str
) -> None:
    at(FIRST_TRIAL + 1, spoil)
    out = autoprune.succeed(*FAULTY).out
    assert "3 trials, 1 of them failed" in out
    trials = history_of(workdir / "run").trials()
    assert [trial.score is not None for trial in trials] == [True, False, True]
    assert isinstance(trials[1].outcome, Failure)
    assert trials[1].outcome.kind == kind
    assert reason in trials[1].outcome.reason
    assert not (workdir / "run" / "weights" / "1.pt").exists()
    refused = autoprune.refused("apply", "run", "--trial", 1, "--output", "p.pt")
    assert refused.startswith(f"trial 1 of run failed ({kind}: ")
    assert "leave out --trial for the best" in refused
    assert "3 trials, 1 of them failed" in autoprune.succeed("search", "--resume", "run").out


def test_a_run_whose_candidates_all_fail_says_so(autoprune: Cli, workdir: Path) -> None:
    at(FIRST_TRIAL, raising(ValueError("no luck")), last=99)
    message = autoprune.refused(*FAULTY, code=1)
    assert "none of 3 candidates could be scored (exception: ValueError: no luck)" in message
    assert "run/ledger.jsonl" in message
    assert len(history_of(workdir / "run").trials()) == 3
    assert "no scored trial yet" in autoprune.refused("apply", "run", "--output", "p.pt")
    assert "none of 3 candidates" in autoprune.refused("search", "--resume", "run", code=1)


@pytest.mark.parametrize("spoil", [raising(ValueError("no luck")), lambda loss: loss * float("nan")])
def test_a_level_of_the_sweep_that_fails_is_left_out_of_its_curve(
    autoprune: Cli, workdir: Path, spoil: Callable[[Tensor], Tensor]
) -> None:
    at(2, spoil)
    outcome = autoprune.succeed(*FAULTY)
    assert "sensitivity: second at" in outcome.err
    history = history_of(workdir / "run")
    assert ["failure" in record for record in history.of("level")] == [False, True, False, False, False]
    assert (workdir / "run" / "sensitivity.csv").read_text().count("\nsecond,") == 2
    assert autoprune.succeed("search", "--resume", "run").out == outcome.out


@pytest.mark.parametrize("spoil", [raising(ValueError("no luck")), lambda loss: loss * float("nan")])
def test_a_dense_network_that_cannot_be_evaluated_is_the_users_to_mend(
    autoprune: Cli, workdir: Path, spoil: Callable[[Tensor], Tensor]
) -> None:
    at(0, spoil)
    assert "the dense network cannot be evaluated" in autoprune.refused(*FAULTY)
    user_tasks.faults.clear()
    user_tasks.batches_seen = 0
    at(1, spoil)
    assert "after its batch norm was re-estimated" in autoprune.refused(*FAULTY[:-1], "run2")


def test_a_network_that_refuses_some_widths_only_loses_those(autoprune: Cli, workdir: Path) -> None:
    command = (*OWN, "--task", "tests.user_tasks:refusing_task", "--searcher", "tpe", "--trials", "8")
    command = (*command, "--budget", "flops=0.45")
    autoprune.succeed(*command, "--output", "run")
    trials = history_of(workdir / "run").trials()
    for trial in trials:
        assert (trial.score is None) == (trial.candidate.allocation["second"] < 8)
    assert any(trial.score is None for trial in trials)


def test_a_searcher_above_the_budget_stops_the_run(
    autoprune: Cli, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Greedy(SequentialSearcher):
        uses_curves = False

        def _next(self) -> Allocation:
            return Allocation(self._history.problem.space.widest())

    monkeypatch.setattr(registry, "resolve", lambda kind, name: Greedy if kind == "searcher" else resolve(kind, name))
    message = autoprune.refused(*SEARCH, "--output", "run", code=1)
    assert "which is above the budget" in message
    assert history_of(workdir / "run").trials() == []


resolve = registry.resolve


def test_a_task_without_test_samples_is_searched_without_a_test_accuracy(autoprune: Cli, workdir: Path) -> None:
    out = autoprune.succeed(*OWN, "--task", "tests.user_tasks:without_test", "--output", "run").out
    assert "test accuracy" not in out
    assert "test:" not in (workdir / "run" / "best.yaml").read_text()
