"""Pruned checkpoints: files of pruned networks, written and read, and the networks rebuilt from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import _EXTRA_STATE_KEY_SUFFIX

from autoprune import registry
from autoprune.errors import CheckpointError, UserError
from autoprune.evaluation.checkpoints.example_inputs import build_inputs
from autoprune.evaluation.checkpoints.export import in_one_line
from autoprune.evaluation.checkpoints.reshape import reshape
from autoprune.graph.groups import ChannelGraph
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.networks import unwrap
from autoprune.pruning.patterns import FILTER, LAYER
from autoprune.pruning.surgery.checking import ThinningError
from autoprune.pruning.surgery.configuration import follow_configuration
from autoprune.pruning.surgery.copying import copy_network
from autoprune.pruning.surgery.masks import Masks
from autoprune.pruning.surgery.provenance import Provenance, PrunedShape, note_provenance, provenance_of
from autoprune.tasks.weight_files import pickled
from autoprune.tasks.weight_files.pickled import write_tensors
from autoprune.tasks.weight_files.state_dicts import maps_to

FORMAT = 2


@dataclass(frozen=True)
class PrunedCheckpoint:
    """A pruned network as tensors and plain values; the file is a dictionary of these fields.

    Attributes:
        state_dict: its parameters and buffers.
        widths: group to kept width, as it was searched last.
        shapes: what it lost, in order: the first of the first network, each other of what the one before it left. In
            the file each is a dictionary of `removed` and `kept`, see `PrunedShape`.
        model: name of the first network; empty for one that only its owner can build.
        inputs: shapes and types of what the network is run on to be rebuilt, see `describe_inputs`.
        metrics: its loss, accuracy and number of samples, or whatever was measured.
        pattern: what was pruned last; unless those are channels or whole layers, weights were set to zero.
        masks: of the weights that are held at zero; in the file the bits of each, packed.
        first: what the first network costs, by kind; empty where it is not known.
        others: plain entries that came beside the first weights: epoch, arguments, …
    """

    state_dict: Mapping[str, Tensor]
    widths: Mapping[str, int]
    shapes: Sequence[PrunedShape]
    model: str
    inputs: Mapping[str, Any]
    metrics: Mapping[str, Any]
    task: str = ""
    pattern: str = FILTER.name
    masks: Masks = field(default_factory=dict)
    first: Mapping[str, int] = field(default_factory=dict)
    others: Mapping[str, Any] = field(default_factory=dict)

    @property
    def masked(self) -> bool:
        """Whether weights were set to zero rather than channels removed."""
        return self.pattern not in (FILTER.name, LAYER.name)

    def lost_since(self, network: nn.Module) -> tuple[PrunedShape, ...]:
        """Returns what was lost since another network, from which this one was pruned.

        Args:
            network: the first network, or one that a checkpoint before this one holds.

        Raises:
            CheckpointError: it has lost something else by then.
        """
        before = [shape.to_plain() for shape in provenance_of(network).shapes]
        own = [shape.to_plain() for shape in self.shapes]
        if own[: len(before)] != before:
            raise CheckpointError(
                f"the checkpoint was not pruned from this {type(network).__name__}, which has itself lost other "
                "channels or branches; give the network that the first search or training started from"
            )
        return tuple(self.shapes[len(before) :])

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
    packed = {name: _packed(mask) for name, mask in checkpoint.masks.items()}
    shapes = [shape.to_plain() for shape in checkpoint.shapes]
    write_tensors(path, {"autoprune": FORMAT, **vars(checkpoint), "shapes": shapes, "masks": packed})


def read_checkpoint(path: Path) -> PrunedCheckpoint | None:
    """Returns the pruned checkpoint in a file, or None if the file is of another kind.

    Raises:
        CheckpointError: the file is missing, another release wrote it, or it is damaged.
    """
    if not path.exists():
        raise CheckpointError(f"no such checkpoint: {path}")
    try:  # of files that are not ours nothing is read but names
        content = pickled.read_checkpoint(path, mapped=True, checked=False)
    except CheckpointError:  # the reader of dense checkpoints says what is wrong with this one
        return None
    if not isinstance(content, dict) or "autoprune" not in content:
        return None
    content = pickled.read_checkpoint(path)
    version = content.pop("autoprune")
    if version != FORMAT:
        raise CheckpointError(f"{path} has format {version}; this release of autoprune reads {FORMAT}")
    odd = [each.name for each in fields(PrunedCheckpoint) if not _is_right(each.name, content.get(each.name))]
    odd += sorted(map(str, content.keys() - {each.name for each in fields(PrunedCheckpoint)}))
    if odd:
        raise CheckpointError(f"{path} is damaged: {' and '.join(odd)} is not what autoprune writes")
    state, shapes = content["state_dict"], tuple(map(PrunedShape.from_plain, content["shapes"]))
    try:
        masks = {name: _unpacked(packed, state[name]) for name, packed in content["masks"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as fault:
        raise CheckpointError(f"{path} is damaged: its masks are not those of its weights") from fault
    return PrunedCheckpoint(**{**content, "shapes": shapes, "masks": masks})


def _packed(mask: Tensor) -> Tensor:
    """Returns `[⌈entries / 8⌉]` bytes that hold a mask's bits, those of `[…]` in order."""
    return torch.from_numpy(np.packbits(mask.flatten().cpu().numpy()))


