"""Kill it anywhere, `--resume`: every candidate is told once, and the end is that of an unbroken run."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from autoprune.core.ledger import Ledger
from autoprune.core.trial import Trial
from autoprune.evaluation.evaluator import Evaluator
from autoprune.reporting.results import results_in
from autoprune.running import setup
from autoprune.tasks.models.digits_resnet import digits_resnet
from tests.journeys import SEARCH, Cli, history_of, search_in_child, trial_results, unbroken_runs
from tests.tiers import rest_slow


def dying(event: str, count: int, torn: bool = False) -> Callable[[], None]:
    """Makes a process kill itself right after it wrote an event for the count-th time, or half of it."""

    def patch() -> None:
        write, seen = Ledger.write, 0

        def write_and_die(self: Ledger, name: str, /, **fields: Any) -> None:
            nonlocal seen
            seen += name == event
            if name == event and seen == count and torn:
                with open(self.path, "ab") as file:
                    file.write(json.dumps({"event": name, **fields}).encode()[:40])
            else:
                write(self, name, **fields)
            if name == event and seen == count:
                os.kill(os.getpid(), signal.SIGKILL)

        Ledger.write = write_and_die  # type: ignore[method-assign]

    return patch


@pytest.fixture(scope="module")
def unbroken(trained_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of an unbroken run by searcher."""
    return unbroken_runs(tmp_path_factory, lambda _: SEARCH)


@pytest.mark.parametrize(
    ("searcher", "event", "count", "torn"),
    rest_slow(
        [
            ("tpe", "level", 3, False),
            ("tpe", "told", 2, True),
            ("tpe", "result", 2, False),
            ("tpe", "started", 1, False),
            ("tpe", "asked", 2, False),
            ("tpe", "told", 3, False),
            ("tpe", "reevaluated", 2, False),
            ("random", "asked", 3, True),
            ("random", "told", 2, False),
        ],
        kept=3,
    ),
)
def test_a_killed_search_goes_on_and_ends_as_if_it_had_not_been(
    autoprune: Cli, workdir: Path, unbroken: Callable[[str], Path], searcher: str, event: str, count: int, torn: bool
) -> None:
    command = (*SEARCH, "--searcher", searcher, "--output", "run")
    assert search_in_child(*command, before=dying(event, count, torn)) == -signal.SIGKILL
    autoprune.succeed("search", "--resume", "run")
    whole, history = history_of(unbroken(searcher)), history_of(workdir / "run")
    assert trial_results(history) == trial_results(whole)
    told = [record["number"] for record in history.of("told")]
    assert told == [0, 1, 2, 3]
    levels = [(record["group"], record["width"]) for record in history.of("level")]
    assert len(set(levels)) == len(levels) == len(whole.of("level"))
    assert [record["score"] for record in history.of("level")] == [record["score"] for record in whole.of("level")]
    assert [r.name for r in results_in(history)] == ["dense", "uniform", "best"]
    assert [r.validation for r in results_in(history)] == [r.validation for r in results_in(whole)]
    assert (workdir / "run" / "best.yaml").read_text() == (unbroken(searcher) / "best.yaml").read_text()


def test_resuming_after_the_uniform_row_of_a_run_that_uniform_won_still_shows_a_best_row(
    autoprune: Cli, workdir: Path
) -> None:
    command = (*SEARCH, "--searcher", "uniform", "--output", "run")
    assert search_in_child(*command, before=dying("result", 2)) == -signal.SIGKILL
    assert "best (trial 0)" in autoprune.succeed("search", "--resume", "run").out


def test_no_widths_are_evaluated_twice(unbroken: Callable[[str], Path]) -> None:
    for searcher in ("tpe", "random"):
        widths = [tuple(widths.items()) for _, widths, _ in trial_results(history_of(unbroken(searcher)))]
        assert len(set(widths)) == len(widths) == 4


def test_the_same_seed_makes_the_same_run_and_another_seed_another(
    autoprune: Cli, workdir: Path, unbroken: Callable[[str], Path]
) -> None:
    first = trial_results(history_of(unbroken("random")))
    for seed in ("0", "1"):
        autoprune.succeed(*SEARCH, "--searcher", "random", "--seed", seed, "--output", seed)
    assert trial_results(history_of(workdir / "0")) == first
    assert trial_results(history_of(workdir / "1"))[1:] != first[1:]


