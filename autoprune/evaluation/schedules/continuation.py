"""Two schedules in a row: what the second one takes over from the end of the first, so that both equal one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from autoprune.core.recipe import TrainingPlan
from autoprune.errors import CheckpointError
from autoprune.evaluation.schedules.active_pruners import CARRIED, MASKS
from autoprune.pruning.surgery.masks import Masks
from autoprune.pruning.surgery.provenance import joined_masks, provenance_of
from autoprune.tasks.training.loop import device_of
from autoprune.tasks.training.optimizers import build_optimizer, build_scaler
from autoprune.tasks.training.snapshot import Snapshot, copied, load_optimizer


@dataclass(frozen=True)
class Continuation:
    """State that a training goes on with, beside the network that the one before it left.

    Attributes:
        said: what becomes of the optimizer, in words.
        carried: masks of weights that nothing unmasks any more.
        start: optimizer and random states, and the weights; None where the optimizer begins anew.
        done: names of the pruners that did all they had to.
        active: by kind (`prunings`, `penalties`) and name, the states of those that go on.
    """

    said: str
    carried: Masks
    start: Snapshot | None = None
    done: frozenset[str] = frozenset()
    active: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def continue_from(
    snapshot: Snapshot | None, dense: nn.Module, plan: TrainingPlan, goes_on: Mapping[str, frozenset[str]]
) -> Continuation:
    """Returns what a training takes over from the last snapshot of the one before it.

    Args:
        snapshot: None where there is none.
        dense: what the training before has left, with its masks noted on it.
        plan: of the training that goes on, with where it begins.
        goes_on: by kind (`prunings`, `penalties`), the names of what is not over when it begins.
    """
    masks = provenance_of(dense).masks
    if snapshot is None:
        return Continuation("the optimizer begins anew, as there is no snapshot of a training beside it", masks)
    try:
        before = snapshot.extra["active"]
        states = {kind: dict(before[kind]) for kind in ("prunings", "penalties")}
        by_pruner, carried = dict(before[MASKS]), dict(before[CARRIED])
    except (KeyError, TypeError, ValueError):
        return Continuation("the optimizer begins anew, as the snapshot beside it is of no schedule", masks)
    active = {kind: {name: states[kind][name] for name in goes_on[kind] & states[kind].keys()} for kind in states}
    done = frozenset(states["prunings"]) - active["prunings"].keys()
    if fault := _misfit(snapshot, dense, plan):
        return Continuation(f"the optimizer begins anew, as {fault}", masks, None, done)
    held: Masks = joined_masks(carried, *(by_pruner[name] for name in done & by_pruner.keys()))
    weights = snapshot.state_dict
    dropped = not masks and any((carried, *by_pruner.values()))
    if dropped or active["penalties"].keys() != states["penalties"].keys():  # which mask at the end of a training
        held, weights, active = masks, copied(dense.state_dict(), "state_dict"), {}
    said = "optimizer and random numbers go on as the training before left them"
    return Continuation(said, held, replace(snapshot, state_dict=weights), done, active)


def _misfit(snapshot: Snapshot, dense: nn.Module, plan: TrainingPlan) -> str:
    """Returns why a training cannot take over the optimizer's state from a snapshot; empty where it can."""
    state, masks = dense.state_dict(), provenance_of(dense).masks
    if snapshot.step != plan.begin:
        return f"the snapshot beside it was taken after step {snapshot.step}, and not {plan.begin}"
    shapes = {name: tensor.shape for name, tensor in snapshot.state_dict.items()}
    if shapes != {name: tensor.shape for name, tensor in state.items()}:
        return "the network changed its shape at the end of the training before"
    if not all(
        torch.equal(snapshot.state_dict[name] * masks.get(name, True), tensor.cpu()) for name, tensor in state.items()
    ):
        return "the snapshot beside it is of other weights"
    try:
        optimizer = build_optimizer(dense, plan)
        build_scaler(optimizer, plan, device_of(dense))
        load_optimizer(optimizer, snapshot.optimizer)
    except CheckpointError as fault:
        return f"{fault}".removesuffix("; resume with the plan it was taken with")
    return ""
