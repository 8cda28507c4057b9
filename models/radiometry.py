"""What pixel values mean to a model: offsets and scale for the network, the range for PSNR, their native type."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Pixels = NDArray[Any]
"""(bands, height, width) in the native type of a radiometry."""

DTYPES = ("uint8", "int16", "uint16", "float32")
"""Pixel types that a codec takes, in the order of their numbers in a payload."""

_LIMIT = 2.0**24
"""Normalised floats stay within this: far beyond any data that a model knows, and no network overflows on it."""


def default_peak(dtype: str) -> float:
    """Value range that PSNR refers to, where nobody says otherwise, in DN.

    255 for 8-bit pixels; 10 000 for 16-bit ones, the quantification value of Sentinel-2 and of most surface reflectance
    products; 1 for floats.
    """
    return {"uint8": 255.0, "int16": 10_000.0, "uint16": 10_000.0, "float32": 1.0}[dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class Radiometry:
    """Affine map of each band from DN to what the network sees, (DN - offset) / scale."""

    dtype: str
    """Native pixel type: one of `DTYPES`."""

    offset: tuple[float, ...]
    """For each band, the DN that the network sees as 0."""

    scale: tuple[float, ...]
    """For each band, how many DN the network sees as 1; equal for all bands where their errors count alike."""

    peak: float
    """Value range that PSNR refers to, in DN."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"Pixels must be one of {', '.join(DTYPES)}, got {self.dtype}")
        if not self.offset or len(self.offset) != len(self.scale):
            raise ValueError(f"Every band needs an offset and a scale, got {len(self.offset)} and {len(self.scale)}")
        # The network sees float32: what is finite, or not zero, in float64 only is neither here.
        least, most = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
        if not all(abs(o) <= most for o in self.offset) or not all(least <= s <= most for s in self.scale):
            raise ValueError(
                f"Offsets must be finite and scales positive in float32, got {self.offset} and {self.scale}"
            )
        if not (np.isfinite(self.peak) and self.peak > 0):
            raise ValueError(f"The range for PSNR must be positive, got {self.peak}")

    @property
    def bands(self) -> int:
        """Number of bands."""
        return len(self.offset)

    def normalise(self, pixels: Pixels) -> Tensor:
        """Native pixels (..., bands, height, width) to float32 of the same shape; NaN stays NaN."""
        # torch has few operations on uint16, and numpy converts as fast.
        values = torch.from_numpy(np.array(pixels, dtype=np.float32, order="C"))
        values.sub_(self._column(self.offset)).div_(self._column(self.scale))
        return values.clamp_(-_LIMIT, _LIMIT) if self.dtype == "float32" else values

    def restore(self, values: Tensor) -> Pixels:
        """Inverse of `normalise`, rounded to and clipped at the native type; `values` is overwritten.

        Whatever the network gave, the pixels are finite.
        """
        dn = values.mul_(self._column(self.scale)).add_(self._column(self.offset)).nan_to_num_(nan=0.0)
        dtype = np.dtype(self.dtype)
        if dtype.kind != "f":
            info = np.iinfo(dtype)
            dn = dn.round_().clamp_(info.min, info.max)
        return dn.numpy().astype(dtype, copy=False)

    @staticmethod
    def _column(values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1)
