"""The bytes of one chunk. docs/format.md says the same in prose; a change here is a new version there.

Modes of version 1:

    header   36 bytes, little-endian
    bands    20 bytes each: pixels that carry data (u32), squared error (f64), largest error (f64)
    mask     zlib, `mask_bytes`
    codes    `code_bytes`

Modes of version 2, whose chunks may be a few hundred bytes altogether, and so have numbers of few bytes (`varints`):

    header   version, mode and dtype, flags (u8 each); bands, height, width; lengths; the fill value if it is unusual
    bands    counts, or one that all share, if not all pixels carry data; squared errors (half an f64); largest errors
    mask, codes, residual

Every length is checked against the bytes at hand before anything is allocated.
"""

import math
import struct
import zlib
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from harmonium.errors import PayloadError
from harmonium.models import varints
from harmonium.models.quality import Quality
from harmonium.models.radiometry import DTYPES, Pixels

VERSIONS = (1, 2)
"""Versions that are read."""

# version, mode, dtype, mask planes; bands, reserved; height, width; mask, code and residual bytes; fill value
_HEADER = struct.Struct("<BBBB HH II III d")
_BAND = np.dtype([("count", "<u4"), ("squared_error", "<f8"), ("max_error", "<f8")])

_PLANES, _COUNTED, _RESIDUAL, _FILL = 3, 4, 8, 4
"""Flags of version 2: planes of the mask; counts follow; so does the residual's length; place of the fill's kind."""

_USUAL_FILLS = {0: struct.pack("<d", 0.0), 1: struct.pack("<d", math.nan)}
"""Fill values that take no bytes, by their kind; kind 2 has its eight bytes."""

MAX_BANDS = 4096
MAX_PIXELS = 1 << 28
"""Most values (bands * height * width) that one chunk may claim to hold: 1 GiB as float32."""


class Mode(IntEnum):
    """How the pixels of a chunk that carry data are coded."""

    EMPTY = 0
    """There are none."""

    CONSTANT = 1
    """Each band has one value; the code section holds it as f64."""

    LEARNED = 2
    """The code section holds the codes of the model's transform, coded by its prior."""

    TRANSFORM = 3
    """The code section holds wavelet details (`transform_section`). A residual, if there is one, bounds the error."""

    DEFLATED = 4
    """The code section holds the pixels without loss, deflated."""

    PREDICTED = 5
    """The code section holds levels of pixels, each predicted from its neighbours (`predicted_section`)."""

    @property
    def version(self) -> int:
        """The first version of payloads that has it."""
        return 1 if self <= Mode.LEARNED else 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """The parts of one chunk, still coded."""

    mode: Mode
    """How the pixels that carry data are coded."""

    dtype: str
    """Native pixel type."""

    shape: tuple[int, int, int]
    """(bands, height, width) of the chunk in pixels."""

    fill: float
    """Value of the pixels of mask class 1."""

    mask: bytes
    """Compressed classes of the pixels that carry no data; empty if all do."""

    mask_planes: int
    """0 without a mask, 1 if all bands share one, else the number of bands."""

    codes: bytes
    """Code section."""

    residual: bytes = b""
    """Residual section."""

    quality: Quality
    """What was measured when the chunk was made; `nbytes` is the length of the whole payload."""

    def pack(self) -> bytes:
        """The bytes that are stored."""
        if self.mode.version == 1:
            return self._first_version()
        return self._second_head() + self.mask + self.codes + self.residual

    def _second_head(self) -> bytes:
        """Header and table of bands of version 2."""
        bands, height, width = self.shape
        counted = bool((self.quality.count != height * width).any())
        fill = struct.pack("<d", self.fill)
        kind = next((number for number, usual in _USUAL_FILLS.items() if usual == fill), 2)
        flags = min(self.mask_planes, 2) | _COUNTED * counted | _RESIDUAL * bool(self.residual) | kind << _FILL
        lengths = [len(part) for part in (self.mask, self.residual) if part]
        head = bytes((self.mode.version, self.mode | DTYPES.index(self.dtype) << 4, flags))
        head += varints.packed((bands, height, width, len(self.codes), *lengths)) + (fill if kind == 2 else b"")
        if counted:
            head += varints.packed(self.quality.count[: _counts(self.mask_planes, bands)].tolist())
        head += _first_halves(self.quality.squared_error).astype("<u4").tobytes()
        largest = self.quality.max_error
        return head + (largest.astype("<f8").tobytes() if self.dtype == "float32" else varints.packed(largest.tolist()))

    def _first_version(self) -> bytes:
        bands, height, width = self.shape
        header = _HEADER.pack(
            self.mode.version,
            self.mode,
            DTYPES.index(self.dtype),
            # A plane for each band is written as 2: the number of bands itself may not fit one byte.
            min(self.mask_planes, 2),
            bands,
            0,
            height,
            width,
            len(self.mask),
            len(self.codes),
            len(self.residual),
            self.fill,
        )
        table = np.empty(bands, dtype=_BAND)
        table["count"] = self.quality.count
        table["squared_error"] = self.quality.squared_error
        table["max_error"] = self.quality.max_error
        return header + table.tobytes() + self.mask + self.codes + self.residual


