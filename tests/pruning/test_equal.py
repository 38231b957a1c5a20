"""Groups that are made equally wide: exact on networks, in every allocation of a search, and in what it writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from autoprune.core.allocation import Allocation
from autoprune.core.space import GroupRule, SpaceRules
from autoprune.errors import UserError
from autoprune.evaluation.candidate_builder import PrunedNetwork
from autoprune.evaluation.checkpoints.checkpoint import read_checkpoint, rebuild_from, write_checkpoint
from autoprune.evaluation.parents import restore_parent
from autoprune.evaluation.prunable_model import PrunableModel, analyze
from autoprune.graph.costs import measure_costs
from autoprune.pruning.pruner import L1_FILTER, LEVEL, Pruner
from tests.graph.contract import batch, randomise
from tests.graph.test_branches import CASES
from tests.pruning.test_depth import outputs

SETS = {
    "vit_fused": ("kind:heads", "kind:hidden"),
    "vit_module": ("kind:heads", "kind:hidden"),
    "resnet20": ("layer1.*.conv1", "layer2.*.conv1", "layer3.*.conv1"),
}


def analyzed(name: str, pruner: Pruner, dtype: torch.dtype = torch.float64) -> PrunableModel:
    torch.manual_seed(0)
    network = randomise(CASES[name].build().to(dtype))
    return analyze(network, batch(CASES[name].shape, CASES[name].integers, dtype), pruner)


def rules_for(name: str, depth: bool = False, **given: object) -> SpaceRules:
    return SpaceRules(equal=SETS[name], depth=depth, protect=(), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("depth", [False, True])
@pytest.mark.parametrize("name", SETS)
def test_it_is_the_network_of_the_widths_written_out_and_costs_what_was_predicted(name: str, depth: bool) -> None:
    rules = rules_for(name, depth)
    prunable, plain = analyzed(name, L1_FILTER.within(rules)), analyzed(name, L1_FILTER.within(SpaceRules(depth=True)))
    space, rng = prunable.space(rules), np.random.default_rng(0)
    tied = [group for group in space.groups if group.parts]
    assert len(tied) == len(SETS[name])
    for _ in range(4):
        widths = {each.name: int(rng.choice(space.bounds[each.name].levels())) for each in space.groups}
        small = prunable.structures.prune(prunable.network, prunable.importance, widths, prunable.inputs)
        whole = space.expanded(widths)
        assert {part.name for group in tied for part in group.parts} <= set(whole)
        assert all(whole[part.name] in (widths[group.name], 0) for group in tied for part in group.parts)
        assert measure_costs(small, prunable.inputs) == prunable.costs.costs(widths) == plain.costs.costs(whole)
        other = plain.structures.prune(plain.network, plain.importance, whole)
        for found, expected in zip(outputs(small, prunable.inputs), outputs(other, plain.inputs), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)
        assert (0 in whole.values()) == any(widths[lead] == 0 for lead in space.names if space.bounds[lead].removable)


def test_each_group_keeps_its_own_best_structures() -> None:
    prunable = analyzed("resnet20", L1_FILTER.within(rules_for("resnet20")))
    kept = prunable.structures.kept_channels(prunable.importance, {"layer1.0.conv1": 5})
    assert set(kept) == {f"layer1.{block}.conv1" for block in range(3)}
    assert {len(each) for each in kept.values()} == {5}
    assert len(set(kept.values())) > 1
    alone = analyzed("resnet20", L1_FILTER)
    assert kept == alone.structures.kept_channels(alone.importance, dict.fromkeys(kept, 5))


def test_a_branch_is_removed_by_a_group_of_its_own_and_those_that_stay_are_equally_wide() -> None:
    rules = rules_for("vit_fused", depth=True)
    prunable = analyzed("vit_fused", L1_FILTER.within(rules))
    space = prunable.space(rules)
    leads = {name: space.bounds[name].ceiling for name in space.names if space.bounds[name].removable}
    assert leads == {f"blocks.{i}.{part}:branch": 1 for i in (0, 1) for part in ("attention.qkv", "mlp.0")}
    widths = {**space.widest(), "blocks.0.mlp.0": 3, "blocks.1.mlp.0:branch": 0}
    assert prunable.structures.removed_branches(widths) == ("blocks.1.mlp.0",)
    whole = space.expanded(widths)
    assert (whole["blocks.0.mlp.0"], whole["blocks.1.mlp.0"]) == (3, 0)
    assert not any(name.endswith(":branch") for name in whole)


def test_rules_of_a_group_hold_for_those_that_are_as_wide_and_one_that_is_pinned_pins_them() -> None:
    bounded = {"groups": {"layer1.1.conv1": GroupRule(min_keep=0.5, max_keep=0.75, multiple_of=4)}}
    rules = rules_for("resnet20", **bounded)
    prunable = analyzed("resnet20", L1_FILTER.within(rules))
    bounds = prunable.space(rules).bounds["layer1.0.conv1"]
    assert (bounds.floor, bounds.ceiling, bounds.step) == (8, 12, 4)
    pinned = rules_for("resnet20", groups={"layer1.2.conv1": GroupRule(pin=True)})
    space = prunable.space(pinned)
    assert space.pinned == {"layer1.0.conv1": "as wide as layer1.2.conv1: pinned"}
    outside = rules_for("resnet20", include=("layer[23].*", "layer1.0.*"))
    assert prunable.space(outside).pinned["layer1.0.conv1"] == "as wide as layer1.1.conv1: not included"


def test_with_depth_the_branches_of_pinned_groups_stay() -> None:
    rules = rules_for("resnet20", depth=True, groups={"layer1.2.conv1": GroupRule(pin=True)})
    space = analyzed("resnet20", L1_FILTER.within(rules)).space(rules)
    assert "layer1.0.conv1 in it stays: as wide as layer1.2.conv1: pinned" in space.staying.values()
    for block in (0, 1):
        assert not space.bounds[f"layer1.{block}.conv1:branch"].removable
    assert space.bounds["layer2.0.conv1:branch"].removable


def test_patterns_that_overlap_join_their_groups() -> None:
    rules = SpaceRules(equal=("layer1.[01].conv1", "layer1.[12].conv1"))
    (tied,) = [each for each in analyzed("resnet20", L1_FILTER.within(rules)).structures.groups if each.parts]
    assert [part.name for part in tied.parts] == [f"layer1.{block}.conv1" for block in range(3)]


def test_groups_of_different_widths_are_refused_in_one_line_as_are_structures_that_are_no_channels() -> None:
    rules = SpaceRules(equal=("layer*.0.conv1",))
    with pytest.raises(UserError, match=r"^equal: 'layer\*.0.conv1' matches groups of different widths: .*16.*32"):
        analyzed("resnet20", L1_FILTER.within(rules))
    with pytest.raises(UserError, match=r"space\.equal makes groups equally wide where channels are pruned.*'element'"):
        LEVEL.within(rules)
    missing = SpaceRules(equal=("nothing",))
    prunable = analyzed("resnet20", L1_FILTER.within(missing))
    with pytest.raises(UserError, match="equal: 'nothing' matches no group"):
        prunable.space(missing)


@pytest.mark.parametrize("depth", [False, True])
def test_a_pruned_network_is_written_read_and_restored_as_a_parent(tmp_path: Path, depth: bool) -> None:
    rules = rules_for("vit_fused", depth)
    prunable = analyzed("vit_fused", L1_FILTER.within(rules), torch.float32)
    space = prunable.space(rules)
    widths = {**space.widest(), "blocks.0.mlp.0": 3, "blocks.0.attention.qkv": 2}
    widths |= {"blocks.1.mlp.0:branch": 0} if depth else {}
    widths = Allocation({name: widths[name] for name in space.names})
    network = prunable.structures.prune(prunable.network, prunable.importance, widths)
    built = PrunedNetwork(network, prunable, widths)
    write_checkpoint(tmp_path / "pruned.pt", built.checkpoint({}, {}))
    checkpoint = read_checkpoint(tmp_path / "pruned.pt")
    assert checkpoint is not None
    assert checkpoint.widths == widths
    again = rebuild_from(prunable.network, prunable.graph, checkpoint)
    torch.testing.assert_close(outputs(again, prunable.inputs), outputs(network, prunable.inputs))
    parent = restore_parent(prunable, checkpoint)
    torch.testing.assert_close(outputs(parent.network, prunable.inputs), outputs(network, prunable.inputs))
    left = parent.left()
    assert all(left.get(name, space.bounds[name].ceiling) == width for name, width in widths.items())
    child = parent.scored_by(prunable.pruner)
    smaller = Allocation({**widths, "blocks.0.mlp.0": 2})
    found = child.structures.kept_channels(child.importance, smaller)["blocks.0.mlp.0"]
    assert set(found) < set(prunable.structures.kept_channels(prunable.importance, widths)["blocks.0.mlp.0"])
