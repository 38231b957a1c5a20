import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from autoprune.core.budget import COST_KINDS
from autoprune.core.costs import CostTable, CostTerm, Count, within
from autoprune.errors import UserError
from tests.core.networks import branched_tables, canonical, drawn_widths, slow_costs, tables

any_tables = st.one_of(tables(), branched_tables())


def movable(table, widths):
    """The groups of which one more structure brings back no branch."""
    leads = {term.branch for term in table.terms if term.branch} | set(table.leads.values())
    gone = {name for name in leads if widths[name] == 0}
    return [name for name in widths if name not in gone and table.leads.get(name) not in gone]


@given(any_tables, st.data())
@settings(max_examples=150, deadline=None)
def test_costs_equal_a_slow_loop_over_the_terms(table, data):
    widths = drawn_widths(table, data)
    assert table.costs(widths) == slow_costs(table, widths)
    assert table.dense() == slow_costs(table, table.widths)
    for kind in COST_KINDS:
        assert sum(table.by_layer(kind, widths).values()) == table.cost(widths, kind)


@given(any_tables, st.data())
@settings(max_examples=100, deadline=None)
def test_costs_at_some_widths_know_what_a_step_adds(table, data):
    widths = canonical(table, drawn_widths(table, data))
    names = movable(table, widths)
    assume(names)
    name, by = data.draw(st.sampled_from(names)), data.draw(st.integers(0, 9))
    column = list(table.widths).index(name)
    costs = table.at(table.vector(widths))
    expected = list(slow_costs(table, {**widths, name: widths[name] + by}).values())
    columns, steps = np.arange(len(widths)), np.full(len(widths), by)
    assert (costs.spent + costs.rises(columns, steps)[:, column]).tolist() == expected


@given(any_tables, st.data())
@settings(max_examples=60, deadline=None)
def test_costs_at_several_widths_are_those_of_each_by_itself(table, data):
    several = np.array([table.vector(drawn_widths(table, data)) for _ in range(3)])
    together = table.at(several)
    for i, widths in enumerate(several):
        alone = table.at(widths)
        assert (together[i].spent == alone.spent).all()
        assert (together[i].slopes == alone.slopes).all()
        assert (together[i].curvature == alone.curvature).all()


@given(any_tables, st.data())
@settings(max_examples=60, deadline=None)
def test_slopes_are_the_central_difference_which_is_exact_for_a_quadratic(table, data):
    widths = canonical(table, drawn_widths(table, data))
    steady = [name for name in movable(table, widths) if widths[name] != 1]  # with one less a branch may go
    for kind in COST_KINDS:
        for name in steady:
            slope = table.slopes(widths, kind)[name]
            wider = slow_costs(table, {**widths, name: widths[name] + 1})[kind]
            narrower = slow_costs(table, {**widths, name: widths[name] - 1})[kind]
            assert 2 * slope == wider - narrower


def conv_pair():
    """Two 3x3 convolutions on 4x4 pixels, 3 -> a -> b channels, with bias in the second; counted by hand below."""
    a, b = Count(0, {"a": 1}), Count(0, {"b": 1})
    terms = [
        CostTerm("flops", "one", 2 * 9 * 16 * 3, a),
        CostTerm("flops", "two", 2 * 9 * 16, a, b),
        CostTerm("params", "one", 9 * 3, a),
        CostTerm("params", "two", 9, a, b),
        CostTerm("params", "two", 1, b),
    ]
    return CostTable(terms, {"a": 4, "b": 6})


def test_costs_of_two_convolutions_worked_by_hand():
    table = conv_pair()
    assert table.dense() == {"flops": 3456 + 6912, "params": 108 + 216 + 6, "size": 0}
    assert table.costs({"a": 2}) == {"flops": 1728 + 3456, "params": 54 + 108 + 6, "size": 0}
    assert table.cost({"a": 2, "b": 3}, "params") == 54 + 54 + 3


def test_costs_without_a_branch_worked_by_hand():
    """A bottleneck on a stream of 5, of 1x1 convolutions to a, to b and back, with a bias; and one of the stream."""
    a, b, stream = Count(0, {"a": 1}), Count(0, {"b": 1}), Count(0, {"s": 1})
    branch = [
        CostTerm("params", "into", 1, stream, a, branch="a"),
        CostTerm("params", "inside", 1, a, b, branch="a"),
        CostTerm("params", "out", 1, b, stream, branch="a"),
        CostTerm("params", "out", 1, stream, branch="a"),
        CostTerm("params", "stream", 1, stream, stream, branch="a"),
    ]
    stem = CostTerm("params", "stem", 3, stream)
    table = CostTable([stem, *branch], {"s": 5, "a": 2, "b": 4}, leads={"b": "a"})
    assert table.dense()["params"] == 15 + 10 + 8 + 20 + 5 + 25
    assert table.cost({"a": 0}, "params") == table.cost({"a": 0, "b": 3}, "params") == 15
    assert table.cost({"a": 0, "s": 2}, "params") == 6
    assert table.slopes({"a": 0}, "params")["s"] == 3
    assert table.by_layer("params", {"a": 0}) == {"stem": 15, "into": 0, "inside": 0, "out": 0, "stream": 0}


def test_layers_that_share_counts_still_both_count():
    shared = Count(0, {"a": 1})
    table = CostTable([CostTerm("flops", "one", 5, shared), CostTerm("flops", "two", 7, shared)], {"a": 3})
    assert table.dense()["flops"] == 36
    assert table.by_layer("flops") == {"one": 15, "two": 21}


def test_shares_of_the_layers_add_up_to_the_dense_cost():
    assert conv_pair().by_layer("params") == {"one": 108, "two": 222}


def test_a_table_without_terms_costs_nothing():
    assert CostTable([], {"a": 3}).dense() == {"flops": 0, "params": 0, "size": 0}


def test_a_group_that_the_network_lacks_is_named():
    with pytest.raises(UserError, match=r"no group 'c'; it has a, b"):
        conv_pair().costs({"c": 1})


def test_a_term_over_an_unknown_group_is_refused():
    with pytest.raises(ValueError, match="without a width"):
        CostTable([CostTerm("flops", "one", 1, Count(0, {"x": 1}))], {"a": 1})


def test_within_holds_up_to_the_limit_itself():
    width = Count(0, {"a": 1})
    table = CostTable([CostTerm("flops", "x", 1000, width), CostTerm("params", "x", 100, width)], {"a": 10})
    assert within({"a": 5}, table, {"flops": 5000, "params": 500})
    assert not within({"a": 5}, table, {"flops": 5000, "params": 499})
