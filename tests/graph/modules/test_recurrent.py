from __future__ import annotations

import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from autoprune.graph.modules.recurrent import PrunableGRU, PrunableLSTM, PrunableRNN, make_prunable
from autoprune.graph.modules.recurrent_axes import Kept, slice_recurrent, update_sizes
from tests.graph.modules.recurrent_masks import INPUTS, PROJECTED, UNITS, masked, recurrent

LENGTH, BATCH = 6, 3
KINDS = ["lstm", "projected", "gru", "tanh", "relu"]
# Fewer units in each layer and direction of a bidirectional layer of two layers, and in one of them all.
UNEVEN: Kept = {(0, 0): torch.tensor([0, 2, 3]), (0, 1): torch.tensor([4]), (1, 0): torch.tensor([1, 2])}


def pruned(module: nn.RNNBase, hidden: Kept, projected: Kept | None = None, inputs: Tensor | None = None) -> nn.RNNBase:
    """Returns a prunable copy that has only what stays."""
    module = copy.deepcopy(module)
    make_prunable(module)
    slice_recurrent(module, inputs=inputs, hidden=hidden, projected=projected)
    return module


def call(module: nn.RNNBase, inputs: Tensor | PackedSequence, states: list[Tensor] | None = None) -> list[Tensor]:
    """Returns the output and the final states, one or two."""
    lstm = isinstance(module, nn.LSTM)
    output, final = module(inputs, None if states is None else tuple(states) if lstm else states[0])
    return [output.data if isinstance(output, PackedSequence) else output, *(final if lstm else (final,))]


def state_sizes(module: nn.RNNBase) -> list[int]:
    """Returns the last size of each kind of dense state."""
    outputs = module.proj_size or module.hidden_size
    return [outputs, module.hidden_size] if isinstance(module, nn.LSTM) else [outputs]


