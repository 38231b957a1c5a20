"""The cheap sweep gives what judging every level by itself gives, ends where it is hopeless, and says what it cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from autoprune.core.allocation import Allocation
from autoprune.core.recipe import Recipe
from autoprune.core.sensitivity import SensitivityCurves
from autoprune.core.trial import Failure, Score
from autoprune.evaluation import candidate_builder as building
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.outcomes import EvaluationResult
from autoprune.evaluation.sensitivity import prefixes
from autoprune.evaluation.sensitivity.prefixes import Prefixes, Stream
from autoprune.evaluation.sensitivity.sweep import DENSE, GroupSweep, Level, Levels, SweepSettings
from autoprune.pruning.patterns import ELEMENT, FILTER, LAYER, Pattern, with_depth
from autoprune.tasks.models.cifar_resnet import CifarResNet
from tests.evaluation.evaluators import evaluator_of, sweep
from tests.graph.networks import WELL_KNOWN, Case, conv_bn
from tests.scores import scored

RECIPE = Recipe(recalibrate=24)
ALL = SweepSettings(RECIPE, 20, stop=None)
RESNET_8 = Case(
    lambda: CifarResNet(1),
    (3, 8, 8),
    {"conv1": 16, "layer1.0.conv1": 16, "layer2.0.conv1": 32, "layer2.0.conv2": 16, "layer3.0.conv1": 64,
     "layer3.0.conv2": 32},
)  # fmt: skip
Grid = Mapping[str, Sequence[int]]
Recorded = dict[Level, EvaluationResult]


def grid_of(evaluator: Evaluator) -> dict[str, list[int]]:
    """Two levels of each group, the narrower first."""
    found = {}
    for group in evaluator.prunable.structures.groups:
        widths = {max(group.least, group.width // 4), max(group.least, 3 * group.width // 4)}
        found[group.name] = sorted(width for width in widths if width < group.width)
    return found


def run(
    evaluator: Evaluator,
    grid: Grid,
    settings: SweepSettings = ALL,
    done: Mapping[Level, EvaluationResult] | None = None,
) -> tuple[SensitivityCurves, Recorded]:
    recorded: Recorded = {}

    def record(group: str, width: int, result: EvaluationResult) -> None:
        recorded[group, width] = result

    return sweep(evaluator, grid, settings, done or {}, record), recorded


def assert_same_scores(cheap: SensitivityCurves, naive: SensitivityCurves) -> None:
    pairs = [(cheap.dense, naive.dense)]
    for group, levels in naive.levels.items():
        assert cheap.levels[group].keys() == levels.keys()
        pairs += [(cheap.levels[group][width], score) for width, score in levels.items()]
    for one, other in pairs:
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert one.samples == other.samples == 20
        assert one.metrics == pytest.approx(other.metrics, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "pattern", "recipe"),
    [
        ("resnet8", FILTER, RECIPE),
        ("resnet8", FILTER, Recipe(reconstruct=16)),
        ("resnet8", LAYER, RECIPE),
        ("vgg", FILTER, RECIPE),
        ("vgg", ELEMENT, RECIPE),
        ("resnet_b", FILTER, RECIPE),
        ("resnext", FILTER, RECIPE),
        ("densenet", FILTER, RECIPE),
        ("densenet", ELEMENT, Recipe(0)),
        ("inception", FILTER, RECIPE),
        ("mobilenet_v3", FILTER, RECIPE),
        ("shufflenet_v2_numbers", FILTER, RECIPE),
        ("mlp", FILTER, RECIPE),
    ],
)
def test_reuse_changes_no_score(name: str, pattern: Pattern, recipe: Recipe) -> None:
    case = RESNET_8 if name == "resnet8" else WELL_KNOWN[name]
    evaluator = evaluator_of(case, pattern)
    grid, settings = _some(grid_of(evaluator)), replace(ALL, recipe=recipe)
    cheap, recorded = run(evaluator, grid, settings)
    naive, _ = run(evaluator_of(case, pattern), grid, replace(settings, reuse=False))
    assert_same_scores(cheap, naive)
    assert cheap.naive_work == naive.naive_work == naive.work
    assert cheap.work is not None
    assert naive.work is not None
    assert cheap.work < naive.work
    assert sum(result.work or 0 for result in recorded.values()) == cheap.work


def _some(grid: Grid) -> dict[str, Sequence[int]]:
    """The first group, one in the middle and the last."""
    names = list(grid)
    return {name: grid[name] for name in (names[0], names[len(names) // 2], names[-1])}


class Chain(nn.Module):
    """Convolutions alone, `act` behind each of them."""

    def __init__(self, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.one, self.two, self.three = conv_bn(3, 8), conv_bn(8, 8), conv_bn(8, 8)
        self.acts, self.head = nn.ModuleList(act() for _ in range(3)), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        for conv, act in zip((self.one, self.two, self.three), self.acts, strict=True):
            x = act(conv(x))
        return self.head(x).mean((2, 3))


class SharedNorm(nn.Module):
    """One batch norm before a residual block and behind it, and another block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.one, self.two = nn.Sequential(conv_bn(8, 6), conv_bn(6, 8)), nn.Sequential(conv_bn(8, 6), conv_bn(6, 8))
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        x = self.norm(x + self.one(x))
        return self.head(x + self.two(x)).mean((2, 3))


