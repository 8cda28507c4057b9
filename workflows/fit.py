"""`harmonium fit`: scenes to a model file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harmonium.errors import SceneError, UsageError
from harmonium.models import presets
from harmonium.models.model_file import ModelFile
from harmonium.models.presets import FitOptions
from harmonium.pipeline import fit as pipeline_fit
from harmonium.pipeline.cluster import connect
from harmonium.pipeline.scene import Scene
from harmonium.pipeline.windows import Bbox, parse_crs
from harmonium.workflows.session import Output, Stopwatch


def fit(
    scenes: Sequence[Scene],
    out: Path,
    output: Output,
    *,
    preset: str,
    seed: int,
    bits: float | None,
    effort: float,
    peak: float | None,
    bbox: tuple[Bbox, str] | None,
    cluster: str,
    workers: int | None,
) -> ModelFile:
    """Fit a model, write it, and say what it gives on the blocks that were held out.

    Raises
    ------
    UsageError
        If an option is out of range, or the output cannot be written.
    SceneError
        If the scenes cannot be learned from together.
    """
    watch = Stopwatch()
    if not out.absolute().parent.is_dir():
        raise UsageError(f"The folder {out.absolute().parent} does not exist; make it first")
    try:
        presets.get(preset)
        options = FitOptions(seed=seed, bits=bits, effort=effort, peak=peak)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if bbox is not None:
        place, crs = bbox
        scenes = [pipeline_fit.clip(scene, place, parse_crs(crs)) for scene in scenes]
    with connect(cluster, workers) as executor, output.progress(("loss",)) as bars:
        output.say(f"fitting {preset} to {len(scenes)} scene(s) on {executor.description}")

        def listen(stage: str, step: int, steps: int, value: float) -> None:
            bars.show(stage, step, steps, loss=f"{value:.4g}")

        model = pipeline_fit.fit(scenes, preset, options, executor, listen)
    _write(out, model)
    document = {"model": str(out), "sha256": model.sha256, "bytes": len(model.data), "seconds": watch.seconds}
    document["groups"] = {name: group.training["held_out"] for name, group in model.groups.items()}
    output.result(document, _text(document))
    return model


def _write(out: Path, model: ModelFile) -> None:
    partial = out.with_name(f".{out.name}.partial")
    try:
        partial.write_bytes(model.data)
        partial.replace(out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise SceneError(f"{out} cannot be written: {error}") from error


def _text(document: dict[str, Any]) -> str:
    lines = [f"{document['model']}  {document['bytes']} bytes  sha256 {document['sha256'][:12]}"]
    for name, held_out in document["groups"].items():
        bits, psnr = held_out["bits_per_pixel"], held_out["psnr_db"]
        lines.append(f"  {name}: {psnr:.2f} dB at {bits:.3f} bits per pixel and band, on blocks held out")
    lines.append(f"fitted in {document['seconds']:.0f} s")
    return "\n".join(lines)
