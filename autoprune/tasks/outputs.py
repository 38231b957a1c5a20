"""What networks give: logits wherever they are in the outputs, and the loss that is taken where a task names none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from autoprune.errors import TaskError

_LOGITS = ("logits", "out")
"""Names of logits in outputs: Hugging Face's, and torchvision's of segmentation."""


def logits_of(outputs: Any) -> Tensor:
    """Returns the logits in a network's outputs: a tensor itself, what is called so, or the first tensor of a tuple.

    Raises:
        TaskError: there are none.
    """
    found = outputs if isinstance(outputs, Tensor) else named_logits(outputs)
    if found is not None:
        return found
    parts = outputs if isinstance(outputs, (tuple, list)) else ()
    if isinstance(outputs, Mapping) and len(outputs) == 1:
        parts = tuple(outputs.values())
    if parts and isinstance(parts[0], Tensor):
        return parts[0]
    raise TaskError(
        f"no logits are found in the network's outputs, a {type(outputs).__name__}{_names(outputs)}; expected a "
        "tensor, a tuple that begins with one, or `logits`; give the task a loss and metrics of these outputs"
    )


def named_logits(outputs: Any) -> Tensor | None:
    """Returns the logits that outputs give by name: `logits`, as Hugging Face's, or `out`, as torchvision's."""
    named = (_named(outputs, name) for name in _LOGITS)
    return next((each for each in named if isinstance(each, Tensor)), None)


def default_loss(outputs: Any, targets: Any) -> Tensor:
    """Returns the loss that the network computed itself, or else the cross-entropy of its logits, `[]`.

    Args:
        outputs: with a `loss`, or losses by name as detectors give them in training; or logits as `logits_of` finds
            them, `[batch, classes, …]`, or `[batch, …, classes]` where targets are of that shape.
        targets: `[batch, …]` classes (-100 is left out), or probabilities of the shape of the logits.

    Raises:
        TaskError: there are no targets, or cross-entropy does not suit them.
    """
    own = _named(outputs, "loss")
    if isinstance(own, Tensor):
        return own if own.dim() == 0 else own.mean()
    if isinstance(outputs, Mapping) and outputs and all(_is_scalar(each) for each in outputs.values()):
        return torch.stack(list(outputs.values())).sum()
    if not isinstance(targets, Tensor):
        kind = "none" if targets is None else f"a {type(targets).__name__}"
        raise TaskError(
            f"the default loss needs a tensor of targets, but there is {kind}, and the outputs have no `loss`; "
            "pass SimpleTask(..., loss=function of outputs and targets), or targets=…; objective kl needs none"
        )
    found = logits_of(outputs)
    classes = targets if targets.is_floating_point() else targets.long()
    return F.cross_entropy(_classes_second(found, targets, named=found is not outputs), classes)


def _classes_second(found: Tensor, targets: Tensor, named: bool) -> Tensor:
    """Returns logits as cross-entropy takes them.

    Raises:
        TaskError: it takes no such logits and targets, or it is not clear which axis the classes are.
    """
    first, last = (*found.shape[:1], *found.shape[2:]), tuple(found.shape[:-1])
    shape = tuple(targets.shape)
    if found.dim() > 2 and shape == last and (shape != first or named):
        found = found.movedim(-1, 1)
    elif found.dim() == 3 and shape == first == last:
        raise TaskError(
            f"of logits {list(found.shape)} and targets {list(shape)} it is not clear which axis the classes are; "
            "pass SimpleTask(..., loss=…)"
        )
    elif shape not in (first, tuple(found.shape)) or found.dim() < 2:
        raise TaskError(
            "the default loss is the cross-entropy of [batch, classes, …] outputs and [batch, …] classes, but they are "
            f"{list(found.shape)} and {list(shape)}; pass SimpleTask(..., loss=…), say torch.nn.functional.mse_loss"
        )
    if found.size(1) < 2:
        raise TaskError(
            "the default loss is a cross-entropy, which is always 0 for one output; pass SimpleTask(..., loss=…), say "
            "torch.nn.functional.mse_loss or a binary cross-entropy"
        )
    return found


def _named(outputs: Any, name: str) -> Any:
    if isinstance(outputs, Mapping):
        return outputs.get(name)
    return None if isinstance(outputs, Tensor) else getattr(outputs, name, None)


def _names(outputs: Any) -> str:
    return f" of {', '.join(map(str, outputs))}" if isinstance(outputs, Mapping) else ""


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 0
