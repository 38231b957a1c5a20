"""A pruner at work in a user's own loop."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune import registry
from autoprune.errors import UserError
from autoprune.pruning.patterns import FILTER, parse_pattern
from autoprune.pruning.pruner import L1_FILTER, LEVEL, TICKET, Pruner
from autoprune.pruning.schedules import AGP, ITERATIVE, Timing
from autoprune.pruning.training.gradual import Pruning
from autoprune.pruning.training.masking import Masking
from tests.graph.contract import randomise
from tests.tiers import rest_slow

INPUTS = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TIMING = Timing(10, 60, 7, "step")
# What each named pruner takes where it is not a sparsity.
AMOUNTS = {"sensitivity": 0.8, "threshold": 0.05}


def _network() -> nn.Sequential:
    torch.manual_seed(1)
    network = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4)),
    )
    randomise(network)
    return network


def _data(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 3, 8, 8, generator=generator), torch.randint(4, (8,), generator=generator)


DATA: Mapping[str, Any] = {"statistics_batches": [_data(1000), _data(1001)], "loss": F.cross_entropy}


def _optimizer(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), 0.05, momentum=0.9, weight_decay=1e-2)


def _train(network: nn.Module, optimizer: torch.optim.Optimizer, steps: range, *prunings: Pruning) -> None:
    network.train()
    for step in steps:
        optimizer.zero_grad()
        inputs, targets = _data(step)
        F.cross_entropy(network(inputs), targets).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        for pruning in prunings:
            pruning.step()
        assert all(bool((_parameter(network, n)[~m] == 0).all()) for p in prunings for n, m in p.masks.items())


def _parameter(network: nn.Module, name: str) -> Tensor:
    return dict(network.named_parameters())[name].detach()


def _pruning(network: nn.Module, name: str, **settings: Any) -> Pruning:
    pruner: Pruner = registry.resolve("pruner", name)
    timing = None if pruner.schedule.once or pruner.schedule.rewinds else TIMING
    return Pruning(
        network,
        name,
        AMOUNTS.get(name, 0.5),
        inputs=INPUTS,
        timing=timing,
        **DATA,
        **settings,
    )


@pytest.mark.parametrize("name", rest_slow(registry.PRUNERS, kept=3))
def test_masks_of_every_named_pruner_hold_over_a_hundred_steps(name: str) -> None:
    network = _network()
    optimizer = _optimizer(network)
    _train(network, optimizer, range(5))  # momentum is there before the masks are
    pruning = _pruning(network, name)
    for _ in pruning.rounds(2, optimizer) if pruning.pruner.schedule.rewinds else [0]:
        _train(network, optimizer, range(100), pruning)
    masks = pruning.finish()
    assert sum(int((~mask).sum()) for mask in masks.values()) > 0
    assert all((_parameter(network, parameter)[~mask] == 0).all() for parameter, mask in masks.items())


@pytest.mark.parametrize("name", ["l1_filter", "level", "two_four"])
def test_without_being_held_they_would_move(name: str) -> None:
    network = _network()
    optimizer = _optimizer(network)
    _train(network, optimizer, range(5))
    masks = _pruning(network, name).finish()
    assert all((_parameter(network, parameter)[~mask] == 0).all() for parameter, mask in masks.items())
    _train(network, optimizer, range(5, 6))
    assert all((_parameter(network, parameter)[~mask] != 0).any() for parameter, mask in masks.items())


@pytest.mark.parametrize("schedule", [name for name in registry.SCHEDULES if name != "lottery_ticket"])
def test_masks_of_every_schedule_reach_their_number_and_hold(schedule: str) -> None:
    network = _network()
    pruner = Pruner("x", LEVEL.criterion, LEVEL.pattern, registry.resolve("schedule", schedule), normalise=False)
    pruning = Pruning(network, pruner, 0.9, inputs=INPUTS, timing=TIMING)
    _train(network, _optimizer(network), range(100), pruning)
    assert pruning.allocation == {"0": 216 - 194, "3": 864 - 777, "8": 48 - 43}


@pytest.mark.parametrize("pattern", ["filter", "element"])
@pytest.mark.parametrize("name", registry.CRITERIA)
def test_every_criterion_works_under_agp(name: str, pattern: str) -> None:
    criterion = registry.resolve("criterion", name)
    network = _network()
    pruner = Pruner("x", criterion, parse_pattern(pattern), AGP)
    if criterion.per_channel and pattern == "element":
        with pytest.raises(UserError, match="scores whole output channels"):
            Pruning(
                network,
                pruner,
                0.6,
                inputs=INPUTS,
                **DATA,
                timing=Timing(0, 12, 4, "step"),
            )
        return
    pruning = Pruning(
        network,
        pruner,
        0.6,
        inputs=INPUTS,
        **DATA,
        timing=Timing(0, 12, 4, "step"),
    )
    seen = []
    for step in range(15):
        seen.append(sum(pruning.allocation.values()))
        _train(network, torch.optim.SGD(network.parameters(), 0.05), range(step, step + 1), pruning)
    assert seen[0] > seen[4] > seen[8] > seen[12]
    widths = {"0": 8, "3": 12} if pattern == "filter" else {"0": 216, "3": 864, "8": 48}
    assert pruning.allocation == {group: width - int(width * 0.6) for group, width in widths.items()}


def test_agp_lets_a_weight_recover_what_it_was() -> None:
    """Of 1, 2, 3, 4 first the 1 goes, then, when training has made the 2 small, the 2: the 1 is back."""
    network = nn.Sequential(nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    pruner = Pruner("x", LEVEL.criterion, LEVEL.pattern, AGP, normalise=False)
    pruning = Pruning(network, pruner, 0.25, inputs=torch.ones(2, 4), initial=0.25, timing=Timing(0, 2, 1, "step"))
    assert network[0].weight.tolist() == [[0, 2, 3, 4]]
    with torch.no_grad():
        network[0].weight.sub_(torch.tensor([[5.0, 1.5, 0.0, 0.0]]))
    pruning.step()
    assert network[0].weight.tolist() == [[1, 0, 3, 4]]
    with torch.no_grad():
        network[0].weight[0, 0] = 0.1
    pruning.step()
    assert network[0].weight.tolist() == [[0, 0.5, 3, 4]]


def test_what_an_iterative_schedule_prunes_never_comes_back() -> None:
    network = nn.Sequential(nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    pruner = Pruner("x", LEVEL.criterion, LEVEL.pattern, ITERATIVE, normalise=False)
    pruning = Pruning(network, pruner, 0.5, inputs=torch.ones(2, 4), initial=0.25, timing=Timing(0, 2, 1, "step"))
    assert network[0].weight.tolist() == [[0, 2, 3, 4]]
    with torch.no_grad():
        network[0].weight[0, 1:] = 0.25
    pruning.step()
    assert network[0].weight[0, 0] == 0
    pruning.step()
    assert network[0].weight.tolist() == [[0, 0, 0.25, 0.25]]


def test_a_survivor_that_became_zero_does_not_change_places_with_what_was_pruned() -> None:
    network = nn.Sequential(nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[4.0, 3.0, 2.0, 1.0]]))
    pruner = Pruner("x", LEVEL.criterion, LEVEL.pattern, ITERATIVE, normalise=False)
    pruning = Pruning(network, pruner, 0.25, inputs=torch.ones(2, 4), initial=0.25, timing=Timing(0, 1, 1, "step"))
    with torch.no_grad():
        network[0].weight[0, 0] = 0
    pruning.step()
    assert network[0].weight.tolist() == [[0, 3, 2, 0]]
    assert pruning.masks["0.weight"].tolist() == [[True, True, True, False]]


def test_masked_filters_lose_their_scale_shift_and_bias_and_thinned_equals_masked() -> None:
    network = _network()
    pruning = Pruning(network, L1_FILTER, 0.5, inputs=INPUTS)
    _train(network, _optimizer(network), range(10), pruning)
    kept = pruning.kept_channels()["0"]
    gone = [channel for channel in range(8) if channel not in kept]
    assert len(gone) == 4
    for name in ("0.weight", "0.bias", "1.weight", "1.bias"):
        assert (_parameter(network, name)[gone] == 0).all()
        assert (_parameter(network, name)[list(kept)] != 0).all()
    assert (_parameter(network, "3.weight")[:, gone] == 0).all()
    thinned = pruning.finish(thin=True)
    assert (thinned[0].out_channels, thinned[3].out_channels, thinned[8].in_features) == (4, 6, 6)
    inputs = torch.randn(16, 3, 8, 8)
    torch.testing.assert_close(thinned.eval()(inputs), network.eval()(inputs))
    assert not any(parameter._backward_hooks for parameter in (*network.parameters(), *thinned.parameters()))


def test_one_shot_prunes_once_at_its_start() -> None:
    network = _network()
    before = copy.deepcopy(network.state_dict())
    pruning = Pruning(network, "level", 0.5, inputs=INPUTS, timing=Timing(3, 9, 1, "step"))
    optimizer = _optimizer(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    _train(network, optimizer, range(2), pruning)
    assert pruning.masks == {}
    _train(network, optimizer, range(2, 3), pruning)
    first = copy.deepcopy(pruning.masks)
    assert int((~first["3.weight"]).sum()) == 432
    _train(network, optimizer, range(3, 12), pruning)
    assert all(torch.equal(mask, first[name]) for name, mask in pruning.masks.items())


def test_epochs_are_counted_apart_from_steps() -> None:
    network = _network()
    pruning = Pruning(network, "agp", 0.8, inputs=INPUTS, timing=Timing(1, 3, 1, "epoch"))
    for _ in range(5):
        pruning.step()
    assert pruning.allocation["3"] == 864
    found = []
    for _ in range(4):
        pruning.epoch()
        found.append(pruning.allocation["3"])
    assert found == [864, 864 - int(864 * 0.7), 864 - int(864 * 0.8), 864 - int(864 * 0.8)]


def test_fractions_differ_by_layer_and_widths_come_from_a_search() -> None:
    network = _network()
    pruning = Pruning(network, "level", {"*": 0.25, "3": 0.75}, inputs=INPUTS)
    assert pruning.allocation == {"0": 162, "3": 216, "8": 36}
    network = _network()
    pruning = Pruning(network, "l1_filter", inputs=INPUTS, widths={"3": 5})
    assert pruning.allocation == {"3": 5}
    assert pruning.finish(thin=True)[3].out_channels == 5
    assert Pruning(_network(), "level", 0.5, inputs=INPUTS, layers=["8"]).allocation == {"8": 24}


def test_filters_in_convolutions_and_elements_in_the_last_layer_hold_together() -> None:
    network = _network()
    masking = Masking(network)
    filters = Pruning(network, "l1_filter", 0.5, inputs=INPUTS, layers=["3"], masking=masking)
    elements = Pruning(network, "agp", 0.8, inputs=INPUTS, layers=["8"], timing=TIMING, masking=masking)
    _train(network, _optimizer(network), range(100), filters, elements)
    gone = [channel for channel in range(12) if channel not in filters.kept_channels()["3"]]
    weight = _parameter(network, "8.weight")
    assert (weight[:, gone] == 0).all()
    assert int((weight == 0).sum()) >= 38
    inputs = torch.randn(8, 3, 8, 8)
    thinned = filters.finish(thin=True)
    torch.testing.assert_close(thinned.eval()(inputs), network.eval()(inputs))
    _train(network, _optimizer(network), range(3), elements)  # the other still holds
    masks = elements.finish()
    assert set(masks) == {"8.weight"}
    assert int((~masks["8.weight"]).sum()) == 38
    assert not any(parameter._backward_hooks for parameter in network.parameters())


def _ticket_run(
    early: int | None, rounds: int = 3
) -> tuple[nn.Module, Pruning, dict[str, Tensor], list[dict[str, Any]]]:
    network = _network()
    start = copy.deepcopy(network.state_dict())
    optimizer = _optimizer(network)
    rate = torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.1)
    pruning = Pruning(network, "lottery_ticket", 0.875, inputs=INPUTS)
    found = []
    for done in pruning.rounds(rounds, optimizer, rate, early=early is not None):
        found.append({
            "round": done,
            "state": copy.deepcopy(network.state_dict()),
            "masks": copy.deepcopy(dict(pruning.masks)),
            "momentum": len(optimizer.state_dict()["state"]),
            "rate": optimizer.param_groups[0]["lr"],
            "epochs": rate.last_epoch,
        })  # fmt: skip
        for step in range(12):
            _train(network, optimizer, range(step, step + 1), pruning)
            rate.step()
            if done == 0 and step + 1 == early:
                pruning.keep_early(optimizer, rate)
                start = copy.deepcopy(network.state_dict())
    return network, pruning, start, found


def test_rounds_rewind_weights_statistics_optimizer_and_rate_to_the_start() -> None:
    _, _, start, found = _ticket_run(None)
    assert [each["round"] for each in found] == [0, 1, 2, 3]
    for each, share in zip(found[1:], (0.5, 0.75, 0.875), strict=True):
        for name, value in start.items():
            mask = each["masks"].get(name)
            assert torch.equal(each["state"][name], value if mask is None else value * mask), name
        assert {name: int((~mask).sum()) for name, mask in each["masks"].items()} == {
            f"{group}.weight": int(width * share + 1e-9) for group, width in (("0", 216), ("3", 864), ("8", 48))
        }
        assert (each["momentum"], each["rate"], each["epochs"]) == (0, 0.05, 0)
    survivors = [each["masks"]["3.weight"] for each in found[1:]]
    assert not (survivors[1] & ~survivors[0]).any()
    assert not (survivors[2] & ~survivors[1]).any()


def test_pruned_weights_are_remembered_as_they_were_at_the_start() -> None:
    network, pruning, start, _ = _ticket_run(None, rounds=1)
    mask = pruning.masks["3.weight"]
    pruning.masking.restore()
    assert torch.equal(_parameter(network, "3.weight")[~mask], start["3.weight"][~mask])


def test_rounds_rewind_to_an_early_state_with_its_momentum_and_rate() -> None:
    _, _, early, found = _ticket_run(7)
    for each in found[1:]:
        for name, value in early.items():
            mask = each["masks"].get(name)
            assert torch.equal(each["state"][name], value if mask is None else value * mask), name
        assert each["momentum"] > 0
        assert (each["rate"], each["epochs"]) == (pytest.approx(0.005), 7)


def test_an_early_state_that_was_never_kept_is_asked_for() -> None:
    pruning = Pruning(_network(), "lottery_ticket", 0.5, inputs=INPUTS)
    with pytest.raises(UserError, match=r"was never kept: call keep_early\(\) in the first round"):
        list(pruning.rounds(2, early=True))


def test_rounds_reset_as_many_states_as_were_kept() -> None:
    network = _network()
    pruning = Pruning(network, "lottery_ticket", 0.5, inputs=INPUTS)
    rounds = pruning.rounds(1, _optimizer(network), early=True)
    next(rounds)
    pruning.keep_early()
    with pytest.raises(UserError, match="0 states were kept beside the network's but 1 are given"):
        next(rounds)


def test_an_early_state_is_of_a_schedule_that_rewinds() -> None:
    with pytest.raises(UserError, match="'one_shot' never goes back to an early state"):
        Pruning(_network(), "level", 0.5, inputs=INPUTS).keep_early()


def _saved(content: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


@pytest.mark.parametrize("name", registry.PRUNERS)
@pytest.mark.parametrize("at", [5, 31], ids=["before the first update", "between updates"])
def test_interrupted_and_resumed_equals_unbroken(name: str, at: int) -> None:
    def start() -> tuple[nn.Module, torch.optim.Optimizer, Pruning]:
        network = _network()
        return network, _optimizer(network), _pruning(network, name)

    network, optimizer, pruning = start()
    if pruning.pruner.schedule.rewinds:
        pytest.skip("it goes by rounds")
    _train(network, optimizer, range(at), pruning)
    saved = _saved({
        "network": network.state_dict(), "optimizer": optimizer.state_dict(), "pruning": pruning.state_dict(),
    })  # fmt: skip
    _train(network, optimizer, range(at, 70), pruning)
    again, optimizer, resumed = start()
    _train(again, optimizer, range(200, 203), resumed)  # what it had pruned and remembered till then must not matter
    again.load_state_dict(saved["network"])
    optimizer.load_state_dict(saved["optimizer"])
    resumed.load_state_dict(saved["pruning"])
    assert all(torch.equal(value, saved["network"][key]) for key, value in again.state_dict().items())
    _train(again, optimizer, range(at, 70), resumed)
    _assert_same(again, network)
    assert resumed.allocation == pruning.allocation
    assert all(torch.equal(mask, pruning.masks[key]) for key, mask in resumed.masks.items())


def _assert_same(found: nn.Module, expected: nn.Module) -> None:
    state = expected.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in found.state_dict().items())


@pytest.mark.parametrize(("round_", "early"), [(0, False), (1, False), (2, True)], ids=str)
def test_interrupted_rounds_go_on_with_the_one_under_way(round_: int, early: bool) -> None:
    def start() -> tuple[nn.Module, torch.optim.Optimizer, Pruning]:
        network = _network()
        return network, _optimizer(network), Pruning(network, TICKET, 0.8, inputs=INPUTS)

    def play(network: nn.Module, optimizer: torch.optim.Optimizer, pruning: Pruning, first: int) -> dict[str, Any]:
        saved: dict[str, Any] = {}
        for done in pruning.rounds(3, optimizer, early=early):
            for step in range(first, 8):
                _train(network, optimizer, range(step, step + 1), pruning)
                if early and (done, step) == (0, 2):
                    pruning.keep_early(optimizer)
                if (done, step) == (round_, 3):
                    parts = {"network": network, "optimizer": optimizer, "pruning": pruning}
                    saved = _saved({key: part.state_dict() for key, part in parts.items()})
            first = 0
        return saved

    network, optimizer, pruning = start()
    saved = play(network, optimizer, pruning, 0)
    again, optimizer, resumed = start()
    again.load_state_dict(saved["network"])
    optimizer.load_state_dict(saved["optimizer"])
    resumed.load_state_dict(saved["pruning"])
    play(again, optimizer, resumed, 4)
    _assert_same(again, network)
    assert all(torch.equal(mask, pruning.masks[key]) for key, mask in resumed.masks.items())


class Undecided(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pruner": "level", "amount": 0.5, "layers": ["nowhere"]}, "'nowhere' matches no group"),
        ({"pruner": "level", "amount": {"nowhere": 0.5}}, "'nowhere' matches no group"),
        ({"pruner": "level", "amount": 1.5}, "takes a sparsity from 0 to 1, not 1.5"),
        ({"pruner": "threshold", "amount": -1.0}, "takes a threshold of at least 0"),
        ({"pruner": "level"}, "one of both"),
        ({"pruner": "level", "amount": 0.5, "widths": {"0": 3}}, "one of both"),
        ({"pruner": "taylor", "amount": 0.5}, "needs training samples and a loss"),
        ({"pruner": "agp", "amount": 0.5}, "prunes little by little: say from when to when"),
        ({"pruner": "levle", "amount": 0.5}, "unknown pruner 'levle'; did you mean 'level'"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_at_once(settings: Mapping[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Pruning(_network(), inputs=INPUTS, **settings)


def test_weights_alone_cannot_be_thinned_and_stay_held() -> None:
    network = _network()
    pruning = Pruning(network, "level", 0.5, inputs=INPUTS)
    with pytest.raises(UserError, match="only whole channels and layers can be thinned away"):
        pruning.finish(thin=True)
    _train(network, _optimizer(network), range(5), pruning)
    assert len(pruning.finish()) == 3


def test_rounds_are_of_a_schedule_that_rewinds() -> None:
    pruning = Pruning(_network(), "level", 0.5, inputs=INPUTS)
    with pytest.raises(UserError, match="rounds are of a schedule that rewinds, such as 'lottery_ticket'"):
        next(pruning.rounds(3))
    with pytest.raises(UserError, match="at least 1 in number; here are 0"):
        next(Pruning(_network(), "lottery_ticket", 0.5, inputs=INPUTS).rounds(0))


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(UserError, match="nothing in this network can be pruned"):
        Pruning(Undecided(), "level", 0.5, inputs=INPUTS)


def test_a_copy_of_a_network_that_is_being_pruned_trains_freely() -> None:
    network = _network()
    Pruning(network, Pruner("x", L1_FILTER.criterion, FILTER), 0.5, inputs=INPUTS)
    twin = copy.deepcopy(network)
    F.cross_entropy(twin.eval()(INPUTS), torch.zeros(4, dtype=torch.long)).backward()
    assert not any(parameter._backward_hooks for parameter in twin.parameters())
