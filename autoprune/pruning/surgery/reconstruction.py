"""Reconstruction: layers behind removed channels are refitted to the dense network's outputs by least squares."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from autoprune.errors import DataError, TaskError
from autoprune.graph.groups import ChannelGraph, Kept
from autoprune.graph.inputs import ModelInputs, call_network
from autoprune.graph.layers import Layer
from autoprune.graph.recording.running import mode
from autoprune.pruning.statistics.layer_inputs import (
    WeightedLayer,
    inputs_at,
    is_observed,
    observable,
    observe_layers,
    outputs_at,
    sample_positions,
    weighted_layer,
)

log = logging.getLogger(__name__)

# Pull towards the present weights, relative to the mean square of an input. On ResNet-20 at half of its FLOPs a tenth
# of it or three times as much are no better in accuracy, ten times as much is worse by five points.
RIDGE = 0.1
# Output positions of each sample that count; more cost little time, as forward passes take most, but memory.
POSITIONS = 32
# Inputs of a layer that is refitted at most: the Gram matrix of so many takes 2 GiB.
MOST_INPUTS = 2**14

# Names of the functions and methods of torch that add two tensors.
_ADDITIONS = ("add", "add_", "__add__", "__iadd__", "__radd__")

Batch = tuple[Any, Tensor]


def refit(
    thinned: nn.Module,
    dense: nn.Module,
    graph: ChannelGraph,
    kept: Kept,
    batches: Iterable[Batch],
    *,
    consumers_only: bool = False,
    removed: Collection[str] = (),
) -> None:
    """Refits weights and biases, in place, of every layer from the first whose inputs were thinned on.

    In forward order each such convolution (grouped ones group by group) or linear layer (of an MLP, behind the heads of
    attention, also as a function of a module's weight, see `is_observed`) gets the weights that map its inputs in the
    thinned network onto its outputs in the dense one, those that stay, with the least squared error.
    Inputs come from layers refitted before, so that later layers compensate for what earlier ones could not, also where
    they lost no inputs themselves. Where an output is added to something else, as a branch is to its shortcut, the
    target is the dense network's sum, so that a branch compensates for its shortcut too (see `observe_additions`).
    Layers before the first thinned one, depthwise and transposed convolutions, and batch norms stay as they are.

    A small ridge, `RIDGE` times the mean diagonal of the inputs' Gram matrix (so that it scales with inputs and
    samples), pulls towards the present weights, so that those that the samples leave open stay. The bias is free.

    Only sampled positions of outputs count, `POSITIONS` of each sample. The dense network runs once, and its outputs
    there are held (samples x positions x outputs that stay, of all layers); then the thinned one runs once for each
    layer, up to it, and sums normal equations in double precision, of one layer at a time. A layer with more than
    `MOST_INPUTS` inputs of a group is left, as its equations need too much memory, and named in the log.

    Args:
        thinned: `thin(dense, graph, kept)`, perhaps without some branches, with the weights it got there; refitted in
            place.
        dense: the network before, whose outputs are the targets; left as it is.
        graph: of the dense network.
        kept: by group, the channels that stayed.
        batches: read once for each layer and once more; the same at every pass.
        consumers_only: whether only layers that lost inputs are refitted; far less to do where one group is thinned.
        removed: layers that the thinned network is without, with their residual branches.

    Raises:
        DataError: there is no batch, or another number of them at another pass.
        TaskError: a layer's inputs or outputs are not finite.

    Source: He et al. 2017, arXiv:1707.06168, the second of their two steps, with what was pruned before in the inputs
    as they do for whole models, and the aim of a residual branch as in their section on multi-branch networks. There
    without a ridge, only layers that lose inputs are refitted, and each before the next is pruned; here all channels
    are chosen before.
    """
    keep = graph.keep_mask(kept)
    layers = refitted_layers(graph, kept, consumers_only=consumers_only, removed=removed)
    if not layers:
        return
    dense, thinned = observable(dense), observable(thinned)
    with mode(dense, training=False), mode(thinned, training=False), torch.no_grad():
        targets = _run_dense(dense, layers, keep, batches)
        for layer in layers:
            wanted = targets.pop(layer.name)
            # An auxiliary head is not called in evaluation mode, and a function may be of something else as well.
            if any(batch.calls for batch in wanted):
                _refit_layer(thinned, layer, wanted, batches)


def refitted_layers(
    graph: ChannelGraph, kept: Kept, *, consumers_only: bool = False, removed: Collection[str] = ()
) -> list[Layer]:
    """Lists the layers that `refit` refits, in forward order.

    Args:
        graph: of the dense network.
        kept: by group, the channels that stayed.
        consumers_only: whether only layers that lost inputs are refitted.
        removed: layers that went with whole branches; what comes behind the first of them has other inputs.
    """
    keep = graph.keep_mask(kept)
    layers = [layer for layer in graph.layers if is_observed(layer)]
    changed = [layer.name in removed or not bool(keep[layer.incoming].all()) for layer in layers]
    first = changed.index(True) if any(changed) else len(layers)
    found = [layer for layer, lost in zip(layers, changed, strict=True) if lost] if consumers_only else layers[first:]
    return [layer for layer in found if layer.name not in removed]


@dataclass
class _DenseOutputs:
    """The dense network's outputs of a layer for one batch, at the sampled positions.

    Attributes:
        calls: `[rows, out]` for each call of the layer in the forward pass.
        addend: `[rows, out]` what the output is added to; None where it is not, or the layer is called again.
    """

    calls: list[Tensor] = field(default_factory=list)
    addend: Tensor | None = None


def _run_dense(
    dense: nn.Module, layers: Sequence[Layer], keep: Tensor, batches: Iterable[Batch]
) -> dict[str, list[_DenseOutputs]]:
    """Runs the dense network: by layer and batch, the outputs of the channels that stay.

    Raises:
        DataError: there is no batch.
    """
    stays = {layer.name: keep[layer.outgoing].nonzero().flatten() for layer in layers}
    found: dict[str, list[_DenseOutputs]] = {name: [] for name in stays}
    modules = {layer.name: weighted_layer(dense, layer) for layer in layers}
    called = [layer.name for layer in layers if layer.is_module]

    def add_output(name: str, call: int, inputs: Tensor, output: Tensor) -> None:
        found[name][-1].calls.append(select(name, output, call))

    def add_addend(name: str, addition: LayerAddition) -> None:
        found[name][-1].addend = select(name, addition.other, 0)

    def select(name: str, value: Tensor, call: int) -> Tensor:
        module = modules[name]
        chosen = sample_positions(module, value, POSITIONS, name, len(found[name]) - 1, call)
        return outputs_at(module, value, chosen)[:, stays[name].to(value.device)]

    for inputs, _ in batches:
        for batch in found.values():
            batch.append(_DenseOutputs())
        samples = len(ModelInputs.of(inputs))
        with observe_layers(dense, layers, samples, add_output), observe_additions(dense, called, add_addend):
            call_network(dense, inputs)
        for batch in found.values():
            if len(batch[-1].calls) > 1:
                batch[-1].addend = None
    if not all(found.values()):
        raise DataError("there are no samples to reconstruct outputs from; which samples shall they be?")
    return found


class _EndOfPass(BaseException):
    """Ends a forward pass behind the observed layer. Not an Exception: a network may catch those."""


def _refit_layer(thinned: nn.Module, layer: Layer, wanted: Sequence[_DenseOutputs], batches: Iterable[Batch]) -> None:
    """Refits one layer to the dense network's outputs, one of `wanted` for each batch.

    Raises:
        DataError: there is another number of batches.
        TaskError: its inputs or outputs are not finite.
    """
    module = weighted_layer(thinned, layer)
    columns = module.weight[0].numel()
    if columns > MOST_INPUTS:
        log.warning("%s is not reconstructed: it has %d inputs, more than %d", layer.name, columns, MOST_INPUTS)
        return
    equations = _NormalEquations.of(module, layer.groups)
    for index, (batch, outputs) in enumerate(zip_longest(batches, wanted)):
        if outputs is None:
            raise DataError("the batches to reconstruct outputs from are not the same at every pass")
        if batch is None:
            raise DataError(
                "the batches to reconstruct outputs from can be gone through only once; give a list of them"
            )
        _add_batch(thinned, layer, batch[0], equations, outputs, index)
    equations.solve(layer.name)


def _add_batch(
    thinned: nn.Module, layer: Layer, inputs: Any, equations: _NormalEquations, wanted: _DenseOutputs, index: int
) -> None:
    """Adds one batch, the `index`-th, to a layer's normal equations."""
    windows: list[Tensor] = []

    def add_windows(name: str, call: int, layer_inputs: Tensor, output: Tensor) -> None:
        chosen = sample_positions(equations.module, output, POSITIONS, name, index, call)
        windows.append(inputs_at(equations.module, layer_inputs, chosen))
        if wanted.addend is None and call + 1 == len(wanted.calls):
            raise _EndOfPass

    lacking: Tensor | float = 0.0

    def compare_addends(name: str, addition: LayerAddition) -> None:
        nonlocal lacking
        if wanted.addend is not None:
            chosen = sample_positions(equations.module, addition.other, POSITIONS, name, index, 0)
            # The layer makes up for what the addend lacks; through a batch norm, divided by its slope.
            lost = wanted.addend - outputs_at(equations.module, addition.other, chosen)
            lacking = torch.where(addition.slope == 0, 0.0, lost / addition.slope)
            raise _EndOfPass

    try:
        samples, called = len(ModelInputs.of(inputs)), [layer.name] if layer.is_module else []
        with (
            observe_layers(thinned, [layer], samples, add_windows),
            observe_additions(thinned, called, compare_addends),
        ):
            call_network(thinned, inputs)
    except _EndOfPass:
        pass
    for seen, outputs in zip(windows, wanted.calls, strict=True):
        equations.add(seen, outputs + lacking)