def packed_size(bands: int, *sections: bytes) -> int:
    """Length in bytes of a payload of version 1 with these sections."""
    return _HEADER.size + bands * _BAND.itemsize + sum(map(len, sections))


def stored_quality(quality: Quality) -> Quality:
    """What version 2 keeps of a quality: squared errors to a part in two millions, and zeros without a sign."""
    return replace(
        quality,
        squared_error=_from_first_halves(_first_halves(quality.squared_error)),
        max_error=quality.max_error + 0.0,  # a pixel of -0 that is shown as 0 has an error of -0
    )


def _counts(planes: int, bands: int) -> int:
    """How many counts are told where any are: bands that share a mask share theirs."""
    return 1 if planes == 1 else bands


def _first_halves(values: NDArray[np.float64]) -> NDArray[np.uint32]:
    """The first 32 bits of floats of 64, to the nearest: their whole range, and 20 bits of their fraction."""
    bits = np.ascontiguousarray(values, np.float64).view(np.uint64)
    return np.asarray((bits + np.uint64(1 << 31)) >> np.uint64(32)).astype(np.uint32)


def _from_first_halves(halves: NDArray[np.uint32]) -> NDArray[np.float64]:
    return np.asarray(halves.astype(np.uint64) << np.uint64(32)).view(np.float64)


def unpack(data: bytes) -> Payload:
    """Take a payload apart.

    Raises
    ------
    PayloadError
        If the version is unknown, or the bytes contradict themselves.
    """
    if not data:
        raise PayloadError("A payload has at least 1 byte, found 0; the chunk is truncated")
    if data[0] not in VERSIONS:
        raise PayloadError(
            f"Payload version {data[0]}; this harmonium reads versions {VERSIONS[0]} to {VERSIONS[-1]}: upgrade it, or "
            "the bytes are damaged"
        )
    return _unpack_first(data) if data[0] == 1 else _unpack_second(data)


