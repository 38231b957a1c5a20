"""What rules work with: activations as arrays of channel ids, and the ways in which these meet.

An activation has, beside its shape, any number of arrays of channel ids, each of the activation's rank with length 1
along the axes on which it does not vary. An entry of the activation is there as long as all its ids are. Most have one
array, along the channels; a weight has one along each of its axes, so that it can lose outputs and inputs; of the
queries of an attention one array varies along the heads and the channels of a head together. What has none holds
positions only, or channels that always stay.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx

from autoprune.graph.channel_ids import ChannelIds, axes_of, covered, overlap

# Packages whose functions are known by their names; another's own `pad` may do anything.
_LIBRARIES = frozenset("_operator aten builtins operator prims torch torchvision autoprune".split())


@dataclass(frozen=True)
class Activation:
    """A tensor as its shape and its channel ids.

    Attributes:
        ids: arrays of the tensor's rank, compressed, each varying along one axis or several.
        statistics: numbers of those statistics over channels (a mean, a variance) that it was computed from.
        origin: why it has no ids, where it has none.
    """

    shape: torch.Size
    ids: tuple[Tensor, ...] = ()
    statistics: frozenset[int] = frozenset()
    origin: str = ""

    def along(self, dim: int) -> list[Tensor]:
        """Returns the arrays that vary along an axis."""
        return [ids for ids in self.ids if ids.size(dim) > 1]


@dataclass(frozen=True)
class Statistic:
    """A mean, variance or norm over all entries of some channels.

    Attributes:
        ids: of the channels that it was taken over.
        inverse: whether it was inverted, so that a product with it divides.
    """

    ids: Tensor
    inverse: bool = False


@dataclass(frozen=True)
class Product:
    """Multiply-adds of an operation: `factor` times the product of how many of some ids stay."""

    layer: str
    factor: int
    ids: tuple[Tensor, ...]


@dataclass
class Channels:
    """The ids of a network, with what was found beside ties.

    Attributes:
        statistics: by number.
        products: by operation.
    """

    ids: ChannelIds = field(default_factory=ChannelIds)
    statistics: list[Statistic] = field(default_factory=list)
    products: dict[fx.Node, list[Product]] = field(default_factory=dict)

    def new(self, count: int) -> Tensor:
        """Returns `[count]` new ids."""
        return self.ids.new(count)

    def rooted(self, activation: Activation) -> Activation:
        """Returns an activation with its ids replaced by their roots; arrays that do not vary any more are dropped."""
        arrays = (self.ids.rooted(ids) for ids in activation.ids)
        return replace(activation, ids=tuple(ids for ids in arrays if axes_of(ids)))

    def hold(self, ids: Tensor, axes: Collection[int], reason: str) -> Tensor:
        """Lets entries along some axes stay or go together; those that would all go then are frozen.

        Returns:
            The array after it, which varies along the other axes.
        """
        ids = self.ids.rooted(ids)
        within = [axis for axis in axes_of(ids) if axis in axes]
        if not within:
            return ids
        if len(within) == len(axes_of(ids)):
            self.ids.freeze(ids, reason)
            return ids
        self.ids.tie_along(ids, within)
        return self.ids.rooted(ids)

    def freeze(self, activation: Activation, reason: str) -> None:
        """Freezes all ids of an activation, and the channels that it is a statistic of."""
        for ids in activation.ids:
            self.ids.freeze(ids, reason)
        self.use_statistics([activation], reason)

    def use_statistics(self, activations: Sequence[Activation], reason: str) -> None:
        """Freezes the channels whose statistics are used by something that is no norm."""
        for number in sorted({number for each in activations for number in each.statistics}):
            self.ids.freeze(self.statistics[number].ids, f"{reason} of a mean or variance over them")

    def take_statistic(self, ids: Tensor) -> int:
        """Returns the number of a new statistic over the channels of `[…]` ids."""
        self.statistics.append(Statistic(ids))
        return len(self.statistics) - 1

    def merge(self, shape: torch.Size, operands: Sequence[Activation], what: str) -> tuple[Tensor, ...]:
        """Ties the ids that meet where operands are broadcast to a shape and combined entry by entry.

        An operand without ids along an axis where others have some holds positions there, all of which stay: entries
        along that axis are held together. One that is repeated along an axis of others' channels (a weight of one head
        that serves all heads) stays whole, and so do the others along its axes.

        Args:
            shape: of the result.
            operands: of at most its rank.
            what: the operation, for reasons.

        Returns:
            The arrays of the result.
        """
        rank = len(shape)
        sizes = [[1] * (rank - len(each.shape)) + list(each.shape) for each in operands]
        arrays = [
            [ids.reshape([1] * (rank - ids.dim()) + list(ids.shape)) for ids in self.rooted(each).ids]
            for each in operands
        ]
        result = []
        for cluster in _clusters([(ids, at) for at, own in enumerate(arrays) for ids in own]):
            alone = len({at for _, at in cluster}) == 1  # several kinds of channels of one operand do not meet
            result += [ids for ids, _ in cluster] if alone else [self._merge_cluster(cluster, sizes, what)]
        final = []
        for ids in result:
            meets = covered([ids])
            for at, each in enumerate(operands):
                plain = {axis for axis in meets if sizes[at][axis] > 1} - covered(arrays[at])
                if plain:
                    ids = self.hold(ids, plain, each.origin or f"{what} meets values of no channel")
                    if plain >= set(axes_of(ids)):  # frozen: from here on they are positions
                        break
            else:
                final.append(self.ids.rooted(ids))
        return tuple(ids for ids in final if axes_of(ids))

    def _merge_cluster(self, cluster: list[tuple[Tensor, int]], sizes: list[list[int]], what: str) -> Tensor:
        axes = covered([ids for ids, _ in cluster])
        outermost = min(axes)
        wide = [ids for ids, at in cluster if not any(sizes[at][axis] == 1 for axis in axes)]
        narrow = [(ids, at) for ids, at in cluster if any(sizes[at][axis] == 1 for axis in axes)]
        for ids, _ in narrow:
            if ids.size(outermost) == 1 and wide:
                self.ids.freeze(ids, f"{what} repeats it along other channels")
                wide = [self.hold(each, axes_of(ids), f"{what} repeats other channels along it") for each in wide]
            else:
                wide.append(ids)
        first = wide[0]
        for ids in wide[1:]:
            self.ids.tie(first, ids)
            first = max(first, ids, key=torch.Tensor.numel)
        return self.ids.rooted(torch.broadcast_tensors(first, *wide)[0])  # type: ignore[no-untyped-call]


def _clusters(arrays: Sequence[tuple[Tensor, int]]) -> Iterator[list[tuple[Tensor, int]]]:
    """Groups arrays that vary along common axes, directly or through others."""
    left = list(arrays)
    while left:
        cluster, left = [left[0]], left[1:]
        while more := [each for each in left if any(overlap(each[0], own) for own, _ in cluster)]:
            cluster += more
            left = [each for each in left if not any(each is one for one in more)]
        yield cluster


@dataclass(frozen=True)
class Operation:
    """One operation of the network, with what is known of the operations before it.

    Attributes:
        name: plain name of the function, method or module's class.
        shape: of the result; nested where there are several.
        activations: operation to its activation; nested where it has several results.
        values: operation to its value: a number, or the shape of a tensor.
        kept: operation to the values of its result, where these are known.
        singles: as `values`, with one sample; empty where that is another graph.
        samples: how many samples `values` are of.
        reached: operations that depend on the values of the network's inputs.
        owner: name of the module whose operation it is.
    """

    node: fx.Node
    name: str
    shape: Any
    channels: Channels
    activations: Mapping[fx.Node, Any]
    values: Mapping[fx.Node, Any]
    kept: Mapping[fx.Node, Tensor]
    singles: Mapping[fx.Node, Any]
    reached: Collection[fx.Node]
    owner: str = ""

    def single(self, node: Any, activation: Activation) -> Sequence[int]:
        """Returns the shape that an activation has for one sample."""
        found = self.singles.get(node)
        return found if isinstance(found, torch.Size) else activation.shape

    def fixed(self, node: Any) -> bool:
        """Tells whether an operation's result is the same whatever the values of the network's inputs are."""
        return node not in self.reached

    def layer_name(self) -> str:
        """Returns the name under which its costs are listed."""
        return self.owner or "(other operations)"

    def arguments(self, *names: str) -> dict[str, Any]:
        """Returns the arguments by name, positional ones in the order of `names`."""
        return {**dict(zip(names, self.node.args, strict=False)), **self.node.kwargs}

    def activation(self, argument: Any) -> Activation | None:
        """Returns the activation that an argument is, or None where it is none."""
        found = self.activations.get(argument) if isinstance(argument, fx.Node) else None
        return found if isinstance(found, Activation) else None

    def number(self, argument: Any) -> Any:
        """Returns an argument with numbers in place of the operations that compute them."""
        return fx.node.map_arg(argument, lambda node: self.values.get(node))

    def operands(self) -> list[Activation]:
        """Returns every activation among the arguments, in order; one that is given twice is there twice."""
        found: list[Activation] = []

        def add(node: fx.Node) -> fx.Node:
            found.extend(activations_in(self.activations.get(node)))
            return node

        fx.node.map_arg((self.node.args, dict(self.node.kwargs)), add)
        return found

    def result(self, ids: Sequence[Tensor], shape: torch.Size | None = None) -> Activation:
        """Returns the result with these arrays, rooted; those that do not vary are dropped."""
        return self.channels.rooted(Activation(self.shape if shape is None else shape, tuple(ids)))


Rule = Callable[[Operation], Any]
"""Returns the activation that is an operation's result, nested where there are several; None where it is unknown."""


def activations_in(value: Any) -> list[Activation]:
    """Lists every activation in nested tuples and lists."""
    if isinstance(value, Activation):
        return [value]
    return [found for item in value for found in activations_in(item)] if isinstance(value, (tuple, list)) else []


def map_activations(value: Any, change: Callable[[Activation], Any]) -> Any:
    """Returns a value in which every activation in nested lists is changed."""
    if isinstance(value, Activation):
        return change(value)
    return [map_activations(item, change) for item in value] if isinstance(value, list) else value


def name_of(node: fx.Node) -> str:
    """Returns the plain name of the function or method that a node calls, without marks of places and order.

    That of a function that is not torch's has its module in front.
    """
    if node.op == "call_method":
        return str(node.target).strip("_")
    if node.target is getattr:
        return str(node.args[1])
    function = node.target
    name = str(getattr(function, "_opname", getattr(function, "__name__", function)))
    packet = getattr(function, "overloadpacket", None)
    if packet is not None:
        name = str(packet.__name__)
    module = getattr(function, "__module__", None) or "torch"
    known = module.replace("torch._ops.", "").partition(".")[0] in _LIBRARIES
    return name.strip("_") if known else f"{module}.{name}"
