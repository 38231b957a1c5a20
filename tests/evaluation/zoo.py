"""The sparsity tables that the model zoo of Distiller publishes, as printed."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One row; percentages as the digits printed (below, 0 stands for 0.00000).

    Attributes:
        printed_nonzero: NNZ (sparse) as printed, which is one less than Fine says where it was cut off to an integer.
    """

    name: str
    shape: tuple[int, ...]
    printed_nonzero: int
    cols: str
    rows: str
    channels: str
    kernels: str
    filters: str
    fine: str
    std: float
    mean: float
    mean_magnitude: float

    @property
    def entries(self) -> int:
        return math.prod(self.shape)

    @property
    def nonzero(self) -> int:
        """The count whose Fine is the one printed."""
        counts = (self.printed_nonzero, self.printed_nonzero + 1)
        return next(n for n in counts if f"{100 * (self.entries - n) / self.entries:.5f}" == self.fine)

    def whole(self, percent: str, structures: int) -> int:
        """How many of `structures` the percentage is; it must be that of a whole number, to its last digit."""
        count = round(float(percent) / 100 * structures)
        assert f"{100 * count / structures:.5f}" == percent, (self.name, percent, structures)
        return count


def _read(text: str) -> tuple[Published, ...]:
    return tuple(_row(line.split()) for line in text.strip().splitlines())


def _row(cells: list[str]) -> Published:
    name, shape, nonzero, *percent, std, mean, magnitude = cells
    lengths, digits = tuple(map(int, shape.split("x"))), [f"{float(each):.5f}" for each in percent]
    return Published(name, lengths, int(nonzero), *digits, float(std), float(mean), float(magnitude))


ALEXNET = _read("""
features.module.0.weight 64x3x11x11 13411 0 0 0 0 0 42.27359 0.14391 -0.00002 0.08805
features.module.3.weight 192x64x5x5 115560 0 0 0 1.91243 0 62.38281 0.04703 -0.00250 0.02289
features.module.6.weight 384x192x3x3 256565 0 0 0 6.18490 0 61.33445 0.03354 -0.00184 0.01803
features.module.8.weight 256x384x3x3 315065 0 0 0 6.96411 0 64.38881 0.02646 -0.00168 0.01422
features.module.10.weight 256x256x3x3 186938 0 0 0 15.49225 0 68.30614 0.02714 -0.00246 0.01409
classifier.1.weight 4096x9216 3398881 0 0.21973 0 0.21973 0 90.99604 0.00589 -0.00020 0.00168
classifier.4.weight 4096x4096 1782769 0.21973 3.46680 0 3.46680 0 89.37387 0.00849 -0.00066 0.00263
classifier.6.weight 1000x4096 994738 3.36914 0 0 0 0 75.71440 0.01718 0.00030 0.00778
""")

MOBILENET = _read("""
module.model.0.0.weight 32x3x3x3 864 0 0 0 0 0 0 0.14466 0.00103 0.06508
module.model.1.0.weight 32x1x3x3 288 0 0 0 0 0 0 0.32146 0.01020 0.12932
module.model.1.3.weight 64x32x1x1 2048 0 0 0 0 0 0 0.11942 0.00024 0.03627
module.model.2.0.weight 64x1x3x3 576 0 0 0 0 0 0 0.15809 0.00543 0.11513
module.model.2.3.weight 128x64x1x1 8192 0 0 0 0 0 0 0.08442 -0.00031 0.04182
module.model.3.0.weight 128x1x3x3 1152 0 0 0 0 0 0 0.16780 0.00125 0.10545
module.model.3.3.weight 128x128x1x1 16384 0 0 0 0 0 0 0.07126 -0.00197 0.04123
module.model.4.0.weight 128x1x3x3 1152 0 0 0 0 0 0 0.10182 0.00171 0.08719
module.model.4.3.weight 256x128x1x1 13108 0 0 10.15625 59.99756 12.50000 59.99756 0.05543 -0.00002 0.02760
module.model.5.0.weight 256x1x3x3 2304 0 0 0 0 0 0 0.12516 -0.00288 0.08058
module.model.5.3.weight 256x256x1x1 26215 0 0 12.50000 59.99908 23.82812 59.99908 0.04453 0.00002 0.02271
module.model.6.0.weight 256x1x3x3 2304 0 0 0 0 0 0 0.08024 0.00252 0.06377
module.model.6.3.weight 512x256x1x1 52429 0 0 23.82812 59.99985 14.25781 59.99985 0.03561 -0.00057 0.01779
module.model.7.0.weight 512x1x3x3 4608 0 0 0 0 0 0 0.11008 -0.00018 0.06829
module.model.7.3.weight 512x512x1x1 104858 0 0 14.25781 59.99985 21.28906 59.99985 0.02944 -0.00060 0.01515
module.model.8.0.weight 512x1x3x3 4608 0 0 0 0 0 0 0.08258 0.00370 0.04905
module.model.8.3.weight 512x512x1x1 104858 0 0 21.28906 59.99985 28.51562 59.99985 0.02865 -0.00046 0.01465
module.model.9.0.weight 512x1x3x3 4608 0 0 0 0 0 0 0.07578 0.00468 0.04201
module.model.9.3.weight 512x512x1x1 104858 0 0 28.51562 59.99985 23.43750 59.99985 0.02939 -0.00044 0.01511
module.model.10.0.weight 512x1x3x3 4608 0 0 0 0 0 0 0.07091 0.00014 0.04306
module.model.10.3.weight 512x512x1x1 104858 0 0 24.60938 59.99985 20.89844 59.99985 0.03095 -0.00059 0.01672
module.model.11.0.weight 512x1x3x3 4608 0 0 0 0 0 0 0.05729 -0.00518 0.04267
module.model.11.3.weight 512x512x1x1 104858 0 0 20.89844 59.99985 17.57812 59.99985 0.03229 -0.00044 0.01797
module.model.12.0.weight 512x1x3x3 4608 0 0 0 0 0 0 0.04981 -0.00136 0.03967
module.model.12.3.weight 1024x512x1x1 209716 0 0 16.01562 59.99985 44.23828 59.99985 0.02514 -0.00106 0.01278
module.model.13.0.weight 1024x1x3x3 9216 0 0 0 0 0 0 0.02396 -0.00949 0.01549
module.model.13.3.weight 1024x1024x1x1 419431 0 0 44.72656 59.99994 1.46484 59.99994 0.01801 -0.00017 0.00931
module.fc.weight 1000x1024 409600 1.46484 0 0 0 0 60.00000 0.05078 0.00271 0.02734
""")
