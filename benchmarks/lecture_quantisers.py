"""Vector quantisers that k-means trains: what codes of fixed length reach without a network.

Which of `train_quantisers` is best is for cells to say that none was trained on, and that are not measured on either.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import lecture_scenes
from benchmarks.common import Skipped
from benchmarks.lecture_peers import squared_error
from harmonium.errors import UsageError
from harmonium.models.cells import from_cells, to_cells

Cells = NDArray[np.float32]
"""(cells, bands * 64) in DN, as `harmonium.models.cells.to_cells` orders them."""

_BYTE = 8
_KMEANS_BITS = 16
"""Up to so many bits a cell, one codebook holds all states."""
_EXACT_BITS = 11
"""Up to so many bits, training searches all centroids, too."""
_COMPONENTS = 16
_PROBES = 4
_ITERATIONS = 10
_BEAM = 4
_MOST_STAGES = 8
"""Of a residual quantiser for whole cells: 32 learned 40 000 cells by heart; whether more would do was not tried."""
_PRODUCT_RESIDUAL_CELLS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorQuantiser:
    """Cells of some bands to codes of fixed length and back; can be pickled."""

    name: str
    """The kind, as in `KINDS`."""

    bits_per_cell: int
    """Of all bands together."""

    index: NDArray[np.uint8]
    """A faiss index without vectors, as `faiss.serialize_index` gives it."""

    def encode(self, cells: Cells) -> NDArray[np.uint8]:
        """Codes (cells, bytes), each of `bits_per_cell` bits and filled up to whole bytes."""
        codes: NDArray[np.uint8] = load_faiss().deserialize_index(self.index).sa_encode(cells)
        return codes

    def decode(self, codes: NDArray[np.uint8]) -> Cells:
        """Cells of such codes."""
        cells: Cells = load_faiss().deserialize_index(self.index).sa_decode(codes)
        return cells

    def code(self, pixels: NDArray[Any]) -> tuple[NDArray[Any], int]:
        """Decoded pixels (band, y, x), rounded and clipped to the type of the original, and the bits that they took."""
        cells = to_cells(torch.from_numpy(pixels.astype(np.float32))).numpy()
        decoded = from_cells(torch.from_numpy(self.decode(self.encode(cells))), *pixels.shape).numpy()
        limits = np.iinfo(pixels.dtype)
        return np.clip(np.rint(decoded), limits.min, limits.max).astype(pixels.dtype), len(cells) * self.bits_per_cell


def _kmeans(cells: Cells, bits: int, seed: int) -> Any:
    """2^bits centroids in the coordinates of most variance.

    The others are left at what these say of them: a mean of few cells would only copy their noise. Training finds the
    nearest centroid among those of a few neighbouring lists; encoding searches all.
    """
    faiss = load_faiss()
    components = min(_COMPONENTS, cells.shape[1])
    axes = faiss.PCAMatrix(cells.shape[1], components)
    axes.train(cells)
    nearest = faiss.IndexFlatL2(components)
    if bits > _EXACT_BITS:
        nearest = faiss.IndexIVFFlat(nearest, components, 1 << (bits // 2 + 1))
        nearest.nprobe = _PROBES
        nearest.cp.min_points_per_centroid = 1
        nearest.cp.seed = seed
    clustering = faiss.Clustering(components, 1 << bits)
    clustering.niter, clustering.seed = _ITERATIONS, seed
    clustering.min_points_per_centroid, clustering.max_points_per_centroid = 1, len(cells)
    clustering.train(axes.apply(cells), nearest)
    # Back to all coordinates here: faiss' own way back loses the part of the mean that lies outside the components.
    basis = faiss.vector_to_array(axes.A).reshape(components, -1)
    centroids = faiss.vector_to_array(clustering.centroids).reshape(-1, components) @ basis + cells.mean(axis=0)
    states = faiss.IndexPQ(cells.shape[1], 1, bits)
    faiss.copy_array_to_vector(centroids.astype(np.float32).ravel(), states.pq.centroids)
    states.is_trained = True
    return states


def _residual(cells: Cells, bits: int, seed: int) -> Any:
    """Stages of 8 bits for all coordinates, each for what those before leave, encoded by a beam search."""
    index = load_faiss().IndexResidualQuantizer(cells.shape[1], bits // _BYTE, _BYTE)
    _set_residual(index.rq, seed)
    index.train(cells)
    return index


def _product(cells: Cells, bits: int, seed: int) -> Any:
    """8 bits for each group of principal components, groups with products of variances that are alike."""
    faiss = load_faiss()
    groups = bits // _BYTE
    product = faiss.IndexPQ(cells.shape[1], groups, _BYTE)
    product.pq.cp.seed = seed
    index = faiss.IndexPreTransform(_balanced_axes(cells.shape[1], groups), product)
    index.train(cells)
    return index


def _rotated_product(cells: Cells, bits: int, seed: int) -> Any:
    """8 bits for each group of coordinates after a rotation that is learned, too (optimised product quantisation)."""
    faiss = load_faiss()
    groups = bits // _BYTE
    rotation = faiss.OPQMatrix(cells.shape[1], groups)
    rotation.niter, rotation.niter_pq, rotation.niter_pq_0 = 5, 2, 5
    rotation.max_train_points = 20_000
    product = faiss.IndexPQ(cells.shape[1], groups, _BYTE)
    product.pq.cp.seed = seed
    index = faiss.IndexPreTransform(rotation, product)
    index.train(cells)
    return index


def _product_residual(cells: Cells, bits: int, seed: int) -> Any:
    """As `_product`, with two residual stages of 8 bits for each group, of twice as many components."""
    faiss = load_faiss()
    groups = bits // (2 * _BYTE)
    product = faiss.IndexProductResidualQuantizer(cells.shape[1], groups, 2, _BYTE)
    for group in range(groups):
        _set_residual(faiss.downcast_AdditiveQuantizer(product.prq.subquantizer(group)), seed)
    index = faiss.IndexPreTransform(_balanced_axes(cells.shape[1], groups), product)
    index.train(cells[:_PRODUCT_RESIDUAL_CELLS])
    return index


def _balanced_axes(values: int, groups: int) -> Any:
    axes = load_faiss().PCAMatrix(values, values)
    axes.balanced_bins = groups
    return axes


def _set_residual(quantiser: Any, seed: int) -> None:
    quantiser.train_type = type(quantiser).Train_default  # codebooks by dimension take more than twice the time
    quantiser.max_beam_size = _BEAM
    quantiser.cp.niter = _ITERATIONS
    quantiser.cp.seed = seed


def _fits_kmeans(bits: int, values: int) -> bool:
    return 1 <= bits <= _KMEANS_BITS


def _fits_residual(bits: int, values: int) -> bool:
    return bits % _BYTE == 0 and bits // _BYTE <= _MOST_STAGES


def _fits_product(bits: int, values: int) -> bool:
    return bits % _BYTE == 0 and values % (bits // _BYTE) == 0


def _fits_product_residual(bits: int, values: int) -> bool:
    return bits % (2 * _BYTE) == 0 and values % (bits // (2 * _BYTE)) == 0


Train = Callable[[Cells, int, int], Any]
KINDS: Mapping[str, tuple[Train, Callable[[int, int], bool]]] = {
    "k-means": (_kmeans, _fits_kmeans),
    "residual": (_residual, _fits_residual),
    "product": (_product, _fits_product),
    "rotated product": (_rotated_product, _fits_product),
    "product of residual": (_product_residual, _fits_product_residual),
}
"""Trainers by name, and at which bits and values per cell each can be had."""


def train_quantisers(cells: Cells, bits_per_cell: int, seed: int) -> Iterator[VectorQuantiser]:
    """Train every kind that can have so many bits per cell, one after another; faiss takes `OMP_NUM_THREADS` threads.

    Raises
    ------
    UsageError
        If no kind can; if there are fewer cells than states of a codebook.
    Skipped
        If faiss is not installed.
    """
    if bits_per_cell < 1:
        raise UsageError(f"Expected a positive number of bits per cell, found {bits_per_cell}; give such a rate")
    fitting = {name: train for name, (train, fits) in KINDS.items() if fits(bits_per_cell, cells.shape[1])}
    if not fitting:
        raise UsageError(
            f"Expected up to {_KMEANS_BITS} bits per cell, or a multiple of {_BYTE} whose bytes divide the "
            f"{cells.shape[1]} values of a cell, found {bits_per_cell}; give such a rate"
        )
    states = 1 << (bits_per_cell if "k-means" in fitting else _BYTE)
    if len(cells) < states:
        raise UsageError(f"Expected a cell for each of {states} states at least, found {len(cells)}; give more cells")
    for name, train in fitting.items():
        index = load_faiss().serialize_index(train(cells, bits_per_cell, seed))
        yield VectorQuantiser(name=name, bits_per_cell=bits_per_cell, index=index)


_TRAINED, _CHOSEN_ON = 300_000, 20_000
"""Cells that quantisers are trained on, and that the best is chosen on."""


def best_quantiser(bits_per_cell: int, folder: Path) -> VectorQuantiser:
    """The best for pictures of 8 bits, from `folder` where it lies there already."""
    path = folder / f"quantiser-{bits_per_cell}.npz"
    if not path.exists():
        trained, chosen_on = (_cells(count, seed) for seed, count in enumerate((_TRAINED, _CHOSEN_ON)))
        kinds = list(train_quantisers(trained, bits_per_cell, seed=0))
        best = min(kinds, key=lambda kind: squared_error(chosen_on, kind.decode(kind.encode(chosen_on))))
        half = path.with_suffix(".part")
        with half.open("wb") as file:
            np.savez(file, name=best.name, index=best.index)
        half.rename(path)
    with np.load(path) as saved:
        return VectorQuantiser(name=str(saved["name"]), bits_per_cell=bits_per_cell, index=saved["index"])


def _cells(count: int, seed: int) -> Cells:
    cells: Cells = lecture_scenes.training_cells(count, seed).reshape(-1, 64).astype(np.float32)
    return cells


def load_faiss() -> ModuleType:
    """The package faiss; `Skipped` if it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise Skipped("faiss is not installed; pip install '.[peers]'") from error
    module: ModuleType = faiss
    return module
