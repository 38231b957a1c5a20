from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest

from autoprune.core.ledger import History
from autoprune.reporting.results import Result, results_csv, results_in, results_table, short
from autoprune.reporting.terminal import plain_console
from tests.scores import ACCURACY, scored

DENSE = Result("dense", None, {}, scored(0.1, 0.95, 10), scored(0.2, 0.9, 10), {"flops": 2000, "params": 400}, 1.5)
BEST = Result("best", 3, {"a": 2}, scored(0.3, 0.85, 10), None, {"flops": 1000, "params": 300}, 0.5)


def test_results_survive_the_ledger_and_the_newest_of_each_name_counts() -> None:
    older = {**BEST.to_json(), "number": 1}
    records = [{"event": "result", **row} for row in (DENSE.to_json(), older, BEST.to_json())]
    assert results_in(History(records)) == [DENSE, BEST]
    assert results_in(History([])) == []


def test_the_table_shows_costs_beside_the_dense_network() -> None:
    text = io.StringIO()
    plain_console(text, 140).print(results_table([DENSE, BEST], [ACCURACY], ACCURACY))
    heading, dense, best = text.getvalue().splitlines()
    assert heading.split() == "network accuracy loss FLOPs of dense parameters of dense latency test accuracy".split()
    assert dense.split() == "dense 95.00 % 0.1000 2 k 100.00 % 400 100.00 % 1.50 ms 90.00 %".split()
    assert best.split() == "best (trial 3) 85.00 % 0.3000 1 k 50.00 % 300 75.00 % 0.50 ms".split()


def test_a_column_says_who_was_trained_where_anybody_was() -> None:
    text = io.StringIO()
    plain_console(text, 160).print(results_table([DENSE, replace(BEST, steps=1500)], [ACCURACY], ACCURACY))
    heading, dense, best = text.getvalue().splitlines()
    assert heading.endswith("trained for")
    assert dense.split()[-4:] == ["90.00", "%", "0", "steps"]
    assert best.split()[-3:] == ["ms", "1,500", "steps"]


def test_costs_without_zeros_are_labelled_in_table_csv_and_ledger() -> None:
    masked = [replace(DENSE, effective=True), replace(BEST, effective=True)]
    text = io.StringIO()
    plain_console(text, 170).print(results_table(masked, [ACCURACY], ACCURACY))
    assert "effective FLOPs of dense effective parameters of dense" in " ".join(text.getvalue().split())
    assert results_csv(masked).startswith(
        "network,trial,accuracy,loss,test_accuracy,test_loss,effective_flops,effective_params,"
    )
    assert results_in(History([{"event": "result", **row.to_json()} for row in masked])) == masked
    older = {name: value for name, value in BEST.to_json().items() if name != "effective"}
    assert results_in(History([{"event": "result", **older}])) == [BEST]


def test_the_csv_holds_plain_numbers() -> None:
    dense, best = csv.DictReader(io.StringIO(results_csv([DENSE, BEST])))
    assert (dense["network"], dense["trial"], dense["test_accuracy"]) == ("dense", "", "0.9")
    assert (best["trial"], best["accuracy"], best["test_accuracy"], best["flops"]) == ("3", "0.85", "", "1000")


@pytest.mark.parametrize(("number", "text"), [(0, "0"), (999, "999"), (20_300_000, "20.3 M"), (1.5e9, "1.5 G")])
def test_short_numbers(number: float, text: str) -> None:
    assert short(number) == text
