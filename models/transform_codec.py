"""The codec `transform`: wavelet, rotation of the bands, whole numbers predicted by a context network; any target.

    pixels ── mask ──────────────────────────────────────────────────────────── zlib ──┐
       │ offset, step of each band                                                     │
       └─ wavelet ── rotation ── numbers ── context network ── tables ── words ────────┤ payload
              │                                                                        │
              └ restored ── pixels less restored ── multiples of 2 d ── words ─────────┘  (for a bound)

Without loss and within a bound, integers may be levels that are predicted from their neighbours instead
(`pixel_coding`), or deflated (`deflated`): of each chunk the shortest is kept.

All that decides what is decoded is computed in whole numbers, or in single float64 operations that IEEE 754 rounds in
one way: a payload decodes to the same pixels on every machine. So a bound that was checked where a chunk was
written holds wherever it is read.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harmonium.errors import PayloadError
from harmonium.models import (
    deflated,
    detail_coding,
    pixel_coding,
    predicted_section,
    prediction_fit,
    residual,
    subbands,
    transform_section,
)
from harmonium.models.cells import CELL, cell_grid
from harmonium.models.chunk_codec import (
    Encoded,
    check_pixels,
    keep_data_apart,
    plain_codes,
    plain_pixels,
    unpack_for,
)
from harmonium.models.detail_coding import DEAD_ZONE, PRICE, DetailModel, Rounding
from harmonium.models.filling import fill_smoothly
from harmonium.models.payload import Mode, Payload, classify, pack_mask, stored_quality, unpack_mask
from harmonium.models.predicted_section import PredictedSection
from harmonium.models.quality import measure, unmeasured
from harmonium.models.radiometry import Pixels, Radiometry
from harmonium.models.scale_tables import RESTORED
from harmonium.models.subbands import CELL_LEVELS
from harmonium.models.targets import Lossless, MaxError, Psnr, Ratio, Step, Target
from harmonium.models.transform_section import TransformSection
from harmonium.models.value_ranks import Values, worth_ranking

BOUND_STEPS = 1.2
"""Steps under a bound d, in multiples of the distance between residuals: 2 d + 1, of floats 2 d."""

_LARGEST_VALUE = float(1 << 24)
"""In steps: finer ones would leave the range of coded numbers."""

_SMALL_BOUND = 4
"""In DN: under larger ones, no chunk was seen to take fewer bits without loss."""

_LARGEST_PREDICTED = 32
"""In DN: under larger bounds, pixels are not tried as levels that are predicted from each other."""

_WORTH_A_TRY = 1.3
"""How much longer than what is at hand the sample's estimate may be for deflating to be tried."""

_SEARCHES = 12
"""Most steps that are tried for one chunk."""

