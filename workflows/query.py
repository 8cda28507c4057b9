"""`harmonium query`: which scenes fit."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from harmonium.pipeline.archive import Archive
from harmonium.pipeline.query import Hit
from harmonium.pipeline.query import query as pipeline_query
from harmonium.pipeline.windows import Bbox
from harmonium.workflows.describe import decimals
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
    hits = pipeline_query(archive, bbox=bbox, crs=crs, time=time, bands=bands, min_psnr=min_psnr)
    documents = [hit.summary() for hit in hits]
    output.result(documents, _table(documents) if documents else "no scene fits")
    return hits


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
            decimals(each["psnr_db"], 2),
            decimals(each["bits_per_pixel"], 3),
            f"{each['bytes'] / 1e6:.3f}",
        )
    console = Console(width=1000, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())
