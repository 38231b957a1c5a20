"""Least squares in place of training: layers behind what was removed learn to give the dense network's outputs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from autoprune.errors import DataError, TaskError
from autoprune.graph.capture import mode
from autoprune.graph.groups import ChannelGraph, Kept
from autoprune.graph.layers import Layer
from autoprune.pruning.statistics.layer_inputs import (
    WeightedLayer,
    inputs_at,
    observe_layers,
    outputs_at,
    sample_positions,
    weighted_layer,
)

_ADDITIONS = ("add", "add_", "__add__", "__iadd__", "__radd__")


@dataclass(frozen=True)
class LayerAddition:
    """An addition that a layer's output goes into.

    Attributes:
        other: what it is added to, of the shape of the layer's output.
        slope: `[out]` by how much the layer's output is multiplied on its way, by batch norm.
    """

    other: Tensor
    slope: Tensor


AdditionObserver = Callable[[str, LayerAddition], None]
"""Takes a layer's name and the addition that its output goes into."""


@contextmanager
def observe_additions(network: nn.Module, layers: Collection[str], take: AdditionObserver) -> Iterator[None]:
    """For one forward pass in evaluation mode, shows what the outputs of some layers are added to.

    Between layer and addition there may be batch norm and modules that return what they are given. What else becomes of
    an output, a layer called twice, and a sum with anything of another shape are not shown.
    """
    follower = _Follower(take)
    hooks = [network.get_submodule(name).register_forward_hook(partial(follower.begin, name)) for name in layers]
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    hooks += [module.register_forward_hook(follower.normalised) for module in norms]
    try:
        with follower:
            yield
    finally:
        for hook in hooks:
            hook.remove()