def test_resuming_a_finished_run_prints_its_table_again_and_evaluates_nothing(
    autoprune: Cli, workdir: Path, unbroken: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(unbroken("tpe"), "run")
    first = autoprune.succeed("search", "--resume", "run").out

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was evaluated")

    monkeypatch.setattr(Evaluator, "evaluate_network", refuse)
    monkeypatch.setattr(Evaluator, "build", refuse)
    again = autoprune.succeed("search", "--resume", "run")
    assert again.out == first
    assert "best (trial" in again.out
    assert len(history_of(Path("run")).of("result")) == 3


def test_a_run_whose_checkpoint_changed_is_not_resumed(autoprune: Cli, workdir: Path) -> None:
    state = digits_resnet().state_dict()
    torch.save(state, "w.pt")
    command = (*SEARCH, "--checkpoint", "w.pt", "--output", "run")
    assert search_in_child(*command, before=dying("told", 1)) == -signal.SIGKILL
    before = (workdir / "run" / "ledger.jsonl").read_bytes()
    state["head.bias" if "head.bias" in state else list(state)[-1]] += 1
    torch.save(state, "w.pt")
    assert "was started with another checkpoint" in autoprune.refused("search", "--resume", "run")
    assert (workdir / "run" / "ledger.jsonl").read_bytes() == before


def test_a_run_that_a_process_writes_is_refused_to_others_which_are_told_its_name(
    autoprune: Cli, workdir: Path, unbroken: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(unbroken("tpe"), workdir / "run")
    with Ledger(run / "ledger.jsonl") as ledger, monkeypatch.context() as patch:
        ledger.begin()
        patch.setattr(setup, "prepare", None)  # nothing is loaded before
        said = autoprune.refused("search", "--resume", "run")
    assert f"is being written by process {os.getpid()} on " in said
    autoprune.succeed("search", "--resume", "run")


def test_a_ledger_that_another_release_would_have_written_is_not_replayed(
    autoprune: Cli, workdir: Path, unbroken: Callable[[str], Path]
) -> None:
    run = shutil.copytree(unbroken("random"), workdir / "run")
    lines = (run / "ledger.jsonl").read_text().splitlines(keepends=True)
    lines = [line for line in lines if '"finished"' not in line]  # what has finished is not replayed
    place = next(i for i, line in enumerate(lines) if '"asked"' in line and '"number": 2' in line)
    record = json.loads(lines[place])
    record["widths"]["stage1.conv1"] += 1
    lines[place] = json.dumps(record) + "\n"
    (run / "ledger.jsonl").write_text("".join(lines))
    assert "candidate 2 cannot be replayed" in autoprune.refused("search", "--resume", "run", code=1)


def test_weights_of_all_but_the_best_five_are_dropped(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed(*SEARCH, "--trials", "7", "--searcher", "random", "--output", "run")
    trials = history_of(workdir / "run").trials()
    best = sorted(trials, key=lambda trial: trial.score.loss if trial.score else 9.0)[:5]
    kept = {path.stem for path in (workdir / "run" / "weights").iterdir()}
    assert kept == {str(trial.number) for trial in best}


def stopping(stop: signal.Signals) -> Callable[[], None]:
    """Sends a process a signal of its own when its second trial is told."""

    def patch() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
        told, count = Ledger.told, 0

        def tell_and_stop(self: Ledger, trial: Trial) -> None:
            nonlocal count
            count += 1
            told(self, trial)
            if count == 2:
                os.kill(os.getpid(), stop)

        Ledger.told = tell_and_stop  # type: ignore[method-assign]

    return patch


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_search_says_how_to_go_on(
    workdir: Path, capfd: pytest.CaptureFixture[str], stop: signal.Signals
) -> None:
    assert search_in_child(*SEARCH, "--output", "my run", before=stopping(stop)) == 1
    said = capfd.readouterr().err
    assert "autoprune: interrupted; continue with: autoprune search --resume 'my run'" in said
    assert "Traceback" not in said
    assert search_in_child("search", "--resume", "my run") == 0
    assert len(trial_results(history_of(workdir / "my run"))) == 4