_SLACK = 1 - 2.0**-20
"""Distances of floats are smaller by this, and by what their type rounds, so that rounding cannot break the bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformCodec:
    """See the module; methods of the contract are described in `ChunkCodec`."""

    radiometry: Radiometry
    """Type, number of bands, peak; its offsets and scales do nothing: every chunk has its own."""

    model: DetailModel
    """Networks and tables; they fit any bands."""

    @property
    def targets(self) -> bool:
        """See `ChunkCodec`."""
        return True

    @property
    def units(self) -> int:
        """See `ChunkCodec`: 64 for each band."""
        return self.radiometry.bands * CELL**2

    @property
    def code_type(self) -> str:
        """See `ChunkCodec`."""
        return "int32"

    @property
    def description(self) -> str:
        """See `ChunkCodec`."""
        return f"{self.units} code units, context network"

    @torch.inference_mode()
    def compress(self, pixels: Pixels, fill: float, target: Target | None = None) -> Encoded:
        """See `ChunkCodec.compress`."""
        check_pixels(pixels, self.radiometry)
        if target is None:
            raise ValueError("The codec transform needs a target: Step, Psnr, Ratio, MaxError or Lossless; found none")
        target.check(len(pixels))
        chunk = _Chunk.of(pixels, fill)
        plain = plain_codes(pixels, chunk.valid, chunk.classes)
        if plain is not None:
            payload = self._payload(chunk, *plain)
            return _measured(chunk, payload, self._reconstruct(payload, chunk.classes))
        encoded = self._encode(chunk, target)
        # From the very bytes that will be stored.
        if not np.array_equal(self.decompress(encoded.payload), encoded.decoded, equal_nan=pixels.dtype.kind == "f"):
            raise RuntimeError(
                "A chunk was encoded that does not decode to what its encoder had: an error of harmonium or of this "
                "machine; please report it"
            )
        return encoded

    @torch.inference_mode()
    def decompress(self, data: bytes, shape: tuple[int, int, int] | None = None) -> Pixels:
        """See `ChunkCodec.decompress`."""
        payload = unpack_for(self.radiometry, data, shape)
        return self._reconstruct(payload, unpack_mask(payload))

    @torch.inference_mode()
    def codes(self, data: bytes, shape: tuple[int, int, int] | None = None) -> NDArray[np.int32]:
        """See `ChunkCodec.codes`; unit 64 p is the coarsest low band of plane p, the others its details, in steps.

        A value of the low band stands at all 8 × 8 cells that it is for. Details follow from coarse to fine; of a
        level, band after band (high across, down, both), row after row.
        """
        payload = unpack_for(self.radiometry, data, shape)
        bands, height, width = payload.shape
        rows, columns = cell_grid(height, width)
        found = np.zeros((bands, CELL**2, rows, columns), np.int32)
        if payload.mode is Mode.TRANSFORM:
            section = transform_section.unpack(payload.codes, payload.shape)
            _, numbers = self._details(section, bands)
            inside = _cells(numbers, section)
            row, column = (place // CELL for place in section.window[:2])
            found[:, :, row : row + inside.shape[2], column : column + inside.shape[3]] = inside
        return found.reshape(-1, rows, columns)

    def estimated_bits(self, pixels: Pixels, fill: float, step: float) -> float:
        """Bits that a chunk (bands, height, width) takes by training's measure, the tables' probabilities."""
        chunk = _Chunk.of(pixels, fill)
        return self._transformed(chunk, np.full(len(pixels), step, np.float32))[1].estimated_bits

    # --- encoding ---

    def _encode(self, chunk: "_Chunk", target: Target) -> Encoded:
        match target:
            case Step(step):
                offers = [self._stepped(chunk, _per_band(step, chunk))]
            case Psnr():
                offers = [self._search(chunk, target)]
            case Ratio():
                offers = [self._search(chunk, target)]
            case MaxError(dn):
                bounds = _per_band(dn, chunk)
                if chunk.pixels.dtype.kind != "f":
                    bounds = np.floor(bounds)  # never above what was asked for: see `_per_band`
                exact = not bounds.any()
                offers = [self._exact(chunk)] if exact else [self._bounded(chunk, bounds), self._ranked(chunk, bounds)]
                offers.append(self._predicted(chunk, bounds))
            case Lossless():
                offers = [self._exact(chunk), self._predicted(chunk, np.zeros(len(chunk.pixels), np.float32))]
        kept = [offer for offer in offers if offer is not None]
        shortest = min((offer.quality.nbytes for offer in kept), default=None)
        if shortest is None or deflated.estimated_bytes(chunk.pixels) < _WORTH_A_TRY * shortest:
            kept.append(self._deflated(chunk))
        return min(kept, key=lambda offer: offer.quality.nbytes)

    def _stepped(self, chunk: "_Chunk", steps: NDArray[np.float32]) -> Encoded | None:
        steps = np.maximum(steps, np.float32(_LEAST_STEP))
        if chunk.largest(steps) > _LARGEST_VALUE:
            return None
        return self._finish(chunk, *self._transformed(chunk, steps))

    def _exact(self, chunk: "_Chunk") -> Encoded | None:
        if chunk.pixels.dtype.kind == "f":
            return None
        return self._finish(chunk, *self._transformed(chunk, np.ones(len(chunk.pixels), np.float32), exact=True))

    def _ranked(self, chunk: "_Chunk", bounds: NDArray[np.float32]) -> Encoded | None:
        """Without loss, where that may take fewer bits than a small bound does: values have gaps."""
        small = chunk.pixels.dtype.kind != "f" and bounds.max() <= _SMALL_BOUND
        return self._exact(chunk) if small and any(table is not None for table in chunk.tables()) else None

    def _bounded(self, chunk: "_Chunk", bounds: NDArray[np.float32]) -> Encoded | None:
        distance = chunk.distances(bounds)
        steps = (distance * BOUND_STEPS).astype(np.float32)
        if not np.isfinite(steps).all() or (steps <= 0).any() or chunk.largest(steps) > _LARGEST_VALUE:
            return None
        section, coded = self._transformed(chunk, steps)
        shown = _to_pixels(chunk.pixels.shape, section, coded.restored, chunk.pixels.dtype)
        wrong = chunk.pixels.astype(np.float64) - shown.astype(np.float64)
        residuals = [
            np.rint(band[mask] / float(each)).astype(np.int64)
            for band, mask, each in zip(wrong, chunk.valid, distance, strict=True)
        ]
        corrections = distance.astype("<f4").tobytes() + residual.encode(self.model.tables, residuals)
        encoded = self._finish(chunk, section, coded, corrections)
        # What may miss: data that are moved away from the fill value.
        return encoded if (encoded.quality.max_error <= bounds).all() else None

    def _predicted(self, chunk: "_Chunk", bounds: NDArray[np.float32]) -> Encoded | None:
        """Levels of pixels that are `2 d + 1` DN apart, predicted from their neighbours and coded without loss."""
        if chunk.pixels.dtype.kind == "f" or bounds.max() > _LARGEST_PREDICTED:
            return None
        levels, lowest, steps = chunk.levels(bounds.astype(np.int64))
        coded = chunk.inside(chunk.valid)
        bands = prediction_fit.fit(self.model.tables, levels, coded, lowest.tolist(), steps.tolist())
        found, words = pixel_coding.code(self.model.tables, bands, coded, levels)
        section = PredictedSection(window=chunk.window, bands=bands, words=words)
        payload = self._payload(chunk, Mode.PREDICTED, section.pack(chunk.pixels.shape))
        pixels = _of_levels(chunk.pixels.shape, section, found, chunk.pixels.dtype)
        encoded = _measured(chunk, payload, keep_data_apart(pixels, chunk.classes, chunk.fill))
        # What may miss: data that are moved away from the fill value.
        return encoded if (encoded.quality.max_error <= bounds).all() else None

    def _search(self, chunk: "_Chunk", target: Psnr | Ratio) -> Encoded | None:
        """The largest step that reaches a target, to a hundredth; None if none does."""
        peak = self.radiometry.peak
        bands = len(chunk.pixels)
        steps = np.full(bands, peak / 64, np.float64)
        if isinstance(target, Psnr):
            wanted = np.broadcast_to(np.asarray(target.decibels, np.float64), (bands,))
            steps = peak * 10 ** (-wanted / 20) * math.sqrt(12)

        def reached(encoded: Encoded) -> float:
            """In dB, or as a logarithm; above 0 where the target is met."""
            quality = encoded.quality
            if isinstance(target, Ratio):
                return 20 * math.log10(chunk.pixels.nbytes / (quality.nbytes * target.ratio))
            if isinstance(target.decibels, tuple):
                return float(np.nanmin(quality.psnr(peak) - wanted))
            mse = quality.squared_error.sum() / max(quality.count.sum(), 1)
            return 10 * math.log10(peak**2 / mse) - target.decibels if mse else math.inf

        return bisect_step(lambda factor: self._stepped(chunk, (steps * factor).astype(np.float32)), reached, target)

    def _deflated(self, chunk: "_Chunk") -> Encoded:
        payload = self._payload(chunk, Mode.DEFLATED, deflated.encode(chunk.pixels))
        return _measured(chunk, payload, chunk.pixels)

    def _transformed(
        self, chunk: "_Chunk", steps: NDArray[np.float32], *, exact: bool = False
    ) -> tuple[TransformSection, detail_coding.Coded]:
        rounding = Rounding(exact=exact, dead_zone=DEAD_ZONE, price=0.0 if exact else PRICE)
        offset = chunk.offset
        tables: list[Values | None] = chunk.tables() if exact else [None] * len(steps)
        if any(table is not None for table in tables):
            offset, values = chunk.ranked(tables)
        else:
            values = chunk.centred.numpy() * (1 if exact else _units(steps))
        coded = detail_coding.encode(self.model, torch.from_numpy(values).round_(), rounding)
        section = TransformSection(
            exact=exact,
            window=chunk.window,
            offset=offset,
            step=steps,
            angles=coded.angles,
            low_scales=coded.low_scales,
            words=coded.words,
            tables=tables,
        )
        return section, coded

    def _finish(
        self, chunk: "_Chunk", section: TransformSection, coded: detail_coding.Coded, corrections: bytes = b""
    ) -> Encoded:
        payload = self._payload(chunk, Mode.TRANSFORM, section.pack(chunk.pixels.shape), corrections)
        pixels = _to_pixels(chunk.pixels.shape, section, coded.restored, chunk.pixels.dtype)
        if corrections:
            pixels = self._corrected(pixels, corrections, chunk.classes)
        return _measured(chunk, payload, keep_data_apart(pixels, chunk.classes, chunk.fill))

    def _payload(self, chunk: "_Chunk", mode: Mode, codes: bytes, corrections: bytes = b"") -> Payload:
        return Payload(
            mode=mode,
            dtype=self.radiometry.dtype,
            shape=chunk.pixels.shape,
            fill=chunk.fill,
            mask=chunk.mask,
            mask_planes=chunk.mask_planes,
            codes=codes,
            residual=corrections,
            quality=unmeasured(len(chunk.pixels)),
        )

    # --- decoding ---

    def _details(self, section: TransformSection, bands: int) -> tuple[Tensor, list[Tensor]]:
        return detail_coding.decode(
            self.model,
            section.words,
            section.low_scales,
            section.angles,
            (bands, *section.window[2:]),
            Rounding(exact=section.exact),
        )

    def _reconstruct(self, payload: Payload, classes: NDArray[np.uint8] | None) -> Pixels:
        dtype = np.dtype(payload.dtype)
        if payload.mode is Mode.TRANSFORM:
            section = transform_section.unpack(payload.codes, payload.shape)
            restored, _ = self._details(section, payload.shape[0])
            pixels = _to_pixels(payload.shape, section, restored, dtype)
            if payload.residual:
                pixels = self._corrected(pixels, payload.residual, classes)
        elif payload.mode is Mode.PREDICTED:
            pixels = self._of_predicted(payload, classes, dtype)
        elif payload.mode is Mode.DEFLATED:
            return deflated.decode(payload)  # those of the fill value are there, and no other
        else:
            pixels = plain_pixels(payload, classes)
        return keep_data_apart(pixels, classes, payload.fill)

    def _of_predicted(self, payload: Payload, classes: NDArray[np.uint8] | None, dtype: np.dtype[Any]) -> Pixels:
        if dtype.kind == "f":
            raise PayloadError("Floats are claimed to be levels; the chunk is damaged")
        section = predicted_section.unpack(payload.codes, payload.shape)
        row, column, rows, columns = section.window
        valid = np.ones((payload.shape[0], rows, columns), np.bool_)
        if classes is not None:
            valid = classes[:, row : row + rows, column : column + columns] == 0
        levels, _ = pixel_coding.code(self.model.tables, section.bands, valid, None, section.words)
        return _of_levels(payload.shape, section, levels, dtype)

    def _corrected(self, pixels: Pixels, data: bytes, classes: NDArray[np.uint8] | None) -> Pixels:
        bands = len(pixels)
        distance = np.frombuffer(data[: len(data) // 4 * 4], "<f4")[:bands]
        if len(distance) != bands or not np.isfinite(distance).all() or (distance <= 0).any():
            raise PayloadError(f"The residual section claims distances {distance}; the chunk is damaged")
        valid = np.ones(pixels.shape, np.bool_) if classes is None else classes == 0
        counts = [int(np.count_nonzero(band)) for band in valid]
        found = residual.decode(self.model.tables, data[4 * bands :], counts)
        for band, mask, numbers, each in zip(pixels, valid, found, distance, strict=True):
            band[mask] = _native(band[mask].astype(np.float64) + numbers * float(each), pixels.dtype)
        return pixels


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Chunk:
    """A chunk, and what all attempts at it share."""

    pixels: Pixels
    """(bands, height, width), native type."""

    fill: float
    """Value of pixels without data."""

    classes: NDArray[np.uint8] | None
    """Class of every pixel as in a payload's mask; None if all carry data."""

    valid: NDArray[np.bool_]
    """Where pixels carry data, (bands, height, width)."""

    mask: bytes
    mask_planes: int
    """Mask section of a payload, and its number of planes."""

    window: tuple[int, int, int, int]
    """The least that holds all data: first row, first column, rows, columns."""

    offset: NDArray[np.float32]
    """Mean of each band, (bands,), in DN; whole for integers."""

    centred: Tensor
    """Pixels of the window less their offset, (bands, rows, columns) float64, smooth where there are no data."""

    @classmethod
    def of(cls, pixels: Pixels, fill: float) -> "_Chunk":
        classes = classify(pixels, fill)
        valid = np.ones(pixels.shape, np.bool_) if classes is None else classes == 0
        rows, columns = (np.flatnonzero(valid.any(axis=axes)) for axes in ((0, 2), (0, 1)))
        # Cells of the window are cells of the chunk.
        top, left = (int(places[0]) // CELL * CELL if len(places) else 0 for places in (rows, columns))
        height, width = (int(places[-1]) + 1 if len(places) else 1 for places in (rows, columns))
        window = (top, left, height - top, width - left)
        inside, mask = pixels[:, top:height, left:width], valid[:, top:height, left:width]
        offset = np.zeros(len(pixels), np.float32)
        for band, (values, known) in enumerate(zip(inside, mask, strict=True)):
            if known.any():
                mean = values[known].astype(np.float64).mean()
                offset[band] = mean if pixels.dtype.kind == "f" else np.rint(mean)
        centred = torch.from_numpy(np.where(mask, inside, 0).astype(np.float64))
        centred -= torch.from_numpy(offset.astype(np.float64)).reshape(-1, 1, 1)
        filled = fill_smoothly(centred, torch.from_numpy(mask))
        if pixels.dtype.kind != "f":
            filled = filled.round()
        mask_section, planes = pack_mask(classes)
        return cls(
            pixels=pixels,
            fill=fill,
            classes=classes,
            valid=valid,
            mask=mask_section,
            mask_planes=planes,
            window=window,
            offset=offset,
            centred=filled,
        )

    def largest(self, steps: NDArray[np.float32]) -> float:
        """Largest magnitude in steps."""
        with np.errstate(divide="ignore", over="ignore"):
            return float((self.centred.abs().amax((1, 2)).numpy() / steps.astype(np.float64)).max())

    def tables(self) -> list[Values | None]:
        """For each band, the values whose ranks are worth coding, if they are."""
        row, column, rows, columns = self.window
        place = (slice(row, row + rows), slice(column, column + columns))
        return [
            worth_ranking(band[place][mask[place]].astype(np.int64))
            for band, mask in zip(self.pixels, self.valid, strict=True)
        ]

    def ranked(self, tables: list[Values | None]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Offsets and centred values, those of bands with a table by rank."""
        offset, values = self.offset.copy(), self.centred.numpy().copy()
        for band, table in enumerate(tables):
            if table is not None:
                wanted = values[band] + float(offset[band])
                # Between data, where nothing counts, the next higher.
                ranks = np.searchsorted(table, np.clip(wanted, table[0], table[-1])).astype(np.float64)
                offset[band] = np.rint(ranks.mean())
                values[band] = ranks - float(offset[band])
        return offset, values

    def inside(self, values: NDArray[Any]) -> NDArray[Any]:
        """The window's part of values of the chunk's shape."""
        row, column, rows, columns = self.window
        return values[:, row : row + rows, column : column + columns]

    def levels(self, bounds: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Levels of the window's whole pixels within bounds of them; value of level 0 and distance of levels, in DN."""
        valid = self.inside(self.valid)
        values = (self.centred.numpy() + self.offset.astype(np.float64).reshape(-1, 1, 1)).astype(np.int64)
        found = [band[mask].min() if mask.any() else 0 for band, mask in zip(values, valid, strict=True)]
        lowest, steps = np.array(found, np.int64), 2 * bounds + 1
        above = np.maximum(values - lowest.reshape(-1, 1, 1), 0)
        return (above + bounds.reshape(-1, 1, 1)) // steps.reshape(-1, 1, 1), lowest, steps

    def distances(self, bounds: NDArray[np.float32]) -> NDArray[np.float32]:
        """Between residuals that keep a bound, for each band; of floats less than twice the bound by their rounding."""
        if self.pixels.dtype.kind != "f":
            return 2 * bounds + 1
        largest = self.centred.abs().amax((1, 2)).numpy() + np.abs(self.offset) + bounds
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused
            return ((bounds - np.spacing(largest.astype(np.float32))) * 2 * _SLACK).astype(np.float32)


def _measured(chunk: _Chunk, payload: Payload, decoded: Pixels) -> Encoded:
    quality = measure(chunk.pixels, decoded, chunk.valid, 0)
    if payload.mode.version == 2:
        quality = stored_quality(quality)
    data = replace(payload, quality=quality).pack()
    return Encoded(payload=data, quality=replace(quality, nbytes=len(data)), decoded=decoded)


def bisect_step(
    encode: Callable[[float], Encoded | None], reached: Callable[[Encoded], float], target: Psnr | Ratio
) -> Encoded | None:
    """Encode with factors of a step until one meets the target closely; the best that met it, or None.

    `reached` tells by how many dB, or their like, a target is met; it falls with the factor for a PSNR and rises for a
    ratio.
    """
    direction = -1.0 if isinstance(target, Psnr) else 1.0
    best: Encoded | None = None
    low, high = -40.0, 40.0  # logarithms of base 2 of factors
    place = 0.0
    for _ in range(_SEARCHES):
        found = encode(2.0**place)
        margin = reached(found) if found is not None else (math.inf if direction < 0 else -math.inf)
        if margin >= 0 and found is not None and (best is None or margin <= reached(best)):
            best = found
        if 0 <= margin < 0.02:
            break
        if (margin >= 0) == (direction < 0):
            low = place
        else:
            high = place
        # 6 dB are a factor of 2, or less of a ratio.
        guess = place - direction * (margin - 0.01) / 6.02 if math.isfinite(margin) else place + 1
        place = guess if low < guess < high else (low + high) / 2
    return best


_LARGEST_TARGET = 1e38
_LEAST_STEP = 1e-38
"""In DN, so that steps, bounds and what is made of them are float32."""


def _per_band(values: float | tuple[float, ...], chunk: _Chunk) -> NDArray[np.float32]:
    """Values of each band in float32, never above those asked for."""
    wide = np.broadcast_to(np.asarray(values, np.float64), (len(chunk.pixels),))
    found = np.minimum(wide, _LARGEST_TARGET).astype(np.float32)
    return np.where(found > wide, np.nextafter(found, np.float32(0)), found)


def _units(steps: NDArray[np.float32]) -> NDArray[np.float64]:
    """Units for each DN, (bands, 1, 1)."""
    return (RESTORED / steps.astype(np.float64)).reshape(-1, 1, 1)


def _to_pixels(shape: tuple[int, ...], section: TransformSection, restored: Tensor, dtype: np.dtype[Any]) -> Pixels:
    """Pixels of a chunk; 0 beyond the window."""
    values = restored.numpy()
    if not section.exact:
        # One rounding each: a product, then a sum.
        values = values * (section.step.astype(np.float64) / RESTORED).reshape(-1, 1, 1)
    values = values + section.offset.astype(np.float64).reshape(-1, 1, 1)
    for band, table in zip(values, section.tables, strict=True):
        if table is not None:
            band[:] = table[np.clip(band, 0, len(table) - 1).astype(np.int64)]
    row, column, rows, columns = section.window
    pixels = np.zeros(shape, dtype)
    pixels[:, row : row + rows, column : column + columns] = _native(values, dtype)
    return pixels


def _of_levels(
    shape: tuple[int, ...], section: PredictedSection, levels: NDArray[np.int64], dtype: np.dtype[Any]
) -> Pixels:
    """Pixels of a chunk; 0 beyond the window."""
    lowest, steps = np.array([(band.lowest, band.step) for band in section.bands], np.int64).T
    info = np.iinfo(dtype)
    row, column, rows, columns = section.window
    pixels = np.zeros(shape, dtype)
    values = lowest.reshape(-1, 1, 1) + levels * steps.reshape(-1, 1, 1)
    pixels[:, row : row + rows, column : column + columns] = np.clip(values, info.min, info.max)
    return pixels


def _native(values: NDArray[np.float64], dtype: np.dtype[Any]) -> Pixels:
    """Values as the pixels' type has them, clipped at its range."""
    if dtype.kind == "f":
        largest = float(np.finfo(dtype).max)
        return np.clip(values, -largest, largest).astype(dtype)
    info = np.iinfo(dtype)
    return np.clip(np.rint(values), info.min, info.max).astype(dtype)


def _cells(numbers: list[Tensor], section: TransformSection) -> NDArray[np.int32]:
    """Numbers of all levels on the grid of cells, (planes, 64, cell rows, cell columns) of the window."""
    rows, columns = cell_grid(*section.window[2:])
    planes = len(numbers[0])
    low = numbers[-1]
    parts = [_spread(low, rows, columns)]
    for level in range(CELL_LEVELS - 1, -1, -1):
        side = 1 << (CELL_LEVELS - 1 - level)
        details = numbers[level].reshape(planes, 3, rows, side, columns, side)
        parts.append(details.permute(0, 1, 3, 5, 2, 4).reshape(planes, 3 * side * side, rows, columns))
    limit = float(np.iinfo(np.int32).max)
    return torch.cat(parts, 1).clamp(-limit, limit).to(torch.int32).numpy()


def _spread(low: Tensor, rows: int, columns: int) -> Tensor:
    """The coarsest low band, each value at all cells that it stands for: (planes, 1, rows, columns)."""
    side = 1 << (subbands.LEVELS - CELL_LEVELS)
    wide = low.repeat_interleave(side, 1).repeat_interleave(side, 2)
    return wide[:, None, :rows, :columns]
