"""Models of the `transform` preset as benchmarks use them: of every fold, for any number of bands and pixel type."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks import transform_scenes
from benchmarks.common import Skipped
from harmonium.models import packaged
from harmonium.models.context_training import Source
from harmonium.models.presets import transform
from harmonium.models.radiometry import Radiometry, default_peak
from harmonium.models.transform_codec import TransformCodec


def finish(networks: nn.ModuleList, sources: Sequence[Source], seed: int, record: Mapping[str, Any]) -> bytes:
    """Trained networks, what is made of them in whole numbers, and the record: a file as the package has it."""
    return packaged.to_bytes(networks, transform.finish(networks, list(sources), seed), record)


model_of = cache(packaged.from_bytes)
"""The model in the bytes of a file."""


def codec(data: bytes, dtype: str, bands: int, peak: float | None = None) -> TransformCodec:
    """A codec of such bytes, for this number of bands of this type."""
    radiometry = Radiometry(
        dtype=dtype,
        offset=(0.0,) * bands,
        scale=(1.0,) * bands,
        peak=default_peak(dtype) if peak is None else peak,
    )
    return TransformCodec(radiometry=radiometry, model=model_of(data))


def of_fold(folder: Path, scene: str) -> bytes:
    """The model that has seen neither this scene nor its neighbours, `fold_X.harmonium` of that folder.

    Raises
    ------
    Skipped
        If it is not there.
    """
    file = folder / f"fold_{transform_scenes.fold_of(scene)}.harmonium"
    if not file.is_file():
        raise Skipped(f"no {file}; `python -m benchmarks.train_transform` makes it")
    return file.read_bytes()
