"""Reads and writes what `torch.save` does, without executing anything."""

from __future__ import annotations

import errno
import io
import pickle
import re
import struct
import threading
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from autoprune.errors import CheckpointError
from autoprune.files import write_whole
from autoprune.tasks.weight_files.foreign import what_it_is
from autoprune.tasks.weight_files.records import KNOWN, settle, stand_in

CONVERT = "load it where it was made and save its weights alone: torch.save(model.state_dict(), 'weights.pt')"
UNREADABLE = (RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, AssertionError, struct.error)
"""Besides `pickle.UnpicklingError`, the errors that unpickling a damaged file raises."""

_EXPECTED = "expected a file written by torch.save(model.state_dict(), path)"
_MOST_CLASSES = 100
_CHUNK = 2**20  # bytes
_READING = threading.Lock()  # the table of names that torch allows is one for the process


def read_checkpoint(path: Path, mapped: bool = False, checked: bool = True) -> Any:
    """Returns what `torch.save` wrote, tensors on the CPU; nothing in the file is executed.

    Tensors, containers and plain values come as they are, NumPy's numbers as Python's, namespaces as dictionaries,
    paths as texts. An object of any other class is a `Record` of what it was made from: its class is neither imported
    nor called. A file that asks for functions to be called is refused.

    Args:
        path: of the file.
        mapped: whether tensors are read from the disk when they are used; the file must not be written to until then.
        checked: whether the checksums of all tensors are verified, which torch does not do.

    Raises:
        CheckpointError: the file is missing or damaged, is no checkpoint, or would execute code on loading.
    """
    if path.exists() and not path.is_file() and not path.is_dir():  # which could block for ever
        raise CheckpointError(f"checkpoint {path} is no regular file; {_EXPECTED}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of pickle protocols and TorchScript before it raises
            content = settle(_load(path, mapped and _is_plain_zip(path)))
        if checked:
            _check_sums(path)
        return content
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


def _is_plain_zip(path: Path) -> bool:
    """Returns whether tensors lie in the file as they are; torch takes compressed ones for such."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04" or path.suffix == ".safetensors":
            return False
    try:
        with zipfile.ZipFile(path) as archive:
            return all(part.compress_type == zipfile.ZIP_STORED for part in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return False


def _check_sums(path: Path) -> None:
    """Checks that the parts of an archive are what was written; torch's older format has no checksums.

    Raises:
        RuntimeError: a part is not.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return
    try:
        with zipfile.ZipFile(path) as archive:
            for part in archive.infolist():
                if part.CRC:  # none after `torch.serialization.set_crc32_options(False)`
                    with archive.open(part) as stream:
                        while stream.read(_CHUNK):
                            pass
    except (zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise RuntimeError(f"corrupted: {error}") from error


def _load(path: Path, mapped: bool) -> Any:
    """Reads the file again with one more stand-in for each class in it that torch does not know."""
    known, tries = dict(KNOWN), 0
    with _READING:
        while True:
            try:
                with (
                    torch.serialization.safe_globals([(each, name) for name, each in known.items()]),
                    path.open("rb") as f,
                ):
                    return torch.load(path if mapped else f, map_location="cpu", weights_only=True, mmap=mapped)
            except pickle.UnpicklingError as error:
                tries += 1
                if tries > _MOST_CLASSES or not _learn(known, str(error)):
                    first = next((f", GLOBAL {name}" for name in known if name not in KNOWN), "")
                    raise pickle.UnpicklingError(f"{error}{first}") from error


def _learn(known: dict[str, Callable[..., Any]], reason: str) -> bool:
    """Adds a stand-in for the name that the reader stopped at; returns whether that may help."""
    if found := re.search(r"GLOBAL (\w+\.[\w.]+) was not an allowed global", reason):
        known[found[1]] = stand_in(found[1])
    elif found := re.search(r"Can only SETITEMS? .*but got <class '([\w.]+)'>", reason):
        known[found[1]] = stand_in(found[1], "dict")
    elif found := re.search(r"Can only (?:append|extend) .*but got <class '([\w.]+)'>", reason):
        known[found[1]] = stand_in(found[1], "list")
    return found is not None


def _refusal(path: Path, reason: str) -> str:
    named = re.search(r"(?:GLOBAL|global) ([\w.]+)", reason)
    if named:
        return f"checkpoint {path} is refused: loading it would execute code ({named[1]}); {CONVERT}"
    if "DTensors" in reason:
        return (
            f"checkpoint {path} holds tensors that are sharded over processes (DTensor); gather them before saving: "
            "torch.distributed.checkpoint.state_dict.get_model_state_dict with full_state_dict=True"
        )
    with path.open("rb") as file:
        pickled = file.read(1) == b"\x80"
    if pickled:
        return f"checkpoint {path} is refused: it is a pickle that could execute code on loading; {CONVERT}"
    return _no_checkpoint(path)


def _no_checkpoint(path: Path) -> str:
    what = what_it_is(path)
    return f"{path} is not a checkpoint{f': it {what}' if what else f'; {_EXPECTED}'}"


def _damage(path: Path, reason: str) -> str:
    if "TorchScript" in reason:
        return f"checkpoint {path} is refused: it is a TorchScript program, not weights; {CONVERT}"
    if what_it_is(path):
        return _no_checkpoint(path)
    if "recursion" in reason:
        return f"checkpoint {path} is nested too deeply; {_EXPECTED}"
    with path.open("rb") as file:
        begins_well = file.read(2) in (b"PK", b"\x80\x02")
    if begins_well or re.search(r"failed finding central directory|unexpected EOF|corrupted", reason):
        return f"checkpoint {path} is truncated or damaged ({path.stat().st_size:,} bytes); copy or download it again"
    return _no_checkpoint(path)
