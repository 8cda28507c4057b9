"""Model files of the codecs that come with harmonium: for whatever scenes or arrays, without a fit.

The networks are in the package; what a model file adds are the bands and the pixel type. The same name, bands and type
always give the same bytes, so a process that has neither archive nor file builds the model anew, and knows by the
SHA-256 that it is the same.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

from harmonium.errors import ModelError, SceneError, UsageError
from harmonium.models import model_file, packaged
from harmonium.models.model_file import GroupModel, ModelFile
from harmonium.models.payload import MAX_BANDS
from harmonium.models.radiometry import DTYPES, default_peak
from harmonium.models.targets import Psnr, Target
from harmonium.pipeline import model_sources

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from harmonium.models.chunk_codec import ChunkCodec
    from harmonium.pipeline.resolution_group import ResolutionGroup
    from harmonium.pipeline.scene import Scene

DEFAULT_NAME = "transform"
"""What codes scenes for which no model is named."""

DEFAULT_TARGET: Target = Psnr(50)
"""What such scenes are promised where nothing is asked."""

ARRAY_GROUP = "array"
"""The one group of a model that is for an array rather than for a scene."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packaged:
    """A model of the package for an array: all that it takes to build its file again, byte for byte."""

    name: str
    """Name of the networks; they never change under one name."""

    dtype: str
    """Native pixel type."""

    bands: int
    """Number of bands."""

    peak: float
    """Value range that PSNR refers to, in DN."""

    def __post_init__(self) -> None:
        """Refuse what no packaged model can be, from a JSON document that may be anybody's.

        Whether there is one of that name shows when it is built: another harmonium may have others.
        """
        if not isinstance(self.name, str):
            raise ModelError(f"A packaged model has a name, found {self.name!r}")
        fits = isinstance(self.dtype, str) and self.dtype in DTYPES
        if not fits or type(self.bands) is not int or not 1 <= self.bands <= MAX_BANDS:
            raise ModelError(
                f"The packaged model {self.name!r} needs dtype=, one of {', '.join(DTYPES)}, and bands=, 1 to "
                f"{MAX_BANDS}; found dtype={self.dtype!r}, bands={self.bands!r}"
            )
        if type(self.peak) not in (int, float) or not 0 < self.peak < math.inf:
            raise ModelError(f"A peak is a range of DN above 0, found {self.peak!r}")

    @classmethod
    def from_json(cls, document: object) -> Self:
        """Inverse of `to_json`.

        Raises
        ------
        ModelError
            If it is no such document.
        """
        if not isinstance(document, dict) or set(document) != {"name", "dtype", "bands", "peak"}:
            raise ModelError(f"A packaged model has name, dtype, bands and peak; found {document!r}")
        return cls(**document)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    def model(self) -> ModelFile:
        """The model file, with the one group `ARRAY_GROUP`; made known to this process.

        Raises
        ------
        ModelError
            If this harmonium has no model of that name.
        """
        model = _model_of_array(self)
        model_sources.register(model)
        return model


def for_array(name: str, dtype: str | None, bands: int | None, peak: float | None) -> Packaged:
    """What a user chose; without a peak, that of the pixel type.

    Raises
    ------
    ModelError
        If no packaged model codes such pixels.
    """
    chosen = peak if peak is not None else default_peak(dtype) if dtype in DTYPES else 1.0
    # Checked by the class itself, whoever makes one.
    return Packaged(name=name, dtype=dtype, bands=bands, peak=float(chosen))  # type: ignore[arg-type]


def names() -> tuple[str, ...]:
    """Names of the packaged models."""
    return packaged.names()


def find(
    model: str | Path | ModelFile | None, scenes: Sequence[Scene], target: Target | None, peak: float | None
) -> tuple[ModelFile, Target | None]:
    """The model that a user means: one that is given, a file, a packaged one by name, or the default; and the target.

    Raises
    ------
    UsageError
        If a peak is none, or given for a model that has its own.
    SceneError, ModelError
        As `for_scenes` and `model_sources.load_file`.
    """
    if peak is not None and not 0 < peak < math.inf:
        raise UsageError(f"A peak is a range of DN above 0, found {peak:g}")
    if model is None or (isinstance(model, str) and model in names()):
        return for_scenes(scenes, model or DEFAULT_NAME, peak), DEFAULT_TARGET if target is None else target
    if peak is not None:
        raise UsageError(f"A peak is chosen for packaged models ({', '.join(names())}); this model has its own")
    return model if isinstance(model, ModelFile) else model_sources.load_file(model), target


def for_scenes(scenes: Sequence[Scene], name: str = DEFAULT_NAME, peak: float | None = None) -> ModelFile:
    """The model file of the package's networks for all groups of these scenes.

    Its groups have no resolution, because the networks take any: a scene more or less changes no byte, as long as it
    has no other group.

    Raises
    ------
    SceneError
        If groups of the same name have other bands or another type.
    """
    first: dict[str, tuple[Scene, ResolutionGroup]] = {}
    for scene in scenes:
        for group in scene.groups:
            earlier, same = first.setdefault(group.name, (scene, group))
            found, expected = _kind(group), _kind(same)
            if found != expected:
                raise SceneError(
                    f"Scene {scene.id}, group {group.name}: {found}; scene {earlier.id} has {expected} there; compress "
                    "scenes of different bands or types by commands of their own, into the same archive if you like"
                )
    groups = {}
    for group_name, (_, one) in sorted(first.items()):
        codec = _codec(name, one.dtype.name, len(one.bands), peak)
        groups[group_name] = GroupModel(
            preset=name, bands=one.bands, resolution=None, codec=codec, training=_record(name)
        )
    return model_file.make(groups)


@lru_cache(16)
def _model_of_array(chosen: Packaged) -> ModelFile:
    group = GroupModel(
        preset=chosen.name,
        bands=tuple(f"band{band + 1}" for band in range(chosen.bands)),
        resolution=None,
        codec=_codec(chosen.name, chosen.dtype, chosen.bands, chosen.peak),
        training=_record(chosen.name),
    )
    return model_file.make({ARRAY_GROUP: group})


def _codec(name: str, dtype: str, bands: int, peak: float | None) -> ChunkCodec:
    try:
        return packaged.codec(name, dtype, bands, peak)
    except ValueError as error:
        raise ModelError(f"The packaged model {name!r} for {bands} bands of {dtype}: {error}") from error


def _record(name: str) -> dict[str, Any]:
    """What is told of the training; the networks' own description of themselves is the codec's."""
    record = packaged.record(name)
    return {"packaged": name, **{key: value for key, value in record.items() if key != "spec"}}


def _kind(group: ResolutionGroup) -> str:
    return f"{', '.join(group.bands)} as {group.dtype.name}"
