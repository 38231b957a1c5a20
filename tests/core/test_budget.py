import math
from fractions import Fraction

import numpy as np
import pytest

from autoprune.core.budget import Budget
from autoprune.errors import BudgetError

DENSE = {"flops": 10_000, "params": 1000, "size": 4000}


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("flops=0.5", {"flops": 5000}),
        ("flops=1", {"flops": 10_000}),
        ("flops=1.", {"flops": 10_000}),
        ("flops=.25", {"flops": 2500}),
        ("flops=5e-1", {"flops": 5000}),
        (" flops = 0.5 , params = 0.6 ,", {"flops": 5000, "params": 600}),
        ("flops=4k", {"flops": 4000}),
        ("flops=0.02M", {"flops": 20_000}),
        ("params=200", None),
        ("params=0.5k", {"params": 500}),
        ("size=3kB", {"size": 3000}),
        ("size=3 KB", {"size": 3000}),
        ("size=123B", {"size": 123}),
        ("flops=0.29999", {"flops": 2999}),
        ("0.5", {"flops": 5000}),
        ("0.5,params=0.6", {"flops": 5000, "params": 600}),
    ],
)
def test_budgets_are_read_into_whole_numbers(text, limits):
    if limits is None:
        with pytest.raises(BudgetError, match="add a unit"):
            Budget.of(text)
    else:
        assert Budget.of(text).resolve(DENSE) == limits


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (" , ", "is empty"),
        ("flops", "should read COST=LIMIT"),
        ("20M", "should read COST=LIMIT"),
        ("0.5 0.6", "should read COST=LIMIT"),
        ("60", "'flops=60': without a unit a limit is a fraction"),
        ("flops=", "is not a number"),
        ("flops=abc", "'abc' is not a number"),
        ("flops=50%", "is not a number"),
        ("flops=nan", "is not a number"),
        ("flops=inf", "is not a number"),
        ("flops=0", "above 0 and at most 1"),
        ("flops=-0.5", "above 0 and at most 1"),
        ("flops=1.5", "at most 1; for an absolute limit add a unit"),
        ("flops=1e6", "at most 1; for an absolute limit add a unit"),
        ("flops=1e400M", "above 0 and finite"),
        ("flops=0M", "above 0 and finite"),
        ("flops=-3M", "above 0 and finite"),
        ("flops=20MB", "unknown unit 'MB'; flops takes k, K, M, G, T"),
        ("size=20M", "unknown unit 'M'; size takes B, kB, KB, MB, GB"),
        ("watts=1", "unknown cost 'watts'.*known: flops, params, size"),
        ("flop=0.5", "did you mean 'flops'"),
        ("flops=0.5,flops=0.6", "limits flops twice"),
        ("flops=0.5;params=0.6", "is not a number"),
    ],
)
def test_what_is_no_budget_is_explained(text, message):
    with pytest.raises(BudgetError, match=message):
        Budget.of(text)


def test_a_budget_may_be_a_mapping_or_a_budget():
    budget = Budget.of({"flops": 0.5, "params": "200k"})
    assert str(budget) == "flops=0.5,params=200k"
    assert Budget.of(budget) is budget
    assert Budget.of("flops=0.5,params=200k") == budget


@pytest.mark.parametrize("value", [0.5, 1, np.float32(0.25), Fraction(1)])
def test_a_number_alone_is_a_fraction_of_the_flops(value):
    assert Budget.of(value).resolve(DENSE) == {"flops": float(value) * 10_000}


@pytest.mark.parametrize(
    "value",
    [True, None, 0, 1.5, -0.5, math.nan, math.inf, 20_000_000, [0.5], ["flops=0.5"], (0.5, 0.6), object(), b"1"],
)
def test_what_is_neither_text_nor_mapping_nor_a_fraction_is_refused_in_one_line(value):
    with pytest.raises(BudgetError, match=r"\A[^\n]*(expected|at most 1)[^\n]*\Z"):
        Budget.of(value)


@pytest.mark.parametrize("value", [{}, {"flops": None}, {"flops": True}, {"flops": "0.5,params=0.6"}])
def test_a_mapping_that_is_no_budget_is_refused(value):
    with pytest.raises(BudgetError):
        Budget.of(value)


def test_a_budget_written_as_text_reads_back():
    for text in ("flops=0.5", "flops=20M,params=0.6", "size=3.5 MB"):
        assert Budget.of(str(Budget.of(text))) == Budget.of(text)


def test_a_size_is_refused_where_weights_are_only_set_to_zero():
    assert Budget.of("flops=0.5,params=0.5").resolve(DENSE, effective=True) == {"flops": 5000, "params": 500}
    with pytest.raises(BudgetError, match=r"size=1kB cannot be met by setting weights to zero.*limit flops or params"):
        Budget.of("flops=0.5,size=1kB").resolve(DENSE, effective=True)
