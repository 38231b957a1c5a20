"""What must hold of every network: thinned equals masked, costs are exact, nothing of the caller's changes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from autoprune.graph.costs import build_cost_table, measure_costs
from autoprune.graph.groups import ChannelGraph, find_groups
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.recording.capture import record
from autoprune.pruning.surgery.masked_run import run_masked
from autoprune.pruning.surgery.thinning import thin


def traced(network: nn.Module, inputs: Tensor) -> fx.GraphModule:
    """What the network does with the inputs, as a graph that runs it again."""
    return record(network, ModelInputs.of(inputs)).traced


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with nothing trivial left in it: biases, norms and running statistics drawn at random, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is None or not tensor.is_floating_point():
                    continue
                if name == "running_var":
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
                elif tensor.dim() <= 1 or name == "running_mean":
                    tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.5 + 0.3)
    return network


def batch(shape: tuple[int, ...], integers: bool, dtype: torch.dtype, samples: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    if integers:
        return torch.randint(0, 5, (samples, *shape), generator=generator)
    return torch.randn((samples, *shape), generator=generator, dtype=torch.float64).to(dtype)


def allocations(graph: ChannelGraph, draws: int = 3) -> Iterator[dict[str, list[int]]]:
    """The narrowest, the dense and some random choices of structures."""
    yield {group.name: [group.group.width // 2] for group in graph.groups}
    yield {}
    rng = np.random.default_rng(0)
    for _ in range(draws):
        kept = {}
        for group in graph.groups:
            size = int(rng.integers(1, group.group.width + 1))
            kept[group.name] = sorted(rng.choice(group.group.width, size, replace=False).tolist())
        yield kept


def check_network(network: nn.Module, inputs: Tensor, tolerance: float, draws: int = 3) -> ChannelGraph:
    """Asserts the whole contract; returns the graph for further questions."""
    state = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    graph = find_groups(network, inputs)
    table = build_cost_table(network, graph, inputs)
    assert table.dense() == measure_costs(network, inputs)
    for kept in allocations(graph, draws):
        thinned = thin(network, graph, kept, check_on=inputs if inputs.is_floating_point() else None)
        assert isinstance(thinned, type(network))
        expected = run_masked(copy.deepcopy(network).eval(), graph, kept, ModelInputs.of(inputs))
        close(copy.deepcopy(thinned).eval()(inputs), expected, tolerance)
        assert table.costs({name: len(stays) for name, stays in kept.items()}) == measure_costs(thinned, inputs)
        assert thinned.state_dict().keys() == state.keys()
        usable(thinned, inputs, tolerance)
    assert [module.training for module in network.modules()] == modes
    assert network.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    return graph


def same_outputs(one: nn.Module, other: nn.Module, inputs: Tensor, tolerance: float) -> None:
    one, other = copy.deepcopy(one).eval(), copy.deepcopy(other).eval()
    with torch.no_grad():
        close(one(inputs), other(inputs), tolerance)


def close(one: Any, other: Any, tolerance: float) -> None:
    found, expected = tree_leaves(one), tree_leaves(other)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(
            torch.as_tensor(a),
            torch.as_tensor(b),
            rtol=tolerance,
            atol=tolerance * float(torch.as_tensor(b).detach().abs().max() + 1e-12),
        )


def usable(thinned: nn.Module, inputs: Tensor, tolerance: float) -> None:
    """It trains (every parameter a leaf), and a copy gives the same."""
    twin = copy.deepcopy(thinned)
    assert twin.state_dict().keys() == thinned.state_dict().keys()
    same_outputs(thinned, twin, inputs, tolerance)
    assert all(parameter.is_leaf for parameter in twin.parameters())
    loss = sum(leaf.double().square().sum() for leaf in tree_leaves(twin.train()(inputs)) if isinstance(leaf, Tensor))
    if any(parameter.requires_grad for parameter in twin.parameters()):
        assert isinstance(loss, Tensor)
        loss.backward()  # type: ignore[no-untyped-call]


def widths(graph: ChannelGraph) -> Mapping[str, int]:
    return {group.name: group.group.width for group in graph.groups}
