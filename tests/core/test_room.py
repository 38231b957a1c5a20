from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.core.costs import COST_KINDS
from autoprune.core.room import Couplings, Room
from tests.core.networks import drawn_widths, slow_costs, tables

UNLIMITED = np.iinfo(np.int64).max


@given(tables(), st.data())
@settings(max_examples=150, deadline=None)
def test_room_is_what_the_limits_leave_after_any_steps(table, data):
    widths = drawn_widths(table, data)
    limited = data.draw(st.sets(st.sampled_from(COST_KINDS), min_size=1))
    most = slow_costs(table, table.widths)
    limits = {kind: data.draw(st.integers(0, most[kind])) for kind in limited}
    given_limits = np.array([limits.get(kind, UNLIMITED) for kind in COST_KINDS])
    names = data.draw(st.permutations(sorted(widths)))  # a space need not have the table's order
    columns = np.array([list(table.widths).index(name) for name in names])

    couplings = Couplings.of(table, given_limits, columns)
    room = Room.beside(table.tally(table.vector(widths)), couplings, given_limits, columns)
    copied = room.copy()
    holding = [room.holds(i, 1) for i in range(len(names))]
    for _ in range(data.draw(st.integers(0, 4))):
        group = data.draw(st.integers(0, len(names) - 1))
        by = data.draw(st.integers(-widths[names[group]], 9))
        room.widen(group, by)
        widths = {**widths, names[group]: widths[names[group]] + by}
    group, by = data.draw(st.integers(0, len(names) - 1)), data.draw(st.integers(0, 9))
    wider = slow_costs(table, {**widths, names[group]: widths[names[group]] + by})
    assert room.holds(group, by) == all(wider[kind] <= limit for kind, limit in limits.items())
    room.widen(group, by)
    tally = table.tally(table.vector({**widths, names[group]: widths[names[group]] + by}))
    again = Room.beside(tally, couplings, given_limits, columns)
    assert [room.holds(i, 1) for i in range(len(names))] == [again.holds(i, 1) for i in range(len(names))]
    assert [copied.holds(i, 1) for i in range(len(names))] == holding
