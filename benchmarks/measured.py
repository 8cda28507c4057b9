"""Rate and distortion as an archive states them, and of JPEG 2000 for the same pixels."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonium.models.cells import CELL
from harmonium.models.model_file import ModelFile
from harmonium.models.quality import Quality, psnr
from harmonium.models.quality import measure as compare
from harmonium.pipeline import jpeg2000
from harmonium.pipeline.archive import create_archive
from harmonium.pipeline.cluster import InProcess
from harmonium.pipeline.compress import SceneFailed, check_scenes, compress
from harmonium.pipeline.resolution_group import ResolutionGroup
from harmonium.pipeline.scene import Scene
from harmonium.pipeline.stats import valid_mask


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What an archive says of the chunks from a column on."""

    quality: Quality
    """Rate and distortion."""

    codes: NDArray[np.int32]
    """Their codes (unit, cells)."""

    peak: float
    """Range that PSNR refers to, in DN."""

    @property
    def psnr(self) -> float:
        """Of all bands together, in dB."""
        return overall(self.quality, self.peak)


def overall(quality: Quality, peak: float) -> float:
    """PSNR of all bands together, in dB."""
    return float(psnr(quality.squared_error.sum() / quality.count.sum(), peak))


def archived(scene: Scene, model: ModelFile, first_chunk: int = 0) -> Measured:
    """Compress a scene as `harmonium compress` does; measure its chunks from that column of chunks on."""
    check_scenes([scene], model)
    with tempfile.TemporaryDirectory(prefix="harmonium-benchmark-") as folder:
        archive = create_archive(Path(folder) / "archive.zarr")
        for event in compress(archive, [scene], model, InProcess()):
            if isinstance(event, SceneFailed):
                raise event.error
        group = archive[scene.id][scene.groups[0].name]
        chunks = group.quality_by_chunk().isel(chunk_x=slice(first_chunk, None))
        count = chunks["count"].values.astype(np.int64)
        quality = Quality(
            nbytes=int(chunks["bytes"].sum()),
            count=count.sum(axis=(1, 2)),
            squared_error=(chunks["mse"].values * count).sum(axis=(1, 2)),
            max_error=chunks["max_error"].values.max(axis=(1, 2)),
        )
        cells = group.image.chunks[1] // CELL
        codes = group.codes[:, :, first_chunk * cells :].values
        return Measured(quality=quality, codes=codes.reshape(len(codes), -1), peak=group.peak)


def peer(pixels: NDArray[Any], group: ResolutionGroup, bits: float) -> Quality:
    """What JPEG 2000 makes of the same pixels in no more bits, all bands in one codestream."""
    decoded, nbytes = jpeg2000.at_bits(pixels, bits)
    return compare(pixels, decoded, valid_mask(pixels, group.nodata), nbytes)
