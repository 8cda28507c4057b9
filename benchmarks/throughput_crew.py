"""Processes that code their shares of a scene's chunks, all at once, with this library's codec or with OpenJPEG."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import transform_models
from benchmarks.archive_scenes import Scene
from benchmarks.plane_codecs import package
from benchmarks.transform_peers import CHUNK
from harmonium.models.targets import Step
from harmonium.pipeline.grid import TileGrid
from harmonium.pipeline.torch_threads import single_threaded

OURS, PEER = "harmonium", "OpenJPEG"
DIRECTIONS = ("encode", "decode")

# --- the two codecs, on the chunks of one process ------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one process codes."""

    model: bytes
    """Of our codec."""

    chunks: tuple[NDArray[Any], ...]
    """Pixels (band, y, x)."""

    peak: float
    """Range of PSNR, in DN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coder:
    """A codec with one knob."""

    encode: Callable[[NDArray[Any], float], Any]
    """Pixels to what is stored."""

    decode: Callable[[Any], NDArray[Any]]
    """And back."""

    nbytes: Callable[[Any], int]
    """Length of what is stored."""


def own(share: Share) -> Coder:
    """Our codec; its knob is the step in DN. It decodes and measures every chunk that it encodes."""
    first = share.chunks[0]
    codec = transform_models.codec(share.model, first.dtype.name, len(first), share.peak)

    def encode(pixels: NDArray[Any], step: float) -> tuple[bytes, tuple[int, int, int]]:
        bands, height, width = pixels.shape
        return codec.compress(pixels, float("nan"), Step(step)).payload, (bands, height, width)

    return Coder(encode=encode, decode=lambda stored: codec.decompress(*stored), nbytes=lambda stored: len(stored[0]))


def openjpeg() -> Coder:
    """OpenJPEG, a codestream for each band of a chunk; its knob is the PSNR in dB against the type's whole range."""
    imagecodecs = package("imagecodecs")

    def encode(pixels: NDArray[Any], decibels: float) -> list[bytes]:
        return [
            imagecodecs.jpeg2k_encode(
                plane, level=decibels, codecformat="j2k", reversible=False, resolutions=6, mct=False, numthreads=1
            )
            for plane in pixels
        ]

    def decode(stored: list[bytes]) -> NDArray[Any]:
        return np.stack([imagecodecs.jpeg2k_decode(data, numthreads=1) for data in stored])

    return Coder(encode=encode, decode=decode, nbytes=lambda stored: sum(map(len, stored)))


def serve(connection: Connection, share: Share) -> None:
    """Answer (codec, direction, knob) until None comes: bytes and squared error, outside of what is timed."""
    with single_threaded():
        coders = {OURS: own(share), PEER: openjpeg()}
        stored: dict[str, list[Any]] = {}
        connection.send(None)  # ready
        while (asked := connection.recv()) is not None:
            name, direction, knob = asked
            coder = coders[name]
            if direction == "encode":
                stored[name] = [coder.encode(pixels, knob) for pixels in share.chunks]
                connection.send(sum(map(coder.nbytes, stored[name])))
            elif direction == "decode":
                decoded = [coder.decode(data) for data in stored[name]]
                connection.send(None)
                error = sum(
                    float(np.square(a.astype(np.float64) - b).sum()) for a, b in zip(decoded, share.chunks, strict=True)
                )
                connection.send(error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """Processes that each have a share of a scene's chunks."""

    connections: tuple[Connection, ...]
    """To each of them."""

    values: int
    """Pixels times bands of all chunks."""

    megabytes: float
    """Of native pixels."""

    peak: float
    """Range of PSNR, in DN."""

    def encode(self, name: str, knob: float) -> tuple[float, int]:
        """Seconds, and bytes of the scene."""
        begun = time.perf_counter()
        self._ask((name, "encode", knob))
        sizes = [connection.recv() for connection in self.connections]
        return time.perf_counter() - begun, sum(sizes)

    def decode(self, name: str) -> tuple[float, float]:
        """Seconds, and PSNR of the scene in dB; of what was encoded last."""
        begun = time.perf_counter()
        self._ask((name, "decode", 0.0))
        for connection in self.connections:
            connection.recv()
        seconds = time.perf_counter() - begun
        error = sum(connection.recv() for connection in self.connections) / self.values
        return seconds, float(10 * np.log10(self.peak**2 / error)) if error else float("inf")

    def _ask(self, what: tuple[str, str, float]) -> None:
        for connection in self.connections:
            connection.send(what)


@contextmanager
def crew(scene: Scene, model: bytes, processes: int, most: int | None) -> Iterator[Crew]:
    """Processes with the chunks of a scene, or the first of them, dealt out; they end with the block."""
    _, height, width = scene.pixels.shape
    tiles = list(TileGrid(height=height, width=width, chunk=CHUNK).chunks())[:most]
    # Largest first, so that no process has all the small ones of the edges.
    chunks = sorted((np.ascontiguousarray(scene.pixels[(slice(None), *tile.slices)]) for tile in tiles), key=np.size)
    shares = [tuple(chunks[::-1][first::processes]) for first in range(min(processes, len(chunks)))]
    context, connections, started = get_context("spawn"), [], []
    try:
        for chosen in shares:
            here, there = context.Pipe()
            process = context.Process(
                target=serve, args=(there, Share(model=model, chunks=chosen, peak=scene.peak)), daemon=True
            )
            process.start()
            there.close()
            connections.append(here)
            started.append(process)
        for connection in connections:
            connection.recv()
        yield Crew(
            connections=tuple(connections),
            values=sum(chunk.size for chunk in chunks),
            megabytes=sum(chunk.nbytes for chunk in chunks) / 1e6,
            peak=scene.peak,
        )
        for connection in connections:
            connection.send(None)
        for process in started:
            process.join(10)
    finally:
        for process in started:
            process.terminate()
            process.join()
