from __future__ import annotations

import random
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from autoprune.core.allocation import Allocation
from autoprune.core.budget import COST_KINDS
from autoprune.core.costs import CostTable, CostTerm, Count, within
from autoprune.core.projection import CostCurvature, Projection, Slack, check_feasible
from autoprune.core.space import Bounds
from autoprune.errors import BudgetInfeasible
from tests.core.networks import drawn_widths, networks, slow_costs, space_of, tables


def feasible(network):
    return within(network.space.narrowest(), network.costs, network.limits)


def project(allocation, space, costs, limits):
    return Projection(space, costs, limits).project(allocation)


def projected(network, proposal=None):
    return project(proposal or network.proposal, network.space, network.costs, network.limits)


def single_steps(allocation, space):
    """Every allocation with one group one level wider, by the list of levels."""
    for name, width in allocation.items():
        wider = [level for level in space.bounds[name].levels() if level > width]
        if wider:
            yield Allocation({**allocation, name: wider[0]})


@given(networks())
@settings(max_examples=100, deadline=None)
def test_a_projection_keeps_every_limit_and_lies_in_the_space(network):
    assume(feasible(network))
    result = projected(network)
    assert within(result, network.costs, network.limits)
    assert all(width in network.space.bounds[name].levels() for name, width in result.items())
    assert set(result) == set(network.space.names)


@given(networks())
@settings(max_examples=100, deadline=None)
def test_no_single_step_of_a_projection_still_fits(network):
    assume(feasible(network))
    result = projected(network)
    assert not [step for step in single_steps(result, network.space) if within(step, network.costs, network.limits)]


def repaired(network, proposal=None):
    return Projection(network.space, network.costs, network.limits).repair(proposal or network.proposal)


@given(networks())
@settings(max_examples=60, deadline=None)
def test_a_repair_keeps_every_limit_lies_in_the_space_and_widens_nothing(network):
    assume(feasible(network))
    result = repaired(network)
    assert within(result, network.costs, network.limits)
    assert result in network.space
    lowest = network.space.narrowest()
    assert all(result[name] <= max(network.proposal[name], lowest[name]) for name in network.space.names)


@given(networks())
@settings(max_examples=60, deadline=None)
def test_a_repair_leaves_alone_what_keeps_the_limits(network):
    assume(feasible(network))
    assert repaired(network, network.space.narrowest()) == network.space.narrowest()
    result = repaired(network)
    assert repaired(network, result) == result


@given(networks())
@settings(max_examples=60, deadline=None)
def test_projecting_twice_is_projecting_once(network):
    assume(feasible(network))
    assert projected(network, projected(network)) == projected(network)


