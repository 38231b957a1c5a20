"""Training that is interrupted and goes on as if it had not been."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from autoprune.core.recipe import TrainingPlan
from autoprune.errors import CheckpointError
from autoprune.files import write_whole
from autoprune.tasks.training.loop import device_of
from autoprune.tasks.weights import read_checkpoint

FORMAT = 1
_FIELDS = ("step", "state_dict", "optimizer", "random", "extra")


@dataclass(frozen=True)
class Snapshot:
    """Training between two steps, as tensors on the CPU and plain values.

    Attributes:
        step: how many steps are done.
        state_dict: parameters and buffers of the network.
        optimizer: the optimizer's state, as its `state_dict()` gives it.
        random: device type to the state of torch's global generator there; those of Python and NumPy are not kept.
        extra: what other hooks have to remember.
    """

    step: int
    state_dict: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    random: Mapping[str, Tensor]
    extra: Mapping[str, Any] = field(default_factory=dict)

    def remaining(self, plan: TrainingPlan) -> TrainingPlan:
        """The plan from here on."""
        return replace(plan, begin=self.step)


def take_snapshot(
    network: nn.Module, optimizer: torch.optim.Optimizer, step: int, extra: Mapping[str, Any] | None = None
) -> Snapshot:
    """A copy of training after its first `step` steps; training on does not change it.

    Raises:
        TypeError: `extra` holds something else than tensors, numbers, text, None, and lists, tuples and dictionaries.
    """
    state, kept = dict(network.state_dict()), optimizer.state_dict()
    return Snapshot(
        step,
        copied(state, "state_dict"),
        copied(kept, "optimizer"),
        _random_states(device_of(network)),
        copied(dict(extra or {}), "extra"),
    )


def _random_states(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def copied(value: Any, place: str) -> Any:
    """A copy of tensors and plain values, on the CPU, that `torch.load(weights_only=True)` can read.

    Subclasses of plain types (NumPy has some) become the plain types.

    Raises:
        TypeError: there is something else in it; the message begins where.
    """
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {_key(key, place): copied(item, f"{place}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [copied(item, f"{place}[{index}]") for index, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    return _plain(value, place)


def _key(key: Any, place: str) -> str | int:
    if isinstance(key, str | int) and not isinstance(key, bool):
        return cast("str | int", _plain(key, place))
    raise TypeError(f"a snapshot's {place} should have text or integers as keys but has {key!r}")


def _plain(value: Any, place: str) -> bool | int | float | str | None:
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"a snapshot holds tensors and plain values only, but {place} is a {type(value).__name__}")


def write_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Writes the file whole or not at all; as a checkpoint it also serves wherever dense weights are read.

    Raises:
        OSError: it cannot be written.
    """
    content = io.BytesIO()  # torch's own writer turns a full disk into a RuntimeError
    torch.save({"snapshot": FORMAT, **{name: getattr(snapshot, name) for name in _FIELDS}}, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content.getbuffer())


def read_snapshot(path: Path) -> Snapshot:
    """What `write_snapshot` wrote; nothing in the file is executed.

    Raises:
        CheckpointError: the file is missing or damaged, a newer release wrote it, or it is none of ours.
    """
    content = read_checkpoint(path)
    if not isinstance(content, dict) or "snapshot" not in content:
        raise CheckpointError(f"{path} is no snapshot of a training run; `autoprune train` leaves them in its folder")
    version = content["snapshot"]
    if version != FORMAT:
        raise CheckpointError(
            f"{path} is a snapshot of format {version}; this release of autoprune reads {FORMAT}: "
            "resume with the release that wrote it"
        )
    odd = [name for name in _FIELDS if not _fits(name, content.get(name))]
    if odd:
        raise CheckpointError(f"{path} is damaged: {' and '.join(odd)} is not what autoprune writes")
    return Snapshot(**{name: content[name] for name in _FIELDS})


def _fits(name: str, value: Any) -> bool:
    if name == "step":
        return type(value) is int and value >= 0
    if not isinstance(value, dict):
        return False
    if name == "optimizer":
        return isinstance(value.get("state"), dict) and isinstance(value.get("param_groups"), list)
    if name == "random" and "cpu" not in value:
        return False
    return name != "random" or all(isinstance(item, Tensor) for item in value.values())
