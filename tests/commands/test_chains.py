"""autoprune's own files as a beginning: searched again, trained, applied, each on what the one before it left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import autoprune as package
from autoprune.evaluation.checkpoints.checkpoint import PrunedCheckpoint, read_checkpoint
from autoprune.graph.costs import measure_costs
from autoprune.graph.groups import find_groups
from autoprune.pruning.surgery.masks import mask_network
from tests.journeys import OWN, UNTRACKED, Cli, history_of
from tests.user_tasks import tiny

TASK = ("--task", "tests.user_tasks:task")
SAMPLES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
TRAIN = "train: {steps: 4, rate: 0.05, batch_size: 32, weight_decay: 0.1}\n"


def read(path: str | Path) -> PrunedCheckpoint:
    found = read_checkpoint(Path(path))
    assert found is not None
    return found


def written(name: str, text: str) -> str:
    Path(name).write_text(text)
    return name


@pytest.fixture
def twice(autoprune: Cli, workdir: Path) -> Path:
    """A folder in which `p1.pt` is searched and applied, and `p2.pt` from that."""
    autoprune.succeed(*OWN, *TASK, "--output", "r1")
    autoprune.succeed("apply", "r1", "--output", "p1.pt")
    autoprune.succeed(*OWN, *TASK, "--checkpoint", "p1.pt", "--output", "r2")
    autoprune.succeed("apply", "r2", "--output", "p2.pt")
    return workdir


def masked_through(checkpoint: PrunedCheckpoint, dense: nn.Module) -> nn.Module:
    """The first network with all that a chain of two losses left out of it set to zero."""
    graph = find_groups(dense, torch.zeros(2, 1, 8, 8))
    kept = {}
    for group in graph.groups:
        layer = next(member.layer for member in group.members if member.side == "out")
        left = list(range(group.group.width))
        for shape in checkpoint.shapes:
            left = [left[i] for i in shape.kept.get(layer, range(len(left)))]
        kept[group.name] = tuple(left)
    return mask_network(dense, graph, kept).eval()


def test_a_file_pruned_twice_loads_onto_the_first_network(twice: Path) -> None:
    once, again = read("p1.pt"), read("p2.pt")
    assert [len(read(name).shapes) for name in ("p1.pt", "p2.pt")] == [1, 2]
    assert again.shapes[0] == once.shapes[0]
    network = package.load("p2.pt", tiny)
    counted = measure_costs(network, torch.zeros(2, 1, 8, 8))
    assert counted["flops"] <= 0.6 * measure_costs(package.load("p1.pt", tiny), torch.zeros(2, 1, 8, 8))["flops"]
    assert again.first == measure_costs(tiny(), torch.zeros(2, 1, 8, 8))
    samples = torch.rand(3, 1, 8, 8)
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.reset_running_stats()  # re-estimated in the file
    torch.testing.assert_close(network(samples), masked_through(again, tiny())(samples))


def test_what_lay_beside_the_weights_is_carried_along(autoprune: Cli, workdir: Path) -> None:
    plain = {"epoch": 3, "args": {"lr": 0.1, "layers": [1, 2]}}
    torch.save({"state_dict": tiny().state_dict(), "optimizer": {"lr": 0.1}, **plain}, "dense.pt")
    autoprune.succeed(*OWN, *TASK, "--checkpoint", "dense.pt", "--output", "r1")
    autoprune.succeed("apply", "r1", "--output", "p1.pt")
    autoprune.succeed("train", *TASK, "--checkpoint", "p1.pt", "--schedule", written("t.yaml", TRAIN), "--output", "t")
    autoprune.succeed("apply", "t", "--output", "p2.pt")
    assert read("p1.pt").others == read("p2.pt").others == plain


def test_a_chain_of_search_and_training_ends_in_one_file_that_is_exported(autoprune: Cli, twice: Path) -> None:
    schedule = written("s.yaml", TRAIN)
    autoprune.succeed("train", *TASK, "--checkpoint", "p2.pt", "--schedule", schedule, "--output", "t", *UNTRACKED)
    assert read("t/final.pt").shapes == read("p2.pt").shapes
    out = autoprune.succeed("apply", "t", "--output", "end.pt", "--export", "pt2").out
    first, second, end = (package.load(name, tiny) for name in ("p2.pt", "t/final.pt", "end.pt"))
    assert measure_costs(end, SAMPLES) == measure_costs(first, SAMPLES)
    share = measure_costs(end, SAMPLES)["flops"] / measure_costs(tiny(), SAMPLES)["flops"]
    assert f"{100 * share:.2f} % of the dense network's" in out
    assert torch.equal(end(SAMPLES), second(SAMPLES))
    assert not torch.allclose(end(SAMPLES), first(SAMPLES))
    torch.testing.assert_close(torch.export.load("end.pt2").module()(SAMPLES), end(SAMPLES))


def test_what_a_second_search_says_is_of_the_network_that_was_given_or_of_the_first(
    autoprune: Cli, twice: Path
) -> None:
    once, dense = (measure_costs(each, SAMPLES)["flops"] for each in (package.load("p1.pt", tiny), tiny()))
    said = autoprune.succeed("inspect", *TASK, "--checkpoint", "p1.pt").out
    assert f"it has {100 * once / dense:.1f} % of the FLOPs" in said
    assert "fractions in the budget are of what was given" in said
    again = (*OWN, *TASK, "--checkpoint", "p1.pt", "--budget", "flops=0.3")
    autoprune.succeed("report", "r2", "--format", "html")
    assert (
        "started from a pruned network, here called dense" in next((twice / "r2" / "report").glob("*.html")).read_text()
    )
    assert history_of(twice / "r2").of("started")[0]["limits"]["flops"] == int(0.6 * once)
    said = autoprune.succeed(*again, "--relative-to", "first", "--output", "r3").out
    assert "fractions in the budget are of the first network" in said
    assert history_of(twice / "r3").of("started")[0]["limits"]["flops"] == int(0.3 * dense)


TICKET = """
train: {steps: 3, rate: 0.02, batch_size: 32}
pruners: {them: {pruner: lottery_ticket, pattern: PATTERN, sparsity: 0.5, layers: [second, third]}}
rounds: {count: 2}
"""


def test_a_ticket_of_filters_is_thinned_and_one_of_weights_stays_masked(autoprune: Cli, workdir: Path) -> None:
    for pattern, shapes in (("filter", 1), ("element", 0)):
        schedule = written("s.yaml", TICKET.replace("PATTERN", pattern))
        autoprune.succeed("train", *TASK, "--scratch", "--schedule", schedule, "--output", pattern, *UNTRACKED)
        out = autoprune.succeed("apply", f"{pattern}/final.pt", *TASK, "--output", f"{pattern}.pt").out
        assert f"as in {pattern}/final.pt" in out
        found, before = read(f"{pattern}.pt"), read(f"{pattern}/final.pt")
        assert (len(before.shapes), len(found.shapes)) == (0, shapes)
        assert before.masks
        torch.testing.assert_close(
            package.load(f"{pattern}.pt", tiny)(SAMPLES), package.load(f"{pattern}/final.pt", tiny)(SAMPLES)
        )
        assert bool(found.masks) == (pattern == "element")
    network = package.load("filter.pt", tiny)
    assert network.get_parameter("second.weight").shape == (8, 8, 3, 3)
    assert measure_costs(network, SAMPLES)["flops"] < 0.6 * measure_costs(tiny(), SAMPLES)["flops"]


LEVEL = (
    TRAIN
    + """