@dataclass
class _NormalEquations:
    """A layer's normal equations, in double precision, for the change of its weights that corrects its outputs.

    Attributes:
        weight: `[groups, inputs, out of a group]` the present ones; inputs are channels of a group times positions
            of the kernel, and one more that is always 1 if there is a bias.
        gram: `[groups, inputs, inputs]` products of inputs with each other.
        cross: `[groups, inputs, out of a group]` products of inputs with the errors of the present outputs.
    """

    module: WeightedLayer
    weight: Tensor
    gram: Tensor
    cross: Tensor

    @classmethod
    def of(cls, module: WeightedLayer, groups: int) -> _NormalEquations:
        """Builds empty equations for a layer of so many groups."""
        weight = module.weight.detach().double().flatten(1)
        if module.bias is not None:
            weight = torch.cat([weight, module.bias.detach().double()[:, None]], 1)
        weight = weight.view(groups, -1, weight.size(1)).mT
        size = weight.size(1)
        return cls(module, weight, weight.new_zeros(groups, size, size), torch.zeros_like(weight))

    def add(self, windows: Tensor, wanted: Tensor) -> None:
        """Adds rows of inputs, `[rows, in, kernel]`, and the outputs that they should give, `[rows, out]`."""
        groups = len(self.weight)
        inputs = windows.double().reshape(len(windows), groups, -1).movedim(1, 0)
        if self.module.bias is not None:
            inputs = torch.cat([inputs, torch.ones_like(inputs[:, :, :1])], 2)
        lacking = wanted.double().reshape(len(wanted), groups, -1).movedim(1, 0) - inputs @ self.weight
        self.gram += inputs.mT @ inputs
        self.cross += inputs.mT @ lacking

    def solve(self, name: str) -> None:
        """Solves the equations and writes weights and bias into the layer, in place.

        Raises:
            TaskError: inputs or outputs were not finite.
        """
        if not bool(self.gram.isfinite().all()) or not bool(self.cross.isfinite().all()):
            raise TaskError(f"layer {name} cannot be reconstructed: its inputs or outputs are not finite")
        change = torch.cholesky_solve(self.cross, torch.linalg.cholesky(self.gram + self._ridge()))
        refitted = (self.weight + change).mT.flatten(0, 1)
        weight, bias = self.module.weight, self.module.bias
        weight.copy_(refitted[:, : weight[0].numel()].view_as(weight))
        if bias is not None:
            bias.copy_(refitted[:, -1])

    def _ridge(self) -> Tensor:
        """Returns the pull towards the present weights, `[groups, inputs, inputs]`; none on the bias.

        A group whose inputs were always zero gets 1, so that the equations can be solved.
        """
        diagonal, inputs = self.gram.diagonal(dim1=1, dim2=2), self.module.weight[0].numel()
        strength = RIDGE * diagonal[:, :inputs].mean(1, keepdim=True)
        ridge = torch.where(strength > 0, strength, 1.0).expand_as(diagonal).clone()
        ridge[:, inputs:] = 0
        return torch.diag_embed(ridge)


