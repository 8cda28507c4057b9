"""Archive codecs at their best: bands or their principal components, one plane each, rate shared out by equal slope.

A plane is mapped to its codec's whole range of integers, so that rounding costs little even at high rates. Each
plane is coded at all the knob's values that matter. A point of the curve then takes from each plane the coding that is
best for one price of a byte: no other choice of these codings has less error in as few bytes.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import plane_codecs
from benchmarks.archive_scenes import Scene
from benchmarks.plane_codecs import Plane, PlaneCodec
from harmonium.models.quality import Quality, measure

_FLOAT_BYTES = 4
_LOOSE = 8.0
"""Codings whose error is above that of the coarsest target, times this, are not tried, but for one."""
_HALVINGS = 80

TARGETS = tuple(float(decibels) for decibels in range(36, 60, 2))
"""PSNR in dB that the points of a curve aim at: beyond 38 to 56 dB on both sides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossyPeer:
    """A codec of planes, with or without the Karhunen-Loève transform before it."""

    name: str
    """What tables call it."""

    codec: Callable[[], PlaneCodec]
    """Makes it, or raises `Skipped`."""

    components: bool
    """Whether planes are principal components of the bands, or the bands themselves."""


def lossy_peers() -> list[LossyPeer]:
    """All of them, the anchor first."""
    found = [
        LossyPeer(name="JPEG 2000 per band", codec=plane_codecs.jpeg2000, components=False),
        LossyPeer(name="KLT + JPEG 2000", codec=plane_codecs.jpeg2000, components=True),
        LossyPeer(name="KLT + HEVC intra", codec=plane_codecs.hevc, components=True),
        LossyPeer(name="KLT + AVIF", codec=plane_codecs.avif, components=True),
    ]
    for effort, note in ((7, ""), (9, " (effort 9)")):
        codec = partial(plane_codecs.jpeg_xl, effort)
        found.append(LossyPeer(name=f"JPEG XL per band{note}", codec=codec, components=False))
        found.append(LossyPeer(name=f"KLT + JPEG XL{note}", codec=codec, components=True))
    return found