class _Follower(TorchFunctionMode):
    """Knows outputs by being the very tensors that a later call is given."""

    def __init__(self, take: AdditionObserver) -> None:
        super().__init__()
        self._take = take
        self._followed: dict[int, tuple[str, Tensor, Tensor]] = {}
        self._called: set[str] = set()

    def begin(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if name not in self._called:
            features = output.shape[-1] if isinstance(module, nn.Linear) else output.shape[1]
            self._followed[id(output)] = (name, output, output.new_ones(features))
        self._called.add(name)

    def normalised(self, module: _BatchNorm, args: tuple[Any, ...], output: Tensor) -> None:
        found = self._found(args[0]) if args else None
        if found is None or module.running_var is None:
            return
        name, _, slope = found
        spread = torch.rsqrt(module.running_var + module.eps)
        slope = slope * (spread if module.weight is None else spread * module.weight)
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
                    self._take(found[0], LayerAddition(other, found[2]))
        return func(*args, **kwargs)


log = logging.getLogger(__name__)

# Pull towards the present weights, relative to the mean square of an input. On ResNet-20 at half of its FLOPs a tenth
# of it or three times as much are no better in accuracy, ten times as much is worse by five points.
RIDGE = 0.1
# Output positions looked at in each image; more cost little time, as forward passes take most, but memory.
POSITIONS = 32
# Of a layer: the Gram matrix of so many takes 2 GiB.
MOST_INPUTS = 2**14

Batch = tuple[Tensor, Tensor]


def refit(
    thinned: nn.Module,
    dense: nn.Module,
    graph: ChannelGraph,
    kept: Kept,
    batches: Iterable[Batch],
    *,
    consumers_only: bool = False,
) -> None:
    """Gives every layer from the first whose inputs were thinned on its weights, and bias, of least squared error.

    In place. In forward order each such convolution (grouped ones group by group) or linear layer gets what maps the
    thinned network's present inputs of it best onto the dense network's outputs of it, those that stay. Inputs come
    from layers refitted before, so that later ones make good what earlier ones could not, also where none of their own
    was removed. Where its output is added to something else, as a branch is to its shortcut, it is the dense network's
    sum that is aimed at, so that a branch makes good what its shortcut has lost (see `sums`). Layers before the first
    thinned one, depthwise and transposed convolutions stay as they are, batch norms too.

    A small ridge, `RIDGE` times the mean diagonal of the inputs' Gram matrix (so that it scales with inputs and
    samples), pulls towards the present weights; what nothing seen determines stays as it is. The bias is free.

    Only sampled positions of outputs count, `POSITIONS` of each image. The dense network runs once, and its outputs
    there are held (samples x positions x outputs that stay, of all layers); then the thinned one runs once for each
    layer, up to it, and sums normal equations in double precision, of one layer at a time. A layer with more than
    `MOST_INPUTS` inputs of a group is left, as its equations need too much memory, and named in the log.

    Args:
        thinned: `thin(dense, graph, kept)`, with the weights it got there.
        graph: of the dense network.
        batches: gone through once for each layer, and once more; always the same.
        consumers_only: whether only layers that lost inputs are refitted; far less to do where one group is thinned.

    Raises:
        DataError: there is no batch, or another number of them at another pass.
        TaskError: a layer's inputs or outputs are not finite.

    Source: He et al. 2017, arXiv:1707.06168, the second of their two steps, with what was pruned before in the inputs
    as they do for whole models, and the aim of a residual branch as in their section on multi-branch networks. There
    without a ridge, only layers that lose inputs are refitted, and each before the next is pruned; here all channels
    are chosen before.
    """
    keep = graph.keep_mask(kept)
    layers = refitted_layers(graph, kept, consumers_only=consumers_only)
    if not layers:
        return
    with mode(dense, training=False), mode(thinned, training=False), torch.no_grad():
        targets = _dense_outputs(dense, layers, keep, batches)
        for layer in layers:
            wanted = targets.pop(layer.name)
            if any(batch.calls for batch in wanted):  # an auxiliary head is not called in evaluation mode
                _refit_layer(thinned, layer, wanted, batches)


def refitted_layers(graph: ChannelGraph, kept: Kept, *, consumers_only: bool = False) -> list[Layer]:
    """The layers that are refitted, in forward order; see `refit`."""
    keep = graph.keep_mask(kept)
    layers = [layer for layer in graph.layers if layer.produces and layer.kind in ("convolution", "linear")]
    users = [layer for layer in layers if not bool(keep[layer.incoming].all())]
    return layers[layers.index(users[0]) :] if users and not consumers_only else users


@dataclass
class _Wanted:
    """What a layer is to give for one batch, at the chosen positions.

    Attributes:
        calls: for each call of it in the forward pass, `[rows, out]` outputs of the dense network.
        beside: `[rows, out]` what the dense network adds to the output; None where nothing is, or it is called again.
    """

    calls: list[Tensor] = field(default_factory=list)
    beside: Tensor | None = None


def _dense_outputs(
    dense: nn.Module, layers: Sequence[Layer], keep: Tensor, batches: Iterable[Batch]
) -> dict[str, list[_Wanted]]:
    """By layer and batch, what the dense network gives at the output channels that stay."""
    stays = {layer.name: keep[layer.outgoing].nonzero().flatten() for layer in layers}
    found: dict[str, list[_Wanted]] = {name: [] for name in stays}

    def take(name: str, call: int, inputs: Tensor, output: Tensor) -> None:
        found[name][-1].calls.append(staying(name, output, call))

    def note(name: str, addition: LayerAddition) -> None:
        found[name][-1].beside = staying(name, addition.other, 0)

    def staying(name: str, value: Tensor, call: int) -> Tensor:
        module = weighted_layer(dense, name)
        chosen = sample_positions(module, value, POSITIONS, name, len(found[name]) - 1, call)
        return outputs_at(module, value, chosen)[:, stays[name].to(value.device)]

    for inputs, _ in batches:
        for batch in found.values():
            batch.append(_Wanted())
        with observe_layers(dense, stays, take), observe_additions(dense, stays, note):
            dense(inputs)
        for batch in found.values():
            if len(batch[-1].calls) > 1:
                batch[-1].beside = None
    if not all(found.values()):
        raise DataError("there are no samples to reconstruct outputs from; which samples shall they be?")
    return found


class _SeenEnough(BaseException):
    """Ends a forward pass behind the layer watched. Not an Exception: a network may catch those."""


def _refit_layer(thinned: nn.Module, layer: Layer, wanted: Sequence[_Wanted], batches: Iterable[Batch]) -> None:
    module = weighted_layer(thinned, layer.name)
    columns = module.weight[0].numel()
    if columns > MOST_INPUTS:
        log.warning("%s is not reconstructed: it has %d inputs, more than %d", layer.name, columns, MOST_INPUTS)
        return
    fit = _Fit.of(module, layer.groups)
    passes = 0
    for inputs, _ in batches:
        if passes == len(wanted):
            raise DataError("the batches to reconstruct outputs from are not the same at every pass")
        _see(thinned, layer.name, inputs, fit, wanted[passes], passes)
        passes += 1
    if passes < len(wanted):
        raise DataError("the batches to reconstruct outputs from can be gone through only once; give a list of them")
    fit.solve(layer.name)


def _see(thinned: nn.Module, name: str, inputs: Tensor, fit: _Fit, wanted: _Wanted, batch: int) -> None:
    """Adds one batch to a layer's normal equations."""
    windows: list[Tensor] = []

    def take(name: str, call: int, layer_inputs: Tensor, output: Tensor) -> None:
        chosen = sample_positions(fit.module, output, POSITIONS, name, batch, call)
        windows.append(inputs_at(fit.module, layer_inputs, chosen))
        if wanted.beside is None and call + 1 == len(wanted.calls):
            raise _SeenEnough

    lacking: Tensor | float = 0.0

    def note(name: str, addition: LayerAddition) -> None:
        nonlocal lacking
        if wanted.beside is not None:
            chosen = sample_positions(fit.module, addition.other, POSITIONS, name, batch, 0)
            lost = wanted.beside - outputs_at(fit.module, addition.other, chosen)
            lacking = torch.where(addition.slope == 0, 0.0, lost / addition.slope)
            raise _SeenEnough

    try:
        with observe_layers(thinned, [name], take), observe_additions(thinned, [name], note):
            thinned(inputs)
    except _SeenEnough:
        pass
    for seen, outputs in zip(windows, wanted.calls, strict=True):
        fit.add(seen, outputs + lacking)


@dataclass
class _Fit:
    """A layer's normal equations, in double precision, for the change of its weights that mends its outputs.

    Attributes:
        weight: `[groups, inputs, out of a group]` the present ones; inputs are channels of a group times the kernel's
            places, and one more that is always 1 if there is a bias.
        gram: `[groups, inputs, inputs]`.
        cross: `[groups, inputs, out of a group]` with what the present weights lack.
    """

    module: WeightedLayer
    weight: Tensor
    gram: Tensor
    cross: Tensor

    @classmethod
    def of(cls, module: WeightedLayer, groups: int) -> _Fit:
        weight = module.weight.detach().double().flatten(1)
        if module.bias is not None:
            weight = torch.cat([weight, module.bias.detach().double()[:, None]], 1)
        weight = weight.view(groups, -1, weight.size(1)).mT
        size = weight.size(1)
        return cls(module, weight, weight.new_zeros(groups, size, size), torch.zeros_like(weight))

    def add(self, windows: Tensor, wanted: Tensor) -> None:
        """Rows of inputs `[rows, in, kernel]` with the outputs wanted, `[rows, out]`."""
        groups = len(self.weight)
        inputs = windows.double().reshape(len(windows), groups, -1).movedim(1, 0)
        if self.module.bias is not None:
            inputs = torch.cat([inputs, torch.ones_like(inputs[:, :, :1])], 2)
        lacking = wanted.double().reshape(len(wanted), groups, -1).movedim(1, 0) - inputs @ self.weight
        self.gram += inputs.mT @ inputs
        self.cross += inputs.mT @ lacking

    def solve(self, name: str) -> None:
        """Writes the weights, and the bias, into the layer."""
        if not bool(self.gram.isfinite().all()) or not bool(self.cross.isfinite().all()):
            raise TaskError(f"layer {name} cannot be reconstructed: its inputs or outputs are not finite")
        change = torch.cholesky_solve(self.cross, torch.linalg.cholesky(self.gram + self._ridge()))
        mended = (self.weight + change).mT.flatten(0, 1)
        weight, bias = self.module.weight, self.module.bias
        weight.copy_(mended[:, : weight[0].numel()].view_as(weight))
        if bias is not None:
            bias.copy_(mended[:, -1])

    def _ridge(self) -> Tensor:
        """`[groups, inputs, inputs]` what pulls towards the present weights; 1 where no input was ever seen."""
        diagonal = self.gram.diagonal(dim1=1, dim2=2)
        inputs = diagonal if self.module.bias is None else diagonal[:, :-1]
        strength = RIDGE * inputs.mean(1, keepdim=True)
        ridge = torch.where(strength > 0, strength, 1.0).expand_as(diagonal).clone()
        if self.module.bias is not None:
            ridge[:, -1] = 0
        return torch.diag_embed(ridge)
