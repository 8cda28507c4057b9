"""`harmonium decompress`: a scene, or a part of it, back to a GeoTIFF."""

from collections.abc import Sequence
from pathlib import Path

from harmonium.pipeline.archive import Archive
from harmonium.pipeline.decompress import decompress as pipeline_decompress
from harmonium.pipeline.grid import Tile
from harmonium.pipeline.windows import Bbox
from harmonium.workflows.session import Output, Stopwatch


def decompress(
    archive: Archive,
    scene_id: str,
    out: Path,
    output: Output,
    *,
    group: str | None = None,
    bands: Sequence[str] = (),
    bbox: Bbox | None = None,
    crs: str = "EPSG:4326",
    window: tuple[int, int, int, int] | None = None,
) -> None:
    """Write the file and say what is in it."""
    watch = Stopwatch()
    tile = None
    if window is not None:
        tile = Tile(col_off=window[0], row_off=window[1], width=window[2], height=window[3])
    written = pipeline_decompress(archive[scene_id], out, group=group, bands=bands, bbox=bbox, crs=crs, window=tile)
    document = {
        "file": str(out),
        "scene": scene_id,
        "window": [written.col_off, written.row_off, written.width, written.height],
        "bytes": out.stat().st_size,
        "seconds": watch.seconds,
    }
    text = f"{out}: {written.height} rows × {written.width} columns, {document['bytes']} bytes in {watch.seconds:.1f} s"
    output.result(document, text)
