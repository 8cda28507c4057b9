"""Asking an archive: which scenes lie there, then, with these bands, at this quality. Reads no pixel."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import xarray as xr
from rasterio.crs import CRS

from harmonium.errors import UsageError
from harmonium.models.quality import Quality, psnr
from harmonium.pipeline.archive import Archive, ArchivedGroup, ArchivedScene
from harmonium.pipeline.scene_layout import COMPLETE
from harmonium.pipeline.scene_metadata import require_time
from harmonium.pipeline.windows import LONLAT, Bbox, check_bbox, overlap, to_lonlat, window_of


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

    quality: Quality
    """What was measured when it was compressed, all its bands."""

    window: Bbox | None
    """The part that was asked for."""

    window_crs: CRS
    """CRS of `window`."""

    @property
    def psnr(self) -> float:
        """PSNR in dB over all bands of the group; NaN where no pixel carries data."""
        count = self.quality.count.sum()
        return float(psnr(self.quality.squared_error.sum() / count, self.group.peak)) if count else float("nan")

    def open(self, **options: Any) -> xr.DataArray | None:
        """The pixels (band, y, x) that were asked for, lazily, or None where the place lies beside the picture.

        The bbox of a scene is a little larger than the scene, which is why a scene can be a hit, and yet hold nothing.
        Options are those of `ArchivedGroup.open`.
        """
        array = self.group.open(**options).sel(band=list(self.bands))
        if self.window is None:
            return array
        _, height, width = array.shape
        tile = window_of(self.window, self.window_crs, array.rio.crs, array.rio.transform(), height, width)
        if tile is None:
            return None
        rows, columns = tile.slices
        return array.isel(y=rows, x=columns)


def query(
    archive: Archive,
    *,
    bbox: Bbox | None = None,
    crs: CRS = LONLAT,
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
        A place that they touch; west > east crosses 180°. Scenes without georeference are nowhere.
    time
        An interval `START/END` as STAC writes it, either end may be `..`; or one day or instant. Scenes without a time
        fit no interval.
    bands
        Bands that a group must have, all of them.
    min_psnr
        Lowest PSNR over all bands of the group, in dB.

    Raises
    ------
    UsageError
        If bbox or time are not what they should be.
    """
    place = None if bbox is None else to_lonlat(check_bbox(bbox, crs), crs)
    interval = None if time is None else parse_interval(time)
    hits = []
    for scene in archive.values():
        if scene.state != COMPLETE:
            continue
        item = scene.item
        acquired = _time_of(item)
        where = _bbox_of(item)
        if place is not None and (where is None or not overlap(place, where)):
            continue
        if interval is not None and (acquired is None or not interval[0] <= acquired <= interval[1]):
            continue
        for group in scene.values():
            if not set(bands) <= set(group.bands):
                continue
            hit = Hit(
                scene=scene,
                group=group,
                bands=tuple(bands) or group.bands,
                time=acquired,
                bbox=where,
                quality=group.quality(),
                window=bbox,
                window_crs=crs,
            )
            # NaN, of a scene without data, is no quality at all: it fits no demand.
            if min_psnr is None or hit.psnr >= min_psnr:
                hits.append(hit)
    unknown = datetime.max.replace(tzinfo=UTC)
    return sorted(hits, key=lambda hit: (hit.time or unknown, hit.scene.id))


def table(hits: Sequence[Hit]) -> pd.DataFrame:
    """Hits as a table, a row each."""
    rows = [
        {
            "scene": hit.scene.id,
            "group": hit.group.name,
            "time": None if hit.time is None else hit.time.isoformat(),
            "bbox": hit.bbox,
            "bands": ",".join(hit.bands),
            "psnr_db": hit.psnr,
            "bits_per_pixel": hit.quality.bits_per_pixel,
            "bytes": hit.quality.nbytes,
        }
        for hit in hits
    ]
    columns = ["scene", "group", "time", "bbox", "bands", "psnr_db", "bits_per_pixel", "bytes"]
    return pd.DataFrame(rows, columns=columns)


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
