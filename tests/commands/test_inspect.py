"""`autoprune inspect`: what may be pruned, what stays, why, and a picture of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.journeys import Cli, Outcome


def test_what_is_passed_over_is_said_with_its_share(autoprune: Cli, workdir: Path) -> None:
    text = autoprune("inspect").out
    assert "frozen: 10 channels of linear: it is the network's output" in text
    assert "searched: 5 groups with " in text
    assert "conv: holds the first layer (protect: first): 20.5 %, 3.2 %" in text
    assert "the narrowest that the space allows has " in text


def test_all_of_it_is_there_for_programs(autoprune: Cli, workdir: Path) -> None:
    found = json.loads(autoprune("inspect", "--json").out)
    assert {group["name"]: group["structures"] for group in found["groups"]}["conv"] == "stream"
    assert [each["groups"] for each in found["passed_over"]] == [["conv"], []]
    assert found["remarks"] == []


def test_the_network_is_drawn(autoprune: Cli, workdir: Path) -> None:
    autoprune("inspect", "--plot", "net.svg")
    text = Path("net.svg").read_text()
    ElementTree.fromstring(text)
    assert "stage2.shortcut.0" in text
    autoprune("inspect", "--plot", "net.html")
    assert text in Path("net.html").read_text()


def test_a_picture_of_another_kind_is_refused(autoprune: Cli, workdir: Path) -> None:
    assert "--plot writes .svg or .html, not net.png" in autoprune.refused("inspect", "--plot", "net.png")
    assert not list(workdir.iterdir())


TASK = """\
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import autoprune


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 16), nn.Linear(16, 12), nn.Linear(12, 4)

    def forward(self, x):
        x = F.relu(self.first(x))
        {line}
        return self.last(self.second(x))


data = TensorDataset(torch.rand(16, 6), torch.randint(0, 4, (16,)))
task = autoprune.SimpleTask(network=Net, train_data=data, validation_data=data)
"""
LINE = 16


@pytest.fixture
def inspect(autoprune: Cli, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Outcome]]:
    """Inspects a network of which one line is as given."""
    monkeypatch.syspath_prepend(str(workdir))

    def run(line: str) -> Outcome:
        (workdir / "odd_task.py").write_text(TASK.format(line=line))
        return autoprune("inspect", "--task", "odd_task:task")

    yield run
    sys.modules.pop("odd_task", None)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "x = x + torch.ones(5)",
            ["cannot run on a batch of shape [2, 6] (", f"odd_task.py:{LINE}): Runtime"],
        ),
        ("x = self.last(x)", ["cannot run on a batch of shape [2, 6] in last ("]),
        ("raise ValueError('one\\ntwo')", ["ValueError: one two"]),
        ("raise SystemExit", [f"odd_task.py:{LINE}): SystemExit"]),
        ("return x.sort()[0]", ["nothing in this network can be pruned:", "16 channels of first: "]),
        ("if x.mean() > 1e6: x = nn.Bilinear(3, 3, 3)(x)\n        return x", ["it is the network's output"]),
    ],
)
def test_a_network_that_cannot_be_pruned_is_refused_with_the_line(
    inspect: Callable[[str], Outcome], line: str, expected: list[str]
) -> None:
    outcome = inspect(line)
    assert outcome.code == 2, outcome
    assert "Traceback" not in outcome.err
    for text in expected:
        assert text in outcome.err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "x = F.dropout(x, 0.5, training=True)",
            f"odd_task.py:{LINE}): pruned and dense network are compared with the same",
        ),
        ("x = x * 0.5 if x.mean() > x.median() else x", f"odd_task.py:{LINE})"),
        ("assert not self.training", "it does not run in training mode on these inputs"),
        ("x = x.sort(dim=1)[0]", "is not followed ("),
    ],
)
def test_what_is_odd_of_a_network_is_said_with_the_line(
    inspect: Callable[[str], Outcome], line: str, expected: str
) -> None:
    outcome = inspect(line)
    assert outcome.code == 0, outcome.err
    assert expected in outcome.out
