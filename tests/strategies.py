"""What hypothesis draws for these tests, in one place."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from harmonium.models.targets import Lossless, MaxError, Psnr, Ratio, Step, Target
from harmonium.pipeline.grid import Tile, TileGrid

SCENE_DTYPES = ("uint8", "int16", "uint16", "float32")


def scene_dtypes() -> st.SearchStrategy[np.dtype[Any]]:
    return st.sampled_from(SCENE_DTYPES).map(np.dtype)


def grids(max_side: int = 60) -> st.SearchStrategy[TileGrid]:
    sides = st.integers(1, max_side)
    return st.builds(
        TileGrid, height=sides, width=sides, chunk=st.sampled_from((1, 3, 8, 16, 64)), shard=st.integers(1, 4)
    )


def tiles(max_side: int = 90) -> st.SearchStrategy[Tile]:
    offsets, sides = st.integers(0, max_side), st.integers(1, max_side)
    return st.builds(Tile, col_off=offsets, row_off=offsets, width=sides, height=sides)


@st.composite
def pixels(
    draw: st.DrawFn,
    *,
    shape: tuple[int, int, int] | None = None,
    dtype: np.dtype[Any] | None = None,
    max_bands: int = 4,
    max_side: int = 24,
) -> NDArray[Any]:
    """(band, y, x) in any dtype of a scene; floats within ±1e4, some of them NaN."""
    if shape is None:
        shape = (draw(st.integers(1, max_bands)), draw(st.integers(1, max_side)), draw(st.integers(1, max_side)))
    if dtype is None:
        dtype = draw(scene_dtypes())
    # A seed rather than drawn elements: a large array of drawn elements is slow and shrinks to nothing of use.
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if dtype.kind == "f":
        values = rng.uniform(-1e4, 1e4, shape).astype(dtype)
        values[rng.random(shape) < draw(st.sampled_from((0.0, 0.05, 0.5)))] = np.nan
        return values
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)


def masks(shape: tuple[int, ...]) -> st.SearchStrategy[NDArray[np.bool_]]:
    return hnp.arrays(np.bool_, shape)


def any_target(bands: int | None = None) -> st.SearchStrategy[Target]:
    """Targets of every kind, with one value or one for each band."""

    def values(least: float, *, exclude_min: bool) -> st.SearchStrategy[float | tuple[float, ...]]:
        one = st.floats(least, 1e9, exclude_min=exclude_min)
        count = st.integers(1, 5) if bands is None else st.just(bands)
        return one | count.flatmap(lambda n: st.tuples(*[one] * n))

    return st.one_of(
        values(0, exclude_min=True).map(Step),
        values(0, exclude_min=True).map(Psnr),
        st.floats(1, 1e9, exclude_min=True).map(Ratio),
        values(0, exclude_min=False).map(MaxError),
        st.just(Lossless()),
    )
