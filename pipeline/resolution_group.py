"""The bands of a scene that share one grid, and how layers fall into such groups."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import rioxarray  # noqa: F401 - gives arrays their `.rio`
import xarray as xr

from harmonium.errors import SceneError
from harmonium.pipeline.grid import CHUNK_PIXELS, SHARD_CHUNKS, Tile
from harmonium.pipeline.scene_metadata import ProductMetadata, band_order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from affine import Affine
    from numpy.typing import NDArray
    from rasterio.crs import CRS

    from harmonium.pipeline.scene_layer import Layer


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResolutionGroup:
    """Bands of one acquisition on one grid, read from their files only where and when asked."""

    name: str
    """`r10m`; in a CRS of degrees `r0.00025deg`; without georeference `r2px`: pixels of the finest group."""
    bands: tuple[str, ...]
    """Names of the bands, each once, in the sensor's order."""
    dtype: np.dtype[Any]
    """uint8, int16, uint16 or float32."""
    crs: CRS | None
    """None without georeference."""
    transform: Affine
    """Pixel corner (column, row) to coordinates (x, y); the identity without georeference."""
    nodata: float | int | None
    """The value of pixels that were not observed; NaN for floats, where it is set so; None: every value is valid."""
    scales: tuple[float, ...]
    """Per band: physical value = DN * scale + offset, as the CF conventions have it. 1 where none is known."""
    offsets: tuple[float, ...]
    """Per band, in physical units, such as -0.1 for reflectance of Sentinel-2 since baseline 04.00; never applied."""
    sources: tuple[xr.DataArray, ...]
    """Lazily indexed (band, y, x), without Dask and without a cache; their bands in sequence are `bands`."""

    def __post_init__(self) -> None:
        names = tuple(band for source in self.sources for band in source["band"].values.tolist())
        duplicates = sorted({band for band in names if names.count(band) > 1})
        if duplicates:
            raise SceneError(
                f"expected each band once in group {self.name}; found {', '.join(duplicates)} more than once; "
                "open the files of each acquisition by themselves, or set different band descriptions"
            )
        if not names or (names, len(names), len(names)) != (self.bands, len(self.scales), len(self.offsets)):
            raise SceneError(
                f"expected a source, a scale and an offset for each of the bands {self.bands}; found "
                f"sources of {names}, {len(self.scales)} scales, {len(self.offsets)} offsets; "
                "make groups with open_scene"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(bands, rows, columns)."""
        return len(self.bands), self.sources[0].shape[1], self.sources[0].shape[2]

    @property
    def scale_factor(self) -> float | tuple[float, ...]:
        """One scale where all bands have the same, else one per band."""
        return self.scales[0] if len(set(self.scales)) == 1 else self.scales

    @property
    def add_offset(self) -> float | tuple[float, ...]:
        """One offset where all bands have the same, else one per band."""
        return self.offsets[0] if len(set(self.offsets)) == 1 else self.offsets

    @property
    def resolution(self) -> float | None:
        """Side of a pixel in metres (in degrees for a geographic CRS); None without georeference."""
        return pixel_size(self.crs, self.transform)

    def read(self, tile: Tile, bands: Sequence[str] | None = None) -> NDArray[Any]:
        """Read one window of every band; plain and without Dask, so that it can be the body of any task.

        Parameters
        ----------
        tile
            A window inside the scene.
        bands
            Names of the bands to read, in the order wanted; None means all.

        Returns
        -------
        ndarray
            Shape (band, y, x), native DN, native byte order.

        Raises
        ------
        SceneError
            The tile reaches outside, a band is unknown, or a file is damaged.
        """
        wanted = self.bands if bands is None else tuple(bands)
        unknown = [band for band in wanted if band not in self.bands]
        if unknown or not wanted:
            raise SceneError(
                f"expected some of the bands {', '.join(self.bands)}; found {unknown or 'none'}; name others"
            )
        whole = Tile(col_off=0, row_off=0, width=self.shape[2], height=self.shape[1])
        if tile.intersection(whole) != tile:
            raise SceneError(f"expected a window inside {whole}; found {tile}; clip it with Tile.intersection")
        read: dict[str, NDArray[Any]] = {}
        for source in self.sources:
            names = source["band"].values.tolist()
            chosen = [index for index, name in enumerate(names) if name in wanted]
            if chosen:
                pixels = source.variable[(chosen, *tile.slices)].values
                read.update((names[index], plane) for index, plane in zip(chosen, pixels, strict=True))
        return np.stack([read[band] for band in wanted]).astype(self.dtype, copy=False)

    @property
    def data(self) -> xr.DataArray:
        """All bands as one DataArray (band, y, x) in Dask chunks of a shard's size, with CRS, transform and attributes.

        The attributes are those of rioxarray: `_FillValue`, `scale_factor`, `add_offset` (or, where the bands differ,
        `scales` and `offsets`); DN are not scaled.
        """
        side = CHUNK_PIXELS * SHARD_CHUNKS
        blocks = [source.chunk({"band": -1, "y": side, "x": side}).data for source in self.sources]
        pixels = da.concatenate(blocks, axis=0).astype(self.dtype)  # type: ignore[no-untyped-call]
        array = xr.DataArray(pixels, dims=("band", "y", "x"), coords={"band": list(self.bands)}, name=self.name)
        a, b, c, d, e, f = self.transform[:6]
        if b == 0 and d == 0:
            rows, cols = np.arange(self.shape[1]) + 0.5, np.arange(self.shape[2]) + 0.5
            array = array.assign_coords(y=f + e * rows, x=c + a * cols)
        if self.crs is not None:
            array = array.rio.write_crs(self.crs).rio.write_transform(self.transform)
        return array.assign_attrs(self._attributes())

    def _attributes(self) -> dict[str, Any]:
        attributes: dict[str, Any] = {} if self.nodata is None else {"_FillValue": self.nodata}
        if isinstance(self.scale_factor, float) and isinstance(self.add_offset, float):
            return {**attributes, "scale_factor": self.scale_factor, "add_offset": self.add_offset}
        return {**attributes, "scales": self.scales, "offsets": self.offsets}


def pixel_size(crs: CRS | None, transform: Affine) -> float | None:
    """Return the side of a pixel in metres, in degrees for a geographic CRS, or None without georeference."""
    if crs is None or transform.is_identity:
        return None
    factor = float(crs.linear_units_factor[1]) if crs.is_projected else 1.0
    # The root of the pixel's area holds for rotated grids, too; rounded to what a name bears.
    return float(f"{math.sqrt(abs(transform.determinant)) * factor:.6g}")


def group_layers(layers: Sequence[Layer], product: ProductMetadata) -> tuple[ResolutionGroup, ...]:
    """Gather layers of the same shape, CRS and transform into groups, the finest first.

    Raises
    ------
    SceneError
        Layers of one grid differ in dtype or nodata or repeat a band, or two grids have the same resolution.
    """
    grids: list[list[Layer]] = []
    for layer in layers:
        same = next((grid for grid in grids if _same_grid(grid[0], layer)), None)
        if same is None:
            grids.append([layer])
        else:
            same.append(layer)
    grids.sort(key=_fineness)
    groups: dict[str, ResolutionGroup] = {}
    for grid in grids:
        name = _group_name(grid[0], finest=grids[0][0])
        if name in groups:
            raise SceneError(
                f"expected one grid for each resolution of a scene; found two of {name}, for example "
                f"{grids[list(groups).index(name)][0].source} and {grid[0].source}, which differ in "
                "shape, CRS or origin; open scenes of different places by themselves"
            )
        groups[name] = _group(name, grid, product)
    return tuple(groups.values())


def _same_grid(one: Layer, other: Layer) -> bool:
    pairs = zip(one.transform[:6], other.transform[:6], strict=True)
    near = all(abs(p - q) <= 1e-3 * max(abs(one.transform.a), abs(one.transform.b)) for p, q in pairs)
    return one.pixels.shape[1:] == other.pixels.shape[1:] and one.crs == other.crs and near


def _fineness(grid: list[Layer]) -> tuple[float, int]:
    layer = grid[0]
    return pixel_size(layer.crs, layer.transform) or 0.0, -layer.pixels.shape[1] * layer.pixels.shape[2]


def _group_name(layer: Layer, *, finest: Layer) -> str:
    size = pixel_size(layer.crs, layer.transform)
    if size is not None:
        return f"r{_decimal(size)}{'deg' if layer.crs is not None and layer.crs.is_geographic else 'm'}"
    if layer.stated_resolution is not None:
        return f"r{_decimal(layer.stated_resolution)}m"
    ratio = finest.pixels.shape[2] / layer.pixels.shape[2]
    # 967 columns beside 1933 are half of them: grids of a crop end on whole pixels.
    return f"r{_decimal(round(ratio) if abs(ratio - round(ratio)) < 0.05 else round(ratio, 2))}px"


def _decimal(number: float) -> str:
    return np.format_float_positional(number, trim="-")


def _group(name: str, grid: list[Layer], product: ProductMetadata) -> ResolutionGroup:
    # The sort is stable: layers whose first band has no number keep the order of the files.
    grid = sorted(grid, key=lambda layer: band_order(layer.bands[0]))
    dtypes = sorted({layer.dtype.name for layer in grid})
    if len(dtypes) > 1:
        examples = ", ".join(next(f"{d} in {m.source}" for m in grid if m.dtype.name == d) for d in dtypes)
        raise SceneError(
            f"expected one dtype for the bands of group {name}; found {examples}; convert them to one dtype, "
            "or name the files that belong together"
        )
    dtype = grid[0].dtype
    product = product if dtype.kind in "iu" else ProductMetadata()  # a product's DN are integers
    stated = {repr(layer.nodata): layer.nodata for layer in grid if layer.nodata is not None}
    if len(stated) > 1:
        raise SceneError(
            f"expected one nodata value in group {name}; found {', '.join(stated)}; set the same for all files"
        )
    radiometry = [_radiometry(layer, product) for layer in grid]
    return ResolutionGroup(
        name=name,
        bands=tuple(band for layer in grid for band in layer.bands),
        dtype=dtype,
        crs=grid[0].crs,
        transform=grid[0].transform,
        nodata=next(iter(stated.values()), product.nodata),
        scales=tuple(scale for scales, _ in radiometry for scale in scales),
        offsets=tuple(offset for _, offsets in radiometry for offset in offsets),
        sources=tuple(layer.pixels for layer in grid),
    )


def _radiometry(layer: Layer, product: ProductMetadata) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return scales and offsets per band: the file's own where it states them, else the product's, never both."""
    if layer.scales is not None and layer.offsets is not None:
        return layer.scales, layer.offsets
    scale = 1.0 if product.scale is None else product.scale
    return (scale,) * len(layer.bands), tuple(product.offset(band) for band in layer.bands)
