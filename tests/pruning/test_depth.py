"""Branches that are removed beside channels: exact on every network that has any."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autoprune.core.allocation import Allocation
from autoprune.core.recipe import Recipe
from autoprune.core.space import GroupRule, SpaceRules
from autoprune.core.trial import Candidate
from autoprune.errors import UserError
from autoprune.evaluation.candidate_builder import PrunedNetwork
from autoprune.evaluation.checkpoints.checkpoint import read_checkpoint, rebuild_from, write_checkpoint
from autoprune.evaluation.parents import restore_parent
from autoprune.evaluation.prunable_model import PrunableModel, analyze
from autoprune.graph.costs import measure_costs
from autoprune.graph.inputs import ModelInputs
from autoprune.pruning.patterns import FILTER, with_depth
from autoprune.pruning.pruner import L1_FILTER, LEVEL
from autoprune.pruning.structures import ChannelStructures
from autoprune.pruning.surgery.masked_run import run_masked
from tests.evaluation.evaluators import evaluator_of
from tests.evaluation.sensitivity.test_sweep import RESNET_8
from tests.graph.contract import batch, randomise
from tests.graph.networks import Case
from tests.graph.test_branches import CASES, EXPECTED, Added

DEPTH = L1_FILTER.with_depth()


def analyzed(case: Case, dtype: torch.dtype = torch.float64) -> PrunableModel:
    torch.manual_seed(0)
    network = randomise(case.build().to(dtype))
    return analyze(network, batch(case.shape, case.integers, dtype), DEPTH)


def structures_of(prunable: PrunableModel) -> ChannelStructures:
    assert isinstance(prunable.structures, ChannelStructures)
    return prunable.structures


def drawn(prunable: PrunableModel, count: int = 4) -> Iterator[Allocation]:
    """Random widths, in all of which some branch is gone; the last without any branch."""
    rng, structures = np.random.default_rng(0), structures_of(prunable)
    for draw in range(count):
        widths = {group.name: int(rng.integers(1, group.width + 1)) for group in structures.groups}
        gone = {lead for lead in structures.branches if rng.random() < 0.4 or draw == count - 1}
        gone |= {list(structures.branches)[draw % len(structures.branches)]}
        yield Allocation(
            {group.name: 0 if {group.name, group.lead} & gone else widths[group.name] for group in structures.groups}
        )


def outputs(network: nn.Module, inputs: ModelInputs) -> list[Tensor]:
    with torch.no_grad():
        return leaves(inputs.call(network.eval()))


def leaves(value: Any) -> list[Tensor]:
    return [leaf.detach() for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


@pytest.mark.parametrize("name", EXPECTED)
def test_thinned_and_shortened_is_masked_and_costs_what_was_predicted(name: str) -> None:
    prunable = analyzed(CASES[name])
    structures, inputs = structures_of(prunable), prunable.inputs
    for widths in drawn(prunable):
        small = structures.prune(prunable.network, prunable.importance, widths)
        assert measure_costs(small, inputs) == prunable.costs.costs(widths)
        by_layer = prunable.costs.by_layer("params", widths)
        assert sum(by_layer.values()) == prunable.costs.cost(widths, "params")
        # What stays of a branch whose tensors are all zero is its shortcut.
        kept = structures.kept_channels(prunable.importance, widths)
        zeroed = copy.deepcopy(prunable.network)
        gone = [branch for lead, branch in structures.branches.items() if widths[lead] == 0]
        inside = {name for branch in gone for name in branch.tensors}
        for tensor in (tensor for name, tensor in zeroed.named_parameters() if name in inside):
            tensor.data.zero_()
        masked = leaves(run_masked(zeroed, prunable.graph, kept, inputs))
        for found, expected in zip(outputs(small, inputs), masked, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        assert set(small.state_dict()) <= set(prunable.network.state_dict())


def test_what_a_branch_adds_for_each_channel_of_the_stream_goes_with_it() -> None:
    prunable = analyzed(CASES["layer_scale"])
    (lead,) = structures_of(prunable).branches
    stream = next(group.name for group in prunable.structures.groups if group.name != lead)
    slopes = [prunable.costs.slopes({lead: width}, "params")[stream] for width in (0, 1)]
    assert slopes[0] < slopes[1]


def test_the_first_group_inside_leads_and_the_others_go_with_it() -> None:
    structures = structures_of(analyzed(CASES["resnext"]))
    assert structures.leads == {"0.1.conv2": "0.1.conv1", "0.2.conv2": "0.2.conv1"}
    assert {group.name: group.removable for group in structures.groups if group.least == 0} == {
        "0.1.conv1": True, "0.1.conv2": False, "0.2.conv1": True, "0.2.conv2": False,
    }  # fmt: skip
    assert structures.removed_branches({"0.1.conv1": 0, "0.1.conv2": 0}) == ("0.1.conv1",)
    assert "0.1.conv3" in structures.removed_layers({"0.1.conv1": 0})


def test_a_branch_without_a_group_inside_is_one_structure_of_its_own() -> None:
    prunable = analyzed(CASES["zeros"])
    (group,) = [group for group in prunable.structures.groups if group.removable]
    assert (group.name, group.width, group.producers) == ("conv.0:branch", 1, ("conv.0",))
    assert prunable.importance[group.name].shape == (1,)


def test_branches_that_cannot_go_say_why() -> None:
    def nested(n: Added, x: Tensor) -> Tensor:
        y = n.a(x)
        return x + n.c(y + n.b(y))

    def shared(n: Added, x: Tensor) -> Tensor:
        return n.a(x + n.a(x))

    def constant(n: Added, x: Tensor) -> Tensor:
        return x + (n.a(x) + 1)

    reasons = []
    for add in (nested, shared, constant):
        prunable = analyze(Added(add), torch.randn(2, 3, 5, 5), DEPTH)
        reasons += list(prunable.structures.refused_branches.items())
    assert reasons == [
        ("a", "it holds another branch, which can be removed"),
        ("a", "a tensor of it is used elsewhere too"),
        ("a", "it does more than to add what vanishes with its parameters"),
    ]
    assert L1_FILTER.find_structures(prunable.network, prunable.graph).refused_branches == {}


def test_a_pinned_group_inside_keeps_its_branch_and_so_does_a_rule() -> None:
    prunable = analyzed(CASES["resnext"])
    rules = SpaceRules(depth=True, groups={"0.1.conv2": GroupRule(pin=True), "0.2.conv1": GroupRule(depth=False)})
    space = prunable.space(rules)
    assert space.staying == {"0.1.conv1": "0.1.conv2 in it stays: pinned", "0.2.conv1": "depth: false"}
    assert not any(bounds.removable for bounds in space.bounds.values())
    assert space.narrowest()["0.1.conv1"] >= 1


def test_only_channels_may_have_branches_removed_beside_them() -> None:
    with pytest.raises(UserError, match=r"space\.depth removes residual branches where channels are pruned.*'element'"):
        LEVEL.with_depth()
    assert with_depth(FILTER).depth


@pytest.mark.parametrize("name", ["resnet20", "resnext", "vit_fused"])
def test_a_checkpoint_rebuilds_both_and_a_child_can_start_from_it(name: str, tmp_path: Path) -> None:
    prunable = analyzed(CASES[name], CASES[name].dtype)
    for number, widths in enumerate(drawn(prunable, 3)):
        small = structures_of(prunable).prune(prunable.network, prunable.importance, widths)
        path = tmp_path / f"{number}.pt"
        write_checkpoint(path, PrunedNetwork(small, prunable, widths).checkpoint({}, {}))
        checkpoint = read_checkpoint(path)
        assert checkpoint is not None
        again = rebuild_from(prunable.network, prunable.graph, checkpoint)
        for found, expected in zip(outputs(again, prunable.inputs), outputs(small, prunable.inputs), strict=True):
            assert torch.equal(found, expected)
        parent = restore_parent(prunable, checkpoint)
        assert parent.left() == {n: width for n, width in widths.items() if width < prunable.costs.widths[n]}
        same = structures_of(parent).prune(parent.network, parent.importance, widths, check_on=prunable.inputs)
        assert {n: t.shape for n, t in same.state_dict().items()} == {n: t.shape for n, t in small.state_dict().items()}


@pytest.mark.parametrize("recipe", [Recipe(16), Recipe(reconstruct=16)])
def test_a_candidate_without_a_branch_is_refitted_and_costs_what_was_predicted(recipe: Recipe) -> None:
    evaluator = evaluator_of(RESNET_8, with_depth(FILTER))
    widths = {**evaluator.prunable.costs.widths, "layer2.0.conv1": 0, "layer3.0.conv1": 5}
    trial = evaluator.evaluate(Candidate(0, Allocation(widths), recipe))
    assert trial.score is not None, trial.outcome
    assert trial.costs == evaluator.prunable.costs.costs(widths)
    assert evaluator.work.refit_macs(widths, recipe) > 0


def test_reconstruction_begins_behind_a_branch_that_is_gone() -> None:
    evaluator = evaluator_of(RESNET_8, with_depth(FILTER))
    dense = evaluator.prunable.costs.widths
    recipe = Recipe(reconstruct=16)
    assert evaluator.work.count_refitted(dense, recipe) == 0
    # Of conv1, layer1 (2), layer2 (2), layer3 (2) and fc those behind layer2's branch; its own are no more.
    assert evaluator.work.count_refitted({**dense, "layer2.0.conv1": 0}, recipe) == 3


class Notes:
    """What is handed through and is no tensor, as a cache is."""

    def __init__(self) -> None:
        self.seen: list[int] = []


class Closing(nn.Module):
    """The end of a branch, its addition, and a norm behind it, as in BERT."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(6, 8), nn.LayerNorm(8)

    def forward(self, inner: Tensor, shortcut: Tensor) -> Tensor:
        return self.norm(self.dense(inner) + shortcut)


