"""Asking an archive: which scenes lie there, then, with these bands, at this quality. Reads no pixel."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import rioxarray  # noqa: F401 - gives arrays their `.rio`
import xarray as xr
from rasterio.crs import CRS

from harmonium.errors import UsageError
from harmonium.models.quality import Quality, psnr
from harmonium.pipeline.archive import Archive, ArchivedGroup, ArchivedScene
from harmonium.pipeline.grid import Tile
from harmonium.pipeline.scene_layout import COMPLETE
from harmonium.pipeline.scene_metadata import require_time
from harmonium.pipeline.windows import LONLAT, Bbox, check_bbox, overlap, parse_crs, to_lonlat, window_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One resolution group of one scene that fits what was asked."""

    scene: ArchivedScene
    """The scene."""

    group: ArchivedGroup
    """The group of it."""

    bands: tuple[str, ...]
    """The bands that were asked for, or all of the group's."""

    time: datetime | None
    """When the scene was acquired."""

    bbox: Bbox | None
    """Where it lies, in degrees; None without georeference."""

    window: Tile | None
    """The pixels that lie in the place that was asked for; None where no place was."""

    quality: Quality
    """What was measured when it was compressed, all its bands."""

    @property
    def psnr(self) -> float:
        """PSNR in dB over all bands of the group; NaN where no pixel carries data."""
        count = self.quality.count.sum()
        return float(psnr(self.quality.squared_error.sum() / count, self.group.peak)) if count else float("nan")

    def open(self, **options: Any) -> xr.DataArray:
        """The pixels (band, y, x) that were asked for, lazily; options are those of `ArchivedGroup.open`."""
        array = self.group.open(**options).sel(band=list(self.bands))
        if self.window is None:
            return array
        rows, columns = self.window.slices
        return array.isel(y=rows, x=columns)

    def summary(self) -> dict[str, Any]:
        """What is known of it, as JSON values: `pandas.DataFrame(hit.summary() for hit in hits)` makes a table."""
        return {
            "scene": self.scene.id,
            "group": self.group.name,
            "time": None if self.time is None else self.time.isoformat(),
            "bbox": None if self.bbox is None else list(self.bbox),
            "bands": list(self.bands),
            "psnr_db": round(self.psnr, 3),
            "bits_per_pixel": round(self.quality.bits_per_pixel, 4),
            "bytes": self.quality.nbytes,
            "path": f"{self.scene.url}/{self.group.path}",
        }


def query(
    archive: Archive,
    *,
    bbox: Bbox | None = None,
    crs: CRS | str = LONLAT,
    time: str | None = None,
    bands: Sequence[str] = (),
    min_psnr: float | None = None,
) -> list[Hit]:
    """Complete scenes that fit, one hit for each resolution group that does, by time and name.

    Parameters
    ----------
    archive
        Where to look.
    bbox, crs
        A place: (west, south, east, north); west > east crosses 180°. Groups of which it touches a pixel fit; scenes
        without georeference lie nowhere.
    time
        An interval `START/END` as STAC writes it, both included, either may be `..`; or one day or instant. UTC where
        it names no zone. A day lasts until its end. Scenes without a time fit no interval.
    bands
        Bands that a group must have, all of them.
    min_psnr
        Lowest PSNR over all bands of the group, in dB.

    Raises
    ------
    UsageError
        If bbox, CRS or time are not what they should be.
    """
    crs = parse_crs(crs)
    place = None if bbox is None else (check_bbox(bbox, crs), crs)
    around = None if bbox is None else to_lonlat(bbox, crs)
    interval = None if time is None else parse_interval(time)
    hits: list[Hit] = []
    for scene in archive.values():
        if scene.state != COMPLETE:
            continue
        acquired, where = _time_of(scene.item), _bbox_of(scene.item)
        if around is not None and (where is None or not overlap(around, where)):
            continue
        if interval is not None and (acquired is None or not interval[0] <= acquired <= interval[1]):
            continue
        hits += _hits(scene, acquired, where, bands, place)
    if min_psnr is not None:
        # NaN, of a scene without data, is no quality at all: it fits no demand.
        hits = [hit for hit in hits if hit.psnr >= min_psnr]
    unknown = datetime.max.replace(tzinfo=UTC)
    return sorted(hits, key=lambda hit: (hit.time or unknown, hit.scene.id))


def _hits(
    scene: ArchivedScene,
    time: datetime | None,
    where: Bbox | None,
    bands: Sequence[str],
    place: tuple[Bbox, CRS] | None,
) -> Iterator[Hit]:
    """Groups of a scene that have the bands, and pixels in the place."""
    for group in scene.values():
        if not set(bands) <= set(group.bands):
            continue
        window = None
        # The bbox in degrees is a little larger than the scene.
        if place is not None and (window := _window(group, *place)) is None:
            continue
        yield Hit(
            scene=scene,
            group=group,
            bands=tuple(bands) or group.bands,
            time=time,
            bbox=where,
            window=window,
            quality=group.quality(),
        )


def _window(group: ArchivedGroup, bbox: Bbox, crs: CRS) -> Tile | None:
    array = group.open(chunks=None)
    return window_of(bbox, crs, array.rio.crs, array.rio.transform(), *array.shape[1:])


def parse_interval(text: str) -> tuple[datetime, datetime]:
    """First and last instant of `START/END`, `START/..`, `../END`, or of one day or instant.

    Raises
    ------
    UsageError
        If it is none of these, or ends before it starts.
    """
    first, slash, last = text.partition("/")
    try:
        start = datetime.min.replace(tzinfo=UTC) if first in ("", "..") and slash else _instant(first)
        if not slash:
            return start, _end_of(first, start)
        end = datetime.max.replace(tzinfo=UTC) if last in ("", "..") else _end_of(last, _instant(last))
    except ValueError as error:
        raise UsageError(f"A time is 2024-05-01, 2024-05-01/2024-06-30 or 2024-05-01/.., got {text!r}") from error
    if end < start:
        raise UsageError(f"A time interval ends after it starts, got {text!r}")
    return start, end


def _instant(text: str) -> datetime:
    found = require_time(text)
    assert found is not None
    return found


def _end_of(text: str, start: datetime) -> datetime:
    """A day, written without a time, lasts until its last microsecond."""
    return start if "T" in text or ":" in text else start.replace(hour=23, minute=59, second=59, microsecond=999_999)


def _time_of(item: dict[str, Any]) -> datetime | None:
    text = item["properties"].get("datetime")
    return None if text is None else datetime.fromisoformat(str(text))


def _bbox_of(item: dict[str, Any]) -> Bbox | None:
    box = item.get("bbox")
    return None if box is None else (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