@given(networks(), st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_a_maximal_allocation_that_fits_is_left_alone(network, rng):
    assume(feasible(network))
    allocation = network.space.narrowest()
    while steps := [s for s in single_steps(allocation, network.space) if within(s, network.costs, network.limits)]:
        allocation = rng.choice(steps)
    assert projected(network, allocation) == allocation


@given(networks())
@settings(max_examples=80, deadline=None)
def test_a_budget_is_infeasible_exactly_if_the_narrowest_allocation_is_above_it(network):
    if feasible(network):
        projected(network)
    else:
        with pytest.raises(BudgetInfeasible):
            projected(network)


@given(networks(), st.data())
@settings(max_examples=50, deadline=None)
def test_several_are_projected_as_each_by_itself(network, data):
    assume(feasible(network))
    onto = Projection(network.space, network.costs, network.limits)
    ceilings = onto.ceiling.tolist()
    widths = [[data.draw(st.integers(0, ceiling + 3)) for ceiling in ceilings] for _ in range(4)]
    together = onto.projected(np.array(widths))
    assert together == [onto.project(dict(zip(onto.names, each, strict=True))) for each in widths]


def chain(widths, factor=18):
    """Convolutions in a row."""
    names = list(widths)
    sides = [Count(3), *(Count(0, {name: 1}) for name in names)]
    pairs = list(zip(names, sides, sides[1:], strict=False))
    flops = [CostTerm("flops", name, factor, left, right) for name, left, right in pairs]
    params = [CostTerm("params", name, 9, left, right) for name, left, right in pairs]
    return CostTable([*flops, *params], widths)


def test_projection_keeps_pinned_groups_dense():
    costs = chain({"a": 16, "b": 16, "c": 16})
    space = space_of({"a": Bounds(1, 16), "c": Bounds(1, 16)})
    limits = {"flops": costs.dense()["flops"] // 2}
    result = project({"a": 16, "b": 1, "c": 16}, space, costs, limits)
    assert set(result) == {"a", "c"}
    assert within({**result, "b": 16}, costs, limits)
    assert not within({**result, "a": result["a"] + 1}, costs, limits)


def test_repair_keeps_the_proportions_of_a_proposal():
    costs = chain({f"g{i}": 100 for i in range(6)})
    space = space_of({name: Bounds(1, 100) for name in costs.widths})
    wanted = {name: 100 if i % 2 else 50 for i, name in enumerate(space.names)}
    result = project(wanted, space, costs, {"flops": costs.dense()["flops"] // 6})
    for wide, narrow in zip(space.names[1::2], space.names[0::2], strict=True):
        assert result[wide] / result[narrow] == pytest.approx(2, rel=0.08)


def test_a_limit_that_does_not_bind_changes_nothing():
    costs = chain({f"g{i}": 30 for i in range(5)})
    space = space_of({name: Bounds(3, 30) for name in costs.widths})
    dense, wanted = costs.dense(), {name: 5 + 5 * i for i, name in enumerate(space.names)}
    alone = project(wanted, space, costs, {"flops": dense["flops"] // 3})
    assert project(wanted, space, costs, {"flops": dense["flops"] // 3, "params": dense["params"]}) == alone


def test_what_was_to_go_whole_comes_back_last_and_only_if_it_fits():
    names = ["a", "b", "c"]
    costs = CostTable([CostTerm("flops", name, 10, Count(0, {name: 1})) for name in names], dict.fromkeys(names, 1))
    space = space_of({name: Bounds(0, 1) for name in names})
    for gone in names:
        wanted = {name: int(name != gone) for name in names}
        assert project(wanted, space, costs, {"flops": 20}) == wanted
        assert project(wanted, space, costs, {"flops": 30}) == {"a": 1, "b": 1, "c": 1}
    assert project(dict.fromkeys(names, 1), space, costs, {"flops": 0}) == {"a": 0, "b": 0, "c": 0}


def test_proposals_that_differ_stay_different():
    costs = chain({f"g{i}": 64 for i in range(12)})
    limits = {"flops": costs.dense()["flops"] // 2}
    rng = random.Random(0)
    for step in (1, 8):
        space = space_of({name: Bounds(6, 64, step) for name in costs.widths})
        for most in (64, 24):  # far above the budget, and far below
            results = {
                project({name: rng.randint(6, most) for name in space.names}, space, costs, limits) for _ in range(100)
            }
            assert len(results) >= (98 if step == 1 else 90)


def test_coarse_steps_do_not_favour_the_early_groups():
    """Two levels a group: what is left after repair decides alone who is wide, so ties must fall on all alike."""
    names = [f"layer{i}" for i in range(10)]
    costs = CostTable([CostTerm("flops", name, 1, Count(0, {name: 1})) for name in names], dict.fromkeys(names, 16))
    space = space_of({name: Bounds(8, 16, 8) for name in names})
    rng, wide = random.Random(1), Counter()
    for _ in range(600):
        result = project({name: rng.choice([8, 16]) for name in names}, space, costs, {"flops": 8 * 13})
        assert sum(width == 16 for width in result.values()) == 3
        wide.update(name for name, width in result.items() if width == 16)
    assert min(wide.values()) > 130
    assert max(wide.values()) < 230


def test_a_group_without_cost_is_filled_to_its_ceiling():
    costs = CostTable([CostTerm("flops", "a", 10, Count(0, {"a": 1}))], {"a": 10, "free": 5000})
    space = space_of({"a": Bounds(1, 10), "free": Bounds(1, 5000)})
    assert project({"a": 10, "free": 1}, space, costs, {"flops": 50}) == {"a": 5, "free": 5000}


@pytest.mark.parametrize(("groups", "seconds"), [(12, 0.002), (300, 0.030)])
def test_projection_is_fast(groups, seconds):
    rng = random.Random(0)
    costs = chain({f"g{i}": rng.choice([16, 64, 256]) for i in range(groups)})
    space = space_of({name: Bounds(1, width) for name, width in costs.widths.items()})
    limits = {"flops": costs.dense()["flops"] // 2, "params": int(costs.dense()["params"] * 0.6)}
    wanted = {name: rng.randint(1, width) for name, width in costs.widths.items()}
    times = []
    for _ in range(15):
        begin = time.process_time()
        project(wanted, space, costs, limits)
        times.append(time.process_time() - begin)
    assert min(times) < seconds


def test_an_unreachable_budget_names_every_limit_missed_with_its_least_value():
    width = Count(0, {"a": 1})
    terms = [CostTerm(kind, "x", factor, width) for kind, factor in {"flops": 1000, "params": 100, "size": 400}.items()]
    table, space = CostTable(terms, {"a": 10}), space_of({"a": Bounds(4, 10)})
    check_feasible(space, table, {"flops": 4000})
    with pytest.raises(BudgetInfeasible) as caught:
        check_feasible(space, table, {"flops": 3999, "params": 10, "size": 9999})
    assert "flops at most 3,999 (0.400 of the dense network)" in str(caught.value)
    assert "4,000 remain (0.400)" in str(caught.value)
    assert "params at most 10" in str(caught.value)
    assert "size" not in str(caught.value)
    assert "raise the budget or allow narrower groups" in str(caught.value)


UNLIMITED = np.iinfo(np.int64).max


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

    curvature = CostCurvature(table, given_limits, columns)
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
    curvature = CostCurvature(table, limits, columns)
    slack = Slack.beside(table.at(table.vector({"a": 4, "b": 5})), curvature, limits, columns)
    assert [slack.holds(1, 2), slack.holds(1, 3)] == [True, False]  # 4 · 7 · 2 = 56
    slack.widen(0, -1)
    assert [slack.holds(1, 5), slack.holds(1, 6)] == [True, False]  # 3 · 10 · 2 = 60
