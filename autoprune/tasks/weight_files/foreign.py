"""Tells in words what a file is that `torch.save` did not write."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

_AGAIN = "copy or download it again"
_MAGIC = (
    (b"\x1f\x8b", "is compressed (gzip); unpack it first"),
    (b"BZh", "is compressed (bzip2); unpack it first"),
    (b"\xfd7zXZ", "is compressed (xz); unpack it first"),
    (b"\x28\xb5\x2f\xfd", "is compressed (zstd); unpack it first"),
    (b"7z\xbc\xaf", "is a 7z archive; unpack it first"),
    (b"Rar!", "is a RAR archive; unpack it first"),
    (b"\x89HDF", "is an HDF5 file, as Keras writes; export the weights to PyTorch"),
    (b"GGUF", "is a GGUF file, whose weights are quantised; give the PyTorch weights that it was made from"),
    (b"\x93NUMPY", "is a NumPy array; expected a file written by torch.save(model.state_dict(), path)"),
)
_SUFFIXES = {
    ".onnx": "is an ONNX network",
    ".pb": "is a TensorFlow network",
    ".tflite": "is a TensorFlow Lite network",
    ".msgpack": "is a file of Flax",
}
_WEIGHTS = (".pt", ".pth", ".th", ".bin", ".ckpt", ".safetensors", ".tar")
_TAR_MAGIC = 257
_SHOWN = 40


def what_it_is(path: Path) -> str | None:
    """Returns what a file is, and what to do, after "it "; None where nothing is known of it."""
    with path.open("rb") as file:
        head = file.read(1024)
    if not head:
        return f"is empty; {_AGAIN}"
    if head.startswith(b"version https://git-lfs"):
        size = re.search(rb"size (\d+)", head)
        of = f" of {int(size[1]):,} bytes" if size else ""
        return f"is a Git LFS pointer to weights{of} that were not fetched; run `git lfs pull` where it was cloned"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is a web page; the download asked for a login or a confirmation: open the address in a browser"
    for magic, words in _MAGIC:
        if head.startswith(magic):
            return words
    if head[_TAR_MAGIC:].startswith(b"ustar"):
        return "is a tar archive; unpack it first"
    if head.startswith(b"PK"):
        return _zipped(path)
    if path.suffix.lower() in _SUFFIXES:
        return f"{_SUFFIXES[path.suffix.lower()]}; expected a file written by torch.save(model.state_dict(), path)"
    text = _text(head)
    return None if text is None else f"is a text that begins with {text!r}"


def _zipped(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):  # a torn one
        return None
    if any(name.endswith("data.pkl") for name in names):
        return None
    if any(name.endswith("archive_format") or "/models/" in name for name in names):
        return "is an exported program (torch.export); save the network's weights: torch.save(model.state_dict(), path)"
    if any(name.endswith(".npy") for name in names):
        return "is an archive of NumPy arrays; expected a file written by torch.save(model.state_dict(), path)"
    inside = [name for name in names if name.endswith(_WEIGHTS)]
    return f"is a zip archive with {inside[0]} in it; unpack it first" if inside else "is a zip archive without weights"


def _text(head: bytes) -> str | None:
    try:
        text = head[:_SHOWN].decode("ascii").strip()
    except UnicodeDecodeError:
        return None
    return text if text and all(c.isprintable() or c.isspace() for c in text) else None
