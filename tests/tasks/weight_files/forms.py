"""The forms in which people have weights, and what becomes of them: `python -m tests.tasks.weight_files.forms`."""

from __future__ import annotations

import argparse
import collections
import datetime
import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.errors import CheckpointError
from autoprune.tasks.weights import Weights, load_weights
from tests.tasks.weight_files import writers
from tests.tasks.weight_files.writers import (
    Net,
    Wrapped,
    Writer,
    build,
    folder_of,
    prefixed,
    saved,
    weight_normed,
    written,
)


@dataclass(frozen=True)
class Form:
    """One way to have weights.

    Attributes:
        name: what it is, in a few words.
        make: writes it into a folder, given a trained network's state dict, and returns the path to load.
        said: what the loading says: nothing, or a part of the remark or of the refusal.
        kind: builds the network that it is loaded into.
        trained: builds the network that it was made of, if another; it has the same weights in the same order.
        needs: a library, or that it is missing.
    """

    name: str
    make: Writer
    said: str = ""
    kind: Callable[[], nn.Module] = Net
    trained: Callable[[], nn.Module] | None = None
    needs: str = ""


def inner(network: nn.Module) -> nn.Module:
    """Returns the network in a wrapper, or itself."""
    return next(network.children()) if isinstance(network, (nn.DataParallel, Wrapped)) else network


def load(form: Form, folder: Path, network: nn.Module) -> tuple[nn.Module, Weights]:
    """Writes a form and loads it into a network; returns what it was made of, and what was read.

    Raises:
        CheckpointError: it is refused.
    """
    trained = inner(build(form.trained or form.kind))
    path = form.make(folder, trained.state_dict())
    with pytest.MonkeyPatch.context() as patch:
        if form.needs == "no safetensors":
            patch.setitem(sys.modules, "safetensors", None)
        return trained, load_weights(network, path)


def row(form: Form, words: str, folder: Path) -> str:
    """Returns a form's row of the documentation's table: what was said on it in that folder."""
    bare = words.removeprefix("checkpoint ").replace(f"{folder}/", "").replace(str(folder), "FOLDER")
    return f"| {form.name} | {bare} |"


def table(forms: Sequence[Form], heading: str) -> str:
    """Returns a table of the documentation, in Markdown."""
    rows = []
    for form in forms:
        with tempfile.TemporaryDirectory() as folder:
            try:
                words = "; ".join(load(form, Path(folder), build(form.kind, 1))[1].remarks)
            except CheckpointError as error:
                words = str(error)
            rows.append(row(form, words, Path(folder)))
    return "\n".join([f"| {heading} | said |", "| --- | --- |", *rows]) + "\n"


_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 46827520\n"
_SHARDS = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
_BIN_SHARDS = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"

