"""What all codecs of chunks share: their contract, checks of what they are given, and pixels that carry no data."""

from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from harmonium.errors import PayloadError
from harmonium.models.payload import MAX_BANDS, MAX_PIXELS, Mode, Payload, native_fill, put_special, unpack
from harmonium.models.quality import Quality
from harmonium.models.radiometry import Pixels, Radiometry
from harmonium.models.targets import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A chunk after encoding, and what it decodes to."""

    payload: bytes
    """The bytes to store."""

    quality: Quality
    """What was measured by decoding them; the same numbers stand in the payload."""

    decoded: Pixels
    """What they decode to."""


class ChunkCodec(Protocol):
    """Pixels of a chunk ⇄ the bytes of its payload. Pure: no file, no cluster, no global."""

    @property
    def radiometry(self) -> Radiometry:
        """What pixel values mean, and how many bands a chunk has."""

    @property
    def targets(self) -> bool:
        """Whether `compress` needs a target; else the rate was chosen when the model was made."""

    @property
    def units(self) -> int:
        """Code units of a cell."""

    @property
    def code_type(self) -> str:
        """Integer type that holds every code."""

    @property
    def description(self) -> str:
        """Units and prior, for people."""

    def compress(self, pixels: Pixels, fill: float, target: Target | None = None) -> Encoded:
        """Encode one chunk, decode it again, and measure.

        Parameters
        ----------
        pixels
            (bands, height, width) in the native type.
        fill
            Pixels of this value carry no data: they come back exactly, and no other pixel comes back as this value. So
            do NaN and infinities, whatever the fill value. One that the native type cannot hold marks no pixel.
        target
            What is promised, for codecs that take targets.

        Raises
        ------
        ValueError
            If the chunk has other bands or another type than the codec was made for, or no pixels, or too many; or if a
            target is missing, or there is one too many.
        """

    def decompress(self, data: bytes, shape: tuple[int, int, int] | None = None) -> Pixels:
        """Pixels (bands, height, width) of a payload.

        Parameters
        ----------
        data
            The payload.
        shape
            (bands, height, width) that the caller expects. Without it, a few foreign bytes may ask for the memory of
            `MAX_PIXELS` values.

        Raises
        ------
        PayloadError
            If the payload is damaged, of an unknown version, of another shape than expected, or was not made by a
            codec for such chunks.
        """

    def codes(self, data: bytes, shape: tuple[int, int, int] | None = None) -> NDArray[np.int32]:
        """Integer codes (units, cell_rows, cell_columns) of a payload; zeros where no pixel was coded.

        `shape` is that of the chunk in pixels, and checked, as in `decompress`.

        Raises
        ------
        PayloadError
            As `decompress`.
        """


def check_pixels(pixels: Pixels, radiometry: Radiometry) -> None:
    """Raise ValueError unless these are pixels of a chunk for that radiometry."""
    bands = radiometry.bands
    if pixels.ndim != 3 or len(pixels) != bands or pixels.dtype != radiometry.dtype:
        raise ValueError(
            f"This codec takes chunks of {bands} bands of {radiometry.dtype}, got shape {pixels.shape} of "
            f"{pixels.dtype}; fit a model for such data"
        )
    if bands > MAX_BANDS or not 1 <= pixels.size <= MAX_PIXELS:
        raise ValueError(
            f"A chunk has at most {MAX_BANDS} bands and 1 to {MAX_PIXELS} values, got shape {pixels.shape}; choose "
            "other chunks"
        )


def unpack_for(radiometry: Radiometry, data: bytes, shape: tuple[int, int, int] | None) -> Payload:
    """Take a payload apart that should be of a chunk for that radiometry, and of that shape if there is one.

    Raises
    ------
    PayloadError
        If it is not.
    """
    payload = unpack(data)
    if shape is not None and payload.shape != tuple(shape):
        raise PayloadError(
            f"Expected a chunk of shape {tuple(shape)}, the payload's header says {payload.shape}; the chunk is "
            "damaged, or lies in the wrong place"
        )
    if payload.shape[0] != radiometry.bands or payload.dtype != radiometry.dtype:
        raise PayloadError(
            f"The payload holds {payload.shape[0]} bands of {payload.dtype}, the model is for "
            f"{radiometry.bands} of {radiometry.dtype}; the chunk is damaged, or was written with another model"
        )
    return payload


def plain_pixels(payload: Payload, classes: NDArray[np.uint8] | None) -> Pixels:
    """Pixels of an `EMPTY` or `CONSTANT` payload, without those that carry no data.

    Raises
    ------
    PayloadError
        If the payload is damaged, or of another mode.
    """
    bands, codes, dtype = payload.shape[0], payload.codes, np.dtype(payload.dtype)
    expected = bands * 8 if payload.mode is Mode.CONSTANT else 0
    if payload.mode not in (Mode.EMPTY, Mode.CONSTANT):
        raise PayloadError(
            f"This model decodes no chunk of mode {payload.mode.name}; it was written with another model"
        )
    if len(codes) != expected or (payload.mode is Mode.EMPTY and (classes is None or (classes == 0).any())):
        raise PayloadError(
            f"A chunk of mode {payload.mode.name} has {expected} bytes of codes, found {len(codes)}, and an EMPTY "
            "one a mask of all its pixels; the chunk is damaged"
        )
    constant = np.frombuffer(codes, "<f8") if payload.mode is Mode.CONSTANT else np.zeros(bands)
    with np.errstate(all="ignore"):
        native = constant.astype(dtype)
    if not (native == constant).all():
        raise PayloadError(f"The constants {constant} are not {dtype} values; the chunk is damaged")
    return np.broadcast_to(native[:, None, None], payload.shape).copy()


def plain_codes(
    pixels: Pixels, valid: NDArray[np.bool_], classes: NDArray[np.uint8] | None
) -> tuple[Mode, bytes] | None:
    """Mode and code section of a chunk without data, or of one value in each band; None of any other."""
    if classes is not None and not valid.any():
        return Mode.EMPTY, b""
    constant = _constant_bands(pixels, valid)
    return None if constant is None else (Mode.CONSTANT, constant.astype("<f8").tobytes())


def _constant_bands(pixels: Pixels, valid: NDArray[np.bool_]) -> NDArray[np.float64] | None:
    """The one value that each band has where it is valid, (bands,), or None if a band has several."""
    constants = np.zeros(len(pixels))
    for band, (values, mask) in enumerate(zip(pixels, valid, strict=True)):
        inside = values[mask] if not mask.all() else values.reshape(-1)
        if inside.size:
            # One look at the first row spares most chunks a pass over all their pixels.
            if (inside[: values.shape[1]] != inside[0]).any() or (inside != inside[0]).any():
                return None
            constants[band] = inside[0]
    return constants


def keep_data_apart(pixels: Pixels, classes: NDArray[np.uint8] | None, fill: float) -> Pixels:
    """Put the masked values in, and move data that happens to equal the fill value to its neighbour."""
    value = native_fill(fill, pixels.dtype)
    if value is not None:
        collides = pixels == value
        if collides.any():
            pixels[collides] = _neighbour(value, pixels.dtype)
    if classes is not None:
        put_special(pixels, classes, fill)
    return pixels


def _neighbour(value: np.generic, dtype: np.dtype[Any]) -> np.generic:
    """The value next above `value`, or next below the type's largest."""
    if dtype.kind == "f":
        towards = np.inf if value < np.finfo(dtype).max else -np.inf
        return cast("np.generic", np.nextafter(value, dtype.type(towards)))
    step = 1 if int(value) < np.iinfo(dtype).max else -1
    return cast("np.generic", dtype.type(int(value) + step))
