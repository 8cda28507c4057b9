"""Lossy codecs of one plane of integers, each with a knob from coarse to fine, and bytes that decode by themselves."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Skipped

Plane = NDArray[np.uint16]
"""(y, x), values below 2^depth of the codec."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneCodec:
    """A codec, set to the least squared error that it offers, on one thread."""

    depth: int
    """Bits of a value."""

    knobs: tuple[float, ...]
    """Values of its knob, from coarse to fine, about 2 dB apart."""

    encode: Callable[[Plane, float], bytes]
    """A plane at a knob's value, all headers included."""

    decode: Callable[[bytes], Plane]
    """The plane of these bytes."""


def package(name: str) -> ModuleType:
    """A package of the extra `peers`.

    Raises
    ------
    Skipped
        If it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Skipped(f"{name} is not installed; pip install '.[peers]'") from error


def jpeg2000() -> PlaneCodec:
    """OpenJPEG: one tile, one quality layer, irreversible wavelet of 5 levels; codestreams without the boxes of JP2.

    The knob is the PSNR in dB, peak 65 535, that its rate control aims at.
    """
    imagecodecs = package("imagecodecs")

    def encode(plane: Plane, decibels: float) -> bytes:
        data: bytes = imagecodecs.jpeg2k_encode(
            plane,
            level=round(decibels),
            codecformat="j2k",
            reversible=False,
            resolutions=6,
            bitspersample=16,
            mct=False,
            numthreads=1,
        )
        return bytes(data)

    return PlaneCodec(
        depth=16,
        knobs=tuple(range(24, 102, 2)),
        encode=encode,
        decode=lambda data: _plane(imagecodecs.jpeg2k_decode(data, numthreads=1)),
    )


def jpeg_xl(effort: int = 7) -> PlaneCodec:
    """libjxl, grey. The knob is the distance, which libjxl measures in steps that an eye can see."""
    imagecodecs = package("imagecodecs")

    def encode(plane: Plane, distance: float) -> bytes:
        return bytes(
            imagecodecs.jpegxl_encode(
                plane, effort=effort, distance=distance, lossless=False, usecontainer=False, numthreads=1
            )
        )

    return PlaneCodec(
        depth=16,
        knobs=tuple(float(distance) for distance in np.geomspace(25, 0.01, 35)),
        encode=encode,
        decode=lambda data: _plane(imagecodecs.jpegxl_decode(data, numthreads=1)),
    )


def avif(speed: int = 6) -> PlaneCodec:
    """AV1 by libaom, 12 bits. The knob is libavif's quality.

    imagecodecs codes grey without loss only: here a plane is all three colours, so that chroma is constant at half the
    resolution. That costs some hundred bytes.
    """
    imagecodecs = package("imagecodecs")

    def encode(plane: Plane, quality: float) -> bytes:
        return bytes(
            imagecodecs.avif_encode(
                np.repeat(plane[..., np.newaxis], 3, axis=2),
                level=round(quality),
                speed=speed,
                bitspersample=12,
                pixelformat="yuv420",
                codec="aom",
                numthreads=1,
            )
        )

    return PlaneCodec(
        depth=12,
        knobs=(*range(4, 68, 8), *range(68, 92, 4), *range(92, 100)),
        encode=encode,
        decode=lambda data: _plane(imagecodecs.avif_decode(data, numthreads=1)[..., 1]),
    )


def hevc() -> PlaneCodec:
    """x265, preset medium tuned for PSNR, one intra picture of grey in 12 bits. The knob is QP; x265 ends at 0.

    Raises
    ------
    Skipped
        If PyAV is not installed, or its FFmpeg has no x265 of such depth.
    """
    av = package("av")
    try:
        formats = {known.name for known in av.codec.Codec("libx265", "w").video_formats or ()}
    except ValueError:  # PyAV's error of unknown codecs is one
        formats = set()
    if "gray12le" not in formats:
        raise Skipped(f"FFmpeg of av {av.__version__} has no libx265 with grey of 12 bits; install another wheel of av")
    parameters = "keyint=1:ipratio=1:pools=none:frame-threads=1:info=0:log-level=none"

    def encode(plane: Plane, qp: float) -> bytes:
        context: Any = av.CodecContext.create("libx265", "w")
        context.height, context.width = plane.shape
        context.pix_fmt = "gray12le"
        context.time_base = Fraction(1, 1)
        context.thread_count = 1
        context.options = {"preset": "medium", "tune": "psnr", "x265-params": f"{parameters}:qp={round(qp)}"}
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(plane), format="gray12le")
        frame.pts = 0
        return b"".join(bytes(packet) for packet in (*context.encode(frame), *context.encode(None)))

    def decode(data: bytes) -> Plane:
        context: Any = av.CodecContext.create("hevc", "r")
        context.thread_count = 1
        frames = [*context.decode(av.Packet(data)), *context.decode(None)]
        return _plane(frames[0].to_ndarray())

    return PlaneCodec(depth=12, knobs=tuple(range(50, -1, -2)), encode=encode, decode=decode)


def _plane(decoded: Any) -> Plane:
    return np.ascontiguousarray(decoded, dtype=np.uint16)
