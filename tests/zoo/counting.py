"""Counts what a network costs by running it, apart from autoprune: FLOPs of the mathematics, parameters, bytes."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import PackedSequence
from torch.utils.flop_counter import FlopCounterMode

from tests.zoo.networks import call

_GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1, nn.LSTMCell: 4, nn.GRUCell: 3, nn.RNNCell: 1}


def count_costs(network: nn.Module, inputs: Any) -> dict[str, int]:
    """Returns FLOPs of one call, parameters, and bytes of what a checkpoint holds, each shared tensor once.

    Args:
        network: in evaluation mode; is left as it is.
        inputs: of one sample.
    """
    stored = network.state_dict(keep_vars=True).values()
    tensors = {id(tensor): tensor for tensor in stored if isinstance(tensor, torch.Tensor)}
    return {
        "flops": count_flops(network, inputs),
        "params": sum(parameter.numel() for parameter in network.parameters()),
        "size": sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()),
    }


def count_flops(network: nn.Module, inputs: Any) -> int:
    """Returns two FLOPs for every multiply-add of convolutions, matrix products, attention and recurrent layers.

    Fused kernels, which torch's counter does not see, are avoided; recurrent layers are counted by their formula,
    2 · steps · gates · hidden · (inputs + hidden), whether the counter sees into them or not.
    """
    # Parameters that are passed to modules would be asked for their gradients.
    network = copy.deepcopy(network).requires_grad_(False)
    recurrent = _RecurrentFlops()
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.no_grad())
        recurrent.counter = stack.enter_context(FlopCounterMode(display=False))
        for module in network.modules():
            if isinstance(module, tuple(_GATES)):
                stack.callback(module.register_forward_pre_hook(recurrent.begin).remove)
                stack.callback(module.register_forward_hook(recurrent.end).remove)
        call(network, inputs)
    return int(recurrent.counter.get_total_flops()) + recurrent.flops


class _RecurrentFlops:
    """Counts recurrent layers by their formula in place of what the counter saw of them."""

    counter: FlopCounterMode

    def __init__(self) -> None:
        self.flops = self._before = 0

    def begin(self, module: nn.Module, inputs: Any) -> None:
        self._before = int(self.counter.get_total_flops())

    def end(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.flops -= int(self.counter.get_total_flops()) - self._before
        steps = _steps(module, inputs[0])
        weights = (w for name, w in module.named_parameters() if name.startswith("weight"))
        self.flops += sum(2 * steps * w.numel() for w in weights)


def _steps(module: nn.Module, frames: Any) -> int:
    """Returns how often a recurrent layer steps: over all samples and times."""
    data = frames.data if isinstance(frames, PackedSequence) else frames
    return data.shape[:-1].numel()
