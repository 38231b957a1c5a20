"""Reads trained weights from files, safely, and puts them into networks."""

from __future__ import annotations

import errno
import hashlib
import io
import pickle
import re
import struct
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.errors import CheckpointError
from autoprune.files import write_whole

_NESTED = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
_AVERAGED = "n_averaged"
_SHOWN = 5
_CONVERT = "load it where it was made and save its weights alone: torch.save(model.state_dict(), 'weights.pt')"
UNREADABLE = (RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, AssertionError, struct.error)
"""Besides `pickle.UnpicklingError`, the errors that unpickling a damaged file raises."""


def read_checkpoint(path: Path) -> Any:
    """Returns what `torch.save` wrote, tensors on the CPU; nothing in the file is executed.

    Raises:
        CheckpointError: the file is missing or damaged, is no checkpoint, or would execute code on loading.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of pickle protocols and TorchScript before it raises
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {path} does not exist") from None
    except OSError as error:
        if error.errno == errno.EINVAL:  # torch seeks past the end of a truncated archive
            raise CheckpointError(_damage(path, "corrupted")) from error
        raise CheckpointError(f"checkpoint {path} cannot be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refusal(path, str(error))) from error
    except UNREADABLE as error:
        raise CheckpointError(_damage(path, str(error))) from error


def write_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Writes tensors and plain values for `read_checkpoint`, whole or not at all, and makes the folder.

    Raises:
        OSError: it cannot be written.
    """
    written = io.BytesIO()  # torch's own writer turns a full disk into a RuntimeError
    torch.save(content, written)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, written.getbuffer())


def _refusal(path: Path, reason: str) -> str:
    named = re.search(r"(?:GLOBAL|global) ([\w.]+)", reason)
    if named:
        return f"checkpoint {path} is refused: loading it would execute code ({named[1]}); {_CONVERT}"
    with path.open("rb") as file:
        pickled = file.read(1) == b"\x80"
    if pickled:
        return f"checkpoint {path} is refused: it is a pickle that could execute code on loading; {_CONVERT}"
    return f"{path} is not a checkpoint; expected a file written by torch.save(model.state_dict(), path)"


def _damage(path: Path, reason: str) -> str:
    if "TorchScript" in reason:
        return f"checkpoint {path} is refused: it is a TorchScript program, not weights; {_CONVERT}"
    with path.open("rb") as file:
        begins_well = file.read(2) in (b"PK", b"\x80\x02")
    if begins_well or re.search(r"failed finding central directory|unexpected EOF|corrupted", reason):
        return f"checkpoint {path} is truncated or damaged ({path.stat().st_size:,} bytes); copy or download it again"
    return f"{path} is not a checkpoint; expected a file written by torch.save(model.state_dict(), path)"


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Returns the parameters and buffers in a file, on the CPU: name to a tensor `[…]` of any shape.

    A state dict nested under `state_dict`, `model_state_dict` or `model` is taken out, and what wrappers put before
    every name is removed: `module.` of `DataParallel` and `AveragedModel`, `_orig_mod.` of `torch.compile`.

    Raises:
        CheckpointError: as `read_checkpoint`, or the file holds no state dict.
    """
    content = read_checkpoint(path)
    nested = [content[key] for key in _NESTED if key in content] if isinstance(content, Mapping) else []
    state = next((found for found in (content, *nested) if maps_to(found, Tensor) and found), None)
    if state is None:
        raise CheckpointError(
            f"checkpoint {path} holds {_describe(content)}; expected names mapped to tensors, at the top or under "
            f"{', '.join(_NESTED)}"
        )
    return _without_prefix(dict(state))


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if state and all(name.startswith(prefix) or name == _AVERAGED for name in state):
            bare = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name != _AVERAGED}
            return _without_prefix(bare)  # one wrapper may be around another
    return state


def maps_to(content: object, kind: type | tuple[type, ...]) -> bool:
    """Returns whether a part of a file is a dictionary of names to values of a kind."""
    return isinstance(content, Mapping) and all(
        isinstance(name, str) and isinstance(value, kind) for name, value in content.items()
    )


def _describe(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    return f"a dictionary with the entries {_list([str(key) for key in content])}" if content else "an empty dictionary"


def load_weights(network: nn.Module, path: Path) -> None:
    """Copies a file's weights into the network; where they do not fit it is left as it was.

    Raises:
        CheckpointError: as `read_state_dict`, or keys are missing, unexpected or of another shape, or a weight is NaN
            or infinite.
    """
    fill(network, read_state_dict(path), f"checkpoint {path}")


def fill(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copies a state dict into the network; where it does not fit the network is left as it was.

    Args:
        network: its parameters and buffers are written to.
        state: name to a tensor `[…]` of the shape of the network's own.
        source: where the weights come from, for the message.

    Raises:
        CheckpointError: the message begins with `source` and lists what does not fit.
    """
    faults = _misfits(network.state_dict(), state)
    if faults:
        raise CheckpointError(f"{source} does not fit the network {type(network).__name__}: {'; '.join(faults)}")
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{source} holds NaN or infinite weights in {name}; take one from before training diverged"
            )
    network.load_state_dict(dict(state))


def _misfits(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    # Files from before torch 0.4.1 lack the counter of batches; torch itself fills it in.
    missing = [name for name in expected if name not in given and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in given if name not in expected]
    shapes = [
        f"{name} {list(given[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in given and given[name].shape != tensor.shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    return [f"{kind}: {_list(names)}" for kind, names in kinds if names]


def _list(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def digest(state: Mapping[str, Tensor]) -> str:
    """Returns SHA-256 over names, types, shapes and bytes, in hexadecimal; the order of the names does not matter.

    Args:
        state: name to a tensor `[…]` of any shape.
    """
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
