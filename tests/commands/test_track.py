"""`autoprune track`: the mirror from the ledger, again and elsewhere."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from autoprune.core.ledger import Ledger
from tests.journeys import HALF, TINY, Cli, DigitsRun, history_of, search_in_child
from tests.reporting.ledgers import OUTCOMES, write_run
from tests.running.test_resuming import dying
from tests.running.tracking.test_mlflow_client import runs


def mirror_of(store: str) -> tuple[Any, ...]:
    """All that the mirror of a run shows, without ids and clocks."""
    parent, children = runs(store)
    history = MlflowClient(store).get_metric_history(parent.info.run_id, "best_loss")
    kept = {name: text for name, text in parent.data.tags.items() if name.startswith("autoprune.")}
    return (
        parent.info.run_name,
        parent.info.status,
        parent.data.metrics,
        parent.data.params,
        kept,
        [(point.step, point.value) for point in history],
        [(child.info.run_name, child.info.status, child.data.metrics, child.data.params) for child in children],
        [
            (each.dataset.name, each.dataset.digest, each.tags[0].value)
            for each in sorted(parent.inputs.dataset_inputs, key=lambda each: each.tags[0].value)
        ],
    )


def test_another_store_gets_the_same_mirror_as_the_search_made(
    autoprune: Cli, workdir: Path, digits_run: DigitsRun
) -> None:
    store = f"sqlite:///{workdir / 'other.db'}"
    out = autoprune.succeed("track", digits_run.folder, "--tracking-uri", store).out
    assert "4 of 4 trials mirrored anew" in out
    assert mirror_of(store) == mirror_of(digits_run.store)
    best = {path.path for path in MlflowClient(store).list_artifacts(runs(store)[0].info.run_id)}
    assert {"best.yaml", "results.csv", "frontier.png", "sensitivity.png", "weights"} <= best


@pytest.mark.slow
def test_done_twice_it_adds_nothing(autoprune: Cli, workdir: Path, digits_run: DigitsRun) -> None:
    store = f"sqlite:///{workdir / 'other.db'}"
    autoprune.succeed("track", digits_run.folder, "--tracking-uri", store)
    first, id_ = mirror_of(store), runs(store)[0].info.run_id
    out = autoprune.succeed("track", digits_run.folder, "--tracking-uri", store).out
    assert "0 of 4 trials mirrored anew, 4 were there" in out
    assert mirror_of(store) == first
    assert runs(store)[0].info.run_id == id_


def test_a_mirror_that_was_cut_in_the_middle_is_completed(
    autoprune: Cli, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(workdir / "run")
    (workdir / "run" / "best.yaml").write_text("trial: 3\n")
    store, log, calls = f"sqlite:///{workdir / 'mlflow.db'}", MlflowClient.log_batch, 0

    def failing(self: MlflowClient, *arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:  # two for the parent, one for the child before
            raise ConnectionError("the server went away")
        return log(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", failing)
        assert "went away" in autoprune("track", "run").err
    assert autoprune.succeed("track", "run").out.startswith(f"{len(OUTCOMES) - 1} of 5 trials")
    (workdir / "elsewhere").mkdir()
    shutil.move(workdir / "run", workdir / "elsewhere" / "run")
    autoprune.succeed("track", "elsewhere/run", "--tracking-uri", f"sqlite:///{workdir / 'whole.db'}")
    whole, completed = mirror_of(f"sqlite:///{workdir / 'whole.db'}"), mirror_of(store)
    assert completed[:4] == whole[:4]
    assert completed[5:] == whole[5:]
    assert completed[5] == [(1, 0.5), (2, 0.5), (3, 0.5), (4, 0.3), (5, 0.3)]


def test_an_interrupted_run_is_mirrored_as_killed(autoprune: Cli, workdir: Path) -> None:
    write_run(workdir / "run", ended=False)
    assert "the run is interrupted" in autoprune.succeed("track", "run").out
    parent, children = runs(f"sqlite:///{workdir / 'mlflow.db'}")
    assert parent.info.status == "KILLED"
    assert len(children) == 5


def test_the_mirror_of_a_killed_search_is_complete_after_track_and_after_resuming(
    autoprune: Cli, workdir: Path
) -> None:
    store = f"sqlite:///{workdir / 'mlflow.db'}"
    assert search_in_child("search", *HALF, *TINY, "--output", "run", before=dying("told", 3)) == -signal.SIGKILL
    told = [str(trial.number) for trial in history_of(Path("run")).trials()]
    autoprune.succeed("track", "run")
    parent, children = runs(store)
    assert ([child.info.run_name for child in children], parent.info.status) == (told, "KILLED")
    autoprune.succeed("search", "--resume", "run")
    again, children = runs(store)
    assert ([child.info.run_name for child in children], again.info.status) == (["0", "1", "2", "3"], "FINISHED")
    assert again.info.run_id == parent.info.run_id
    assert "0 of 4 trials mirrored anew" in autoprune.succeed("track", "run").out


def test_what_cannot_be_tracked_is_refused(autoprune: Cli, workdir: Path) -> None:
    assert "has no ledger.jsonl" in autoprune.refused("track", "missing")
    folder = write_run(workdir / "run", ended=False)
    with Ledger(folder / "ledger.jsonl"):
        assert "mirrors it itself" in autoprune.refused("track", "run")
    write_run(workdir / "secret", track={"uri": "https://***@host", "experiment": "autoprune"})
    assert "credentials" in autoprune.refused("track", "secret")
    assert "MLflow cannot be written" in autoprune.refused("track", "run", "--tracking-uri", "nonsense://x", code=1)
