"""Recurrent layers whose hidden units may differ in number from layer to layer."""

# No `from __future__ import annotations`: TorchScript cannot read the signatures of overloads that are text.
from types import SimpleNamespace
from typing import cast, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence


class _LayerByLayer(nn.RNNBase):
    """What the recurrent layers below share; each direction of each layer is a call of torch's kernel of its own."""

    kept_units: Tensor
    kept_outputs: Tensor

    def _run(self, steps: Tensor, batch_sizes: Tensor | None, states: list[Tensor]) -> list[Tensor]:
        """Returns the outputs, and the final states as wide as the dense layer's.

        Args:
            steps: `[time, batch, inputs]`, or the `[entries, inputs]` of a packed sequence.
            batch_sizes: `[time]` of a packed sequence.
            states: none, `[layers · directions, batch, size]` or two of them.
        """
        self.check_input(steps, batch_sizes)
        batch = steps.shape[1] if batch_sizes is None else int(batch_sizes[0])
        directions = 2 if self.bidirectional else 1
        count = self.num_layers * directions
        per_call = len(self._flat_weights) // count
        weights: list[list[Tensor]] = [
            self._flat_weights[i * per_call : (i + 1) * per_call]  # type: ignore[misc]
            for i in range(count)
        ]
        sizes = [self.proj_size if self.proj_size > 0 else self.hidden_size, self.hidden_size]
        kept = [self.kept_outputs, self.kept_units]
        widths = [[own[1].shape[1] for own in weights], [own[1].shape[0] // gates(self.mode) for own in weights]]
        running: list[list[Tensor]] = []
        for kind in range(2 if self.mode == "LSTM" else 1):
            shape = (count, batch, sizes[kind])
            if len(states) == 0:
                state = torch.zeros(shape, dtype=steps.dtype, device=steps.device)
            else:
                state = states[kind]
                self.check_hidden_size(state, shape)
            running.append(_read_states(state, kept[kind], widths[kind]))
        for layer in range(self.num_layers):
            outputs: list[Tensor] = []
            for direction in range(directions):
                i = layer * directions + direction
                results = _call_kernel(
                    self.mode,
                    steps if direction == 0 else _reverse(steps, batch_sizes),
                    batch_sizes,
                    [of_kind[i] for of_kind in running],
                    weights[i],
                    self.bias,
                    self.training,
                )
                outputs.append(results[0] if direction == 0 else _reverse(results[0], batch_sizes))
                for kind, of_kind in enumerate(running):
                    of_kind[i] = results[1 + kind]
            steps = torch.cat(outputs, dim=-1)
            if layer < self.num_layers - 1:
                steps = F.dropout(steps, self.dropout, self.training)
        return [steps] + [_write_states(running[kind], kept[kind], sizes[kind]) for kind in range(len(running))]

    def _run_packed(self, packed: PackedSequence, states: list[Tensor]) -> tuple[PackedSequence, list[Tensor]]:
        """Returns the packed outputs and the final states, in the order of the samples as they were before packing."""
        steps, batch_sizes, order, order_back = packed
        if order is not None:
            states = [state.index_select(1, order) for state in states]
        results = self._run(steps, batch_sizes, states)
        output, final = results[0], results[1:]
        if order_back is not None:
            final = [state.index_select(1, order_back) for state in final]
        return PackedSequence(output, batch_sizes, order, order_back), final

    def _run_padded(self, input: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Returns the outputs and the final states of input with or without an axis of samples."""
        if input.dim() == 2:
            results = self._run(input.unsqueeze(1), None, [state.unsqueeze(1) for state in states])
            return results[0].squeeze(1), [state.squeeze(1) for state in results[1:]]
        results = self._run(input.transpose(0, 1) if self.batch_first else input, None, states)
        return results[0].transpose(0, 1) if self.batch_first else results[0], results[1:]

    def flatten_parameters(self) -> None:
        """Makes the weights of each call of the kernel one chunk of memory, where cuDNN is used."""
        if len(self._flat_weights) != len(self._flat_weights_names):  # while being constructed
            return
        for names in self._all_weights:
            weights = [getattr(self, name) for name in names]
            rows, columns = weights[1].shape
            of_one_call = SimpleNamespace(
                _flat_weights=weights, _flat_weights_names=names, mode=self.mode, bias=self.bias, num_layers=1,
                input_size=weights[0].shape[1], hidden_size=rows // gates(self.mode), batch_first=False,
                proj_size=columns if self.proj_size > 0 else 0, bidirectional=False,
            )  # fmt: skip
            nn.RNNBase.flatten_parameters(cast(nn.RNNBase, of_one_call))

    def extra_repr(self) -> str:
        """Returns the options and the number of hidden units of each direction of each layer."""
        units = [len(getattr(self, names[1])) // gates(self.mode) for names in self._all_weights]
        return f"{super().extra_repr()}, units={units}"


class PrunableLSTM(_LayerByLayer, nn.LSTM):
    """`nn.LSTM` (Hochreiter and Schmidhuber 1997) whose layers and directions may have different numbers of units.

    A hidden unit is its row in each of the four gates of both weights and both biases, its column of `weight_hh` (of
    `weight_hr` with projections, Sak et al. 2014, arXiv:1402.1128) and its columns in what uses the output, which go
    together (Wen et al. 2018, arXiv:1709.05027). With all of them zero the cell is c = f · c + i · tanh(0), and so the
    unit h = o · tanh(c) is 0 at all times if its cell begins at 0: leaving it out is exact. So it is for a projected
    channel, whose row of `weight_hr` is zero.

    The output has the channels that stay, those of the forward direction first. The states are stacked over layers and
    so keep their dense sizes: final ones are 0 where a unit has gone, and initial ones are not read there. (Where all
    layers and directions keep equally many, plain `nn.LSTM` runs as well; its states are as narrow.) The two directions
    of a layer may differ, because nothing but the states' stack ties them.

    Attributes:
        hidden_size: of the states; how many hidden units the dense layer has.
        proj_size: of the hidden state with projections, else 0; how many channels the dense layer projects to.
        kept_units: `[all units that stay]`, as positions in the flattened `[layers · directions, hidden_size]`; like
            `kept_outputs` no part of the state dict.
        kept_outputs: the same for what makes the output: projected channels where there are some, else units.
    """

    @overload
    @torch._jit_internal._overload_method
    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        pass

    @overload
    @torch._jit_internal._overload_method
    def forward(
        self, input: PackedSequence, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[PackedSequence, tuple[Tensor, Tensor]]:
        pass

    def forward(self, input, hx=None):  # type: ignore[no-untyped-def]
        """Returns the output and the final states; shapes as `nn.LSTM`, except that the output is narrower."""
        self._update_flat_weights()
        if isinstance(input, PackedSequence):
            packed, final = self._run_packed(input, [] if hx is None else [hx[0], hx[1]])
            return packed, (final[0], final[1])
        output, final = self._run_padded(input, [] if hx is None else [hx[0], hx[1]])
        return output, (final[0], final[1])


class PrunableGRU(_LayerByLayer, nn.GRU):
    """`nn.GRU` (Cho et al. 2014, arXiv:1406.1078) whose layers and directions may have different numbers of units.

    As `PrunableLSTM`; there are three gates, and with a unit's rows zero h = (1 - z) · tanh(0) + z · h stays 0 if it
    begins at 0. (torch applies the reset gate after the product with `weight_hn`, so its row is of no matter.)
    """

    @overload
    @torch._jit_internal._overload_method
    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        pass

    @overload
    @torch._jit_internal._overload_method
    def forward(self, input: PackedSequence, hx: Tensor | None = None) -> tuple[PackedSequence, Tensor]:
        pass

    def forward(self, input, hx=None):  # type: ignore[no-untyped-def]
        """Returns the output and the final state; shapes as `nn.GRU`, except that the output is narrower."""
        self._update_flat_weights()
        if isinstance(input, PackedSequence):
            packed, final = self._run_packed(input, [] if hx is None else [hx])
            return packed, final[0]
        output, final = self._run_padded(input, [] if hx is None else [hx])
        return output, final[0]


class PrunableRNN(_LayerByLayer, nn.RNN):
    """`nn.RNN` (Elman 1990) whose layers and directions may have different numbers of units.

    As `PrunableLSTM`; with a unit's rows zero h = tanh(0), or max(0, 0), is 0.
    """

    @overload
    @torch._jit_internal._overload_method
    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        pass

    @overload
    @torch._jit_internal._overload_method
    def forward(self, input: PackedSequence, hx: Tensor | None = None) -> tuple[PackedSequence, Tensor]:
        pass

    def forward(self, input, hx=None):  # type: ignore[no-untyped-def]
        """Returns the output and the final state; shapes as `nn.RNN`, except that the output is narrower."""
        self._update_flat_weights()
        if isinstance(input, PackedSequence):
            packed, final = self._run_packed(input, [] if hx is None else [hx])
            return packed, final[0]
        output, final = self._run_padded(input, [] if hx is None else [hx])
        return output, final[0]


Prunable = PrunableLSTM | PrunableGRU | PrunableRNN
_CLASSES = {nn.LSTM: PrunableLSTM, nn.GRU: PrunableGRU, nn.RNN: PrunableRNN}


def make_prunable(module: nn.RNNBase) -> None:
    """Makes an `nn.LSTM`, `nn.GRU` or `nn.RNN` the prunable subclass of it, in place; nothing is copied.

    Raises:
        TypeError: it is of another class, whose own `forward` must not be lost.
    """
    if type(module) in _CLASSES.values():
        return
    if type(module) not in _CLASSES:
        raise TypeError(f"{type(module).__name__} is not nn.LSTM, nn.GRU or nn.RNN itself")
    count = len(module._all_weights)
    device = getattr(module, module._flat_weights_names[0]).device
    for name, size in (("kept_units", module.hidden_size), ("kept_outputs", module.proj_size or module.hidden_size)):
        module.register_buffer(name, torch.arange(count * size, device=device), persistent=False)
    module.__class__ = _CLASSES[type(module)]


def gates(mode: str) -> int:
    """Returns how many rows of each weight belong to one hidden unit."""
    if mode == "LSTM":
        return 4
    return 3 if mode == "GRU" else 1


def _read_states(states: Tensor, kept: Tensor, widths: list[int]) -> list[Tensor]:
    """Returns what stays of states `[layers · directions, batch, size]`, per call of the kernel `[1, batch, width]`."""
    flat = states.transpose(0, 1).flatten(1).index_select(1, kept)
    return [part.unsqueeze(0).contiguous() for part in torch.split(flat, widths, 1)]


def _write_states(parts: list[Tensor], kept: Tensor, size: int) -> Tensor:
    """Returns states `[layers · directions, batch, size]` that are zero where nothing stays."""
    # Not squeeze: when torch 2.8 exports an LSTM, its states have an axis too many.
    flat = torch.cat([part.flatten(0, -2) for part in parts], dim=1)
    whole = torch.zeros(flat.shape[0], len(parts) * size, dtype=flat.dtype, device=flat.device)
    whole = whole.index_copy(1, kept, flat)
    return whole.view(flat.shape[0], len(parts), size).transpose(0, 1).contiguous()


def _reverse(steps: Tensor, batch_sizes: Tensor | None) -> Tensor:
    """Returns each sequence back to front, of `[time, batch, channels]` or of packed `[entries, channels]`."""
    if batch_sizes is None:
        return steps.flip(0)
    # Samples are sorted by length, the longest first; so the reversed ones are packed alike.
    there = batch_sizes.unsqueeze(1) > torch.arange(int(batch_sizes[0])).unsqueeze(0)
    time, sample = torch.where(there)
    start = batch_sizes.cumsum(0) - batch_sizes
    source = start[there.sum(0)[sample] - 1 - time] + sample
    return steps.index_select(0, source.to(steps.device))


def _call_kernel(
    mode: str,
    steps: Tensor,
    batch_sizes: Tensor | None,
    states: list[Tensor],
    weights: list[Tensor],
    bias: bool,
    training: bool,
) -> list[Tensor]:
    """Returns the output and final states of one direction of one layer.

    Args:
        mode: as in `nn.RNNBase`.
        steps: `[time, batch, inputs]`, or packed `[entries, inputs]`.
        batch_sizes: `[time]` of a packed sequence.
        states: hidden state `[1, batch, outputs]`, and of an LSTM its cell state `[1, batch, units]`.
        weights: as in `nn.RNNBase`.
        bias: whether there are biases among the weights.
        training: what cuDNN must know in order to be differentiated.
    """
    if mode == "LSTM":
        units = states[1].shape[2]
        # The kernel takes states of equal widths for a sign that there are no projections.
        idle = states[0].shape[2] + 1 - units if len(weights) % 2 == 1 else 0
        if idle > 0:
            states = [states[0], F.pad(states[1], [0, idle])]
            weights = _with_idle_units(weights, idle)
        if batch_sizes is None:
            output, h, c = torch.lstm(steps, states, weights, bias, 1, 0.0, training, False, False)
        else:
            output, h, c = torch.lstm(steps, batch_sizes, states, weights, bias, 1, 0.0, training, False)
        return [output, h, c[..., :units]]
    hx = states[0]
    if mode == "GRU":
        if batch_sizes is None:
            output, h = torch.gru(steps, hx, weights, bias, 1, 0.0, training, False, False)
        else:
            output, h = torch.gru(steps, batch_sizes, hx, weights, bias, 1, 0.0, training, False)
    elif mode == "RNN_TANH":
        if batch_sizes is None:
            output, h = torch.rnn_tanh(steps, hx, weights, bias, 1, 0.0, training, False, False)
        else:
            output, h = torch.rnn_tanh(steps, batch_sizes, hx, weights, bias, 1, 0.0, training, False)
    elif batch_sizes is None:
        output, h = torch.rnn_relu(steps, hx, weights, bias, 1, 0.0, training, False, False)
    else:
        output, h = torch.rnn_relu(steps, batch_sizes, hx, weights, bias, 1, 0.0, training, False)
    return [output, h]


def _with_idle_units(weights: list[Tensor], count: int) -> list[Tensor]:
    """Returns an LSTM's weights with some more hidden units that are zero; the last of the weights projects."""
    wider: list[Tensor] = []
    for weight in weights[:-1]:
        gate = torch.unflatten(weight, 0, [4, weight.shape[0] // 4])
        wider.append(F.pad(gate, [0, count] if gate.dim() == 2 else [0, 0, 0, count]).flatten(0, 1))
    wider.append(F.pad(weights[-1], [0, count]))
    return wider
