import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.core.budget import COST_KINDS
from autoprune.core.costs import CostTable, CostTerm, Count
from autoprune.core.projecting.slack import UNLIMITED, CostCurvature, Slack
from tests.core.networks import drawn_widths, slow_costs, tables


@given(tables(), st.data())
@settings(max_examples=60, deadline=None)
def test_slack_is_what_the_limits_leave_after_any_steps(table, data):
    begin = drawn_widths(table, data)
    names = data.draw(st.permutations(sorted(begin)))  # a space need not have the table's order
    columns = np.array([list(table.widths).index(name) for name in names])
    steps, widths = [], begin
    for _ in range(data.draw(st.integers(0, 4))):
        group = data.draw(st.integers(0, len(names) - 1))
        by = data.draw(st.integers(-widths[names[group]], 9))
        steps.append((group, by))
        widths = {**widths, names[group]: widths[names[group]] + by}
    last, by = data.draw(st.integers(0, len(names) - 1)), data.draw(st.integers(0, 9))
    wider = slow_costs(table, {**widths, names[last]: widths[names[last]] + by})
    limited = data.draw(st.sets(st.sampled_from(COST_KINDS), min_size=1))
    limits = {kind: wider[kind] + data.draw(st.integers(-1, 1)) for kind in limited}  # a slip by one is seen
    given_limits = np.array([limits.get(kind, UNLIMITED) for kind in COST_KINDS])

    curvature = CostCurvature(table.at(table.vector({})).curvature, given_limits, columns)
    slack = Slack.beside(table.at(table.vector(begin)), curvature, given_limits, columns)
    copied = slack.copy()
    holding = [slack.holds(i, 1) for i in range(len(names))]
    for step in steps:
        slack.widen(*step)
    assert slack.holds(last, by) == all(wider[kind] <= limit for kind, limit in limits.items())
    slack.widen(last, by)
    costs = table.at(table.vector({**widths, names[last]: widths[names[last]] + by}))
    again = Slack.beside(costs, curvature, given_limits, columns)
    assert [slack.holds(i, 1) for i in range(len(names))] == [again.holds(i, 1) for i in range(len(names))]
    assert [copied.holds(i, 1) for i in range(len(names))] == holding


def test_what_a_group_costs_changes_with_the_widths_of_those_that_it_reads():
    terms = [CostTerm("flops", "conv", 2, Count(0, {"a": 1}), Count(0, {"b": 1}))]
    table, columns = CostTable(terms, {"a": 8, "b": 8}), np.array([0, 1])
    limits = np.array([60 if kind == "flops" else UNLIMITED for kind in COST_KINDS])
    curvature = CostCurvature(table.at(table.vector({})).curvature, limits, columns)
    slack = Slack.beside(table.at(table.vector({"a": 4, "b": 5})), curvature, limits, columns)
    assert [slack.holds(1, 2), slack.holds(1, 3)] == [True, False]  # 4 · 7 · 2 = 56
    slack.widen(0, -1)
    assert [slack.holds(1, 5), slack.holds(1, 6)] == [True, False]  # 3 · 10 · 2 = 60
