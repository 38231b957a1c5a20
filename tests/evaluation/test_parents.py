"""Candidates that start from what an earlier trial left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autoprune import registry
from autoprune.core.allocation import Allocation
from autoprune.core.recipe import Finetune, Recipe
from autoprune.core.trial import Candidate, Failure, Trial
from autoprune.evaluation.candidate_builder import PrunedNetwork
from autoprune.evaluation.checkpoints.checkpoint import PrunedCheckpoint, write_checkpoint
from autoprune.evaluation.data import EvaluationConfig, ScoringSamples
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.parents import restore_parent
from autoprune.evaluation.prunable_model import PrunableModel, analyze, example_inputs
from autoprune.graph.inputs import call_network
from autoprune.pruning.patterns import ELEMENT, FILTER, KERNEL, LAYER, TWO_FOUR, Pattern
from autoprune.pruning.pruner import FPGM_FILTER, L1_FILTER, LEVEL, Pruner
from autoprune.pruning.surgery.masked_run import run_masked
from tests.graph.contract import batch, randomise
from tests.graph.indexed_networks import INDEXED
from tests.graph.networks import WELL_KNOWN, Case
from tests.graph.ordinary_networks import ORDINARY
from tests.graph.unusual_networks import UNUSUAL
from tests.tiers import rest_slow
from tests.user_tasks import task

CASES = {**WELL_KNOWN, **UNUSUAL, **INDEXED, **ORDINARY}
SOME = {name: CASES[name] for name in ("resnet20", "resnext", "vit_module", "mlp")}
TUNED = Recipe(0, finetune=Finetune(4, rate=0.05, batch_size=32))


def study_case(case: Case, pattern: Pattern = FILTER) -> PrunableModel:
    """A network whose structures are scored by chance."""
    network = randomise(case.build()).to(case.dtype).eval()
    prunable = analyze(network, batch(case.shape, case.integers, case.dtype), replace(L1_FILTER, pattern=pattern))
    rng = np.random.default_rng(0)
    return replace(prunable, importance={name: rng.random(found.shape) for name, found in prunable.importance.items()})


def draw(prunable: PrunableModel, rng: np.random.Generator, below: Mapping[str, int] | None = None) -> Allocation:
    """Random widths, of some groups all; nowhere above others."""
    widths = {}
    for group in prunable.structures.groups:
        most = (below or {}).get(group.name, group.width)
        widths[group.name] = int(rng.integers(group.least, most + 1)) if rng.random() < 0.7 else most
    return Allocation(widths)


def moved(network: nn.Module) -> nn.Module:
    """The network as if it had been trained: what is not zero is something else, statistics too."""
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(1 + 0.2 * torch.rand(tensor.shape, generator=torch.Generator().manual_seed(3)))
    return network


def parent_of(prunable: PrunableModel, allocation: Mapping[str, int]) -> tuple[nn.Module, PrunedCheckpoint]:
    small = moved(prunable.structures.prune(prunable.network, prunable.importance, allocation))
    return small.eval(), PrunedNetwork(small, prunable, allocation).checkpoint({}, {})


def outputs(network: nn.Module, inputs: Any) -> list[Tensor]:
    with torch.no_grad():
        found = call_network(network, inputs)
    return list(found) if isinstance(found, tuple | list) else [found]


@pytest.mark.parametrize(
    ("name", "pattern"),
    [(name, FILTER) for name in CASES] + [(name, each) for name in SOME for each in (ELEMENT, KERNEL, TWO_FOUR, LAYER)],
    ids=lambda each: each if isinstance(each, str) else each.name,
)
def test_a_parents_network_in_the_dense_shape_computes_the_same(name: str, pattern: Pattern) -> None:
    prunable = study_case(CASES[name], pattern)
    allocation = draw(prunable, np.random.default_rng(1))
    small, checkpoint = parent_of(prunable, allocation)
    found = restore_parent(prunable, checkpoint)
    assert found.left() == {n: keep for n, keep in allocation.items() if keep < dense_widths(prunable)[n]}
    if pattern.coupled:  # norms over channels are taken over what is left
        kept = found.structures.kept_channels(found.importance, found.left())
        with torch.no_grad():
            whole = run_masked(found.network, found.graph, kept, prunable.inputs)
        torch.testing.assert_close(tree_leaves(whole), tree_leaves(outputs(small, prunable.inputs)))
    else:
        torch.testing.assert_close(outputs(found.network, prunable.inputs), outputs(small, prunable.inputs))


def dense_widths(prunable: PrunableModel) -> dict[str, int]:
    return {group.name: group.width for group in prunable.structures.groups}


@pytest.mark.parametrize("pattern", [FILTER, ELEMENT, TWO_FOUR, LAYER], ids=lambda each: each.name)
@pytest.mark.parametrize("name", rest_slow(reversed(SOME), kept=2))
def test_what_a_parent_lost_does_not_come_back(name: str, pattern: Pattern) -> None:
    dense = study_case(SOME[name], pattern)
    rng = np.random.default_rng(1)
    prunable = restore_parent(dense, parent_of(dense, draw(dense, rng))[1]).scored_by(dense.pruner)
    for _ in range(3):
        allocation = draw(prunable, rng, prunable.left())
        small = prunable.structures.prune(prunable.network, prunable.importance, allocation, check_on=prunable.inputs)
        again = restore_parent(dense, PrunedNetwork(small, prunable, allocation).checkpoint({}, {}))
        for group, gone in prunable.lost.items():
            assert again.lost[group][gone].all()
        assert PrunedNetwork(small, prunable, allocation).costs() == dense.costs.costs(allocation)


def test_scores_are_those_of_the_parents_weights() -> None:
    dense = study_case(SOME["resnet20"])
    allocation = Allocation({"layer1.0.conv1": 9, "layer3.1.conv1": 20})
    small, checkpoint = parent_of(dense, allocation)
    prunable = restore_parent(dense, checkpoint).scored_by(FPGM_FILTER)
    weight = small.get_submodule("layer1.0.conv1").weight.detach().flatten(1)
    by_hand = [float((weight - row).norm(dim=1).sum()) for row in weight]
    gone, scores = prunable.lost["layer1.0.conv1"], prunable.importance["layer1.0.conv1"]
    assert (~gone).sum() == 9
    assert (scores[gone] == -np.inf).all()
    assert scores[~gone] / scores[~gone].mean() == pytest.approx(np.array(by_hand) / np.mean(by_hand))


def evaluator_of(folder: Path, pruner: Pruner = L1_FILTER, recipe_samples: int = 64) -> Evaluator:
    device = torch.device("cpu")
    samples = ScoringSamples(task, device, recipe_samples)
    prunable = analyze(task.network(), example_inputs(task, device), pruner, samples)
    return Evaluator(prunable, task, EvaluationConfig(batch_size=32, seed=2, weights=folder))


def widths(network: nn.Module) -> list[int]:
    return [network.get_submodule(name).out_channels for name in ("first", "second", "third")]


WIDE, NARROW = Allocation({"second": 12, "third": 9}), Allocation({"second": 7, "third": 9})


@pytest.mark.parametrize(
    "pruner", ["l1_filter", "fpgm", "apoz", "taylor", "reconstruction", "random", "level", "two_four"]
)
def test_a_child_is_pruned_from_its_parents_weights(pruner: str, tmp_path: Path) -> None:
    evaluator = evaluator_of(tmp_path, registry.resolve("pruner", pruner))
    first, second = evaluator.prunable.structures.groups[-2:]
    wide = Allocation({first.name: first.width * 3 // 4, second.name: second.width // 2})
    narrow = Allocation({first.name: first.width // 2, second.name: second.width // 2})
    parent = evaluator.evaluate(Candidate(0, wide, TUNED))
    child = evaluator.evaluate(Candidate(1, narrow, Recipe(0), parent=0))
    assert parent.score is not None
    assert child.score is not None, child.outcome
    assert child.costs == evaluator.prunable.costs.costs(narrow)
    before, after = (evaluator.restore(tmp_path / f"{number}.pt").state_dict() for number in (0, 1))
    dense = evaluator.prunable.network.state_dict()
    for name, found in after.items():
        if found.is_floating_point() and found.numel() > 1:
            values = found[found != 0]
            assert torch.isin(values, before[name]).all()
            if found.dim() > 1:
                assert not torch.isin(values, dense[name]).any()


def test_a_child_of_the_same_widths_is_its_parent(tmp_path: Path) -> None:
    evaluator = evaluator_of(tmp_path)
    parent = evaluator.evaluate(Candidate(0, WIDE, TUNED))
    child = evaluator.evaluate(Candidate(1, WIDE, Recipe(0), parent=0))
    assert child.score == parent.score
    again = evaluator_of(tmp_path).evaluate(Candidate(1, WIDE, Recipe(0), parent=0))
    assert again.score == parent.score


def test_each_child_starts_from_its_own_parent(tmp_path: Path) -> None:
    evaluator = evaluator_of(tmp_path)
    parents = [evaluator.evaluate(Candidate(number, WIDE, recipe)) for number, recipe in enumerate((TUNED, Recipe(0)))]
    children = [evaluator.evaluate(Candidate(3 + parent, WIDE, Recipe(0), parent=parent)) for parent in (0, 1, 0)]
    assert [child.score for child in children] == [parents[parent].score for parent in (0, 1, 0)]
    assert children[0].score != children[1].score


def test_training_moves_a_childs_own_weights_and_lowers_its_loss(tmp_path: Path) -> None:
    evaluator = evaluator_of(tmp_path)
    evaluator.evaluate(Candidate(0, WIDE, TUNED))
    losses = {}
    for number, steps in ((1, 1), (2, 40)):
        recipe = Recipe(0, finetune=Finetune(steps, rate=0.02, batch_size=32))
        evaluator.evaluate(Candidate(number, NARROW, recipe, parent=0))
        network = evaluator.restore(tmp_path / f"{number}.pt")
        losses[number] = evaluator.evaluate_network(network, split="train").loss
    assert losses[2] < losses[1] - 0.05
    parent, child = (evaluator.restore(tmp_path / f"{number}.pt") for number in (0, 2))
    assert widths(child) == [8, 7, 9]
    assert not torch.isin(child.first.weight, parent.first.weight).any()


def test_children_of_one_parent_see_the_same_images_and_grandchildren_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = []
    train = type(task).train
    monkeypatch.setattr(
        type(task), "train", lambda own, net, plan, hooks: seeds.append(plan.seed) or train(own, net, plan, hooks)
    )
    evaluator = evaluator_of(tmp_path)
    for number, parent in enumerate((None, 0, 0, 1)):
        evaluator.evaluate(Candidate(number, NARROW, TUNED, parent=parent))
    assert seeds[0] == 2
    assert seeds[1] == seeds[2]
    assert len(set(seeds)) == 3


def failed(trial: Trial) -> str:
    assert isinstance(trial.outcome, Failure)
    assert trial.outcome.kind == "exception"
    return trial.outcome.reason


def test_a_parent_that_is_missing_damaged_or_of_another_network_fails_the_trial(tmp_path: Path) -> None:
    evaluator = evaluator_of(tmp_path)
    child = Candidate(5, NARROW, Recipe(0), parent=0)
    assert "the weights of the parent, trial 0, are gone: there is no" in failed(evaluator.evaluate(child))
    (tmp_path / "0.pt").write_bytes(b"PK damaged")
    assert "0.pt is damaged" in failed(evaluator.evaluate(child))
    evaluator_of(tmp_path, LEVEL).evaluate(Candidate(0, Allocation({}), Recipe(0)))
    assert "pruned by pattern 'element', not 'filter'" in failed(evaluator.evaluate(child))
    other = study_case(SOME["resnet20"])
    write_checkpoint(tmp_path / "0.pt", parent_of(other, draw(other, np.random.default_rng(0)))[1])
    assert "layers that the network does not have" in failed(evaluator.evaluate(child))
    evaluator.evaluate(Candidate(0, WIDE, Recipe(0)))
    assert evaluator.evaluate(child).score is not None


def test_a_candidate_wider_than_its_parent_fails(tmp_path: Path) -> None:
    evaluator = evaluator_of(tmp_path)
    evaluator.evaluate(Candidate(0, NARROW, Recipe(0)))
    said = failed(evaluator.evaluate(Candidate(1, Allocation({"second": 8}), Recipe(0), parent=0)))
    assert "keeps more than its parent, trial 0, has left of group second (8 of 7), third (16 of 9)" in said


def test_a_parent_of_weights_set_to_zero_has_as_many_as_its_widths_say(tmp_path: Path) -> None:
    evaluator = evaluator_of(tmp_path, LEVEL)
    group = evaluator.prunable.structures.groups[0]
    built = evaluator.build(Candidate(0, Allocation({group.name: group.width // 2})))
    checkpoint = built.checkpoint({}, {})
    assert restore_parent(evaluator.prunable, checkpoint).left() == {group.name: group.width // 2}
    with pytest.raises(Exception, match="more of group 'first'"):
        restore_parent(evaluator.prunable, replace(checkpoint, widths={group.name: group.width // 4}))


def test_settings_choose_by_what_a_child_is_scored_on_its_parents_weights(tmp_path: Path) -> None:
    evaluator = evaluator_of(tmp_path)
    evaluator.evaluate(Candidate(0, WIDE, Recipe(0)))
    child = Candidate(1, NARROW, Recipe(0), parent=0)
    plain, chosen = evaluator.build(child), evaluator.build(replace(child, settings={"criterion": "random"}))
    assert chosen.prunable.pruner.criterion.name == "random"
    assert chosen.prunable.lost == plain.prunable.lost
    scores = (built.prunable.importance["second"] for built in (plain, chosen))
    assert not np.array_equal(*scores)
