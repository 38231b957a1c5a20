"""What is zero in a checkpoint: elements, kernels, filters, channels, rows and columns of every weight."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from autoprune.errors import CheckpointError


@dataclass(frozen=True)
class WeightSparsity:
    """One weight; the shares are of structures that are zero throughout, in [0, 1].

    Of a convolution's `[out, in of a group, …]`: `kernels` (2D) are what one filter takes from one channel, `filters`
    (3D) whole filters, `channels` input channels that no filter takes anything from; of grouped convolutions and of
    transposed ones, whose axes are the other way round, the axes are taken as they are stored. Of a linear layer's
    `[out, in]`: `rows` are outputs, `columns` inputs, and `kernels` (2D) the rows once more, as Distiller's model zoo
    counts. What a kind of layer does not have is 0.

    Attributes:
        dense: how many weights there are.
        sparse: how many are not zero (NaN is not).
        fine: share of single weights that are zero.
        std, mean, magnitude: over all weights, zeros too; `std` divides by one less than their number.
    """

    name: str
    shape: tuple[int, ...]
    dense: int
    sparse: int
    columns: float
    rows: float
    channels: float
    kernels: float
    filters: float
    fine: float
    std: float
    mean: float
    magnitude: float


@dataclass(frozen=True)
class SparsityTable:
    """The weights of a checkpoint, in its order, and what they come to together."""

    weights: tuple[WeightSparsity, ...]

    @property
    def dense(self) -> int:
        return sum(weight.dense for weight in self.weights)

    @property
    def sparse(self) -> int:
        return sum(weight.sparse for weight in self.weights)

    @property
    def fine(self) -> float:
        """Share of all weights that are zero."""
        return 1 - self.sparse / self.dense

    def to_json(self) -> dict[str, Any]:
        total = {"dense": self.dense, "sparse": self.sparse, "fine": self.fine}
        return {"weights": [asdict(weight) for weight in self.weights], "total": total}

    def to_csv(self) -> str:
        """One line a weight, shares as they are (not in percent), and a last line of totals."""
        text = io.StringIO()
        names = list(WeightSparsity.__dataclass_fields__)
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        for weight in self.weights:
            writer.writerow({**asdict(weight), "shape": "x".join(map(str, weight.shape))})
        writer.writerow({"name": "total", "dense": self.dense, "sparse": self.sparse, "fine": self.fine})
        return text.getvalue()

    def to_text(self) -> Table:
        """The columns of Distiller's model zoo, shares in percent."""
        table = Table(box=None, pad_edge=False)
        table.add_column("name", no_wrap=True)
        for head in ("shape", "NNZ (dense)", "NNZ (sparse)", *_PERCENT, "std", "mean", "abs-mean"):
            table.add_column(head, justify="right", no_wrap=True)
        for weight in self.weights:
            shares = (f"{100 * getattr(weight, key):.5f}" for key in _PERCENT.values())
            moments = (f"{value:.5f}" for value in (weight.std, weight.mean, weight.magnitude))
            table.add_row(weight.name, str(weight.shape), str(weight.dense), str(weight.sparse), *shares, *moments)
        empty = [""] * (len(_PERCENT) - 1)
        table.add_row("total", "", str(self.dense), str(self.sparse), *empty, f"{100 * self.fine:.5f}", "", "", "")
        return table


# Head of a column to the share in it.
_PERCENT: Mapping[str, str] = {
    "Cols (%)": "columns",
    "Rows (%)": "rows",
    "Ch (%)": "channels",
    "2D (%)": "kernels",
    "3D (%)": "filters",
    "Fine (%)": "fine",
}


def sparsity_table(state: Mapping[str, Tensor], source: str = "the checkpoint") -> SparsityTable:
    """The table of a state dict: floating-point tensors of two or more dimensions whose name ends in `weight`.

    Raises:
        CheckpointError: there is none.
    """
    weights = [
        weight_sparsity(name, tensor)
        for name, tensor in state.items()
        if name.split(".")[-1] == "weight" and tensor.dim() >= 2 and tensor.is_floating_point() and tensor.numel()
    ]
    if not weights:
        raise CheckpointError(f"{source} holds no weight of two or more dimensions; is it a network's state dict?")
    return SparsityTable(tuple(weights))


def weight_sparsity(name: str, weight: Tensor) -> WeightSparsity:
    """The row of one weight of two or more dimensions, see `WeightSparsity`."""
    weight = weight.detach()
    live = weight != 0
    axes = _linear(live) if weight.dim() == 2 else _convolution(live)
    values = weight if weight.dtype == torch.float64 else weight.float()
    return WeightSparsity(
        name,
        tuple(weight.shape),
        weight.numel(),
        int(live.sum()),
        **axes,
        fine=1 - int(live.sum()) / weight.numel(),
        std=float(values.std()) if weight.numel() > 1 else 0.0,
        mean=float(values.mean()),
        magnitude=float(values.abs().mean()),
    )


def _linear(live: Tensor) -> dict[str, float]:
    rows, columns = _dead(live.any(1)), _dead(live.any(0))
    return {"columns": columns, "rows": rows, "channels": 0.0, "kernels": rows, "filters": 0.0}


def _convolution(live: Tensor) -> dict[str, float]:
    kernels = live.flatten(2).any(2)
    shares = {"channels": _dead(kernels.any(0)), "kernels": _dead(kernels), "filters": _dead(kernels.any(1))}
    return {"columns": 0.0, "rows": 0.0, **shares}


def _dead(live: Tensor) -> float:
    """The share of structures in which nothing lives."""
    return 1 - int(live.sum()) / live.numel()
