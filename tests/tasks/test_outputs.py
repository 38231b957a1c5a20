from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from autoprune.errors import TaskError
from autoprune.tasks.outputs import default_loss, logits_of

LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(6) % 4
WORDS = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
NEXT = torch.arange(10).view(2, 5) % 7


@pytest.mark.parametrize(
    "outputs",
    [
        LOGITS,
        SimpleNamespace(logits=LOGITS, hidden=None),
        {"logits": LOGITS, "hidden": 1},
        {"out": LOGITS, "aux": CLASSES},
        {"only": LOGITS},
        (LOGITS, CLASSES),
        SimpleNamespace(loss=None, logits=LOGITS),
    ],
)
def test_logits_are_found_and_their_cross_entropy_is_the_default_loss(outputs: Any) -> None:
    assert logits_of(outputs) is LOGITS
    torch.testing.assert_close(default_loss(outputs, CLASSES), F.cross_entropy(LOGITS, CLASSES))


@pytest.mark.parametrize("outputs", [SimpleNamespace(loss=torch.tensor(2.0)), {"loss": torch.tensor(2.0)}])
def test_a_loss_of_the_networks_own_is_taken(outputs: Any) -> None:
    assert default_loss(outputs, None) == 2.0
    assert default_loss({"loss_box": torch.tensor(0.5), "loss_class": torch.tensor(1.0)}, None) == 1.5


def test_classes_may_be_the_last_axis() -> None:
    expected = F.cross_entropy(WORDS.flatten(0, 1), NEXT.flatten())
    torch.testing.assert_close(default_loss(WORDS, NEXT), expected)
    torch.testing.assert_close(default_loss(WORDS.movedim(2, 1), NEXT), expected)
    square = SimpleNamespace(logits=WORDS[:, :, :5])
    torch.testing.assert_close(
        default_loss(square, NEXT % 5), F.cross_entropy(WORDS[:, :, :5].flatten(0, 1), NEXT.flatten() % 5)
    )
    left_out = torch.where(NEXT > 3, NEXT, -100)
    torch.testing.assert_close(
        default_loss(WORDS, left_out), F.cross_entropy(WORDS.flatten(0, 1), left_out.flatten(), ignore_index=-100)
    )


@pytest.mark.parametrize(
    ("outputs", "targets", "said"),
    [
        (LOGITS, None, "needs a tensor of targets, but there is none"),
        (LOGITS, [1, 2], "there is a list"),
        (WORDS[:, :, :5], NEXT, "not clear which axis the classes are"),
        (LOGITS, CLASSES[:5], r"they are \[6, 4\] and \[5\]"),
        (LOGITS[:, :1], torch.rand(6, 1), "always 0 for one output"),
        (LOGITS[:, :1], CLASSES * 0, "always 0 for one output"),
        (LOGITS[:, 0], torch.rand(6), "mse_loss"),
        (SimpleNamespace(hidden=LOGITS), CLASSES, "no logits are found in the network's outputs, a SimpleNamespace"),
        ({"a": LOGITS, "b": LOGITS}, CLASSES, "a dict of a, b"),
    ],
)
def test_where_cross_entropy_says_nothing_it_is_refused(outputs: Any, targets: Any, said: str) -> None:
    with pytest.raises(TaskError, match=said):
        default_loss(outputs, targets)
