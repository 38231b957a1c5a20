from __future__ import annotations

import torch

from autoprune.graph.channel_ids import ChannelIds, Reason, axes_of, compress, lay_along, thin_ids


def test_ties_are_transitive_and_the_root_is_the_least_id() -> None:
    channels = ChannelIds()
    ids = channels.new(6)
    channels.tie(ids[[5, 3]], ids[[3, 1]])
    assert channels.roots().tolist() == [0, 1, 2, 1, 4, 1]


def test_a_class_is_frozen_with_any_of_its_ids_for_the_first_reason() -> None:
    channels = ChannelIds()
    ids = channels.new(4)
    channels.freeze(ids[2:3], "late")
    channels.freeze(ids[2:3], "later")
    channels.tie(ids[:1], ids[2:3])
    assert channels.reasons() == {0: Reason("late")}


def test_ids_are_compressed_to_the_axes_along_which_they_vary() -> None:
    ids = lay_along(torch.arange(3), 3, 1).expand(2, 3, 4)
    assert compress(ids).shape == (1, 3, 1)
    assert axes_of(compress(ids.contiguous())) == [1]


def test_roots_lie_along_one_axis_where_the_others_hold_tied_ones() -> None:
    channels = ChannelIds()
    ids = channels.new(6).view(2, 3)
    assert channels.rooted(ids).tolist() == ids.tolist()
    channels.tie_along(ids, [0])
    assert channels.rooted(ids).tolist() == [[0, 1, 2]]


def test_what_stays_is_cut_out_where_it_is_a_rectangle_and_nothing_else() -> None:
    ids, keep = torch.arange(6).view(2, 3), torch.tensor([True, False, True, True, False, True])
    cut = thin_ids([ids], keep)
    assert cut is not None
    assert cut[0].tolist() == [[0, 2], [3, 5]]
    keep[5] = False
    assert thin_ids([ids], keep) is None


def test_an_entry_goes_with_its_id_in_any_of_several_arrays() -> None:
    inputs, positions = torch.arange(2).repeat_interleave(3), torch.arange(2, 5).repeat(2)
    keep = torch.tensor([False, True, True, False, True])
    assert [ids.tolist() for ids in thin_ids([inputs, positions], keep) or ()] == [[1, 1], [2, 4]]
