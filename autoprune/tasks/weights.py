"""Weights of files: read in whatever form they are, safely, and put into networks."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import keystr, tree_flatten_with_path

from autoprune.errors import CheckpointError
from autoprune.tasks.weight_files.contents import read_content
from autoprune.tasks.weight_files.fitting import Fit, Target, best_fits, fit_by_name, without_wrappers
from autoprune.tasks.weight_files.messages import ambiguous, dtype_name, misfit, no_weights, remarks
from autoprune.tasks.weight_files.records import Record
from autoprune.tasks.weight_files.state_dicts import StateDict, find_state_dicts, plain_entries, preferred, rank

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Weights:
    """What a file of weights holds.

    Attributes:
        state: name to a tensor `[…]` on the CPU, or to what a module keeps beside its tensors (`get_extra_state`);
            under the network's names where one was given. Tensors may be read from the file when they are used.
        others: the plain entries beside the weights (epoch, arguments, …): numbers, texts and containers of them.
        remarks: what a user should know of how the file was read, a line each.
    """

    state: Mapping[str, Any]
    others: Mapping[str, Any] = field(default_factory=dict)
    remarks: Sequence[str] = ()


def read_weights(path: Path, network: nn.Module | None = None) -> Weights:
    """Returns the weights in a file or folder and the plain entries beside them; nothing in it is executed.

    `docs/tasks.md` lists the forms that are read. Without a network the preferred state dict is taken, or the largest,
    and only wrappers' prefixes are removed from its names.

    Args:
        path: of a file of `torch.save`, a safetensors file, or a folder of Hugging Face's.
        network: whose weights they should be; it is left as it is.

    Raises:
        CheckpointError: there are no weights, several that may be meant, or none that fit the network.
    """
    content, found = _read(path)
    if network is not None:
        return _fitted(best_fits(Target.of(network), found), content, network, path)
    first, *others = preferred(found)
    if others:
        raise ambiguous([each.keys for each in (first, *others)], path)
    return Weights(without_wrappers(first.entries), plain_entries(content))


def read_others(path: Path) -> dict[str, Any]:
    """Returns the plain entries beside the weights in a file, see `Weights`; {} where it is of no known form."""
    try:
        return plain_entries(read_content(path))
    except CheckpointError:
        return {}


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Returns the parameters and buffers in a file, on the CPU: name to a tensor `[…]` of any shape.

    Raises:
        CheckpointError: as `read_weights`.
    """
    return {name: value for name, value in read_weights(path).state.items() if isinstance(value, Tensor)}


def load_weights(network: nn.Module, path: Path) -> Weights:
    """Copies a file's weights into the network; where they do not fit it is left as it was.

    What a user should know of how the file was read is logged.

    Returns:
        what was read; its `others` are the plain entries beside the weights.

    Raises:
        CheckpointError: as `read_weights`, or a weight is not finite or of another kind.
    """
    content, found = _read(path)
    fits = best_fits(Target.of(network), found)
    if not fits[0].whole and (state := _loaded_by_itself(network, fits[0])):
        return Weights(state, plain_entries(content))
    weights = _fitted(fits, content, network, path)
    fill(network, weights.state, f"checkpoint {path}")
    for remark in weights.remarks:
        log.warning("checkpoint %s: %s", path, remark)
    return weights


def _read(path: Path) -> tuple[Any, list[StateDict]]:
    content = read_content(path)
    found = list(find_state_dicts(content))
    if not found:
        raise no_weights(content, path)
    return content, found


def _fitted(fits: Sequence[Fit], content: Any, network: nn.Module, path: Path) -> Weights:
    """Returns the weights by the first of the ways to read a file that `best_fits` found.

    Raises:
        CheckpointError: it does not fit, or another one does as well and is not less preferred.
    """
    target, (fit, *others) = Target.of(network), fits
    if not fit.whole:
        raise CheckpointError(f"checkpoint {path} {misfit(fit, target, type(network).__name__, content)}")
    others = [other for other in others if not fit.same_tensors(other)]
    alike = [other.keys for other in others if rank(other.keys) == rank(fit.keys)]
    if alike:
        raise ambiguous([fit.keys, *alike], path)
    said = remarks(fit, others, target)
    if isinstance(content, Mapping) and "snapshot" in content:
        said.append(
            "it is the snapshot of a training, whose masks are not held; train --resume goes on with it, final.pt is "
            "its end"
        )
    return Weights(_complete(fit, target, path), plain_entries(content), said)


def _complete(fit: Fit, target: Target, path: Path) -> OrderedDict[str, Any]:
    """Returns all of a network's entries: from the file, from a twin of theirs in it, or else the network's own.

    Raises:
        CheckpointError: what is one tensor in the network is not in the file.
    """
    given = fit.entries()
    state: OrderedDict[str, Any] = OrderedDict()
    for first, *twins in set(map(tuple, target.tied.values())):
        kept = [given[name] for name in (first, *twins) if name in given]
        if any(not other.is_meta and not torch.equal(kept[0], other) for other in kept[1:]):
            raise CheckpointError(
                f"checkpoint {path} holds different weights under {first} and {twins[0]}, which are one tensor in "
                "the network; give a network whose weights are not tied"
            )
    for name, own in target.entries.items():
        twins = [given[twin] for twin in target.tied.get(name, ()) if twin in given]
        state[name] = given[name] if name in given else twins[0] if twins else own
    modules = {name.rpartition(".")[0]: theirs.rpartition(".")[0] for name, theirs in fit.names.items()}
    versions = fit.source.versions
    # Where `Module.state_dict` keeps them: modules that were saved in an older form know by these how to read it.
    vars(state)["_metadata"] = {own: versions[theirs] for own, theirs in modules.items() if theirs in versions}
    return state