def _unpacked(packed: Tensor, weight: Tensor) -> Tensor:
    """Returns the mask of a weight, `[…]` of its shape.

    Raises:
        ValueError: it is another weight's: of other size, or masking what is not zero.
    """
    bits = np.unpackbits(packed.numpy())
    if packed.numel() != -(-weight.numel() // 8):
        raise ValueError("another size")
    mask = torch.from_numpy(bits[: weight.numel()]).bool().view(weight.shape)
    if bool(weight[~mask].any()):
        raise ValueError("something that is not zero is masked")
    return mask


def _is_right(name: str, value: Any) -> bool:
    """Tells whether a field of a file is of the kind that belongs there."""
    match name:
        case "state_dict":
            return _is_state(value)
        case "widths" | "first":
            return maps_to(value, int)
        case "shapes":
            return isinstance(value, list) and all(map(_is_shape, value))
        case "inputs":
            return _are_inputs(value)
        case "metrics":
            return maps_to(value, (int, float))
        case "masks":
            return maps_to(value, Tensor)
        case "others":
            return maps_to(value, object)
        case _:
            return isinstance(value, str)


def _is_shape(content: Any) -> bool:
    if not isinstance(content, dict) or content.keys() != {"removed", "kept"}:
        return False
    removed, kept = content["removed"], content["kept"]
    named = isinstance(removed, list) and all(isinstance(name, str) for name in removed)
    return named and maps_to(kept, list) and all(map(_are_counts, kept.values()))


def _is_state(content: Any) -> bool:
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
        dense: a network that it was pruned from: the first one, or what a checkpoint before this one holds; it is not
            changed.
        source: its channels, or samples as it takes them.

    Raises:
        CheckpointError: the file does not fit it.
    """
    shapes = checkpoint.lost_since(dense)
    try:
        network = reshape(dense, source, shapes)
        network.load_state_dict(checkpoint.state_dict)
    except (RuntimeError, IndexError, UserError, ThinningError) as fault:
        raise CheckpointError(f"{_misfit(dense, checkpoint)}: {in_one_line(fault)}") from fault
    note_provenance(
        network, Provenance(tuple(checkpoint.shapes), checkpoint.masks, checkpoint.first, checkpoint.others)
    )
    return network.eval()


def _misfit(dense: nn.Module, checkpoint: PrunedCheckpoint) -> str:
    of = " on task ".join(filter(None, (checkpoint.model, checkpoint.task)))
    return f"the checkpoint{of and f', pruned from {of},'} does not fit {type(dense).__name__}"


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
        pickled.read_checkpoint(Path(path), mapped=True, checked=False)  # where it cannot be read this says why
        raise CheckpointError(f"{path} is no pruned checkpoint of autoprune; `autoprune apply` writes them")
    return rebuild(checkpoint, model, inputs)


def _dense(checkpoint: PrunedCheckpoint, model: nn.Module | Callable[[], nn.Module] | None) -> nn.Module:
    if isinstance(model, nn.Module):
        return copy_network(unwrap(model)).cpu()
    if isinstance(model, (str, Path)):
        raise CheckpointError(f"model= should be the dense network or a function that builds it but is {str(model)!r}")
    if model is not None:
        return unwrap(model())
    if checkpoint.model not in registry.MODELS:
        raise CheckpointError(
            f"the checkpoint was pruned from {checkpoint.model!r}, which autoprune does not bundle: pass "
            "the dense network, autoprune.load(path, model=...) or --model package.module:callable"
        )
    network: nn.Module = registry.resolve("model", checkpoint.model)()
    return network