@dataclass(frozen=True)
class LayerAddition:
    """An addition of a layer's output to something else.

    Attributes:
        other: the addend, of the shape of the layer's output.
        slope: `[out]` the factor by which batch norms between layer and addition multiply the output.
    """

    other: Tensor
    slope: Tensor


AdditionObserver = Callable[[str, LayerAddition], None]
"""Called with a layer's name and the addition of its output."""


@contextmanager
def observe_additions(network: nn.Module, layers: Collection[str], observer: AdditionObserver) -> Iterator[None]:
    """Shows an observer what the outputs of some layers are added to during one forward pass in evaluation mode.

    Between layer and addition there may be batch norms and modules that return their input itself. Not shown are other
    uses of an output, the later calls of a layer, and sums with tensors of another shape.

    Args:
        network: calls the layers, and adds their outputs.
        layers: their names.
        observer: called before each addition.
    """
    recorder = _AdditionRecorder(observer)
    with ExitStack() as hooks:
        for name in layers:
            hooks.enter_context(network.get_submodule(name).register_forward_hook(partial(recorder.begin, name)))
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                hooks.enter_context(module.register_forward_hook(recorder.pass_batch_norm))
        with recorder:
            yield


class _AdditionRecorder(TorchFunctionMode):
    """Recognises outputs by identity among the arguments of later calls."""

    def __init__(self, observer: AdditionObserver) -> None:
        super().__init__()
        self._observer = observer
        self._followed: dict[int, tuple[str, Tensor, Tensor]] = {}  # by identity: layer, tensor, slope
        self._called: set[str] = set()

    def begin(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Begins to follow the output of a layer's first call."""
        if name not in self._called:
            features = output.shape[-1] if isinstance(module, nn.Linear) else output.shape[1]
            self._followed[id(output)] = (name, output, output.new_ones(features))
        self._called.add(name)

    def pass_batch_norm(self, module: _BatchNorm, args: tuple[Any, ...], output: Tensor) -> None:
        """Follows an output through a batch norm, whose factor in evaluation mode is γ / √(variance + ε)."""
        found = self._found(args[0]) if args else None
        if found is None or module.running_var is None:
            return
        name, _, slope = found
        scale = torch.rsqrt(module.running_var + module.eps)
        slope = slope * (scale if module.weight is None else scale * module.weight)
        self._followed[id(output)] = (name, output, slope)

    def _found(self, tensor: Any) -> tuple[str, Tensor, Tensor] | None:
        found = self._followed.get(id(tensor))
        return found if found is not None and found[1] is tensor else None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _ADDITIONS and len(args) == 2 and not kwargs:
            for one, other in (args, args[::-1]):
                found = self._found(one)
                if found is not None and isinstance(other, Tensor) and other.shape == one.shape:
                    self._observer(found[0], LayerAddition(other, found[2]))
        return func(*args, **kwargs)