# --- transform -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Transform:
    """Planes as an orthonormal mixture of bands."""

    mean: NDArray[np.float32]
    """Of each band, in DN, (bands,)."""

    matrix: NDArray[np.float32]
    """(planes, bands): what a plane is made of."""

    nbytes: int
    """What a file takes for it."""

    def forward(self, pixels: NDArray[Any]) -> NDArray[np.float64]:
        """Planes (plane, y, x) of pixels (band, y, x)."""
        centred = pixels - self.mean[:, np.newaxis, np.newaxis].astype(np.float64)
        planes: NDArray[np.float64] = np.tensordot(self.matrix.astype(np.float64), centred, axes=1)
        return planes

    def backward(self, planes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Pixels of planes."""
        mixed: NDArray[np.float64] = np.tensordot(self.matrix.T.astype(np.float64), planes, axes=1)
        return mixed + self.mean[:, np.newaxis, np.newaxis].astype(np.float64)


def karhunen_loeve(scene: Scene) -> Transform:
    """Eigenvectors of the bands' covariance over the pixels that all bands have, the largest variance first."""
    shared = scene.valid.all(axis=0)
    values = scene.pixels[:, shared if shared.any() else slice(None)].reshape(len(scene.pixels), -1)
    _, vectors = np.linalg.eigh(np.atleast_2d(np.cov(values.astype(np.float64))))
    matrix = vectors.T[::-1].astype(np.float32)
    return Transform(
        mean=values.mean(axis=1).astype(np.float32), matrix=matrix, nbytes=_FLOAT_BYTES * (matrix.size + len(matrix))
    )


def bands_themselves(scene: Scene) -> Transform:
    """Each band a plane, which takes no bytes."""
    bands = len(scene.pixels)
    return Transform(mean=np.zeros(bands, np.float32), matrix=np.eye(bands, dtype=np.float32), nbytes=0)


# --- planes --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Coding:
    """A plane in some bytes."""

    low: np.float32
    step: np.float32
    """What stands for 0, and for one more, in DN; both are stored."""

    data: bytes
    """Of the codec; empty where the whole plane is `low`."""

    error: float
    """Sum of squared errors in DN² where pixels count."""

    @property
    def nbytes(self) -> int:
        """Length in a file."""
        return 2 * _FLOAT_BYTES + len(self.data)


def decode(coding: Coding, codec: PlaneCodec, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The plane (y, x) of a coding, in DN."""
    levels = codec.decode(coding.data) if coding.data else np.zeros(shape, np.uint16)
    return float(coding.low) + float(coding.step) * levels.astype(np.float64)


def codings(
    plane: NDArray[np.float64], counts: NDArray[np.bool_], codec: PlaneCodec, loosest: float, tightest: float
) -> Iterator[Coding]:
    """A plane (y, x) as its mean, and at the knob's values between two mean squared errors, in DN².

    Errors count where `counts` (y, x) is True. One coding beyond each of the two errors comes along.
    """
    mean = np.float32(plane[counts].mean())
    yield Coding(low=mean, step=np.float32(0), data=b"", error=float(np.square(plane[counts] - mean).sum()))
    low = np.float32(plane.min())
    step = np.float32((plane.max() - low) / (2**codec.depth - 1))
    if step <= 0:
        return
    levels: Plane = np.clip(np.rint((plane - low) / step), 0, 2**codec.depth - 1).astype(np.uint16)

    @cache
    def at(place: int) -> Coding:
        coded = Coding(low=low, step=step, data=codec.encode(levels, codec.knobs[place]), error=0.0)
        error = np.square(decode(coded, codec, plane.shape) - plane)[counts].sum()
        return Coding(low=low, step=step, data=coded.data, error=float(error))

    places = range(len(codec.knobs))
    first = bisect_left(places, True, key=lambda place: at(place).error <= loosest * counts.sum())
    for place in places[max(first - 1, 0) :]:
        yield at(place)
        if at(place).error <= tightest * counts.sum():
            return


def share_out(offers: Sequence[Sequence[Coding]], error: float) -> tuple[Coding, ...] | None:
    """Of each plane the coding that is best at one price of a byte, the highest whose errors sum to at most `error`.

    None where even the finest codings have more.
    """

    def best(price: float) -> tuple[Coding, ...]:
        return tuple(min(offer, key=lambda coding: coding.error + price * coding.nbytes) for offer in offers)

    def fits(chosen: tuple[Coding, ...]) -> bool:
        return sum(coding.error for coding in chosen) <= error

    low, high = 1e-9, 1e15  # DN² for a byte: below and above all that 16 bits can give
    if not fits(best(low)):
        return None
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if fits(best(middle)) else (low, middle)
    return best(low)


# --- curves --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What a codec made of a scene."""

    nbytes: int
    """All that a reader needs but the shape and the type."""

    bits: float
    """Per pixel and band that was observed."""

    psnr: float
    """Of all bands together, in dB; infinite where all is exact."""

    max_error: float
    """In DN, over all bands."""


def point(scene: Scene, decoded: NDArray[Any], nbytes: int) -> Point:
    """How decoded pixels (band, y, x) of the scene's type compare with it where it was observed."""
    found: Quality = measure(scene.pixels, decoded, scene.valid, nbytes)
    error = found.squared_error.sum() / found.count.sum()
    return Point(
        nbytes=nbytes,
        bits=found.bits_per_pixel,
        psnr=float(10 * np.log10(scene.peak**2 / error)) if error else float("inf"),
        max_error=float(found.max_error.max()),
    )


def curve(scene: Scene, peer: LossyPeer, targets: Sequence[float] = TARGETS) -> list[Point]:
    """Points of about these PSNR in dB, rising; those that the codec cannot reach are left out.

    Raises
    ------
    Skipped
        If the codec is not here.
    """
    codec = peer.codec()
    transform = karhunen_loeve(scene) if peer.components else bands_themselves(scene)
    planes = transform.forward(scene.pixels)
    # A component counts where any band was observed, a band where it was itself.
    counts = np.broadcast_to(scene.valid.any(axis=0), planes.shape) if peer.components else scene.valid
    allowed = [scene.peak**2 / 10 ** (target / 10) for target in sorted(targets)]
    offers = [
        list(codings(plane, mask, codec, _LOOSE * allowed[0], allowed[-1]))
        for plane, mask in zip(planes, counts, strict=True)
    ]
    chosen = [share_out(offers, error * counts.sum()) for error in allowed]
    limits = np.iinfo(scene.pixels.dtype)
    found = []
    for choice in dict.fromkeys(choice for choice in chosen if choice is not None):
        mixed = transform.backward(np.stack([decode(coding, codec, planes.shape[1:]) for coding in choice]))
        decoded = np.clip(np.rint(mixed), limits.min, limits.max).astype(scene.pixels.dtype)
        found.append(point(scene, decoded, transform.nbytes + sum(coding.nbytes for coding in choice)))
    return found
