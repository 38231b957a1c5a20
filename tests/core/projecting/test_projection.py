from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from autoprune.core.allocation import Allocation
from autoprune.core.costs import CostTable, CostTerm, Count, within
from autoprune.core.projecting.projection import Projection, check_feasible
from autoprune.core.space import Bounds, SearchSpace
from autoprune.errors import BudgetInfeasible
from tests.core.networks import branched_networks, group, networks, space_of

any_networks = st.one_of(networks(), branched_networks())


def feasible(network):
    return within(network.space.narrowest(), network.costs, network.limits)


def project(allocation, space, costs, limits):
    return Projection(space, costs, limits).project(allocation)


def projected(network, proposal=None):
    return project(proposal or network.proposal, network.space, network.costs, network.limits)


def single_steps(allocation, space):
    """Every allocation with one group one level wider, by the list of levels, or one branch back at its narrowest."""
    for name, width in allocation.items():
        wider = [level for level in space.bounds[name].levels() if level > width]
        back = space.bounds[name].removable and width == 0
        inside = [other for other, lead in space.leads.items() if lead == name and back]
        if wider and (name not in space.leads or allocation[space.leads[name]]):
            yield Allocation({**allocation, **{other: space.bounds[other].lowest for other in inside}, name: wider[0]})


@given(any_networks)
@settings(max_examples=100, deadline=None)
def test_a_projection_keeps_every_limit_and_lies_in_the_space(network):
    assume(feasible(network))
    result = projected(network)
    assert within(result, network.costs, network.limits)
    gone = {name for name, lead in network.space.leads.items() if result[lead] == 0}
    assert all(width == 0 or width in network.space.bounds[name].levels() for name, width in result.items())
    assert all(width or name in gone or 0 in network.space.bounds[name].levels() for name, width in result.items())
    assert all(result[name] == 0 for name in gone)
    assert set(result) == set(network.space.names)
    assert result in network.space


@given(any_networks)
@settings(max_examples=100, deadline=None)
def test_no_single_step_of_a_projection_still_fits(network):
    assume(feasible(network))
    result = projected(network)
    assert not [step for step in single_steps(result, network.space) if within(step, network.costs, network.limits)]


def repaired(network, proposal=None):
    return Projection(network.space, network.costs, network.limits).repair(proposal or network.proposal)


@given(any_networks)
@settings(max_examples=60, deadline=None)
def test_a_repair_keeps_every_limit_lies_in_the_space_and_widens_nothing(network):
    assume(feasible(network))
    result = repaired(network)
    assert within(result, network.costs, network.limits)
    assert result in network.space
    inside = network.space.leads  # which get a share where nothing of them was proposed
    assert all(
        result[name] <= max(network.proposal[name], network.space.bounds[name].lowest)
        for name in network.space.names
        if name not in inside or network.proposal[name]
    )


@given(any_networks)
@settings(max_examples=60, deadline=None)
def test_a_repair_leaves_alone_what_keeps_the_limits(network):
    assume(feasible(network))
    assert repaired(network, network.space.narrowest()) == network.space.narrowest()
    result = repaired(network)
    assert repaired(network, result) == result


@given(any_networks)
@settings(max_examples=60, deadline=None)
def test_projecting_twice_is_projecting_once(network):
    assume(feasible(network))
    assert projected(network, projected(network)) == projected(network)


@given(any_networks, st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_a_maximal_allocation_that_fits_is_left_alone(network, rng):
    assume(feasible(network))
    allocation = network.space.narrowest()
    while steps := [s for s in single_steps(allocation, network.space) if within(s, network.costs, network.limits)]:
        allocation = rng.choice(steps)
    assert projected(network, allocation) == allocation


@given(any_networks)
@settings(max_examples=80, deadline=None)
def test_a_budget_is_infeasible_exactly_if_the_narrowest_allocation_is_above_it(network):
    if feasible(network):
        projected(network)
    else:
        with pytest.raises(BudgetInfeasible):
            projected(network)


@given(any_networks, st.data())
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
    with pytest.raises(BudgetInfeasible, match=r"3,000 \(0.150 of the first network\).* 4,000 remain \(0.200\)"):
        check_feasible(space, table, {"flops": 3000}, {"flops": 20_000})


def two_branches():
    """A stream of 10, and two branches of 10 on it that cost 1 for each channel, and 20 for the stream."""
    terms = [
        term
        for lead in ("a", "b")
        for term in (
            CostTerm("flops", lead, 1, Count(0, {"s": 1}), Count(0, {lead: 1}), branch=lead),
            CostTerm("flops", lead, 2, Count(0, {"s": 1}), branch=lead),
        )
    ]
    costs = CostTable(terms, {"s": 10, "a": 10, "b": 10})
    leads = tuple(group(name, 10, least=0) for name in ("a", "b"))
    return SearchSpace(leads, {name: Bounds(2, 10, removable=True) for name in ("a", "b")}), costs


def test_branches_that_are_gone_stay_so_and_others_stay_as_far_as_the_limits_allow():
    space, costs = two_branches()
    assert project({"a": 0, "b": 10}, space, costs, {"flops": 150}) == {"a": 0, "b": 10}
    assert project({"a": 0, "b": 3}, space, costs, {"flops": 100}) == {"a": 0, "b": 8}
    assert project({"a": 10, "b": 10}, space, costs, {"flops": 140}) == {"a": 5, "b": 5}
    # Both at their narrowest cost 80. With less the one of which less is kept goes.
    assert project({"a": 10, "b": 5}, space, costs, {"flops": 80}) == {"a": 2, "b": 2}
    assert project({"a": 10, "b": 5}, space, costs, {"flops": 79}) == {"a": 5, "b": 0}
    assert project({"a": 5, "b": 10}, space, costs, {"flops": 30}) == {"a": 0, "b": 0}


def test_a_branch_comes_back_if_nothing_else_can_use_what_is_left():
    space, costs = two_branches()
    assert project({"a": 0, "b": 10}, space, costs, {"flops": 159}) == {"a": 0, "b": 10}
    assert project({"a": 0, "b": 10}, space, costs, {"flops": 160}) == {"a": 2, "b": 10}
    assert project({"a": 0, "b": 10}, space, costs, {"flops": 195}) == {"a": 5, "b": 10}


def test_a_proposal_below_half_of_the_narrowest_width_is_a_removal():
    space, costs = two_branches()
    wide = replace(space, bounds={**space.bounds, "a": Bounds(6, 10, removable=True)})
    limits = {"flops": 150}
    assert [project({"a": width, "b": 10}, wide, costs, limits)["a"] > 0 for width in (0, 2, 3, 6)] == [0, 0, 1, 1]