def _unpack_first(data: bytes) -> Payload:
    if len(data) < _HEADER.size:
        raise PayloadError(f"A payload has at least {_HEADER.size} bytes, found {len(data)}; the chunk is truncated")
    version, mode, dtype, planes, bands, reserved, height, width, n_mask, n_codes, n_residual, fill = (
        _HEADER.unpack_from(data)
    )
    known = mode in set(Mode) and Mode(mode).version == version
    if not known or dtype >= len(DTYPES) or planes > 2 or reserved or n_residual:
        raise PayloadError(
            f"Payload header claims mode {mode}, dtype {dtype}, mask planes {planes}, reserved {reserved}, residual of "
            f"{n_residual} bytes: none of these exists in version {version}; the chunk is damaged"
        )
    _check_shape(bands, height, width)
    expected = _HEADER.size + bands * _BAND.itemsize + n_mask + n_codes + n_residual
    if len(data) != expected or (planes == 0) != (n_mask == 0):
        raise PayloadError(f"Payload should have {expected} bytes, found {len(data)}; the chunk is damaged")
    table = np.frombuffer(data, dtype=_BAND, count=bands, offset=_HEADER.size)
    start = _HEADER.size + bands * _BAND.itemsize
    return Payload(
        mode=Mode(mode),
        dtype=DTYPES[dtype],
        shape=(bands, height, width),
        fill=fill,
        mask=data[start : start + n_mask],
        mask_planes=bands if planes == 2 else planes,
        codes=data[start + n_mask :],
        quality=Quality(
            nbytes=len(data),
            count=table["count"].astype(np.int64),
            squared_error=table["squared_error"].astype(np.float64),
            max_error=table["max_error"].astype(np.float64),
        ),
    )


def _unpack_second(data: bytes) -> Payload:
    fields = varints.Fields(data, "payload", 1)
    kinds, flags = fields.byte(), fields.byte()
    mode, dtype, planes, kind = kinds & 15, kinds >> 4, flags & _PLANES, flags >> _FILL
    known = mode in set(Mode) and Mode(mode).version == 2
    if not known or dtype >= len(DTYPES) or planes > 2 or kind > 2 or (flags & _RESIDUAL and mode != Mode.TRANSFORM):
        raise PayloadError(
            f"Payload header claims mode {mode}, dtype {dtype}, flags {flags}: none of these exists in version 2; the "
            "chunk is damaged"
        )
    bands, height, width, n_codes = fields.varints(4)
    _check_shape(bands, height, width)
    n_mask = fields.varint() if planes else 0
    n_residual = fields.varint() if flags & _RESIDUAL else 0
    (fill,) = struct.unpack("<d", _USUAL_FILLS[kind] if kind in _USUAL_FILLS else fields.take(8))
    count = fields.varints(_counts(planes, bands)) if flags & _COUNTED else [height * width]
    squared_error = _from_first_halves(fields.array("<u4", bands))
    largest = fields.array("<f8", bands) if DTYPES[dtype] == "float32" else fields.varints(bands)
    errors = np.array([squared_error, largest])
    if max(count) > height * width or not np.isfinite(errors).all() or np.signbit(errors).any():
        raise PayloadError(
            f"Payload claims {count} pixels that carry data, squared errors {squared_error}, largest errors {largest}; "
            "the chunk is damaged"
        )
    expected = fields.place + n_mask + n_codes + n_residual
    if len(data) != expected or (planes and not n_mask) or (flags & _RESIDUAL and not n_residual):
        raise PayloadError(f"Payload should have {expected} bytes, found {len(data)}; the chunk is damaged")
    head = fields.place
    found = Payload(
        mode=Mode(mode),
        dtype=DTYPES[dtype],
        shape=(bands, height, width),
        fill=fill,
        mask=fields.take(n_mask),
        mask_planes=bands if planes == 2 else planes,
        codes=fields.take(n_codes),
        residual=fields.take(n_residual),
        quality=Quality(
            nbytes=len(data),
            count=np.resize(np.array(count, np.int64), bands),
            squared_error=squared_error,
            max_error=np.array(largest, np.float64),
        ),
    )
    if found._second_head() != data[:head]:
        raise PayloadError("The payload's header is not in the one way in which it is written; the chunk is damaged")
    return found


def _check_shape(bands: int, height: int, width: int) -> None:
    if not 1 <= bands <= MAX_BANDS or not 1 <= bands * height * width <= MAX_PIXELS:
        raise PayloadError(f"Payload header claims {bands} bands of {height} × {width} pixels; the chunk is damaged")


