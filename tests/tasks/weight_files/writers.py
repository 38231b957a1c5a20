"""Networks, and what writes their weights in the forms that people have."""

from __future__ import annotations

import enum
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

State = dict[str, Any]
Writer = Callable[[Path, State], Path]
"""Writes the state dict of a trained network into a folder, and returns the path to load."""


class Net(nn.Module):
    """A network of the usual parts."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n, self.l = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.l(torch.relu(self.n(self.a(x))).mean((2, 3)))


class Counting(Net):
    """Keeps something beside its tensors."""

    seen: Any = None

    def get_extra_state(self) -> Any:
        return {"seen": self.seen}

    def set_extra_state(self, state: Any) -> None:
        self.seen = state["seen"]


class Wrapped(nn.Module):
    """A network as a Lightning module holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Net()


class Tied(nn.Module):
    """A decoder whose output layer is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("positions", torch.arange(4), persistent=False)


class Settings:
    """A class of the user's own beside the weights."""

    def __init__(self) -> None:
        self.rate = 0.1


class Config(dict):  # type: ignore[type-arg]
    """A dictionary of the user's own, as configuration libraries have them."""


class Phase(enum.Enum):
    """A choice."""

    LAST = "last"


def build(kind: Callable[[], nn.Module] = Net, seed: int = 0) -> nn.Module:
    """Returns a network with random weights and statistics."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = kind()
        for value in network.state_dict().values():
            if isinstance(value, Tensor) and value.is_floating_point():
                value.copy_(torch.randn(value.shape))
    return network


def prefixed(prefix: str, state: Mapping[str, Any]) -> State:
    """Returns a state dict with a prefix before its names."""
    return {f"{prefix}{name}": value for name, value in state.items()}


def weight_normed(old: bool) -> nn.Module:
    """Returns a network with one weight-normed layer, as torch had it first or has it now."""
    network = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(network.a) if old else parametrizations.weight_norm(network.a)
    return network


def saved(content: Callable[[State], Any], old: bool = False, name: str = "w.pt") -> Writer:
    """Returns what writes a content by `torch.save`."""

    def make(folder: Path, state: State) -> Path:
        torch.save(content(state), folder / name, _use_new_zipfile_serialization=not old)
        return folder / name

    return make


def written(name: str, content: bytes) -> Writer:
    """Returns what writes bytes into a file."""

    def make(folder: Path, _: State) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def safetensors(path: Path, state: Mapping[str, Tensor]) -> None:
    """Writes float32 and int64 tensors as the safetensors library does."""
    kinds = {torch.float32: "F32", torch.int64: "I64", torch.float16: "F16"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    content = b""
    for name, tensor in state.items():
        data = tensor.numpy().tobytes()
        place = [len(content), len(content) + len(data)]
        header[name] = {"dtype": kinds[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
        content += data
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + content)


def folder_of(*files: str, lost: str = "", index: str = "") -> Writer:
    """Returns what writes a folder as `save_pretrained` does, the weights dealt out to the files.

    Args:
        files: names of the files of weights.
        lost: a file that is not there.
        index: name of the list of files.
    """

    def make(folder: Path, state: State) -> Path:
        place = {name: files[i % len(files)] for i, name in enumerate(state)}
        for file in files:
            part = {name: value for name, value in state.items() if place[name] == file}
            if file.endswith(".safetensors"):
                safetensors(folder / file, part)
            else:
                torch.save(part, folder / file)
        (folder / "config.json").write_text("{}")
        if index:
            (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": place}))
        if lost:
            (folder / lost).unlink()
        return folder

    return make


def single(folder: Path, state: State) -> Path:
    safetensors(folder / "w.safetensors", state)
    return folder / "w.safetensors"


def distributed(folder: Path, state: State) -> Path:
    for name in (".metadata", "__0_0.distcp"):
        (folder / name).write_bytes(b"\x80")
    return folder


def scripted(folder: Path, _: State) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(3, 2)), folder / "w.pt")
    return folder / "w.pt"


def zipped(folder: Path, state: State) -> Path:
    torch.save(state, folder / "inner.pt")
    with zipfile.ZipFile(folder / "w.zip", "w") as archive:
        archive.write(folder / "inner.pt", "inner.pt")
    return folder / "w.zip"


def pickled(folder: Path, state: State) -> Path:
    (folder / "w.pkl").write_bytes(pickle.dumps({name: value.numpy() for name, value in state.items()}))
    return folder / "w.pkl"


def masked(state: State) -> State:
    network = build()
    network.load_state_dict(state)
    prune.l1_unstructured(network.get_submodule("a"), "weight", amount=0.0)
    return network.state_dict()


def quantised(_: State) -> State:
    weight = torch.quantize_per_tensor(torch.ones(8, 3, 3, 3), 0.1, 0, torch.qint8)
    return {"a.weight": weight, "a.bias": torch.zeros(8), "a.scale": torch.tensor(1.0), "a.zero_point": torch.tensor(0)}


def lightning(state: State) -> State:
    beside = {"criterion.weight": torch.ones(4), "teacher.fc.weight": torch.ones(4, 4)}
    return {
        "epoch": 1,
        "global_step": 7,
        "pytorch-lightning_version": "2.5",
        "state_dict": {**prefixed("model.", state), **beside},
        "optimizer_states": [],
        "hyper_parameters": Config(rate=0.1, phase=Phase.LAST),
        "hparams_name": "config",
    }


def halved(state: State, dtype: torch.dtype) -> State:
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}


def pretrained(state: State) -> State:
    lone = {name: value for name, value in state.items() if name != "head.weight"}
    return {**lone, "positions": torch.arange(4)}


def part(state: State, name: str) -> State:
    return {key.partition(".")[2]: value for key, value in state.items() if key.startswith(f"{name}.")}


def optimizer() -> State:
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def flipped(folder: Path, state: State) -> Path:
    path = saved(dict)(folder, state)
    written, weight = path.read_bytes(), next(iter(state.values())).numpy().tobytes()
    place = written.index(weight)
    path.write_bytes(written[:place] + bytes([written[place] ^ 1]) + written[place + 1 :])
    return path


def cut(folder: Path, state: State) -> Path:
    path = saved(dict)(folder, state)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path
