"""What is found out about a network of the matrix: one row."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.errors import TaskError
from tests.zoo.analysis import Analysis, Kept
from tests.zoo.counting import count_costs
from tests.zoo.networks import ZooNetwork, call
from tests.zoo.reference import default_double, in_double, masked, relative_difference, tensors_of, variation
from tests.zoo.running import FRESH_SAMPLES, SAMPLES, explain, one_sample, train_once

ALLOCATIONS = 3
TOLERANCE = 1e-9


@dataclass
class Row:
    """One network, as far as it came.

    Attributes:
        failure: why it was not captured or not thinned, or None.
        groups: how many groups may be pruned.
        least: share of the FLOPs that remains with one structure in every group.
        seconds: of one core, for groups and costs.
        difference: the largest of any allocation between thinned and masked outputs, against the largest output.
        noticed: the smallest difference between masked and dense outputs; what the masks change.
        varies: the largest difference, over the allocations, between the masked network's outputs for two samples.
        costs: of the first allocation whose predicted costs are not the counted ones: both; else None.
        own_class: whether all that came back is of the network's own class.
        trains: None, or what failed in a step of training.
        untouched: whether the network is as it was.
    """

    network: str
    failure: str | None = None
    groups: int = 0
    least: float | None = None
    seconds: float | None = None
    difference: float | None = None
    noticed: float | None = None
    varies: float | None = None
    costs: dict[str, dict[str, int]] | None = None
    own_class: bool = False
    trains: str | None = None
    untouched: bool = True
    wall: float = 0.0

    @property
    def captured(self) -> bool:
        """Whether at least one group was found, and thinned exactly."""
        return self.failure is None and self.difference is not None and self.difference <= TOLERANCE

    def as_dict(self) -> dict[str, Any]:
        """Returns it for a file."""
        return {**asdict(self), "captured": self.captured}


def examine(zoo: ZooNetwork, allocations: int = ALLOCATIONS) -> Row:
    """Analyses a network, thins it a few times at random, and compares each with the masked one on fresh inputs.

    Args:
        zoo: the network; it is built in float64.
        allocations: how many.
    """
    row, began = Row(zoo.name), time.monotonic()
    network, inputs = zoo.build(torch.float64), zoo.inputs(SAMPLES, seed=10, dtype=torch.float64)
    before, classes = _snapshot(network), [type(module) for module in network.modules()]
    try:
        analysis = _analyse(network, inputs)
        with in_double():
            thinned = _fill(row, zoo, network, inputs, analysis, allocations)
        for each in thinned:
            row.trains = row.trains or train_once(each.float(), zoo)
    except Exception as error:  # whatever goes wrong is what is to be found out
        row.failure = explain(error)
    after = _snapshot(network)
    row.untouched = classes == [type(module) for module in network.modules()] and before.keys() == after.keys()
    row.untouched = row.untouched and all(torch.equal(before[name], after[name]) for name in before)
    row.wall = round(time.monotonic() - began, 1)
    return row


def _analyse(network: nn.Module, inputs: Any) -> Analysis:
    """Analyses a network; one that insists on float32 somewhere is made to compute in float64 there too."""
    try:
        with default_double():
            return Analysis(network, inputs)
    except TaskError:
        with in_double():
            return Analysis(network, inputs)


def _fill(
    row: Row, zoo: ZooNetwork, network: nn.Module, inputs: Any, analysis: Analysis, allocations: int
) -> list[nn.Module]:
    """Fills in a row, but for training; returns the thinned networks."""
    row.seconds, row.groups = round(analysis.seconds, 2), len(analysis.widths)
    sample = one_sample(inputs, SAMPLES)
    dense = count_costs(network, sample)
    _compare_costs(row, analysis.predicted(analysis.widths), dense)
    if not analysis.widths:
        row.failure = "nothing can be pruned"
        return []
    row.least = round(analysis.predicted(dict.fromkeys(analysis.widths, 1))["flops"] / dense["flops"], 4)
    fresh = zoo.inputs(FRESH_SAMPLES, seed=11, dtype=torch.float64)
    expected_dense = masked(network, [], fresh)
    networks: list[nn.Module] = []
    differences, noticed, varies, own = [], [], [], []
    for draw in range(allocations):
        kept = draw_allocation(analysis.widths, draw)
        thinned = analysis.thin(kept)
        twin = copy.deepcopy(thinned).eval()
        with torch.no_grad():
            found = call(twin, fresh)
        expected = masked(network, analysis.channels_without(kept), fresh)
        differences.append(relative_difference(found, expected))
        noticed.append(_changed(expected, expected_dense))
        varies.append(variation(expected))
        widths = {name: len(stays) for name, stays in kept.items()}
        _compare_costs(row, analysis.predicted(widths), count_costs(thinned, sample))
        own.append(isinstance(thinned, type(network)))
        networks.append(thinned)
    row.difference, row.noticed, row.varies = max(differences), min(noticed), max(varies)
    row.own_class = all(own)
    return networks


def draw_allocation(widths: Mapping[str, int], draw: int) -> Kept:
    """Draws how many structures of each group stay, and which: any number from one on, from half on, from 7/8 on.

    Of each group that can lose one at least one goes.

    With any number of channels in each of many layers a signal fades, and what differs early is lost in rounding.
    """
    rng = np.random.default_rng(draw)
    least = {name: max(1, (0, width // 2, width * 7 // 8)[draw % 3]) for name, width in widths.items()}
    return {
        name: sorted(rng.choice(width, rng.integers(least[name], max(width, 2)), replace=False).tolist())
        for name, width in widths.items()
    }


def _compare_costs(row: Row, predicted: dict[str, int], counted: dict[str, int]) -> None:
    if row.costs is None and any(predicted[name] != counted[name] for name in counted):
        row.costs = {"predicted": {name: int(predicted[name]) for name in counted}, "counted": counted}


def _changed(masked_output: Any, dense_output: Any) -> float:
    """Returns the relative difference of outputs, or 1 where even their shapes differ (detections found or not)."""
    one, two = tensors_of(masked_output), tensors_of(dense_output)
    return relative_difference(one, two) if [t.shape for t in one] == [t.shape for t in two] else 1.0


def _snapshot(network: nn.Module) -> dict[str, Tensor]:
    """Returns copies of all parameters and buffers."""
    return {
        name: tensor.detach().clone() for name, tensor in network.state_dict().items() if isinstance(tensor, Tensor)
    }
