"""Random networks for property tests: groups, bilinear costs, search spaces and limits."""

from dataclasses import dataclass, replace

from hypothesis import strategies as st

from autoprune.core.budget import COST_KINDS
from autoprune.core.costs import CostTable, CostTerm, Count
from autoprune.core.space import Bounds, Group, SearchSpace


@dataclass(frozen=True)
class Network:
    space: SearchSpace
    costs: CostTable
    limits: dict
    proposal: dict


def group(name, width, **kwargs):
    producers = kwargs.pop("producers", (name,))
    return Group(name, width, producers, tuple("Conv2d" for _ in producers), **kwargs)


def space_of(bounds, widths=None):
    """A space in which the groups with a floor of 0 may go whole."""
    wide = {name: (widths or {}).get(name, b.ceiling) for name, b in bounds.items()}
    groups = tuple(group(name, wide[name], least=min(b.floor, 1)) for name, b in bounds.items())
    return SearchSpace(groups, bounds)


@st.composite
def tables(draw, most=7):
    widths = {f"g{i}": draw(st.integers(1, 40)) for i in range(draw(st.integers(1, most)))}
    names = st.sampled_from(sorted(widths))
    counts = st.builds(Count, st.integers(0, 5), st.dictionaries(names, st.integers(1, 4), max_size=3))
    kinds = st.sampled_from(COST_KINDS)
    terms = draw(st.lists(st.builds(CostTerm, kinds, names, st.integers(1, 30), counts, counts), max_size=14))
    return CostTable(terms, widths)


@st.composite
def bounds_within(draw, width):
    ceiling = draw(st.integers(1, width))
    return Bounds(draw(st.integers(0, ceiling)), ceiling, draw(st.sampled_from([1, 1, 2, 3, 8])))


@st.composite
def networks(draw):
    """A network whose last group may be pinned, with limits anywhere from below the narrowest to above the dense."""
    costs = draw(tables())
    free = list(costs.widths)[: max(1, len(costs.widths) - draw(st.integers(0, 1)))]
    space = space_of({name: draw(bounds_within(costs.widths[name])) for name in free}, costs.widths)
    low, dense = costs.costs(space.narrowest()), costs.dense()
    kinds = draw(st.sets(st.sampled_from(COST_KINDS), min_size=1))
    limits = {kind: draw(st.integers(max(0, low[kind] - 2), dense[kind])) for kind in sorted(kinds)}
    return Network(space, costs, limits, {name: draw(st.integers(0, 50)) for name in free})


@st.composite
def branched_tables(draw):
    """A table with up to two branches: the leads `g0` and `g1`, and perhaps other groups that go with them."""
    table = draw(tables())
    names = list(table.widths)
    leads = names[: min(2, len(names))]
    followers = {name: draw(st.sampled_from(leads)) for name in names[len(leads) :] if draw(st.booleans())}
    terms = [replace(term, branch=draw(st.sampled_from([None, *leads]))) for term in table.terms]
    return CostTable(terms, table.widths, leads=followers)


@st.composite
def branched_networks(draw):
    """A network with branches that may be removed, and that have a narrowest width of their own where they stay."""
    costs = draw(branched_tables())
    leads = set(costs.leads.values()) | {term.branch for term in costs.terms if term.branch}
    bounds = {name: draw(bounds_within(width)) for name, width in costs.widths.items()}
    bounds = {name: replace(each, floor=max(each.floor, 1), removable=name in leads) for name, each in bounds.items()}
    groups = tuple(
        group(name, width, least=int(name not in leads and name not in costs.leads), lead=costs.leads.get(name))
        for name, width in costs.widths.items()
    )
    space = SearchSpace(groups, bounds)
    low, dense = costs.costs(space.narrowest()), costs.dense()
    kinds = draw(st.sets(st.sampled_from(COST_KINDS), min_size=1))
    limits = {kind: draw(st.integers(max(0, low[kind] - 2), dense[kind])) for kind in sorted(kinds)}
    return Network(space, costs, limits, {name: draw(st.integers(0, 50)) for name in bounds})


def canonical(table, widths):
    """The widths with every group of a removed branch at 0."""
    return {name: 0 if name in table.leads and widths[table.leads[name]] == 0 else w for name, w in widths.items()}


def slow_costs(table, widths):
    """The definition, term by term."""
    total = dict.fromkeys(COST_KINDS, 0)
    widths = canonical(table, widths)
    for term in table.terms:
        if term.branch is not None and widths[term.branch] == 0:
            continue
        sides = [c.fixed + sum(n * widths[g] for g, n in c.per_width.items()) for c in (term.left, term.right)]
        total[term.kind] += term.factor * sides[0] * sides[1]
    return total


def drawn_widths(table, data):
    return {name: data.draw(st.integers(0, width)) for name, width in table.widths.items()}
