"""Pruned checkpoints: files of pruned networks, written and read, and the networks rebuilt from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import _EXTRA_STATE_KEY_SUFFIX

from autoprune import registry
from autoprune.errors import CheckpointError
from autoprune.evaluation.checkpoints.example_inputs import build_inputs
from autoprune.evaluation.checkpoints.reshape import PrunedShape, reshape
from autoprune.graph.groups import ChannelGraph
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.networks import unwrap
from autoprune.pruning.patterns import FILTER, LAYER
from autoprune.pruning.surgery.configuration import follow_configuration
from autoprune.pruning.surgery.copying import copy_network
from autoprune.tasks import weights
from autoprune.tasks.weights import maps_to, write_tensors

FORMAT = 1


@dataclass(frozen=True)
class PrunedCheckpoint:
    """A thinned network as tensors and plain values; the file is a dictionary of these fields.

    Attributes:
        state_dict: parameters and buffers of the thinned network.
        widths: group to kept width, as it was searched.
        kept: layer to the output channels of the dense layer that stayed; layers that lost none are absent.
        model: name of the dense network; empty for one that only its owner can build.
        inputs: shapes and types of what the network is run on to be rebuilt, see `describe_inputs`.
        metrics: its loss, accuracy and number of samples, or whatever was measured.
        pattern: the pruning pattern; unless those are channels or whole layers, weights were set to zero.
        removed: residual branches that were removed whole.
    """

    state_dict: Mapping[str, Tensor]
    widths: Mapping[str, int]
    kept: Mapping[str, Sequence[int]]
    model: str
    inputs: Mapping[str, Any]
    metrics: Mapping[str, Any]
    task: str = ""
    pattern: str = FILTER.name
    removed: Sequence[str] = ()

    @property
    def masked(self) -> bool:
        """Whether weights were set to zero rather than channels removed."""
        return self.pattern not in (FILTER.name, LAYER.name)

    def example_inputs(self) -> ModelInputs:
        """Returns samples of the shapes and types that the network takes, with nothing in them.

        Raises:
            CheckpointError: the network takes something that a file does not hold.
        """
        return build_inputs(self.inputs)


def write_checkpoint(path: Path, checkpoint: PrunedCheckpoint) -> None:
    """Writes the file whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    write_tensors(path, {"autoprune": FORMAT, **vars(checkpoint), "removed": list(checkpoint.removed)})


def read_checkpoint(path: Path) -> PrunedCheckpoint | None:
    """Returns the pruned checkpoint in a file, or None if the file is of another kind.

    Raises:
        CheckpointError: the file is missing, a newer release wrote it, or it is damaged.
    """
    if not path.is_file():
        raise CheckpointError(f"no such checkpoint: {path}")
    try:
        content = weights.read_checkpoint(path)
    except CheckpointError:  # the reader of dense checkpoints says what is wrong with this one
        return None
    if not isinstance(content, dict) or "autoprune" not in content:
        return None
    version = content.pop("autoprune")
    if version != FORMAT:
        raise CheckpointError(f"{path} has format {version}; this release of autoprune reads {FORMAT}")
    try:
        checkpoint = PrunedCheckpoint(**content)
    except TypeError as fault:
        raise CheckpointError(f"{path} is damaged: {fault}") from fault
    if odd := _odd_fields(checkpoint):
        raise CheckpointError(f"{path} is damaged: {' and '.join(odd)} is not what `autoprune apply` writes")
    return checkpoint


def _odd_fields(checkpoint: PrunedCheckpoint) -> list[str]:
    """Returns the fields that hold something else than belongs there."""
    removed = checkpoint.removed
    right = {
        "state_dict": _is_state(checkpoint.state_dict),
        "widths": maps_to(checkpoint.widths, int),
        "kept": maps_to(checkpoint.kept, list) and all(_are_counts(kept) for kept in checkpoint.kept.values()),
        "model": isinstance(checkpoint.model, str),
        "inputs": _are_inputs(checkpoint.inputs),
        "metrics": maps_to(checkpoint.metrics, (int, float)),
        "task": isinstance(checkpoint.task, str),
        "pattern": isinstance(checkpoint.pattern, str),
        "removed": isinstance(removed, (list, tuple)) and all(isinstance(name, str) for name in removed),
    }
    return [name for name, good in right.items() if not good]


