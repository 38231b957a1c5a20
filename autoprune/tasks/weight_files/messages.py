"""Says in words what a file of weights holds, how it was read, and why it does not fit a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from autoprune.errors import CheckpointError, printable
from autoprune.tasks.weight_files.fitting import Fit, Target
from autoprune.tasks.weight_files.pickled import CONVERT
from autoprune.tasks.weight_files.state_dicts import first_record

_SHOWN = 5
# What quantising libraries call the tensors that they put in place of a weight, or beside it.
_QUANTISED = frozenset("_packed_params qweight qzeros SCB absmax quant_map zero_point weight_scale".split())


def no_weights(content: Any, path: Path) -> CheckpointError:
    """Returns the error for a file in which there is no state dict."""
    record = first_record(content)
    if record is not None:
        return CheckpointError(
            f"checkpoint {path} is refused: loading it would execute code ({printable(record.name)}); {CONVERT}"
        )
    return CheckpointError(
        f"checkpoint {path} holds {_describe(content)}; expected names mapped to tensors, at the top or in an entry"
    )


def _describe(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    if {"state", "param_groups"} <= content.keys():
        return "the state of an optimizer and no weights"
    return (
        f"a dictionary with the entries {listed([str(key) for key in content])}" if content else "an empty dictionary"
    )


def ambiguous(found: Sequence[Sequence[str]], path: Path) -> CheckpointError:
    """Returns the error for several state dicts of which each may be meant; `found` are the keys that lead to them."""
    names = [".".join(keys) or "its top" for keys in found]
    return CheckpointError(
        f"checkpoint {path} holds weights under {' and '.join(names[:_SHOWN])}, and each may be meant; save the "
        "right ones by themselves: torch.save(state_dict, 'weights.pt')"
    )


def misfit(fit: Fit, target: Target, kind: str, content: Any = None) -> str:
    """Returns how the nearest reading of a file does not fit a network.

    Args:
        fit: that reading.
        target: what the network takes.
        kind: of the network, in words.
        content: the whole of the file.
    """
    entries = fit.source.entries
    shapes = [
        f"{name} {_shape(entries[fit.names[name]])} instead of {_shape(target.entries[name])}" for name in fit.misshapen
    ]
    kinds = (("missing", fit.missing), ("unexpected", fit.unexpected), ("of another shape", shapes))
    faults = "; ".join(f"{what}: {listed(names)}" for what, names in kinds if names)
    message = f"{_reading(fit)}does not fit the network {kind}: {faults}"
    quantised = [name for name, value in entries.items() if _is_quantised(name, value)]
    if quantised:
        return f"{message}; it holds quantised weights ({quantised[0]}): give those from before quantisation"
    if isinstance(content, Mapping) and "autoprune" in content:
        return f"{message}; it is a pruned file of autoprune, whose network autoprune.load rebuilds"
    return message


def _reading(fit: Fit) -> str:
    words = [f"in its entry {'.'.join(fit.source.keys)}"] if fit.source.keys else []
    words += [f"without the prefix {fit.removed!r}"] if fit.removed else []
    words += [f"with the prefix {fit.added!r}"] if fit.added else []
    return f"({', '.join(words)}) " if words else ""


def _is_quantised(name: str, value: Any) -> bool:
    return (isinstance(value, Tensor) and value.is_quantized) or not _QUANTISED.isdisjoint(name.split("."))


def _shape(value: Any) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def remarks(fit: Fit, others: Sequence[Fit], target: Target) -> list[str]:
    """Returns what a user should know of how a file was read, a line each.

    Args:
        fit: how it was read.
        others: how else it could have been.
        target: what the network takes.
    """
    said = []
    if others:
        more = listed([".".join(other.keys) or "its top" for other in others])
        said.append(f"{'.'.join(fit.keys) or 'its top'} is taken; the weights under {more} would fit as well")
    if fit.left_out:
        said.append(f"left out, as the network has no such entries: {listed(_by_module(fit.left_out))}")
    if fit.source.masked:
        said.append(f"the masks of torch.nn.utils.prune are applied, and not kept (layers masked: {fit.source.masked})")
    pairs = [(value, target.entries[name]) for name, value in fit.entries().items() if isinstance(value, Tensor)]
    converted = Counter(
        (dtype_name(a), dtype_name(b)) for a, b in pairs if a.dtype != b.dtype and a.is_floating_point()
    )
    return said + [f"converted from {a} to {b} (tensors: {count})" for (a, b), count in converted.items()]


def _by_module(names: Sequence[str]) -> list[str]:
    """Returns names with those of one outermost module as one."""
    count = Counter(name.partition(".")[0] for name in names)
    return list(
        dict.fromkeys(f"{top}.* ({count[top]})" if count[top := name.partition(".")[0]] > 1 else name for name in names)
    )


def dtype_name(tensor: Tensor) -> str:
    """Returns the name of a tensor's type, such as `float32`."""
    return str(tensor.dtype).removeprefix("torch.")


def listed(names: Sequence[str]) -> str:
    """Returns the first few names, and how many more there are."""
    more = len(names) - _SHOWN
    return printable(", ".join(names[:_SHOWN])).replace("\n", "\\n") + (f" and {more} more" if more > 0 else "")
