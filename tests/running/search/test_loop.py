"""How a searcher is brought back to where the ledger left it, and what is said of how a search ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from autoprune.core.allocation import Allocation
from autoprune.core.ledger import Ledger, read_history
from autoprune.core.metrics import LOSS
from autoprune.core.trial import Candidate, Failure, Trial
from autoprune.running.search.loop import ReplayError, SearchLoop, replay
from tests.journeys import OWN, Cli
from tests.scores import scored


class Follower:
    """Proposes one more than the number of the last trial that it was told had a score."""

    parents: frozenset[int] = frozenset()

    def __init__(self, first: int = 10) -> None:
        self.next = first
        self.told: list[int] = []
        self.asked = 0

    def ask(self, limit: int) -> Sequence[Candidate]:
        self.asked += 1
        return [Candidate(self.asked - 1, Allocation({"a": self.next + self.asked}))]

    def tell(self, trial: Trial) -> None:
        self.told.append(trial.number)
        if trial.score is not None:
            self.next = 10 * (trial.number + 2)


def write_run(folder: Path) -> list[Candidate]:
    """Asks two, is told the second, asks a third, is told a failure, asks a fourth, of which nothing is known."""
    searcher, asked = Follower(), []
    with Ledger(folder / "ledger.jsonl") as ledger:
        ledger.write("started", version=1)

        def ask() -> Candidate:
            (candidate,) = searcher.ask(1)
            ledger.asked(candidate)
            asked.append(candidate)
            return candidate

        def tell(trial: Trial) -> None:
            ledger.told(trial)
            searcher.tell(trial)

        first, second = ask(), ask()
        tell(Trial(second, scored(0.5, 0.9, 10)))
        third = ask()
        tell(Trial(third, Failure("nan", "loss nan")))
        tell(Trial(first, scored(0.4, 0.9, 10)))
        ask()
    return asked


def test_a_replay_asks_and_tells_in_the_order_of_the_ledger(tmp_path: Path) -> None:
    asked = write_run(tmp_path)
    searcher = Follower()
    trials = replay(read_history(tmp_path), searcher)
    assert [trial.number for trial in trials] == searcher.told == [1, 2, 0]
    assert searcher.asked == 4
    assert read_history(tmp_path).open_candidates() == [asked[3]]


def test_a_searcher_that_proposes_something_else_is_noticed(tmp_path: Path) -> None:
    write_run(tmp_path)
    with pytest.raises(ReplayError, match="candidate 0 cannot be replayed"):
        replay(read_history(tmp_path), Follower(first=11))


def test_a_network_that_is_written_stays_until_its_trial_is_told(tmp_path: Path) -> None:
    """One worker's result comes in between another's network and its result."""
    asked = write_run(tmp_path)
    names = [f"{each.number}.pt" for each in asked]
    for name in names:
        (tmp_path / name).touch()
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        run = SimpleNamespace(
            history=read_history(tmp_path),
            ledger=ledger,
            folder=SimpleNamespace(weights=tmp_path),
            setup=SimpleNamespace(
                experiment=SimpleNamespace(search=SimpleNamespace(rerank=SimpleNamespace(top=1))),
            ),
        )
        loop = SearchLoop(cast(Any, run), cast(Any, SimpleNamespace(objective=LOSS)), cast(Any, Follower()))
        assert sorted(path.name for path in tmp_path.glob("*.pt")) == [names[0], names[3]]  # the best, and the open one
        job = loop.next()
        assert job is not None
        loop.take(job, Trial(job.candidate, scored(0.3, 0.9, 10)))
    assert [path.name for path in tmp_path.glob("*.pt")] == [names[3]]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--searcher", "uniform"),
            "ended after 1 of 3 trials: searcher 'uniform' has nothing more to propose",
        ),
        (("--searcher", "random", "--trials", "90", "--evaluations", "6"), "the rest of --evaluations does not pay"),
        (("--searcher", "random"), None),
    ],
)
@pytest.mark.usefixtures("without_latencies")
def test_a_search_that_ends_before_its_number_of_trials_says_why(
    autoprune: Cli, workdir: Path, options: tuple[str, ...], said: str | None
) -> None:
    printed = " ".join(autoprune.succeed(*OWN, "--task", "tests.user_tasks:task", *options).err.split())
    if said is None:
        assert "the search ended" not in printed
    else:
        assert said in printed
