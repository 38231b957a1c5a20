import json

import pytest

from autoprune.core.allocation import Allocation, width_from_sparsity
from autoprune.errors import UserError


def test_allocations_are_equal_in_any_order_and_hash_alike():
    one, other = Allocation({"a": 1, "b": 2}), Allocation({"b": 2, "a": 1})
    assert one == other
    assert hash(one) == hash(other)
    assert one != Allocation({"a": 1, "b": 3})


def test_an_allocation_does_not_change_with_what_it_was_made_from():
    widths = {"a": 1}
    allocation = Allocation(widths)
    widths["a"] = 5
    assert allocation["a"] == 1


def test_json_round_trip_keeps_the_order_of_groups():
    allocation = Allocation({"z": 3, "a": 0})
    back = Allocation.from_json(json.loads(json.dumps(allocation.to_json())))
    assert back == allocation
    assert list(back) == ["z", "a"]


@pytest.mark.parametrize("width", [-1, 1.0, True, "3", None])
def test_a_width_that_is_no_whole_number_is_refused(width):
    with pytest.raises(UserError, match="width of group 'a'"):
        Allocation({"a": width})


@pytest.mark.parametrize("data", [[1, 2], "a=1", None, 3])
def test_json_that_is_no_mapping_is_refused(data):
    with pytest.raises(UserError, match="should map group names"):
        Allocation.from_json(data)


@pytest.mark.parametrize(
    ("width", "sparsity", "kept"),
    [(10, 0.3, 7), (10, 0.29, 8), (10, 0.0, 10), (10, 1.0, 0), (3, 0.5, 2)],
)
def test_sparsity_removes_the_floor_in_spite_of_binary_fractions(width, sparsity, kept):
    assert width_from_sparsity(width, sparsity) == kept
