"""The sparsity table of a network's weights, as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SparsityRow:
    """One weight tensor, in the columns of the tables in Distiller's model zoo.

    Each `zero_…` is the fraction, in [0, 1], of structures in which every entry is exactly zero. The definitions are
    those that reproduce the zoo's published tables, element-wise pruned AlexNet and MobileNet:

    | column | linear `[out, in]` | convolution `[out, in / groups, …]` |
    | --- | --- | --- |
    | Cols | `weight[:, i]`: an input that nothing uses | 0 |
    | Rows | `weight[o]`: an output neuron without inputs | 0 |
    | Ch | 0 | `weight[:, i]`: an input channel, in all filters |
    | 2D | as Rows | `weight[o, i]`: a kernel |
    | 3D | 0 | `weight[o]`: a filter |

    A convolution of one or three spatial dimensions has the same columns: its kernel is what spans the spatial
    dimensions. In a grouped one Ch is a position among a group's inputs, zero in all groups; in a depthwise one Ch is 1
    if the whole tensor is zero and 0 otherwise, and 3D equals 2D. A state dict does not say that a convolution is
    transposed; its axes are then `[in, out / groups, …]`, so 3D counts input channels and Ch output channels.

    Attributes:
        entries: NNZ (dense).
        nonzero: NNZ (sparse); NaN and infinity are not zero.
        not_finite: how many entries are NaN or infinite.
        std: sample standard deviation (divided by n − 1, torch's default) of all entries, zeros included; None for
            fewer than two entries, and where an entry or the result is not finite. The zoo does not say
            which deviation it prints.
        mean: of all entries, zeros included; None for no entries, and where one or the result is not finite.
        mean_magnitude: Abs-Mean, the mean of |w|; as `mean`.
    """

    name: str
    shape: tuple[int, ...]
    nonzero: int
    not_finite: int
    zero_columns: float
    zero_rows: float
    zero_channels: float
    zero_kernels: float
    zero_filters: float
    std: float | None
    mean: float | None
    mean_magnitude: float | None

    @property
    def entries(self) -> int:
        return math.prod(self.shape)

    @property
    def sparsity(self) -> float:
        """Fine: the fraction of entries that are zero."""
        return fraction_of_zeros(self.entries, self.nonzero)


@dataclass(frozen=True)
class SparsityTable:
    """The rows in the order of the file, and their totals.

    The totals are entries, entries that are not zero, and Fine; the zoo prints 0.00000 for the other columns of its
    last line, which are left out here: fractions of structures do not add up over layers.
    """

    rows: Sequence[SparsityRow]

    @property
    def entries(self) -> int:
        return sum(row.entries for row in self.rows)

    @property
    def nonzero(self) -> int:
        return sum(row.nonzero for row in self.rows)

    @property
    def sparsity(self) -> float:
        """The fraction of all entries that are zero."""
        return fraction_of_zeros(self.entries, self.nonzero)


def fraction_of_zeros(entries: int, nonzero: int) -> float:
    """Returns the fraction, in [0, 1], that is zero; of nothing 0."""
    return (entries - nonzero) / entries if entries else 0.0
