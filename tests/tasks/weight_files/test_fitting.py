from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

from autoprune.tasks.weight_files.fitting import Fit, Target, best_fits, without_wrappers
from autoprune.tasks.weight_files.state_dicts import PREFERRED, find_state_dicts
from tests.tasks.weight_files.writers import Net, build, prefixed

STATE = build().state_dict()


def _best(network: nn.Module, content: Mapping[str, Any]) -> Fit:
    return best_fits(Target.of(network), list(find_state_dicts(content)))[0]


def _is_given(fit: Fit, network: nn.Module) -> bool:
    entries = fit.entries()
    return fit.whole and all(entries[name] is STATE[STATE_NAMES[name]] for name in network.state_dict())


STATE_NAMES = {name: name for name in STATE} | {f"{top}.{name}": name for top in ("inner", "module") for name in STATE}


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Net()


segments = st.sampled_from(["module", "_orig_mod", "model", "backbone", "ema", "a", "encoder", "l", "net_1"])
keys = st.sampled_from(["state_dict", "model", "ema", "my weights", "checkpoint", "0"])


@settings(max_examples=80, deadline=None)
@given(
    nested=st.lists(keys, max_size=3),
    prefix=st.lists(segments, max_size=3),
    kind=st.sampled_from([Net, Inner, lambda: nn.DataParallel(Net())]),
    beside=st.booleans(),
)
def test_weights_are_found_under_any_keys_and_prefix(
    nested: list[str], prefix: list[str], kind: Any, beside: bool
) -> None:
    content: Any = prefixed("".join(f"{each}." for each in prefix), STATE)
    if beside:
        content |= {"epoch": 3}
    for key in reversed(nested):
        content = {key: content, "step": 4}
    network = kind()
    assert _is_given(_best(network, content), network)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_message_is_on_the_nearest_reading(data: st.DataObject) -> None:
    nested = data.draw(st.lists(keys, max_size=2))
    prefix = data.draw(st.sampled_from(["", "module.", "model.", "x.y."]))
    lost = data.draw(st.sampled_from(sorted(set(STATE) - {"n.num_batches_tracked"})))
    content: Any = prefixed(prefix, {name: value for name, value in STATE.items() if name != lost})
    for key in reversed(nested):
        content = {key: content, "other": {"w": torch.ones(3)}}
    fit = _best(Net(), content)
    assert list(fit.missing) == [lost]
    assert not fit.unexpected
    assert not fit.misshapen


@pytest.mark.parametrize(("better", "worse"), itertools.combinations((*PREFERRED, "mine", "model_ema"), 2))
def test_of_entries_that_fit_the_documented_first_is_taken(better: str, worse: str) -> None:
    other = {name: value.clone() for name, value in STATE.items()}
    for content in ({worse: other, better: STATE}, {better: STATE, worse: other}):
        assert _is_given(_best(Net(), content), Net())


def test_the_top_is_taken_before_what_lies_in_it_and_outer_before_inner() -> None:
    other = {name: value.clone() for name, value in STATE.items()}
    assert _is_given(_best(Net(), {**STATE, "best": {"state_dict": other}}), Net())
    assert _is_given(_best(Net(), {"state_dict": STATE, "averages": {"ema_model": other}}), Net())


def test_a_deeper_network_of_the_same_kind_does_not_pass_for_a_shallower_one() -> None:
    deep = nn.Sequential(*(nn.Linear(3, 3) for _ in range(3)))
    assert _best(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), deep.state_dict()).unexpected == [
        "2.weight",
        "2.bias",
    ]


def test_parts_of_a_network_that_were_saved_apart_are_joined() -> None:
    content = {"model": {part: {"weights": 0} for part in "x"}, "epoch": 1, **{p: {} for p in "anl"}}
    for name, value in STATE.items():
        part, _, rest = name.partition(".")
        content[part][rest] = value
    assert _is_given(_best(Net(), content), Net())


def test_masks_beside_weights_are_applied_unless_the_network_has_them() -> None:
    masked = build()
    prune.l1_unstructured(masked.get_submodule("l"), "weight", 0.5)
    prune.random_unstructured(masked.get_submodule("a"), "bias", 3)
    fit = _best(Net(), masked.state_dict())
    assert fit.whole
    assert fit.source.masked == 2
    assert torch.equal(fit.entries()["l.weight"], masked.get_submodule("l").weight)
    assert (fit.entries()["l.weight"] == 0).sum() == 16
    assert _best(masked, masked.state_dict()).entries()["l.weight_mask"].sum() == 16


def test_names_that_would_become_one_without_their_wrapper_are_kept_apart() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module, self.weight = nn.Linear(2, 2), nn.Parameter(torch.ones(3))

    class Same(Both):
        def __init__(self) -> None:
            super().__init__()
            self.module, self.weight = nn.Linear(2, 2, bias=False), nn.Parameter(torch.ones(2, 2))

    for network in (Both(), Same()):
        fit = _best(network, network.state_dict())
        assert fit.whole
        assert fit.names == {name: name for name in network.state_dict()}


def test_wrappers_are_removed_without_a_network_only_where_all_names_have_them() -> None:
    one = torch.ones(1)
    assert list(without_wrappers({"module._orig_mod.a": one, "n_averaged": one})) == ["a"]
    assert list(without_wrappers({"module.a": one, "b": one})) == ["module.a", "b"]
    assert list(without_wrappers({"n_averaged": one})) == ["n_averaged"]


def test_the_preferred_prefix_is_taken_in_large_files_too() -> None:
    names = [f"layer{i}.{j}.conv.weight" for i in range(40) for j in range(40)]
    network = {name: torch.ones(1) for name in names}
    content: dict[str, Tensor] = prefixed("model.", network) | prefixed("teacher.", network)
    (fit, *_) = best_fits(Target(network), list(find_state_dicts({"state_dict": content})))
    assert fit.whole
    assert fit.removed == "model."
