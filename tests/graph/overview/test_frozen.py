from __future__ import annotations

import torch
from torch import Tensor, nn

from autoprune.graph.groups import find_groups
from autoprune.graph.overview.frozen import FrozenChannels, group_reasons, shorten


def test_reasons_that_differ_in_a_number_are_one_line() -> None:
    frozen = [FrozenChannels(f"blocks.{i}.fc", 8, f"sort_{i} (sort) is not followed", "net.py:3") for i in range(24)]
    frozen.append(FrozenChannels("blocks.23.fc", 8, "sort (sort) is not followed", "net.py:3"))
    (reason,) = group_reasons(frozen)
    assert reason.width == 25 * 8
    assert str(reason) == (
        "200 channels of blocks.0.fc, blocks.1.fc and 22 more: sort_0 (sort) is not followed (net.py:3)"
    )


def test_reasons_at_different_lines_are_told_apart() -> None:
    frozen = [FrozenChannels("a", 1, "it is sorted", f"net.py:{line}") for line in (1, 2)]
    assert len(group_reasons(frozen)) == 2


def test_few_names_are_all_shown() -> None:
    assert shorten("abc") == "a, b, c"
    assert shorten("abcd") == "a, b and 2 more"


def test_a_reason_in_the_users_code_has_its_file_and_line() -> None:
    class Sorting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).sort(dim=1)[0])

    graph = find_groups(Sorting(), torch.rand(2, 3))
    (sorting, output) = graph.frozen
    line = Sorting.forward.__code__.co_firstlineno + 1
    assert sorting.line == f"{__file__}:{line}"
    assert "sort" in sorting.reason
    assert output.line == ""