def inflate(data: bytes, what: str, wanted: str, least: int, most: int) -> bytes:
    """Inflate a section of a foreign payload, to no more than `most` bytes.

    Raises
    ------
    PayloadError
        If it is no whole zlib stream of `least` to `most` bytes; `what` and `wanted` say what should be there.
    """
    inflater = zlib.decompressobj()
    try:
        # One byte more than expected is enough to see that there is too much.
        raw = inflater.decompress(data, most + 1)
    except zlib.error as error:
        raise PayloadError(f"The {what} cannot be inflated ({error}); the chunk is damaged") from error
    if not least <= len(raw) <= most or not inflater.eof or inflater.unused_data:
        raise PayloadError(f"{wanted}; the chunk is damaged")
    return raw


# --- pixels that carry no data -------------------------------------------------------------------------------------

_SPECIAL = (np.nan, np.inf, -np.inf)
"""Values of mask classes 2, 3 and 4; class 1 is the fill value, class 0 carries data."""


def native_fill(fill: float, dtype: np.dtype[Any]) -> np.generic | None:
    """The fill value as a finite number of the pixels' type; None if it is none, so that no pixel can have it."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            value = dtype.type(fill)
        return cast("np.generic", value) if np.isfinite(value) else None
    info = np.iinfo(dtype)
    whole = math.isfinite(fill) and fill == int(fill) and info.min <= fill <= info.max
    return cast("np.generic", dtype.type(int(fill))) if whole else None


def classify(pixels: Pixels, fill: float) -> NDArray[np.uint8] | None:
    """Class of every pixel (bands, height, width), or None if all carry data."""
    value = native_fill(fill, pixels.dtype)
    classes = None if value is None else (pixels == value).astype(np.uint8)
    if pixels.dtype.kind == "f":
        finite = np.isfinite(pixels)
        if not finite.all():
            classes = np.zeros(pixels.shape, np.uint8) if classes is None else classes
            classes[np.isnan(pixels)] = 2
            classes[np.isposinf(pixels)] = 3
            classes[np.isneginf(pixels)] = 4
    return classes if classes is not None and classes.any() else None


def pack_mask(classes: NDArray[np.uint8] | None) -> tuple[bytes, int]:
    """Compressed classes and their number of planes."""
    if classes is None:
        return b"", 0
    if len(classes) == 1 or not (classes != classes[:1]).any():
        return zlib.compress(classes[:1].tobytes(), 6), 1
    return zlib.compress(classes.tobytes(), 6), len(classes)


def unpack_mask(payload: Payload) -> NDArray[np.uint8] | None:
    """Class of every pixel (bands, height, width), or None if all carry data."""
    if payload.mask_planes == 0:
        return None
    _, height, width = payload.shape
    expected = payload.mask_planes * height * width
    raw = inflate(payload.mask, "mask section", f"The mask section should hold {expected} pixels", expected, expected)
    classes = np.frombuffer(raw, np.uint8).reshape(payload.mask_planes, height, width)
    if classes.max() > len(_SPECIAL) + 1 or (payload.dtype != "float32" and classes.max() > 1):
        raise PayloadError(f"The mask section holds class {classes.max()}, which does not exist; the chunk is damaged")
    if native_fill(payload.fill, np.dtype(payload.dtype)) is None and (classes == 1).any():
        raise PayloadError(
            f"The mask section marks pixels of the fill value, but {payload.fill} is not a {payload.dtype}; the "
            "chunk is damaged"
        )
    return np.broadcast_to(classes, payload.shape)


def put_special(pixels: Pixels, classes: NDArray[np.uint8], fill: float) -> None:
    """Write the values of the pixels that carry no data into `pixels`, in place."""
    filling = native_fill(fill, pixels.dtype)
    if filling is not None:
        pixels[classes == 1] = filling
    if pixels.dtype.kind == "f":
        for number, value in enumerate(_SPECIAL, start=2):
            pixels[classes == number] = value
