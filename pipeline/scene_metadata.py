"""What names and metadata tell about a scene: bands, resolution, time, platform, radiometry. Opens no raster."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from harmonium.errors import SceneError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SENTINEL2_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
"""In the order of `band_id` in a product's metadata."""
SENTINEL2_QUANTIFICATION = 10_000.0
"""DN per unit of reflectance."""
SENTINEL2_OFFSET_DN = -1000.0
"""Added to the DN of every band since processing baseline 04.00 (2022-01-25)."""

# A token of a file name ends at one of these.
_START, _END = r"(?:^|(?<=[_\-. ]))", r"(?=$|[_\-. ])"
_BAND = re.compile(_START + r"(B\d{1,2}A?(?:_VCID_[12])?|VV|VH|HH|HV)" + _END, re.IGNORECASE)
_NUMBERED = re.compile(r"B(\d+)(A?)(.*)", re.IGNORECASE)
_RESOLUTION = re.compile(_START + r"R?(\d+(?:\.\d+)?)m" + _END, re.IGNORECASE)
# Quality layers, angles and pictures for people: not reflectance.
_AUXILIARY = re.compile(
    _START
    + r"(?:preview.*|quicklook|browse|thumbnail|TCI|PVI|[A-Z]?QA\d*|SCL|AOT|WVP|CLDPRB|SNWPRB|MSK|CLM|CLOUD|UDM2?|"
    + r"SAA|SZA|VAA|VZA|ATRAN|CDIST|DRAD|EMIS|EMSD|TRAD|URAD)"
    + _END,
    re.IGNORECASE,
)
_SENTINEL2_PRODUCT = re.compile(r"(S2[A-D])_(?:OPER_)?MSIL(?:1C|2A)_(\d{8}T\d{6})(?:_N(\d{4}))?", re.IGNORECASE)
_SENTINEL2_TILE = re.compile(_START + r"(?:L\dC?A?_)?T\d{2}[A-Z]{3}_(\d{8}T\d{6})" + _END, re.IGNORECASE)
_LANDSAT_PRODUCT = re.compile(r"L([COTEM])(\d{2})_L\w{3}_\d{6}_(\d{8})", re.IGNORECASE)
_LANDSAT_SCENE = re.compile(r"L([COTEM])(\d)\d{6}(\d{4})(\d{3})[A-Z]{3}\d{2}", re.IGNORECASE)
_LANDSAT_SENSORS = {"C": "oli-tirs", "O": "oli", "E": "etm+", "M": "mss"}
# Most telling first; a TIFF's own DateTime comes last of all, since many programs write the time of the file there.
_TIME_TAGS = (
    "ACQUISITION_DATETIME", "ACQUISITIONDATETIME", "SENSING_TIME", "DATATAKE_SENSING_START", "PRODUCT_START_TIME",
    "DATETIME", "TIME", "TIME_COVERAGE_START",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductMetadata:
    """What a product's name or metadata file tells; None where it is silent."""

    time: datetime | None = None
    """Start of sensing, UTC."""
    platform: str | None = None
    """As STAC writes it: `sentinel-2a`, `landsat-8`."""
    sensor: str | None = None
    """As STAC writes it: `msi`, `oli-tirs`."""
    scale: float | None = None
    """Reflectance per DN."""
    offsets: tuple[tuple[str, float], ...] = ()
    """(band name, or `*` for every other; what is added after `scale`, in reflectance)."""
    nodata: int | None = None
    """The DN that stands for "not observed"."""

    def offset(self, band: str) -> float:
        """Return the reflectance to add to a band's scaled DN; 0 where none is known."""
        known = dict(self.offsets)
        return known.get(band, known.get("*", 0.0))

    def or_else(self, other: ProductMetadata) -> ProductMetadata:
        """Fill what is None here from another source; scale, offsets and nodata come from one source together."""
        radiometry = self if self.scale is not None else other
        return ProductMetadata(
            time=self.time or other.time,
            platform=self.platform or other.platform,
            sensor=self.sensor or other.sensor,
            scale=radiometry.scale,
            offsets=radiometry.offsets,
            nodata=radiometry.nodata,
        )


def parse_time(text: str) -> datetime | None:
    """Return the time that a text states, aware and in UTC (where it names no zone, it is taken as UTC), or None.

    Knows ISO 8601, the TIFF form `2020:05:01 10:20:30` and the compact `20190727T155901`.
    """
    text = re.sub(r"^(\d{4}):(\d\d):(\d\d)[ T]", r"\1-\2-\3T", text.strip())
    # Nanoseconds, which numpy writes, are more than datetime holds.
    text = re.sub(r"(\.\d{6})\d+", r"\1", text)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def require_time(time: str | datetime | None) -> datetime | None:
    """Return the time that a caller gave, aware and in UTC.

    Raises
    ------
    SceneError
        It is no time.
    """
    if time is None:
        return None
    parsed = parse_time(time.isoformat() if isinstance(time, datetime) else time)
    if parsed is None:
        raise SceneError(f"expected a time such as 2020-05-01 or 2020-05-01T10:20:30Z; found {time!r}; write it so")
    return parsed


def time_from_tags(tags: Mapping[str, object]) -> datetime | None:
    """Return the time of acquisition that metadata items (of a GeoTIFF, of a dataset) state, or None."""
    upper = {name.upper(): str(value) for name, value in tags.items()}
    found = (parse_time(upper[name]) for name in _TIME_TAGS if name in upper)
    return next((time for time in found if time is not None), None)


def metadata_from_name(name: str) -> ProductMetadata:
    """Return what the name of a product, a folder or a file tells, by the naming rules of Sentinel-2 and Landsat."""
    if match := _SENTINEL2_PRODUCT.search(name):
        satellite, stamp, baseline = match.groups()
        shifted = baseline is not None and int(baseline) >= 400
        return ProductMetadata(
            time=parse_time(stamp.upper()),
            platform=f"sentinel-2{satellite[-1].lower()}",
            sensor="msi",
            scale=None if baseline is None else 1 / SENTINEL2_QUANTIFICATION,
            offsets=(("*", SENTINEL2_OFFSET_DN / SENTINEL2_QUANTIFICATION),) if shifted else (),
        )
    if match := _SENTINEL2_TILE.search(name):
        return ProductMetadata(time=parse_time(match[1].upper()), platform="sentinel-2", sensor="msi")
    if match := _LANDSAT_PRODUCT.search(name):
        return _landsat(match[1], int(match[2]), parse_time(match[3]))
    if match := _LANDSAT_SCENE.search(name):
        start, day = parse_time(f"{match[3]}-01-01"), int(match[4])
        time = start + timedelta(days=day - 1) if start is not None and 1 <= day <= 366 else None
        return _landsat(match[1], int(match[2]), time)
    return ProductMetadata()


def _landsat(letter: str, number: int, time: datetime | None) -> ProductMetadata:
    thermal = "tirs" if number >= 8 else "tm"
    sensor = _LANDSAT_SENSORS.get(letter.upper(), thermal)
    return ProductMetadata(time=time, platform=f"landsat-{number}", sensor=sensor)


def metadata_from_safe(path: Path) -> ProductMetadata:
    """Return what the metadata file MTD_MSIL1C.xml or MTD_MSIL2A.xml of a Sentinel-2 product tells.

    DN are never changed: the offset of -1000 DN that products carry since baseline 04.00 becomes
    `offsets` of -0.1, so that reflectance = DN * scale + offset, as the CF conventions have it.

    Raises
    ------
    SceneError
        The file is not XML.
    """
    try:
        return _from_product_xml(ET.parse(path).getroot())
    except (ET.ParseError, ValueError) as error:
        raise SceneError(
            f"expected the XML metadata of a Sentinel-2 product; found {path}: {error}; fetch it again"
        ) from error


def _from_product_xml(root: ET.Element) -> ProductMetadata:
    texts: dict[str, str] = {}
    offsets_dn: dict[str, float] = {}
    nodata: int | None = None
    for node in root.iter():
        tag, text = node.tag.rpartition("}")[2], (node.text or "").strip()
        texts.setdefault(tag, text)
        if tag in ("RADIO_ADD_OFFSET", "BOA_ADD_OFFSET"):
            offsets_dn[_sentinel2_band(node.get("band_id", ""))] = float(text)
        if tag == "Special_Values" and node.findtext("SPECIAL_VALUE_TEXT") == "NODATA":
            nodata = int(node.findtext("SPECIAL_VALUE_INDEX", "0"))
    quantification = float(
        texts.get("BOA_QUANTIFICATION_VALUE") or texts.get("QUANTIFICATION_VALUE") or SENTINEL2_QUANTIFICATION
    )
    return ProductMetadata(
        time=time_from_tags(texts),
        platform=texts.get("SPACECRAFT_NAME", "").lower() or None,
        sensor="msi",
        scale=1 / quantification,
        offsets=tuple((band, dn / quantification) for band, dn in offsets_dn.items()),
        nodata=nodata,
    )


def _sentinel2_band(band_id: str) -> str:
    if not band_id.isdigit() or int(band_id) >= len(SENTINEL2_BANDS):
        raise ValueError(f"an offset with band_id {band_id!r} rather than 0 to 12")
    return SENTINEL2_BANDS[int(band_id)]


def band_from_name(stem: str) -> str | None:
    """Return the band that a file's name without suffix states (`…_B8A`, `…_B02_10m`, `…-vv`), in capitals, or None."""
    found = _BAND.findall(stem)
    return found[-1].upper() if found else None


def without_band(stem: str) -> str:
    """Return a file's stem without its band and resolution: what the files of one acquisition have in common."""
    return _RESOLUTION.sub("", _BAND.sub("", stem)).strip("_-. ")


def band_order(name: str) -> tuple[int, int, str]:
    """Return the sort key of the sensors' natural order: B01 … B08, B8A, B09 …; names without a number come last."""
    match = _NUMBERED.fullmatch(name)
    if match is None:
        return (1000, 0, "")  # equal keys: a stable sort keeps the order of the files
    return int(match[1]), int(bool(match[2])), match[3]


def resolution_from_name(name: str) -> float | None:
    """Return the metres that a file's or folder's name states as `_10m` or `R10m`, or None."""
    found = _RESOLUTION.findall(name)
    return float(found[-1]) if found else None


def is_auxiliary(stem: str) -> bool:
    """Tell whether a file's name marks a quality layer, an angle or a preview rather than a band."""
    return _AUXILIARY.search(stem) is not None


def safe_id(text: str) -> str:
    """Return a name of [A-Za-z0-9_.-] only, that is no path and does not start as hidden or reserved names do."""
    return re.sub(r"[^A-Za-z0-9_.\-]+", "-", text).lstrip("._-").rstrip("-") or "scene"


def require_id(scene_id: str) -> str:
    """Return a caller's scene id unchanged.

    Raises
    ------
    SceneError
        It holds other characters than [A-Za-z0-9_.-], or does not start with a letter or digit.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.\-]*", scene_id):
        raise SceneError(
            "expected a scene id of the characters A-Z a-z 0-9 _ . - that starts with a letter or digit; "
            f"found {scene_id!r}; {safe_id(scene_id)!r} would do"
        )
    return scene_id
