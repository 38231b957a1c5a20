"""Training with the outputs of a teacher, such as the dense network of a pruned one."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.errors import TaskError
from autoprune.graph.inputs import call_network
from autoprune.graph.networks import deep_copy, unwrap
from autoprune.tasks.base import Hook
from autoprune.tasks.outputs import logits_of


def distillation(teacher: nn.Module, temperature: float, weight: float) -> Hook:
    """Returns a hook whose loss term is weight · T² · KL(teacher ‖ student), the mean over the batch.

    The term is added to the whole loss of the task, where the paper takes a weighted average of the two: its
    (1 − a) · hard + a · T² · soft is this with weight a / (1 − a), at a rate smaller by 1 − a. The paper's soft term is
    the cross-entropy with the teacher, which differs from the divergence by the teacher's entropy, a constant.

    Args:
        teacher: gives `[batch, classes]` logits; it is copied now, and the copy runs in evaluation mode.
        temperature: T: the logits of both are divided by it.
        weight: of the term beside the task's loss.

    Raises:
        TaskError: numbers out of range; in training, outputs that are no logits or differ in shape from the teacher's.

    Source: Hinton et al. 2015, arXiv:1503.02531, section 2.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise TaskError(f"the distillation's temperature should be above 0 and finite but is {temperature}")
    if not (math.isfinite(weight) and weight >= 0):
        raise TaskError(f"the distillation's weight should be at least 0 and finite but is {weight}")
    copied = deep_copy(unwrap(teacher)).eval().requires_grad_(False)

    def loss_term(network: nn.Module, inputs: Any, outputs: Tensor) -> Tensor:
        with torch.no_grad():
            teacher_logits = call_network(copied.to(inputs.device), inputs)
        student, expected = logits(outputs, "distillation"), logits(teacher_logits, "distillation", "teacher")
        if student.shape != expected.shape:
            raise TaskError(
                f"distillation needs a teacher of the same classes, but it gives {list(expected.shape)} "
                f"and the network {list(student.shape)}"
            )
        return weight * soft_loss(student, expected, temperature)

    return Hook(loss_term=loss_term)


def soft_loss(outputs: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Returns T² · KL(teacher ‖ student), the mean over the batch and its places, a scalar `[]`.

    Args:
        outputs: `[batch, classes, …]` logits of the student.
        teacher_logits: `[batch, classes, …]` logits of the teacher.
        temperature: T, above 0.
    """
    student = F.log_softmax(outputs / temperature, dim=1)
    expected = F.log_softmax(teacher_logits / temperature, dim=1)
    divergence = F.kl_div(student, expected, reduction="batchmean", log_target=True)
    return temperature**2 * divergence / math.prod(outputs.shape[2:])


def logits(outputs: object, what: str, whose: str = "network") -> Tensor:
    """Returns the `[batch, classes, …]` logits in a network's outputs.

    Of `logits` with three axes, as language models name them, the last is the classes; of three axes without a name it
    is not known which.

    Args:
        outputs: whatever a network gives, see `logits_of`.
        what: needs them, for the message.
        whose: whether they are the network's or the teacher's, for the message.

    Raises:
        TaskError: they are not.
    """
    try:
        found = logits_of(outputs)
    except TaskError as fault:
        kind = type(outputs).__name__
        raise TaskError(f"{what} needs [batch, classes] logits, but the {whose} gives a {kind}") from fault
    if found.dim() == 3 and found is not outputs:
        return found.movedim(2, 1)
    if found.dim() < 2 or found.dim() == 3:
        raise TaskError(f"{what} needs [batch, classes] logits, but the {whose} gives {list(found.shape)}")
    if found.size(1) < 2:  # the divergence of which is 0, whatever they are
        raise TaskError(f"{what} compares at least two classes, but the {whose} gives one output {list(found.shape)}")
    return found