class Opening(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(8, 6)

    def forward(self, x: Tensor, notes: Notes | None = None) -> Tensor:
        if notes is not None:
            notes.seen.append(1)
        return F.gelu(self.dense(x))


class Split(nn.Module):
    """A block whose branch lies in two modules, beside one that lies in it."""

    def __init__(self) -> None:
        super().__init__()
        self.opening, self.closing = Opening(), Closing()
        self.second, self.back = Opening(), nn.Linear(6, 8)

    def forward(self, x: Tensor, notes: Notes) -> Tensor:
        x = self.closing(self.opening(x), x)
        return x + self.back(self.second(x, notes=notes))


class Whole(nn.Module):
    def __init__(self, asking: bool = False) -> None:
        super().__init__()
        self.stem, self.block, self.head, self.asking = nn.Linear(4, 8), Split(), nn.Linear(8, 3), asking

    def forward(self, x: Tensor) -> Tensor:
        wanted = self.block.opening.dense.weight.dtype if self.asking else x.dtype
        return self.head(self.block(self.stem(x).to(wanted), Notes()))


def test_a_branch_in_several_modules_goes_and_what_is_no_tensor_is_handed_on() -> None:
    torch.manual_seed(0)
    prunable = analyze(Whole(), torch.randn(2, 5, 4), DEPTH)
    structures = structures_of(prunable)
    assert list(structures.branches) == ["block.opening.dense", "block.second.dense"]
    for widths in ({"block.opening.dense": 0}, {"block.second.dense": 0}, dict.fromkeys(structures.branches, 0)):
        small = structures.prune(prunable.network, prunable.importance, widths, check_on=prunable.inputs)
        assert measure_costs(small, prunable.inputs) == prunable.costs.costs(widths)
        assert isinstance(small.block, Split)
        assert hasattr(small.block, "opening") == bool(widths.get("block.opening.dense", 1))
        small.train()(torch.randn(3, 7, 4)).sum().backward()


def test_a_branch_whose_layers_the_code_around_asks_for_stays() -> None:
    prunable = analyze(Whole(asking=True), torch.randn(2, 5, 4), DEPTH)
    assert list(structures_of(prunable).branches) == ["block.second.dense"]
    (reason,) = prunable.structures.refused_branches.values()
    assert reason.endswith("AttributeError: 'Split' object has no attribute 'opening'")
