from __future__ import annotations

import itertools

import pytest
import torch

from autoprune.graph.modules.recurrent_axes import recurrent_axes, slice_recurrent
from tests.graph.modules.recurrent_masks import INPUTS, UNITS, recurrent
from tests.graph.modules.test_recurrent import KINDS, UNEVEN, pruned


def test_a_units_rows_are_one_of_each_gate_and_its_columns_those_of_the_next_step_and_layer() -> None:
    axes = recurrent_axes(recurrent("gru", num_layers=2, bidirectional=True))
    of_unit = {
        (axis.tensor, axis.dim, axis.side): axis.entries[2].tolist()
        for axis in axes
        if (axis.channels, axis.layer, axis.direction) == ("hidden", 0, 1)
    }
    rows = [2, 2 + UNITS, 2 + 2 * UNITS]
    made = {(f"{name}_l0_reverse", 0, "out"): rows for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    used = {("weight_ih_l1", 1, "in"): [UNITS + 2], ("weight_ih_l1_reverse", 1, "in"): [UNITS + 2]}
    assert of_unit == {**made, **used, ("weight_hh_l0_reverse", 1, "in"): [2]}


def test_a_unit_with_projections_is_used_by_these_alone() -> None:
    axes = recurrent_axes(recurrent("projected"))
    assert [(axis.tensor, axis.dim) for axis in axes if axis.channels == "hidden" and axis.side == "in"] == [
        ("weight_hr_l0", 1)
    ]
    assert {(axis.tensor, axis.dim, axis.side) for axis in axes if axis.channels == "projected"} == {
        ("weight_hr_l0", 0, "out"),
        ("weight_hh_l0", 1, "in"),
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("thinned", [True, False])
def test_every_entry_of_every_tensor_belongs_to_one_channel(kind: str, thinned: bool) -> None:
    module = recurrent(kind, num_layers=2, bidirectional=True)
    module = pruned(module, UNEVEN) if thinned else module
    axes = recurrent_axes(module)
    for name, tensor in module.named_parameters():
        for dim, size in enumerate(tensor.shape):
            entries = [axis.entries.flatten().tolist() for axis in axes if (axis.tensor, axis.dim) == (name, dim)]
            assert sorted(itertools.chain(*entries)) == list(range(size))


def test_only_kept_inputs_are_read() -> None:
    module = recurrent("lstm", bidirectional=True)
    weight = module.weight_ih_l0_reverse.detach().clone()  # type: ignore[operator, union-attr]
    slice_recurrent(module, inputs=torch.tensor([3, 1]))
    assert module.input_size == 2 < INPUTS
    assert torch.equal(module.weight_ih_l0_reverse, weight[:, [1, 3]])  # type: ignore[arg-type]
