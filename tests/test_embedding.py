"""An allocation inside a search of the user's own; `test_examples` runs two such searches."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import optuna
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import autoprune
from autoprune.core.costs import within
from autoprune.errors import BudgetInfeasible, UserError
from autoprune.graph.costs import measure_costs
from autoprune.tasks.models.cifar_resnet import CifarResNet

INPUTS = torch.zeros(2, 3, 8, 8)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Conv2d(32, 8, 3),
        nn.ReLU(), nn.Flatten(), nn.Linear(32, 4),
    )  # fmt: skip


SPACE = autoprune.search_space(network(), INPUTS, {"protect": []})


class Noting:
    """Stands in for an Optuna trial."""

    def __init__(self, share: float) -> None:
        self.share, self.asked, self.noted = share, dict[str, tuple[float, float]](), dict[str, Any]()

    def suggest_float(self, name: str, low: float, high: float) -> float:
        self.asked[name] = (low, high)
        return low + self.share * (high - low)

    def set_user_attr(self, key: str, value: Any) -> None:
        self.noted[key] = value


def test_dimensions_are_the_shares_that_may_be_kept_by_name() -> None:
    assert SPACE.dimensions() == {"keep.0": (2 / 16, 1.0), "keep.3": (4 / 32, 1.0), "keep.5": (1 / 8, 1.0)}
    pinned = {"protect": [], "groups": {"3": {"min_keep": 0.5, "max_keep": 0.5}}}
    assert list(autoprune.search_space(network(), INPUTS, pinned).dimensions()) == ["keep.0", "keep.5"]


@pytest.mark.parametrize("budget", ["flops=0.2", "flops=0.5,params=0.3", {"params": "3k"}])
@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1))
def test_whatever_is_suggested_the_allocation_is_within_the_budget(budget: Any, share: float) -> None:
    trial = Noting(share)
    allocation = autoprune.suggest_allocation(trial, SPACE, budget)
    limits = autoprune.Budget.of(budget).resolve(SPACE.costs.dense())
    assert within(allocation, SPACE.costs, limits)
    assert allocation in SPACE.groups
    assert trial.asked == SPACE.dimensions()
    assert trial.noted == {"widths": dict(allocation)}


def test_a_configuration_gives_the_same_allocation_as_a_trial_and_may_hold_more() -> None:
    trial = Noting(0.7)
    wanted = autoprune.suggest_allocation(trial, SPACE, "flops=0.5")
    config = {name: trial.suggest_float(name, *ends) for name, ends in SPACE.dimensions().items()}
    assert autoprune.allocation_from({**config, "rate": 0.1}, SPACE, "flops=0.5") == wanted


def test_different_shares_give_different_allocations() -> None:
    narrow = {"keep.0": 0.2, "keep.3": 1.0, "keep.5": 0.5}
    first = autoprune.allocation_from(narrow, SPACE, "flops=0.5")
    second = autoprune.allocation_from({**narrow, "keep.0": 1.0, "keep.3": 0.2}, SPACE, "flops=0.5")
    assert first["0"] < second["0"]
    assert first["3"] > second["3"]


def test_an_allocation_is_applied_to_the_network_it_is_of_at_the_cost_predicted() -> None:
    dense = network()
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    allocation = autoprune.allocation_from(dict.fromkeys(SPACE.dimensions(), 0.5), SPACE, "flops=0.3")
    smaller = SPACE.apply(dense, allocation)
    assert measure_costs(smaller, INPUTS) == SPACE.costs.costs(allocation)
    assert smaller(INPUTS).shape == (2, 4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in dense.state_dict().items())


def test_a_space_travels_to_other_processes_without_the_network() -> None:
    written = pickle.dumps(SPACE)
    again = pickle.loads(written)
    config = dict.fromkeys(SPACE.dimensions(), 0.4)
    assert autoprune.allocation_from(config, again, "flops=0.5") == SPACE.allocation(config, "flops=0.5")
    assert len(written) < 20_000


def test_trials_may_run_beside_each_other_in_threads() -> None:
    dense = network().eval()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))

    def objective(trial: optuna.Trial) -> float:
        small = SPACE.apply(dense, autoprune.suggest_allocation(trial, SPACE, "flops=0.5"))
        return float(small(torch.ones(2, 3, 8, 8)).detach().square().mean())

    study.optimize(objective, n_trials=24, n_jobs=4)
    assert all(trial.state is optuna.trial.TrialState.COMPLETE for trial in study.trials)
    for trial in study.trials[:4]:
        again = SPACE.apply(dense, SPACE.allocation(trial.params, "flops=0.5"))
        assert trial.value == pytest.approx(float(again(torch.ones(2, 3, 8, 8)).detach().square().mean()), rel=1e-5)


def test_a_missing_dimension_is_named() -> None:
    with pytest.raises(UserError, match=r"no value is given for keep\.3, keep\.5; the names and ranges"):
        autoprune.allocation_from({"keep.0": 0.5, "keep3": 0.5}, SPACE, "flops=0.5")


@pytest.mark.parametrize(
    ("budget", "said"), [("flops=0.001", "cannot be met"), ("flop=0.5", "did you mean 'flops'"), ("", "empty")]
)
def test_a_budget_that_cannot_be_is_refused(budget: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        autoprune.suggest_allocation(Noting(0.5), SPACE, budget)


def test_an_infeasible_budget_is_that() -> None:
    with pytest.raises(BudgetInfeasible):
        autoprune.suggest_allocation(Noting(0.5), SPACE, "flops=0.001")


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"settings": {"criterion": ["l1", "l2"]}}, "which a search of your own suggests itself"),
        ({"min_keep": 2}, "min_keep: should be at most 1"),
        ("inner", "did you mean 'inner_only'"),
        ({"include": ["nothing"]}, "matches no group"),
    ],
)
def test_rules_at_fault_are_refused(rules: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        autoprune.search_space(network(), INPUTS, rules)


def test_neither_library_is_imported() -> None:
    code = "import sys, autoprune; autoprune.search_space; print('optuna' in sys.modules, 'ray' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "False"]


def test_a_network_in_a_wrapper_comes_back_bare() -> None:
    bare = network()
    wrapped = nn.DataParallel(bare)
    assert autoprune.search_space(wrapped, INPUTS, {"protect": []}).dimensions() == SPACE.dimensions()
    small = SPACE.apply(wrapped, {"0": 4})
    assert isinstance(small, nn.Sequential)
    assert small[0].out_channels == 4
    pruning = autoprune.Pruning(wrapped, "l1_filter", 0.5, inputs=INPUTS, layers=["0"])
    assert pruning.network is bare
    assert isinstance(pruning.finish(thin=True), nn.Sequential)


def test_a_network_of_keyword_arguments_is_searched_on_them() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 4)

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.second(torch.relu(self.first(x))) * mask

    inputs = {"mask": torch.ones(2, 1), "x": torch.rand(2, 6)}
    space = autoprune.search_space(Masked(), inputs, {"protect": []})
    small = pickle.loads(pickle.dumps(space)).apply(Masked(), {"first": 3})
    assert small.first.out_features == 3
    assert measure_costs(small, inputs) == space.costs.costs({"first": 3})


def test_with_depth_a_share_near_nothing_removes_a_branch() -> None:
    model = CifarResNet(1).eval()
    space = autoprune.search_space(model, INPUTS, {"depth": True})
    assert space.dimensions()["keep.layer2.0.conv1"] == (0.0, 1.0)
    shares = {**dict.fromkeys(space.dimensions(), 1.0), "keep.layer2.0.conv1": 0.01}
    allocation = space.allocation(shares, "flops=0.6")
    assert allocation["layer2.0.conv1"] == 0
    small = space.apply(model, allocation)
    assert measure_costs(small, INPUTS) == space.costs.costs(allocation)


def test_groups_that_are_equally_wide_are_one_dimension_and_written_out_in_the_allocation() -> None:
    model, inputs = (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 3),
        torch.randn(2, 5, 32),
    )
    rules = {
        "include": ["kind:heads", "kind:hidden"],
        "equal": ["kind:heads", "kind:hidden"],
        "protect": [],
        "depth": True,
    }
    space = autoprune.search_space(model, inputs, rules)
    assert {f"keep.layers.{i}.linear1:branch" for i in range(3)} < set(space.dimensions())
    assert {"keep.layers.0.self_attn", "keep.layers.0.linear1"} < set(space.dimensions())
    assert "keep.layers.1.linear1" not in space.dimensions()
    shares = {name: float(name.endswith(":branch")) or 0.5 for name in space.dimensions()}
    shares["keep.layers.2.linear1:branch"] = 0.0
    allocation = space.allocation(shares, "flops=0.6")
    assert set(allocation) == {f"layers.{i}.{name}" for i in range(3) for name in ("self_attn", "linear1")}
    assert len({allocation[f"layers.{i}.self_attn"] for i in range(3)} - {0}) == 1
    widths = [allocation[f"layers.{i}.linear1"] for i in range(3)]
    assert widths == [widths[0], widths[0], 0]
    small = space.apply(model, allocation)
    assert [layer.linear1.out_features for layer in small.layers[:2]] == widths[:2]
    assert measure_costs(small, inputs)["flops"] <= 0.6 * measure_costs(model, inputs)["flops"]
