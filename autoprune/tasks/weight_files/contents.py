"""Reads what a path holds: a file of `torch.save`, a safetensors file, or a folder as Hugging Face writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from autoprune.errors import CheckpointError
from autoprune.files import parse_json
from autoprune.tasks.weight_files.foreign import what_it_is
from autoprune.tasks.weight_files.pickled import read_checkpoint

_LIKED = (
    "model.safetensors",
    "pytorch_model.bin",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
)
_INDEX = ".index.json"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".th", ".ckpt")
_MOST_HEADER = 100_000_000  # bytes, what the safetensors library takes
_SHOWN = 5


def read_content(path: Path) -> Any:
    """Returns what a file or folder of weights holds, tensors on the CPU; nothing is executed.

    Tensors may be read from the disk when they are used; until then the files must not be written to.

    Raises:
        CheckpointError: there is nothing, or nothing that could be read as weights.
    """
    if path.is_dir():
        return _read_folder(path)
    if path.name.endswith(_INDEX) and path.is_file():
        return _read_shards(path)
    return _read_file(path)


def _read_file(path: Path) -> Any:
    if path.is_symlink() and not path.exists():
        raise CheckpointError(f"checkpoint {path} is a link to {path.readlink()}, which does not exist")
    return _read_safetensors(path) if path.is_file() and _is_safetensors(path) else read_checkpoint(path, mapped=True)


def _is_safetensors(path: Path) -> bool:
    """Returns whether a file begins as safetensors do: the length of a header, then the header, in JSON."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError:  # who reads it says why
        return False
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") <= _MOST_HEADER


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise CheckpointError(
            f"checkpoint {path} is a safetensors file, and the library that reads it is not installed: "
            "pip install 'autoprune[safetensors]'"
        ) from None
    try:
        state: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"checkpoint {path} is truncated or damaged ({path.stat().st_size:,} bytes: {error}); "
            "copy or download it again"
        ) from error
    return state


def _read_folder(path: Path) -> Any:
    for name in _LIKED:
        if (path / name).exists() or (path / name).is_symlink():
            return _read_file(path / name)
        if (path / f"{name}{_INDEX}").is_file():
            return _read_shards(path / f"{name}{_INDEX}")
    names = sorted(each.name for each in path.iterdir())
    if foreign := _other_folder(names):
        raise CheckpointError(f"checkpoint {path} is {foreign}")
    weights = [name for name in names if name.endswith(_WEIGHTS)]
    if len(weights) == 1:
        return _read_file(path / weights[0])
    if weights:
        raise CheckpointError(f"checkpoint {path} is a folder of several files of weights ({_some(weights)}); name one")
    inside = sorted(child.parent.name for each in _LIKED for child in path.glob(f"*/{each}*"))
    hint = f"; give one of the folders in it ({_some(list(dict.fromkeys(inside)))})" if inside else ""
    raise CheckpointError(
        f"checkpoint {path} is a folder without weights; expected model.safetensors, pytorch_model.bin or one file of "
        "weights"
        f"{hint or f', found {_some(names)}' if names else ', but it is empty'}"
    )


def _other_folder(names: Sequence[str]) -> str | None:
    """Returns what a folder is that others than `save_pretrained` wrote, and what to do."""
    if ".metadata" in names and any(name.endswith(".distcp") for name in names):
        return (
            "a distributed checkpoint (torch.distributed.checkpoint); make one file of it: "
            "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE"
        )
    if "zero_to_fp32.py" in names:
        return "a checkpoint of DeepSpeed in parts; make one file of it: python zero_to_fp32.py . weights"
    if any(name.startswith("adapter_model.") for name in names):
        return "an adapter (PEFT) without its base network; merge them (merge_and_unload) and save the whole"
    if "ledger.jsonl" in names:
        return "the folder of an autoprune run; `autoprune apply` makes a file of weights from it"
    if "saved_model.pb" in names or any(name.endswith((".h5", ".msgpack")) for name in names):
        return "a folder of TensorFlow or Flax weights; export them to PyTorch"
    return None


def _read_shards(index: Path) -> dict[str, Any]:
    """Returns the weights whose files an index lists."""
    try:
        content = parse_json(index.read_bytes())
        files = content["weight_map"]
        names = sorted(set(files.values()))
        plain = all(Path(name).name == name for name in names)
    except OSError as error:
        raise CheckpointError(f"{index} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} {_no_index(index)}") from error
    if not plain or not names:
        raise CheckpointError(f"{index} {_no_index(index)}")
    if missing := [name for name in names if not (index.parent / name).exists()]:
        raise CheckpointError(
            f"{index} lists {len(names)} files, but there is no {_some(missing)}; they belong beside it"
        )
    state: dict[str, Any] = {}
    for name in names:
        part = _read_file(index.parent / name)
        if not isinstance(part, dict):
            raise CheckpointError(f"{index.parent / name} holds a {type(part).__name__}, not a part of the weights")
        state |= part
    if absent := [name for name in files if name not in state]:
        raise CheckpointError(
            f"{index} lists {_some(absent)}, which {files[absent[0]]} does not hold; download it again"
        )
    return state


def _no_index(index: Path) -> str:
    what = what_it_is(index)
    return f"lists no shards under weight_map{f': it {what}' if what else ''}"


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