class Accumulating(nn.Module):
    """What is alive before a block is written to behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 8, 3, padding=1), nn.Sequential(conv_bn(8, 6), conv_bn(6, 8))
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x.add_(self.block(x))
        return self.head(x).mean((2, 3))


def chain(act: Callable[[], nn.Module] = nn.Identity) -> Case:
    return Case(lambda: Chain(act), (3, 6, 6), {"one.0": 8, "two.0": 8, "three.0": 8})


def prefix_heads(evaluator: Evaluator, recipe: Recipe = RECIPE) -> dict[str, str]:
    """Group to the first operation that its levels run."""
    nodes = list(evaluator.prunable.graph.flow.traced.graph.nodes)
    cuts = Prefixes(evaluator, grid_of(evaluator), recipe, 20).cuts
    return {group: str(nodes[cut.position].target) for group, cut in cuts.items()}


def test_levels_begin_at_the_first_layer_of_their_group_but_not_at_the_front() -> None:
    assert prefix_heads(evaluator_of(chain())) == {"two.0": "two.0", "three.0": "three.0"}
    groups = prefix_heads(evaluator_of(RESNET_8))
    assert groups == {name: name for name in RESNET_8.groups if name != "conv1"}
    assert prefix_heads(evaluator_of(chain(), ELEMENT)) == {"two.0": "two.0", "three.0": "three.0", "head": "head"}


def test_values_that_take_too_much_memory_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of 44 samples 8 channels of 6x6 pixels, 4 bytes each, are alive at both cuts.
    monkeypatch.setattr(prefixes, "MOST_BYTES", 44 * 8 * 36 * 4)
    assert len(prefix_heads(evaluator_of(chain()))) == 2
    monkeypatch.setattr(prefixes, "MOST_BYTES", 44 * 8 * 36 * 4 - 1)
    evaluator = evaluator_of(chain())
    assert prefix_heads(evaluator) == {}
    curves, _ = run(evaluator, grid_of(evaluator))
    assert curves.work == curves.naive_work


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.01)


class Counting(nn.Module):
    """Gives something else at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class OwnNorm(nn.BatchNorm2d):
    """Its forward is traced into, in evaluation mode alone."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training)


@pytest.mark.parametrize("act", [Noise, Counting, lambda: OwnNorm(8)])
def test_networks_that_do_not_run_in_parts_as_they_run_are_evaluated_whole(act: Callable[[], nn.Module]) -> None:
    assert prefix_heads(evaluator_of(chain(act))) == {}


def test_a_norm_of_the_users_own_is_no_trouble_where_it_stays_as_it_is() -> None:
    assert len(prefix_heads(evaluator_of(chain(lambda: OwnNorm(8))), Recipe(0))) == 2


def test_a_norm_that_is_called_on_both_sides_is_not_cut_through() -> None:
    case = Case(SharedNorm, (3, 6, 6), {"stem": 8, "one.0.0": 6, "two.0.0": 6})
    grid = grid_of(evaluator_of(case))
    assert list(grid) == list(case.groups)
    assert prefix_heads(evaluator_of(case)) == {"two.0.0": "two.0.0"}
    cheap, naive = (run(evaluator_of(case), grid, replace(ALL, reuse=reuse))[0] for reuse in (True, False))
    assert_same_scores(cheap, naive)


def test_what_a_level_writes_in_place_is_not_there_for_the_next() -> None:
    evaluator = evaluator_of(Case(Accumulating, (3, 6, 6), {"stem": 8, "block.0.0": 6}))
    cheap, naive = (run(evaluator, {"block.0.0": [1, 3]}, replace(ALL, reuse=reuse))[0] for reuse in (True, False))
    assert_same_scores(cheap, naive)
    assert (cheap.work or 0) < (naive.work or 0)


def test_recipes_that_change_every_weight_share_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = evaluator_of(chain())
    assert prefix_heads(evaluator, Recipe(reconstruct=16)) == {"two.0": "two.0", "three.0": "three.0"}
    prune = Evaluator.prune

    def trained(self: Evaluator, allocation: Mapping[str, int], recipe: Recipe) -> nn.Module:
        network = prune(self, allocation, recipe)
        with torch.no_grad():
            next(iter(network.parameters())).mul_(1.01)
        return network

    monkeypatch.setattr(Evaluator, "prune", trained)
    curves, _ = run(evaluator, grid_of(evaluator))
    assert curves.work == curves.naive_work


def test_a_prefix_that_cannot_be_run_leaves_levels_to_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Stream, index: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    expected, _ = run(evaluator_of(chain()), {"two.0": [2, 6]})
    monkeypatch.setattr(Stream, "advance", fail)
    curves, _ = run(evaluator_of(chain()), {"two.0": [2, 6]})
    assert_same_scores(curves, expected)
    assert curves.work == curves.naive_work


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[FlopCounterMode]:
    """Counts the multiply-adds of all judgements, recipes and prefixes, and of nothing else."""
    counter = FlopCounterMode(display=False)

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            before = counter.flop_counts["Global"].copy()
            with FlopCounterMode(display=False) as inside:
                result = function(*args, **options)
            for operation, flops in inside.flop_counts["Global"].items():
                counter.flop_counts["Global"][operation] = before.get(operation, 0) + flops
            return result

        return call

    with monkeypatch.context() as patch:
        for owner, name in (
            (Stream, "advance"), (Evaluator, "evaluate_network"),
            (prefixes, "recalibrate"), (building, "recalibrate"), (building, "refit"),
        ):  # fmt: skip
            patch.setattr(owner, name, counting(getattr(owner, name)))
        yield counter


@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize(
    "recipe", [RECIPE, Recipe(0), Recipe(reconstruct=16), Recipe(reconstruct=16, consumers_only=True), Recipe(99)]
)
def test_the_work_is_what_is_counted(monkeypatch: pytest.MonkeyPatch, recipe: Recipe, reuse: bool) -> None:
    evaluator = evaluator_of(chain())
    assert len(evaluator.task.metrics) == 1  # which are found out by running the network once
    with counted(monkeypatch) as counter:
        curves, recorded = run(evaluator, grid_of(evaluator), replace(ALL, recipe=recipe, reuse=reuse))
    # The least squares of reconstruction are no operation of a layer: matrix products, where all layers convolve.
    convolutions = [flops for name, flops in counter.flop_counts["Global"].items() if "convolution" in str(name)]
    assert 2 * (curves.work or 0) == sum(convolutions)
    assert sum(result.work or 0 for result in recorded.values()) == curves.work


def test_widest_levels_come_first_and_a_hopeless_one_is_the_last_of_its_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evaluator, skipped = scripted(monkeypatch, {6: 0.81, 4: 0.39, 2: 0.9}), []
    recorded: list[Level] = []
    curves = sweep(
        evaluator,
        {"two.0": [2, 4, 6]},
        replace(ALL, stop=0.5, reuse=False),
        {},
        lambda group, width, _: recorded.append((group, width)),
        lambda group, width: skipped.append((group, width)),
    )
    assert recorded == [DENSE, ("two.0", 6), ("two.0", 4)]
    assert skipped == [("two.0", 2)]
    assert list(curves.levels["two.0"]) == [6, 4]
    assert curves.curve("two.0").at(4) < curves.curve("two.0").at(3) < curves.curve("two.0").at(2)
    assert (curves.work or 0) < (curves.naive_work or 0)


def test_width_0_is_evaluated_behind_a_hopeless_level_too() -> None:
    evaluator, skipped = evaluator_of(RESNET_8, with_depth(FILTER)), []
    grid = {"layer2.0.conv1": [0, 4, 8, 16]}
    settings = replace(ALL, stop=1.0)
    hopeless = EvaluationResult(scored(9.0, 0.0, 20))
    curves = sweep(
        evaluator,
        grid,
        settings,
        {("layer2.0.conv1", 16): hopeless},
        lambda *_: None,
        lambda group, width: skipped.append(width),
    )
    assert sorted(curves.levels["layer2.0.conv1"]) == [0, 16]
    assert skipped == [8, 4]
    sweep_of_group = GroupSweep("layer2.0.conv1", (8, 4, 0), "accuracy", 0.5)
    assert sweep_of_group.left(8, scored(9.0, 0.1, 20)) == (0,)
    assert sweep_of_group.ends(0, scored(9.0, 0.9, 20))


def test_the_level_without_a_branch_shares_the_prefix_and_scores_the_same() -> None:
    evaluator = evaluator_of(RESNET_8, with_depth(FILTER))
    grid = {"layer2.0.conv1": [0, 8], "layer3.0.conv1": [0, 20]}
    assert set(Prefixes(evaluator, grid, RECIPE, 20).cuts) == set(grid)
    cheap, _ = run(evaluator, grid)
    naive, _ = run(evaluator, grid, replace(ALL, reuse=False))
    assert_same_scores(cheap, naive)


def scripted(monkeypatch: pytest.MonkeyPatch, accuracies: Mapping[int, float]) -> Evaluator:
    """An evaluator of the chain in which the width of `two` says what comes out; dense 0.8."""

    def evaluate_network(self: Evaluator, network: nn.Module, samples: int | None = None) -> Score:
        accuracy = accuracies.get(network.two[0].out_channels, 0.8)
        if accuracy < 0:
            raise ValueError("no luck")
        return scored(1 - accuracy, accuracy, 20)

    monkeypatch.setattr(Evaluator, "evaluate_network", evaluate_network)
    return evaluator_of(chain())


def test_without_a_stop_every_level_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = scripted(monkeypatch, {6: 0.1, 4: 0.0, 2: 0.0})
    curves, _ = run(evaluator, {"two.0": [2, 4, 6]}, replace(ALL, reuse=False))
    assert set(curves.levels["two.0"]) == {2, 4, 6}


def test_a_level_that_fails_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = scripted(monkeypatch, {6: -1.0, 4: 0.7, 2: 0.6})
    curves, recorded = run(evaluator, {"two.0": [2, 4, 6]}, replace(ALL, stop=0.5, reuse=False))
    assert set(curves.levels["two.0"]) == {2, 4}
    assert recorded["two.0", 6].outcome == Failure("exception", "ValueError: no luck")
    assert recorded["two.0", 6].work is not None


def test_hopeless_is_what_is_below_the_floor() -> None:
    group_sweep = GroupSweep("two.0", (4, 2), "accuracy", 0.4)
    assert group_sweep.hopeless(scored(9.0, 0.39, 10))
    assert not group_sweep.hopeless(scored(9.0, 0.4, 10))
    assert not group_sweep.hopeless(Failure("nan", "loss nan"))
    assert not GroupSweep("two.0", (4, 2)).hopeless(scored(9.0, 0.0, 10))
    assert [group_sweep.ends(width, scored(9.0, 0.4, 10)) for width in group_sweep.widths] == [False, True]


def test_levels_score_and_cost_the_same_in_any_order() -> None:
    order = [("two.0", 6), ("two.0", 2), ("three.0", 5), ("three.0", 3)]
    grid = {"two.0": [2, 6], "three.0": [3, 5]}
    levels = Levels(evaluator_of(chain()), grid, ALL)
    forth = [levels.evaluate(*level) for level in order]
    assert len(levels.prefixes.cuts) == 2
    assert [levels.evaluate(*level) for level in reversed(order)] == forth[::-1]


@pytest.mark.parametrize("recipe", [RECIPE, Recipe(reconstruct=16)])
def test_an_interrupted_sweep_ends_like_an_unbroken_one(recipe: Recipe) -> None:
    settings = replace(ALL, recipe=recipe, stop=0.9)
    grid = {"one.0": [1, 4], "two.0": [1, 3, 7], "three.0": [1, 4]}
    whole, recorded = run(evaluator_of(chain()), grid, settings)
    for count in range(1, len(recorded)):
        done = dict(list(recorded.items())[:count])
        resumed, rest = run(evaluator_of(chain()), grid, settings, done)
        assert list({**done, **rest}) == list(recorded)
        assert resumed == whole


def test_what_is_done_is_not_evaluated_again_even_below_a_hopeless_level() -> None:
    done = {
        DENSE: EvaluationResult(scored(1.0, 0.5, 20), 1),
        ("two.0", 6): EvaluationResult(scored(2.0, 0.1, 20), 20),
        ("two.0", 2): EvaluationResult(scored(3.0, 0.1, 20), 300),
        ("three.0", 4): EvaluationResult(Failure("nan", "loss nan")),
    }
    evaluator = evaluator_of(chain())
    grid = {"two.0": [2, 4, 6], "three.0": [4]}
    curves, recorded = run(evaluator, grid, replace(ALL, stop=0.5), done)
    assert recorded == {}
    assert curves.dense == done[DENSE].outcome
    assert curves.levels == {"two.0": {6: done["two.0", 6].outcome, 2: done["two.0", 2].outcome}, "three.0": {}}
    assert curves.work == 321


def test_a_sweep_evaluates_each_level_alone_with_the_rest_dense() -> None:
    evaluator = evaluator_of(chain())
    grid = {"two.0": [2, 5], "three.0": [4]}
    curves, recorded = run(evaluator, grid, replace(ALL, reuse=False))
    for group, widths in grid.items():
        for width in widths:
            expected = evaluator.evaluate_network(evaluator.prune(Allocation({group: width}), RECIPE), 20)
            assert curves.levels[group][width] == recorded[group, width].outcome == expected
    assert curves.dense == recorded[DENSE].outcome == evaluator.evaluate_network(evaluator.prune({}, RECIPE), 20)
    assert curves.widths == {"two.0": 8, "three.0": 8}
