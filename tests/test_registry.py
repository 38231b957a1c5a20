from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoprune import registry
from autoprune.config import load_experiment
from autoprune.errors import PluginError, UnknownName
from autoprune.pruning.criteria.magnitudes import L1
from autoprune.pruning.patterns import parse_pattern
from autoprune.registry import block_shape, n_and_m

OWN = """
from autoprune.pruning.criteria.base import Criterion
from autoprune.pruning.criteria.magnitudes import L1, l1_norm
from autoprune.pruning.patterns import ELEMENT, FILTER
from autoprune.searchers.controls import Uniform

MINE = Criterion("mine", l1_norm)
number = 3
Searching = Uniform


class Asking:
    def ask(self, limit): ...
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module `ap_own` in the current folder."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "ap_own.py").write_text(OWN)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_ones_own_is_called_by_the_name_it_was_given_by(own: None) -> None:
    found = registry.resolve("criterion", "ap_own:MINE")
    assert (found.name, found.score) == ("ap_own:MINE", L1.score)
    assert registry.resolve("criterion", "l1") is L1
    assert parse_pattern("ap_own:ELEMENT").name == "ap_own:ELEMENT"
    assert registry.resolve("searcher", "ap_own:Searching").__name__ == "Uniform"


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("searcher", "ap_gone:Mine", "there is no module 'ap_gone'"),
        ("searcher", "ap_own:Serching", "no attribute 'Serching'; did you mean 'Searching'"),
        ("searcher", "ap_own:number", "should be a searcher, a class with ask and tell, but is a int"),
        ("searcher", "ap_own:Asking", "class Asking lacks .*uses_curves.*tell"),
        ("criterion", "ap_own:number", "should be a value of autoprune.pruning.criteria.base.Criterion but is a int"),
        (
            "criterion",
            "ap_own:Asking",
            "should be a value of autoprune.pruning.criteria.base.Criterion but is the class Asking",
        ),
        ("pruner", "ap_own:MINE", "should be a value of autoprune.pruning.pruner.Pruner but is a Criterion"),
        ("pattern", "ap_own:MINE", "should be a value of autoprune.pruning.patterns.Pattern but is a Criterion"),
        ("schedule", "ap_own:MINE", "should be a value of autoprune.pruning.schedules.Schedule but is a Criterion"),
        ("allocator", "ap_own:MINE", "should be a value of autoprune.pruning.allocators.Allocator but is a Criterion"),
        ("penalty", "ap_own:MINE", "should be a class or function that makes a penalty but is a Criterion"),
    ],
)
def test_what_is_wrong_with_ones_own_is_said_in_one_line(own: None, kind: str, name: str, said: str) -> None:
    with pytest.raises(PluginError, match=said) as raised:
        registry.resolve(kind, name)
    assert "\n" not in str(raised.value)


def test_an_own_pattern_of_whole_channels_is_refused(own: None) -> None:
    with pytest.raises(PluginError, match="choose 'filter' or 'layer'"):
        parse_pattern("ap_own:FILTER")


@pytest.mark.parametrize("name", ["serching", "2:4", ":x", "x:", "a b:c", "a:b:c"])
def test_what_is_neither_a_name_nor_a_reference_is_unknown(name: str) -> None:
    with pytest.raises(UnknownName, match=r"or your own as package\.module:attribute"):
        registry.check("searcher", name)


def test_a_configuration_takes_references_everywhere_and_imports_none() -> None:
    settings = {"criterion": ["l1", "ap_gone:c"], "criterion.layer*": ["ap_gone:d", "l2"]}
    experiment = load_experiment(
        None,
        {
            "budget": "flops=0.5",
            "search.searcher": "ap_gone:Searcher",
            "pruner": "ap_gone:PRUNER",
            "scoring.criterion": "ap_gone:c",
            "scoring.pattern": "ap_gone:p",
            "task.name": "ap_gone:task",
            "task.model": "ap_gone:model",
            "space": {"settings": settings},
        },
    )
    assert experiment.search.searcher == "ap_gone:Searcher"
    assert set(experiment.space_rules().settings) == set(settings)


def test_names_are_checked_without_torch() -> None:
    program = (
        "import sys; from autoprune.config import load_experiment\n"
        "load_experiment(None, {'budget': 'flops=0.5', 'search.searcher': 'tpe', 'pruner': 'fpgm'})\n"
        "assert 'torch' not in sys.modules and 'optuna' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_block_states_height_width_depth_and_perhaps_filters() -> None:
    assert block_shape("block_1x1x8") == (1, 1, 8, 1)
    assert block_shape("block_3x3x16x4") == (3, 3, 16, 4)


@pytest.mark.parametrize(
    "text", ["block_1x1", "block_0x1x8", "block_1x1x8x", "1x1x8", "block_1x1x8x2x2", "block_-1x1x8"]
)
def test_other_text_is_no_block(text: str) -> None:
    assert block_shape(text) is None


def test_n_of_m_keeps_fewer_than_all() -> None:
    assert n_and_m("2:4") == (2, 4)
    assert n_and_m("3:16") == (3, 16)
    assert all(n_and_m(text) is None for text in ("4:4", "5:4", "0:4", "2:", ":4", "2-4", "element"))
