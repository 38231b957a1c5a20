from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune import SimpleTask
from autoprune.graph.inputs import network_inputs


class Language(nn.Module):
    """Says the next word; time first, as torch's recurrent layers have it, or batch first."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.words, self.layer = nn.Embedding(9, 6), nn.LSTM(6, 6, batch_first=batch_first)
        self.last = nn.Linear(6, 9)

    def forward(self, words: Tensor) -> Tensor:
        return self.last(self.layer(self.words(words))[0])


class Broken(nn.Module):
    def forward(self, words: Tensor) -> Tensor:
        raise RuntimeError("not today")


WORDS = torch.arange(35).view(7, 5) % 9


@pytest.mark.parametrize(
    ("network", "said", "samples"),
    [
        (lambda: Language(batch_first=False), {}, 5),
        (lambda: Language(batch_first=True), {}, 7),
        (lambda: Language(batch_first=True), {"axis": 1}, 5),
        (lambda: Language(batch_first=False), {"samples": lambda batch: 7}, 7),
        (Broken, {}, 7),
    ],
)
def test_where_shapes_allow_two_axes_the_network_tells_which_is_that_of_samples(
    network: Any, said: Any, samples: int
) -> None:
    task = SimpleTask(network, [], [(WORDS, WORDS)], **said)
    before = torch.get_rng_state()
    for batch in task.batches("validation", 4):
        assert len(network_inputs(*batch)) == samples
    assert torch.equal(torch.get_rng_state(), before)


def test_pictures_and_their_noise_have_samples_first() -> None:
    pictures = torch.rand(4, 3, 8, 8)
    task = SimpleTask(
        lambda: nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)), [], [(pictures, pictures)]
    )
    ((inputs, _),) = task.batches("validation", 4)
    assert inputs is pictures