def outputs_kept(module: nn.RNNBase, hidden: Kept, projected: Kept) -> Tensor:
    """Returns the indices of those dense output channels that stay."""
    size = module.proj_size or module.hidden_size
    of_layer = projected if module.proj_size > 0 else hidden
    last = module.num_layers - 1
    directions = range(2 if module.bidirectional else 1)
    return torch.cat([of_layer.get((last, way), torch.arange(size)) + way * size for way in directions])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_sliced_layer_computes_what_the_masked_one_does_whatever_the_options(data: st.DataObject) -> None:
    draw = data.draw
    layers, bidirectional, batch_first = draw(st.integers(1, 3)), draw(st.booleans()), draw(st.booleans())
    module = recurrent(
        draw(st.sampled_from(KINDS)), num_layers=layers, bidirectional=bidirectional, bias=draw(st.booleans()),
        batch_first=batch_first,
    )  # fmt: skip
    at = [(layer, way) for layer in range(layers) for way in range(2 if bidirectional else 1)]

    def some(count: int) -> Tensor:
        return torch.tensor(sorted(draw(st.sets(st.integers(0, count - 1), min_size=1))))

    hidden = {each: some(UNITS) for each in at if draw(st.booleans())}
    projected = {each: some(PROJECTED) for each in at if module.proj_size > 0 and draw(st.booleans())}
    inputs = some(INPUTS)
    form = draw(st.sampled_from(["batched", "single", "packed", "sorted"]))
    steps: Tensor | PackedSequence
    narrow: Tensor | PackedSequence
    if form in ("packed", "sorted"):
        lengths = [6, 3, 3, 1] if form == "sorted" else [3, 6, 1, 3]
        batch, sequences = len(lengths), [torch.randn(length, INPUTS).double() for length in lengths]
        steps = pack_sequence(sequences, enforce_sorted=form == "sorted")
        narrow = pack_sequence([sequence[:, inputs] for sequence in sequences], enforce_sorted=form == "sorted")
    else:
        batch = BATCH
        shape = (LENGTH,) if form == "single" else (batch, LENGTH) if batch_first else (LENGTH, batch)
        steps = torch.randn(*shape, INPUTS).double()
        narrow = steps[..., inputs]
    states = real = None
    if draw(st.booleans()):
        states = [torch.randn(len(at), batch, size).double() for size in state_sizes(module)]
        kinds = [projected if module.proj_size > 0 else hidden, hidden]
        real = [torch.zeros_like(state) for state in states]
        for of_kind, state, dense in zip(kinds, states, real, strict=False):
            for row, each in enumerate(at):
                stays = of_kind.get(each, torch.arange(state.shape[-1]))
                dense[row][:, stays] = state[row][:, stays]  # what is given for removed units is not read
        if form == "single":
            states, real = [state[:, 0] for state in states], [state[:, 0] for state in real]

    expected = call(masked(module, hidden, projected, inputs), steps, real)
    results = call(pruned(module, hidden, projected, inputs), narrow, states)
    expected[0] = expected[0][..., outputs_kept(module, hidden, projected)]
    torch.testing.assert_close(results, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_first", [True, False])
def test_dropout_between_layers_in_training_draws_what_the_original_draws(kind: str, batch_first: bool) -> None:
    module = recurrent(kind, num_layers=3, bidirectional=True, dropout=0.4, batch_first=batch_first).train()
    steps = torch.randn(LENGTH, BATCH, INPUTS).double()
    results = []
    for each in (module, pruned(module, {})):
        torch.manual_seed(5)
        results.append(call(each, steps))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)
    assert not torch.equal(call(module, steps)[0], results[0][0])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_masked_layer(kind: str) -> None:
    module = recurrent(kind, num_layers=2, bidirectional=True)
    steps = torch.randn(LENGTH, BATCH, INPUTS).double()
    thinned, reference = pruned(module, UNEVEN), masked(module, UNEVEN)
    for each in (thinned, reference):
        sum(result.square().sum() for result in call(each, steps)).backward()  # type: ignore[union-attr]
    wanted, found = reference.weight_hh_l1.grad, thinned.weight_hh_l1.grad
    assert isinstance(wanted, Tensor)
    gates = len(wanted) // UNITS
    rows = wanted.unflatten(0, (gates, UNITS))[:, UNEVEN[1, 0]].flatten(0, 1)
    columns = rows if kind == "projected" else rows[:, UNEVEN[1, 0]]
    torch.testing.assert_close(found, columns, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_equally_many_units_everywhere_need_no_other_class(kind: str) -> None:
    module = recurrent(kind, num_layers=2, bidirectional=True)
    hidden = {(row // 2, row % 2): torch.tensor(sorted({0, 1, 2, 3, 4} - {row})) for row in range(4)}
    thinned = copy.deepcopy(module)
    slice_recurrent(thinned, hidden=hidden)
    assert type(thinned) is type(module)
    assert thinned.hidden_size == 4
    steps = torch.randn(LENGTH, BATCH, INPUTS).double()
    results, expected = call(thinned, steps), call(masked(module, hidden), steps)
    torch.testing.assert_close(results[0], expected[0][..., outputs_kept(module, hidden, {})])
    for row, (result, dense) in enumerate(zip(results[-1], expected[-1], strict=True)):
        torch.testing.assert_close(result, dense[:, hidden[row // 2, row % 2]])


def test_torchs_own_class_refuses_widths_that_it_cannot_run() -> None:
    with pytest.raises(ValueError, match="equally many units"):
        slice_recurrent(recurrent("lstm", num_layers=2), hidden={(0, 0): torch.tensor([1])})
    with pytest.raises(ValueError, match="more than it projects"):
        slice_recurrent(recurrent("projected"), hidden={(0, 0): torch.tensor([1, 2])})


def test_slicing_twice_is_slicing_once_by_both() -> None:
    module = recurrent("lstm", num_layers=2, bidirectional=True)
    twice = pruned(module, {(0, 1): torch.tensor([1, 2, 4]), (1, 0): torch.tensor([0, 3])})
    slice_recurrent(twice, hidden={(0, 1): torch.tensor([2, 0]), (1, 1): torch.tensor([1])})
    once = pruned(module, {(0, 1): torch.tensor([1, 4]), (1, 0): torch.tensor([0, 3]), (1, 1): torch.tensor([1])})
    steps = torch.randn(LENGTH, BATCH, INPUTS).double()
    assert all(torch.equal(a, b) for a, b in zip(call(once, steps), call(twice, steps), strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("copied", ["deepcopy", "saved"])
def test_copies_remember_which_units_stayed(kind: str, copied: str) -> None:
    thinned = pruned(recurrent(kind, num_layers=2, bidirectional=True), UNEVEN)
    steps = torch.randn(LENGTH, BATCH, INPUTS).double()
    if copied == "saved":
        file = io.BytesIO()
        torch.save(thinned, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    else:
        other = copy.deepcopy(thinned)
    other.flatten_parameters()
    assert all(torch.equal(a, b) for a, b in zip(call(other, steps), call(thinned, steps), strict=True))
    assert other.half().kept_outputs.dtype == torch.int64
    assert other.to("meta").kept_outputs.is_meta


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_dict_keeps_its_keys_and_attributes_state_the_dense_states(kind: str) -> None:
    module = recurrent(kind, num_layers=2, bidirectional=True)
    thinned = pruned(module, UNEVEN, inputs=torch.tensor([0, 2]))
    assert list(thinned.state_dict()) == list(module.state_dict())
    thinned.load_state_dict(thinned.state_dict())
    assert (thinned.input_size, thinned.hidden_size, thinned.proj_size) == (2, UNITS, module.proj_size)
    assert "units=[3, 1, 2, 5]" in repr(thinned)
    assert isinstance(thinned, type(module))


def test_weights_that_others_slice_are_taken_up_by_update_sizes() -> None:
    module = recurrent("gru")
    make_prunable(module)
    wanted = pruned(recurrent("gru"), {(0, 0): torch.tensor([1, 3])})
    module._parameters.update(wanted._parameters)
    update_sizes(module, hidden={(0, 0): torch.tensor([1, 3])})
    assert module._flat_weights[0] is wanted.weight_ih_l0
    steps = torch.randn(LENGTH, BATCH, INPUTS).double()
    assert all(torch.equal(a, b) for a, b in zip(call(module, steps), call(wanted, steps), strict=True))


class Around(nn.Module):
    """Returns the output of a layer; torch scripts recurrent layers only within a module."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, steps: Tensor) -> Tensor:
        return self.layer(steps)[0]  # type: ignore[no-any-return]


class AroundPacked(Around):
    """The same for a packed sequence."""

    def forward(self, steps: PackedSequence) -> Tensor:  # type: ignore[override]
        return self.layer(steps)[0].data  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["projected", "gru", "relu"])
def test_it_is_scripted_where_the_original_is(kind: str) -> None:
    thinned = pruned(recurrent(kind, num_layers=2, bidirectional=True), UNEVEN)
    steps = torch.randn(LENGTH, BATCH, INPUTS).double()
    packed = pack_sequence([steps[:2, 0], steps[:, 1]], enforce_sorted=False)
    torch.testing.assert_close(torch.jit.script(Around(thinned))(steps), thinned(steps)[0])
    torch.testing.assert_close(torch.jit.script(AroundPacked(thinned))(packed), thinned(packed)[0].data)


def test_it_is_exported() -> None:
    thinned = pruned(recurrent("lstm", num_layers=2, bidirectional=True), UNEVEN)
    steps = torch.randn(LENGTH, BATCH, INPUTS).double()
    exported = torch.export.export(Around(thinned), (steps,)).module()
    torch.testing.assert_close(exported(steps), thinned(steps)[0])


def test_states_of_another_width_are_refused() -> None:
    thinned = pruned(recurrent("gru"), {(0, 0): torch.tensor([1, 3])})
    steps = torch.randn(LENGTH, BATCH, INPUTS).double()
    with pytest.raises(RuntimeError, match="Expected hidden size"):
        thinned(steps, torch.zeros(1, BATCH, 2).double())
    with pytest.raises(RuntimeError, match="must be equal to input_size"):
        thinned(steps[..., :2])


def test_a_subclass_with_a_forward_of_its_own_is_left_alone() -> None:
    class Doubling(nn.GRU):
        def forward(self, *inputs):  # type: ignore[no-untyped-def]
            return tuple(2 * result for result in super().forward(*inputs))

    with pytest.raises(TypeError, match="Doubling is not"):
        make_prunable(Doubling(2, 3))


@pytest.mark.parametrize(("kind", "wanted"), [("projected", PrunableLSTM), ("gru", PrunableGRU), ("relu", PrunableRNN)])
def test_made_prunable_a_layer_computes_just_the_same(kind: str, wanted: type[nn.RNNBase]) -> None:
    module = recurrent(kind, num_layers=2, bidirectional=True)
    prunable = copy.deepcopy(module)
    make_prunable(prunable)
    assert type(prunable) is wanted
    steps = torch.randn(LENGTH, BATCH, INPUTS).double()
    torch.testing.assert_close(call(prunable, steps), call(module, steps), rtol=1e-12, atol=1e-12)