LOADING = [
    Form("state dict", saved(dict)),
    Form("state dict, torch's older format, no zip", saved(dict, old=True)),
    Form("`module.` (DataParallel, DDP)", saved(lambda s: prefixed("module.", s))),
    Form("`_orig_mod.` (torch.compile)", saved(lambda s: prefixed("_orig_mod.", s))),
    Form("`module._orig_mod.`", saved(lambda s: prefixed("module._orig_mod.", s))),
    Form(
        "a compiled part: `a._orig_mod.weight`",
        saved(lambda s: {n.replace("a.", "a._orig_mod."): t for n, t in s.items()}),
    ),
    Form("any shared prefix: `backbone.encoder.`", saved(lambda s: prefixed("backbone.encoder.", s))),
    Form("a prefix that only the network has", saved(dict), kind=Wrapped),
    Form("another prefix than the network's", saved(lambda s: prefixed("net.", s)), kind=Wrapped),
    Form("into a network in DataParallel", saved(dict), kind=lambda: nn.DataParallel(Net())),
    Form(
        "`AveragedModel`: `module.`, `n_averaged`",
        saved(lambda s: {**prefixed("module.", s), "n_averaged": torch.tensor(3)}),
    ),
    Form("`ema.` before all names", saved(lambda s: prefixed("ema.", s))),
    Form(
        "`online_model.` beside `ema_model.`",
        saved(lambda s: {**prefixed("online_model.", s), **prefixed("ema_model.", {n: t + 1 for n, t in s.items()})}),
        "online_model is taken; the weights under ema_model would fit as well",
    ),
    Form("`{state_dict, epoch}`", saved(lambda s: {"state_dict": s, "epoch": 3})),
    Form("an entry of any name", saved(lambda s: {"my_net": s, "acc": 93.1, "epoch": 7})),
    Form("an entry in an entry", saved(lambda s: {"checkpoint": {"weights": s, "epoch": 7}})),
    Form(
        "`state_dict` beside `state_dict_ema`",
        saved(lambda s: {"state_dict_ema": {n: t + 1 for n, t in s.items()}, "state_dict": s}),
        "state_dict is taken; the weights under state_dict_ema would fit as well",
    ),
    Form(
        "a list or tuple: `(epoch, state_dict)`", saved(lambda s: (3, s, torch.optim.SGD([s["l.bias"]]).state_dict()))
    ),
    Form("the same weights under two names", saved(lambda s: {"a": s, "b": dict(s)})),
    Form("two networks, of which one fits", saved(lambda s: {"generator": s, "critic": {"w": torch.ones(3)}})),
    Form("the parts of the network apart", saved(lambda s: {p: writers.part(s, p) for p in ("a", "n", "l")})),
    Form("weights beside entries: `{**state, epoch}`", saved(lambda s: {**s, "epoch": 3, "best": np.float32(0.9)})),
    Form(
        "weights beside a number in a tensor",
        saved(lambda s: {**s, "best_acc": torch.tensor(0.9)}),
        "left out, as the network has no such entries: best_acc",
    ),
    Form(
        "NumPy numbers and arrays beside them",
        saved(lambda s: {"net": s, "acc": np.float64(93.1), "all": np.arange(3)}),
    ),
    Form(
        "`argparse.Namespace` beside them",
        saved(lambda s: {"model": s, "args": argparse.Namespace(lr=0.1, out=Path("x"))}),
    ),
    Form(
        "objects of any class beside them",
        saved(
            lambda s: {
                "model": s,
                "cfg": writers.Settings(),
                "phase": writers.Phase.LAST,
                "on": datetime.date(2026, 11, 30),
            }
        ),
    ),
    Form(
        "dictionaries of any class beside them",
        saved(
            lambda s: {
                "model": s,
                "cfg": writers.Config(a=writers.Config(b=1)),
                "log": collections.defaultdict(list, {"loss": [1.0]}),
            }
        ),
    ),
    Form(
        "Lightning, a loss and a teacher beside",
        saved(writers.lightning),
        "left out, as the network has no such entries: criterion.weight",
    ),
    Form(
        "with optimizer, schedule, scaler",
        saved(lambda s: {"model": s, "optimizer": writers.optimizer(), "scaler": {"scale": 1.0}}),
    ),
    Form("arrays of NumPy in place of tensors", saved(lambda s: {n: t.numpy() for n, t in s.items()})),
    Form(
        "parameters in place of tensors",
        saved(lambda s: {n: nn.Parameter(t, requires_grad=False) for n, t in s.items()}),
    ),
    Form("sparse tensors", saved(lambda s: {**s, "l.weight": s["l.weight"].to_sparse()})),
    Form(
        "float16", saved(lambda s: writers.halved(s, torch.float16)), "converted from float16 to float32 (tensors: 8)"
    ),
    Form(
        "bfloat16",
        saved(lambda s: writers.halved(s, torch.bfloat16)),
        "converted from bfloat16 to float32 (tensors: 8)",
    ),
    Form(
        "float64", saved(lambda s: writers.halved(s, torch.float64)), "converted from float64 to float32 (tensors: 8)"
    ),
    Form("without `num_batches_tracked`", saved(lambda s: {n: t for n, t in s.items() if "tracked" not in n})),
    Form("with thop's counters", saved(lambda s: {**s, "a.total_ops": torch.ones(1), "total_params": torch.ones(1)})),
    Form(
        "masks of `torch.nn.utils.prune`",
        saved(writers.masked),
        "masks of torch.nn.utils.prune are applied, and not kept (layers masked: 1)",
    ),
    Form(
        "weight norm as of torch 1", saved(dict), kind=lambda: weight_normed(False), trained=lambda: weight_normed(True)
    ),
    Form(
        "weight norm as of torch 2", saved(dict), kind=lambda: weight_normed(True), trained=lambda: weight_normed(False)
    ),
    Form("extra state of modules", saved(dict), kind=writers.Counting),
    Form("tied weights once, buffers that are not saved any more", saved(writers.pretrained), kind=writers.Tied),
    Form("safetensors", writers.single, needs="safetensors"),
    Form("folder with `model.safetensors`", folder_of("model.safetensors"), needs="safetensors"),
    Form("folder with `pytorch_model.bin`", folder_of("pytorch_model.bin")),
    Form("folder with one file of weights", folder_of("best.pth")),
    Form(
        "folder, sharded, safetensors", folder_of(*_SHARDS, index="model.safetensors.index.json"), needs="safetensors"
    ),
    Form("folder, sharded, `.bin`", folder_of(*_BIN_SHARDS, index="pytorch_model.bin.index.json")),
]
REFUSED = [
    Form(
        "several entries that fit, of unknown names",
        saved(lambda s: {"first": s, "second": {n: t + 1 for n, t in s.items()}}),
        "holds weights under first and second, and each may be meant; save the right ones by themselves",
    ),
    Form(
        "another network's",
        saved(lambda s: {**s, "extra.weight": torch.ones(3)}),
        "does not fit the network Net: unexpected: extra.weight",
    ),
    Form(
        "another network's in an entry, with a prefix",
        saved(
            lambda s: {
                "state_dict": {**prefixed("model.", s), "model.l.weight": torch.ones(9, 8)},
                "ema": {"x": torch.ones(1)},
            }
        ),
        "(in its entry state_dict, without the prefix 'model.') does not fit the network Net: of another shape: "
        "l.weight [9, 8] instead of [4, 8]",
    ),
    Form(
        "NaN among the weights",
        saved(lambda s: {**s, "l.bias": torch.full((4,), torch.nan)}),
        "holds NaN or infinite weights in l.bias",
    ),
    Form(
        "int8 in place of float32",
        saved(lambda s: {**s, "l.weight": torch.ones(4, 8, dtype=torch.int8)}),
        "l.weight as int8 instead of float32",
    ),
    Form(
        "tensors without values",
        saved(lambda s: {**s, "l.bias": torch.ones(4, device="meta")}),
        "holds l.bias without its values",
    ),
    Form("quantised", saved(writers.quantised), "it holds quantised weights"),
    Form("an optimizer alone", saved(lambda _: writers.optimizer()), "holds the state of an optimizer and no weights"),
    Form(
        "several networks in a list",
        saved(lambda s: {"folds": [s, {k: v + 1 for k, v in s.items()}]}),
        "each may be meant",
    ),
    Form("a list of tensors", saved(lambda s: list(s.values())), "holds a list; expected names mapped to tensors"),
    Form(
        "a whole network, pickled",
        saved(lambda _: nn.Linear(3, 2)),
        "loading it would execute code (torch.nn.modules.linear.Linear)",
    ),
    Form(
        "a whole network in an entry",
        saved(lambda _: {"model": nn.Linear(3, 2), "epoch": 3}),
        "loading it would execute code",
    ),
    Form("a pickle of arrays", writers.pickled, "it is a pickle that could execute code on loading"),
    Form("TorchScript", writers.scripted, "it is a TorchScript program, not weights"),
    Form(
        "safetensors without the library",
        writers.single,
        "the library that reads it is not installed: pip install",
        needs="no safetensors",
    ),
    Form(
        "folder, sharded, one shard missing",
        folder_of(*_BIN_SHARDS, lost=_BIN_SHARDS[1], index="pytorch_model.bin.index.json"),
        f"lists 2 files, but there is no {_BIN_SHARDS[1]}",
    ),
    Form("folder of several files", folder_of("a.pt", "b.pt"), "several files of weights (a.pt, b.pt); name one"),
    Form("folder without weights", folder_of("notes.txt"), "is a folder without weights; expected model.safetensors"),
    Form("folder of `torch.distributed.checkpoint`", writers.distributed, "format_utils dcp_to_torch"),
    Form(
        "folder with an adapter only", folder_of("adapter_model.bin"), "is an adapter (PEFT) without its base network"
    ),
    Form("empty file", written("w.pt", b""), "is not a checkpoint: it is empty"),
    Form(
        "Git LFS pointer",
        written("w.pt", _POINTER),
        "is a Git LFS pointer to weights of 46,827,520 bytes that were not fetched",
    ),
    Form("web page", written("w.pt", b"<!DOCTYPE html><html>Sign in</html>"), "it is a web page"),
    Form("text", written("w.pt", b"epoch,loss\n1,3\n"), "it is a text that begins with 'epoch,loss"),
    Form("zip archive of a checkpoint", writers.zipped, "is a zip archive with inner.pt in it; unpack it first"),
    Form("gzip", written("w.pt.gz", b"\x1f\x8b\x08" + bytes(30)), "is compressed (gzip); unpack it first"),
    Form("half a file", writers.cut, "is truncated or damaged"),
    Form("one bit of a weight differs", writers.flipped, "is truncated or damaged"),
    Form("no file", lambda folder, _: folder / "w.pt", "does not exist"),
]


if __name__ == "__main__":
    logging.disable()
    sys.stdout.write(f"{table(LOADING, 'loaded')}\n{table(REFUSED, 'refused')}")
