"""What the commands do, as plain functions that print nothing.

    from harmonium import Psnr, compress, fit, open_archive, open_scene

    compress([open_scene("west.tif")], "archive.zarr", target=Psnr(45))
    model = fit([open_scene("west.tif")], seed=7)
    compress([open_scene("east.tif")], "archive.zarr", model)
    pixels = open_archive("archive.zarr")["east"]["r10m"].open()

`query` and `decompress` are `harmonium.pipeline`'s own.
"""

from collections.abc import Sequence
from pathlib import Path

from rasterio.crs import CRS

from harmonium.errors import ArchiveError
from harmonium.models.model_file import ModelFile
from harmonium.models.targets import Target
from harmonium.pipeline import compress as _compress
from harmonium.pipeline import fit as _fit
from harmonium.pipeline import packaged_models
from harmonium.pipeline import verify as _verify
from harmonium.pipeline.archive import Archive, create_archive
from harmonium.pipeline.cluster import connect
from harmonium.pipeline.scene import Scene
from harmonium.pipeline.windows import LONLAT, Bbox


def fit(
    scenes: Sequence[Scene],
    *,
    preset: str = "real-rbm",
    seed: int = 0,
    bits: float | None = None,
    effort: float = 1.0,
    peak: float | None = None,
    settings: Sequence[str] = (),
    bbox: Bbox | None = None,
    crs: CRS | str = LONLAT,
    cluster: str = "local",
    workers: int | None = None,
) -> ModelFile:
    """Learn a model for every resolution group of the scenes; `Path(...).write_bytes(model.data)` keeps it.

    Parameters
    ----------
    scenes
        At least one; see `open_scene`. Their order does not matter.
    preset
        Which codec: `harmonium.models.presets.names()` tells those there are.
    seed
        The same scenes and the same seed give the same model, byte for byte, whatever the cluster.
    bits
        Target bits per pixel and band; None takes the preset's own.
    effort
        Factor on the number of training steps.
    peak
        Value range that PSNR refers to, in DN; None takes the default of the pixel type.
    settings
        `NAME=VALUE` each: fields of the preset, such as "stages.joint=0" (`harmonium.models.preset_settings`).
    bbox, crs
        Only the part of every scene that this place (west, south, east, north) touches.
    cluster, workers
        See `harmonium.pipeline.cluster.connect`.

    Raises
    ------
    SceneError
        If the scenes do not agree, or carry too little data.
    UsageError, ClusterError
        If an option is out of range, or the cluster is not there.
    """
    options = _fit.fit_options(seed=seed, bits=bits, effort=effort, peak=peak, settings=settings)
    if bbox is not None:
        scenes = [_fit.clip(scene, bbox, crs) for scene in scenes]
    with connect(cluster, workers) as executor:
        return _fit.fit(scenes, preset, options, executor)


def compress(
    scenes: Sequence[Scene],
    archive: str | Path,
    model: ModelFile | str | Path | None = None,
    *,
    target: Target | None = None,
    peak: float | None = None,
    cluster: str = "local",
    workers: int | None = None,
) -> Archive:
    """Compress scenes into an archive, made if it is not there; again, it resumes what was interrupted.

    Parameters
    ----------
    scenes
        See `open_scene`.
    archive
        Where it is.
    model
        What `fit` made, its file, or the name of a packaged model; None takes the packaged `transform`, which codes any
        scenes.
    target
        What is promised, for models that take targets: `Psnr(45)`, `Ratio(20)`, `MaxError(1)`, `Lossless()`, `Step(8)`.
        A PSNR and a ratio are met by each resolution group of a scene as a whole, by one step for the group. None takes
        `Psnr(50)` for a packaged model.
    peak
        Value range in DN that PSNR refers to, for a packaged model; None takes the default of the pixel type.
    cluster, workers
        See `harmonium.pipeline.cluster.connect`.

    Raises
    ------
    SceneError
        Before anything is written, if the model does not fit a scene.
    ModelError
        Before anything is written, if there is no such model.
    ArchiveError
        If the archive has something else of that name, or some scenes failed, after all others are complete.
    UsageError, ClusterError
        If model, target and peak do not go together, or the cluster is not there.
    """
    found, target = packaged_models.find(model, scenes, target, peak)
    _compress.check_scenes(scenes, found, target)
    opened = create_archive(archive)
    _compress.check_archive(opened, scenes, found, target)
    with connect(cluster, workers) as executor:
        events = list(_compress.compress(opened, scenes, found, executor, target))
    failed = [event for event in events if isinstance(event, _compress.SceneFailed)]
    if failed:
        reasons = "; ".join(f"{event.scene_id}: {event.error}" for event in failed)
        raise ArchiveError(f"{len(failed)} of {len(scenes)} scenes failed: {reasons}") from failed[0].error
    return opened


def verify(
    archive: Archive,
    *,
    scenes: Sequence[str] = (),
    originals: Sequence[Scene] = (),
    cluster: str = "local",
    workers: int | None = None,
) -> list[str]:
    """What is wrong with an archive, a sentence each; an empty list if every chunk is whole and as good as it says.

    Parameters
    ----------
    archive
        The archive.
    scenes
        Names of the scenes to check; none means all.
    originals
        Scenes that archived ones of the same name were made from: their errors are then measured again.
    cluster, workers
        See `harmonium.pipeline.cluster.connect`.

    Raises
    ------
    SceneNotFound
        If the archive has no scene of one of the names.
    """
    by_id = {archive[scene.id].id: scene for scene in originals}
    with connect(cluster, workers) as executor:
        outcomes = list(_verify.verify(archive, scenes, by_id, executor))
    return [problem for outcome in outcomes for problem in outcome.problems]
