"""`harmonium query`: which scenes fit."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from harmonium.pipeline.archive import Archive
from harmonium.pipeline.query import Hit
from harmonium.pipeline.query import query as pipeline_query
from harmonium.pipeline.windows import Bbox, parse_crs
from harmonium.workflows.session import Output


def query(
    archive: Archive,
    output: Output,
    *,
    bbox: Bbox | None,
    crs: str,
    time: str | None,
    bands: Sequence[str],
    min_psnr: float | None,
) -> list[Hit]:
    """Print the groups that fit, and return them."""
    hits = pipeline_query(archive, bbox=bbox, crs=parse_crs(crs), time=time, bands=bands, min_psnr=min_psnr)
    documents = [_document(hit) for hit in hits]
    output.result(documents, _table(documents) if documents else "no scene fits")
    return hits


def _document(hit: Hit) -> dict[str, Any]:
    return {
        "scene": hit.scene.id,
        "group": hit.group.name,
        "time": None if hit.time is None else hit.time.isoformat(),
        "bbox": None if hit.bbox is None else list(hit.bbox),
        "bands": list(hit.bands),
        "psnr_db": round(hit.psnr, 3),
        "bits_per_pixel": round(hit.quality.bits_per_pixel, 4),
        "bytes": hit.quality.nbytes,
        "path": f"{hit.scene.url}/{hit.group.path}",
    }


def _table(documents: Sequence[dict[str, Any]]) -> str:
    table = Table(box=None, pad_edge=False)
    for column in ("scene", "group", "time", "bbox", "bands", "PSNR dB", "bits/px", "MB"):
        table.add_column(column, justify="right" if column in ("PSNR dB", "bits/px", "MB") else "left", no_wrap=True)
    for each in documents:
        box = "-" if each["bbox"] is None else " ".join(f"{value:.3f}" for value in each["bbox"])
        table.add_row(
            each["scene"],
            each["group"],
            each["time"] or "-",
            box,
            ",".join(each["bands"]),
            f"{each['psnr_db']:.2f}",
            f"{each['bits_per_pixel']:.3f}",
            f"{each['bytes'] / 1e6:.3f}",
        )
    console = Console(width=1000, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())