def _loaded_by_itself(network: nn.Module, fit: Fit) -> Mapping[str, Any] | None:
    """Loads a state dict that a network can read by hooks or methods of its own that rename entries.

    Returns:
        the state dict; None where the network has none, or they did not help: then it is as it was.
    """
    if not any(_renames(module) for module in network.modules()):
        return None
    state = without_wrappers(fit.source.entries)
    before = {
        name: value.clone() if isinstance(value, Tensor) else value for name, value in network.state_dict().items()
    }
    try:
        keys = network.load_state_dict(state)
        if keys is not None and not keys.missing_keys and not keys.unexpected_keys:
            _check_values(before, network.state_dict(), "the checkpoint")
            return state
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError, CheckpointError):
        pass  # what is said of the entries that do not fit says more
    nn.Module.load_state_dict(network, before, strict=False)
    return None


def _renames(module: nn.Module) -> bool:
    method = type(module)._load_from_state_dict
    return bool(module._load_state_dict_pre_hooks) or not method.__module__.startswith("torch.")


def fill(network: nn.Module, state: Mapping[str, Any], source: str) -> None:
    """Copies a state dict into the network; where it does not fit the network is left as it was.

    Args:
        network: its parameters and buffers are written to.
        state: name to a tensor `[…]` of the shape of the network's own, or to what a module keeps beside its tensors.
        source: where the weights come from, for the message.

    Raises:
        CheckpointError: the message begins with `source` and says what does not fit.
    """
    target = Target.of(network)
    fit = fit_by_name(target, StateDict((), state))
    if not fit.whole:
        raise CheckpointError(f"{source} {misfit(fit, target, type(network).__name__)}")
    _check_values(target.entries, state, source)
    complete = OrderedDict({**{name: target.entries[name] for name in target.entries if name not in state}, **state})
    vars(complete)["_metadata"] = getattr(state, "_metadata", {})
    try:
        network.load_state_dict(complete)
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{source} does not fit the network {type(network).__name__}: {error}") from error


def _check_values(own: Mapping[str, Any], given: Mapping[str, Any], source: str) -> None:
    """Checks that entries are of the network's kinds (numbers with a point, integers, …) and finite as its own are."""
    for name, value in given.items():
        if isinstance(value, Record):
            raise CheckpointError(
                f"{source} has in {name} a {value.name}, which would execute code; leave it out there"
            )
        if not isinstance(value, Tensor) or not isinstance(own.get(name), Tensor) or is_lazy(own[name]):
            continue
        _check_kind(name, own[name], value, source)
        if not _is_finite(own[name], value):
            of = "" if value.dtype == own[name].dtype else f" as {dtype_name(own[name])}"
            raise CheckpointError(
                f"{source} holds NaN or infinite weights in {name}{of}; take one from before training diverged"
            )


def _check_kind(name: str, own: Tensor, given: Tensor, source: str) -> None:
    if given.is_meta and not own.is_meta:
        raise CheckpointError(f"{source} holds {name} without its values (a tensor on the meta device)")
    both_real = own.is_floating_point() and given.is_floating_point()
    if given.is_quantized or not (own.dtype == given.dtype or both_real or _is_exact(own, given)):
        words = "quantised; give the weights from before" if given.is_quantized else "which does not stand for the same"
        raise CheckpointError(f"{source} holds {name} as {dtype_name(given)} instead of {dtype_name(own)}, {words}")


def _is_exact(own: Tensor, given: Tensor) -> bool:
    """Returns whether integers or truth values stay what they are in the network's type; a weight takes none."""
    if own.is_floating_point() or own.is_complex() or given.is_complex():
        return False
    return torch.equal(given.to(own.dtype).to(given.dtype), given)


def _is_finite(own: Tensor, given: Tensor) -> bool:
    """Returns whether all values are finite in the network's type; a buffer may hold infinities where its own does."""
    if not given.is_floating_point() or given.is_meta:
        return True
    finite = given.to(own.dtype).isfinite()
    return bool(finite.all()) or bool((finite | (given == own.cpu())).all())


def digest(state: Mapping[str, Any]) -> str:
    """Returns SHA-256 over names, types, shapes and bytes, in hexadecimal; the order of the names does not matter.

    Args:
        state: name to a tensor `[…]` of any shape, or to what a module keeps beside its tensors, of which tensors and
            plain values count.
    """
    total = hashlib.sha256()
    for name in sorted(state):
        if isinstance(state[name], Tensor):
            _add(total, name, state[name])
            continue
        for path, value in tree_flatten_with_path(state[name])[0]:
            if isinstance(value, Tensor):
                _add(total, f"{name}{keystr(path)}", value)
            elif isinstance(value, (bool, int, float, str, bytes)):
                total.update(f"{name}{keystr(path)}|{value!r}|".encode())
    return total.hexdigest()


def _add(total: hashlib._Hash, name: str, value: Tensor) -> None:
    tensor = value.detach().cpu().contiguous()
    total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
    total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