def _is_state(content: Mapping[str, object]) -> bool:
    """Tells whether it maps names to tensors, or to what a module of the user's keeps beside them."""
    return maps_to(content, object) and all(
        isinstance(value, Tensor) or name.endswith(_EXTRA_STATE_KEY_SUFFIX) for name, value in content.items()
    )


def _are_inputs(content: object) -> bool:
    try:
        build_inputs(content)  # type: ignore[arg-type]  # what else it may be is what is asked
    except CheckpointError:  # something that no file holds
        return True
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError):
        return False
    return True


def _are_counts(content: object) -> bool:
    return isinstance(content, list) and all(isinstance(count, int) and count >= 0 for count in content)


def rebuild(
    checkpoint: PrunedCheckpoint, model: nn.Module | Callable[[], nn.Module] | None = None, inputs: Any = None
) -> nn.Module:
    """Returns the pruned network of a checkpoint, in evaluation mode on the CPU.

    Args:
        checkpoint: as it was read.
        model: the dense network or what builds it; needed unless autoprune bundles the network that the file names.
        inputs: samples that it takes, on the CPU (see `ModelInputs.of`); None: as the file describes them.

    Raises:
        CheckpointError: the network is unknown, or the file does not fit it.
    """
    dense = _dense(checkpoint, model)
    given = checkpoint.example_inputs() if inputs is None else inputs
    network = rebuild_from(dense, given, checkpoint)
    follow_configuration(network, ModelInputs.of(given))
    return network


def rebuild_from(dense: nn.Module, source: ChannelGraph | Any, checkpoint: PrunedCheckpoint) -> nn.Module:
    """Returns the pruned network of a checkpoint, in evaluation mode.

    Args:
        dense: the network that it was pruned from; it is not changed.
        source: its channels, or samples as it takes them.

    Raises:
        CheckpointError: the file does not fit it.
    """
    network = reshape(dense, source, PrunedShape(tuple(checkpoint.removed), checkpoint.kept))
    try:
        network.load_state_dict(checkpoint.state_dict)
    except RuntimeError as fault:
        raise CheckpointError(f"the checkpoint does not fit {type(dense).__name__}: {fault}") from fault
    return network.eval()


def load(
    path: str | Path, model: nn.Module | Callable[[], nn.Module] | None = None, *, inputs: Any = None
) -> nn.Module:
    """Loads the pruned network in a file that `autoprune apply` wrote, on the CPU in evaluation mode.

    A file never names code to run: networks that autoprune does not bundle are passed in.

    Args:
        path: of the file.
        model: the dense network (any weights) or a function that builds it.
        inputs: samples that it takes; needed only where they are of classes that a file does not hold.

    Raises:
        CheckpointError: the file is missing or no pruned checkpoint, or its network is neither bundled nor passed.
    """
    checkpoint = read_checkpoint(Path(path))
    if checkpoint is None:
        raise CheckpointError(f"{path} is no pruned checkpoint of autoprune; `autoprune apply` writes them")
    return rebuild(checkpoint, model, inputs)


def _dense(checkpoint: PrunedCheckpoint, model: nn.Module | Callable[[], nn.Module] | None) -> nn.Module:
    if isinstance(model, nn.Module):
        return copy_network(unwrap(model)).cpu()
    if model is not None:
        return unwrap(model())
    if checkpoint.model not in registry.MODELS:
        raise CheckpointError(
            f"the checkpoint was pruned from {checkpoint.model!r}, which autoprune does not bundle: pass "
            "the dense network, autoprune.load(path, model=...) or --model package.module:callable"
        )
    network: nn.Module = registry.resolve("model", checkpoint.model)()
    return network
