"""Files of earlier releases mean what they meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.config import load_experiment
from autoprune.errors import ConfigError

OLD = """\
search: {trials: 7}
finalists:
  count: 3
  reconstruct: 64
  finetune: {steps: 20, rate: 0.1}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("e.yaml")


def test_finalists_are_what_reranking_is_now(file: Path) -> None:
    file.write_text(OLD)
    now = load_experiment(None, {"search.trials": 7}, ["search.rerank={top: 3, reconstruct: 64, steps: 20, rate: 0.1}"])
    assert load_experiment(file) == now


@pytest.mark.parametrize("text", ["finalists:", "finalists: {count: 5, reconstruct: 0, finetune: null}"])
def test_what_says_nothing_changes_nothing(file: Path, text: str) -> None:
    file.write_text(text)
    assert load_experiment(file) == load_experiment()


def test_options_win_over_an_old_file(file: Path) -> None:
    file.write_text(OLD)
    rerank = load_experiment(file, {}, ["search.rerank.steps=30"]).search.rerank
    assert (rerank.top, rerank.steps, rerank.rate) == (3, 30, 0.1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("finalists:\n  count: 0", "e.yaml:2:10: search.rerank.top: should be at least 1 but is 0"),
        ("finalists:\n  finetune: {steps: 0}", "e.yaml:2:21: search.rerank.steps: should be at least 1 but is 0"),
        ("finalists:\n  cuont: 3", "e.yaml:2:3: search.rerank.cuont: unknown key"),
        ("finalists: {count: 3}\nsearch: {rerank: {top: 3}}", "e.yaml:1:1: finalists: unknown key"),
        ("finalists: 3", "e.yaml:1:1: finalists: unknown key"),
    ],
)
def test_faults_are_found_where_they_stand(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as found:
        load_experiment(file)
    assert any(fault.startswith(said) for fault in found.value.faults), found.value.faults