pruners: {weights: {pruner: level, sparsity: 0.5}}
policies: [{pruner: weights, steps: [0]}]
"""
)


@pytest.fixture
def masked(autoprune: Cli, workdir: Path) -> Path:
    """A folder in which half of all weights of `one/final.pt` are masked."""
    schedule = written("level.yaml", LEVEL)
    autoprune.succeed("train", *TASK, "--schedule", schedule, "--output", "one", *UNTRACKED)
    return workdir


def zeros(path: str) -> dict[str, torch.Tensor]:
    return {name: tensor == 0 for name, tensor in read(path).state_dict.items() if tensor.dim() > 1}


def is_within(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    return all(bool(after[name][gone].all()) for name, gone in before.items())


def test_masks_hold_when_a_file_is_trained_on_unless_they_are_dropped(autoprune: Cli, masked: Path) -> None:
    options = ("train", *TASK, "--checkpoint", "one/final.pt", "--schedule", written("two.yaml", TRAIN), *UNTRACKED)
    autoprune.succeed(*options, "--output", "two")
    autoprune.succeed(*options, "--output", "free", "--masks", "drop")
    before = zeros("one/final.pt")
    assert sum(int(gone.sum()) for gone in before.values()) == sum(gone.numel() for gone in before.values()) // 2
    assert is_within(before, zeros("two/final.pt"))
    assert not torch.equal(
        read("two/final.pt").state_dict["head.weight"], read("one/final.pt").state_dict["head.weight"]
    )
    assert {name: mask.tolist() for name, mask in read("two/final.pt").masks.items()} == {
        name: mask.tolist() for name, mask in read("one/final.pt").masks.items()
    }
    assert not is_within(before, zeros("free/final.pt"))
    assert not read("free/final.pt").masks


def test_two_schedules_typed_one_after_the_other_equal_one(autoprune: Cli, workdir: Path) -> None:
    text = "train: {epochs: 2, rate: 0.05, batch_size: 32}\n"
    text += "pruners: {weights: {pruner: agp, sparsity: 0.8}}\npolicies: [{pruner: weights, start: 0, end: 2}]\n"
    for name, offset in (("whole", ""), ("first", "stop_epoch: 1\n"), ("second", "start_epoch: 1\n")):
        before = ("--checkpoint", "first/final.pt") if name == "second" else ()
        schedule = written("s.yaml", offset + text)
        said = autoprune.succeed("train", *TASK, *before, "--schedule", schedule, "--output", name, *UNTRACKED).err
    assert "starting at epoch 1: optimizer and random numbers go on" in said
    whole, second = read("whole/final.pt"), read("second/final.pt")
    assert all(torch.equal(second.state_dict[name], tensor) for name, tensor in whole.state_dict.items())
    again = autoprune.succeed("train", "--resume", "second")
    assert again.code == 0
    assert torch.equal(read("second/final.pt").state_dict["head.weight"], whole.state_dict["head.weight"])


def test_files_that_cannot_be_a_beginning_are_refused_in_one_line(autoprune: Cli, twice: Path) -> None:
    content = torch.load("p1.pt", weights_only=True)
    torch.save({**content, "shapes": [{"kept": {}}]}, "odd.pt")
    torch.save({"head.weight": torch.zeros(2)}, "plain.pt")
    search = (*OWN, *TASK, "--checkpoint")
    state = {**content["state_dict"], "head.bias": torch.full((4,), torch.nan)}
    torch.save({**content, "state_dict": state}, "nan.pt")
    assert "nan.pt holds NaN or infinite numbers in head.bias" in autoprune.refused(*search, "nan.pt")
    assert "odd.pt is damaged: shapes is not what autoprune writes" in autoprune.refused(*search, "odd.pt")
    said = autoprune.refused("inspect", "--checkpoint", "p1.pt")
    assert "p1.pt: the checkpoint, pruned from" in said
    assert "does not fit" in said
    assert "is no pruned file of autoprune" in autoprune.refused("apply", "plain.pt", "--output", "x.pt")
    assert "--reconstruct and --force" in autoprune.refused("apply", "p1.pt", "--output", "x.pt", "--reconstruct", "8")
    assert "name it with --task" in autoprune.refused("apply", "p1.pt", "--output", "x.pt")
    assert "task.masks: should be one of hold, drop" in autoprune.refused(*search, "p1.pt", "--masks", "holds")
    assert not Path("x.pt").exists()
