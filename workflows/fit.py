"""`harmonium fit`: scenes to a model file."""

from collections.abc import Sequence
from pathlib import Path

from harmonium.errors import UsageError
from harmonium.models.model_file import ModelFile
from harmonium.pipeline import fit as pipeline_fit
from harmonium.pipeline.cluster import connect
from harmonium.pipeline.fit_checks import check_preset
from harmonium.pipeline.scene import Scene
from harmonium.pipeline.windows import Bbox
from harmonium.workflows.describe import held_out_text
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
    settings: Sequence[str],
    bbox: Bbox | None,
    crs: str,
    cluster: str,
    workers: int | None,
) -> ModelFile:
    """Fit a model, write it, and say what it gives on the blocks that were held out.

    Raises
    ------
    UsageError
        If an option is out of range, or the output has no folder to lie in.
    SceneError
        If the scenes cannot be learned from together.
    OSError
        If the output cannot be written.
    """
    watch = Stopwatch()
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise UsageError(f"{out} cannot be written: it is a folder, or lies in none; choose another path with --out")
    options = pipeline_fit.fit_options(seed=seed, bits=bits, effort=effort, peak=peak, settings=settings)
    check_preset(preset, options.settings)
    if bbox is not None:
        scenes = [pipeline_fit.clip(scene, bbox, crs) for scene in scenes]
    with connect(cluster, workers) as executor, output.progress(("loss",)) as bars:
        output.say(f"fitting {preset} to {len(scenes)} scene(s) on {executor.description}")

        def listen(stage: str, step: int, steps: int, value: float) -> None:
            bars.show(stage, step, steps, loss=f"{value:.4g}")

        model = pipeline_fit.fit(scenes, preset, options, executor, listen)
    for remark in _far_from(bits, model):
        output.console.print(f"warning: {remark}", markup=False)
    _write(out, model)
    document = {
        "model": str(out),
        "sha256": model.sha256,
        "bytes": len(model.data),
        "seconds": watch.seconds,
        "groups": {name: group.training.get("held_out") for name, group in model.groups.items()},
    }
    lines = [f"{out}  {len(model.data)} bytes  sha256 {model.sha256[:12]}"]
    lines += [f"  {name}: {held_out_text(group)}, on blocks held out" for name, group in model.groups.items()]
    output.result(document, "\n".join([*lines, f"fitted in {watch.seconds:.0f} s"]))
    return model


def _far_from(bits: float | None, model: ModelFile) -> list[str]:
    """What to tell of the groups whose rate is less than half or more than twice what was asked for."""
    remarks = []
    for name, group in model.groups.items():
        found = group.training.get("held_out", {}).get("bits_per_pixel")
        if bits is not None and found is not None and not bits / 2 <= found <= 2 * bits:
            remarks.append(
                f"group {name}: expected about {bits:g} bits per pixel and band, found {found:.3f}; this codec has no "
                "such rate on these scenes: try another --bits or --codec"
            )
    return remarks


def _write(out: Path, model: ModelFile) -> None:
    partial = out.with_name(f".{out.name}.partial")
    try:
        partial.write_bytes(model.data)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
