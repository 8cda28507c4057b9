"""`harmonium ls` and `harmonium info`: what an archive, a scene or a model file holds, for people and for machines."""

import math
from pathlib import Path
from typing import Any

from harmonium.models import targets
from harmonium.models.model_file import GroupModel
from harmonium.models.targets import Lossless
from harmonium.pipeline.archive import Archive, ArchivedScene
from harmonium.pipeline.model_sources import load_file
from harmonium.pipeline.scene_layout import COMPLETE
from harmonium.workflows.session import Output


def ls(archive: Archive, output: Output) -> None:
    """List an archive's scenes."""
    scenes = [scene_document(scene) for scene in archive.values()]
    text = "\n".join(scene_text(scene) for scene in scenes) or f"{archive.url} holds no scene yet"
    output.result(scenes, text)


def info(archive: Archive, scene_id: str | None, output: Output) -> None:
    """Describe an archive, or one scene of it."""
    if scene_id is not None:
        document = scene_document(archive[scene_id]) | {"stac": archive[scene_id].item}
        output.result(document, scene_text(document, long=True))
        return
    scenes = [scene_document(scene) for scene in archive.values()]
    stored = sum(group["bytes"] for scene in scenes for group in scene["groups"].values())
    pixels = sum(group["pixel_bytes"] for scene in scenes for group in scene["groups"].values())
    document = {
        "archive": archive.url,
        "scenes": len(scenes),
        "complete": sum(scene["state"] == COMPLETE for scene in scenes),
        "models": archive.models(),
        "bytes": stored,
        "pixel_bytes": pixels,
    }
    ratio = f", ratio {pixels / stored:.1f}" if stored else ""
    text = (
        f"{archive.url}: {document['scenes']} scene(s), {document['complete']} complete; {stored / 1e6:.2f} MB for "
        f"{pixels / 1e6:.2f} MB of pixels{ratio}\nmodels: {', '.join(document['models'])}"
    )
    output.result(document, text)


def info_model(path: Path, output: Output) -> None:
    """Describe a model file."""
    model = load_file(path)
    document = {
        "model": str(path),
        "sha256": model.sha256,
        "bytes": len(model.data),
        "groups": {
            name: {
                "preset": group.preset,
                "bands": list(group.bands),
                "dtype": group.codec.radiometry.dtype,
                "resolution": group.resolution,
                "code_units": group.codec.units,
                "targets": group.codec.targets,
                "coding": group.codec.description,
                "training": dict(group.training),
            }
            for name, group in model.groups.items()
        },
    }
    lines = [f"{path}  {len(model.data)} bytes  sha256 {model.sha256}"]
    lines += [
        f"  {name}: {group.preset} for {', '.join(group.bands)} ({group.codec.radiometry.dtype}), "
        f"{group.codec.description}; {held_out_text(group)}"
        for name, group in model.groups.items()
    ]
    output.result(document, "\n".join(lines))


def held_out_text(group: GroupModel) -> str:
    """What a model gave on blocks that were held out; a model file may say anything there, or nothing."""
    held_out = group.training.get("held_out")
    found = [held_out.get(key) for key in ("psnr_db", "bits_per_pixel")] if isinstance(held_out, dict) else []
    if not found or not all(isinstance(value, int | float) for value in found):
        return "quality not told"
    return f"{found[0]:.2f} dB at {found[1]:.3f} bits per pixel and band"


def scene_document(scene: ArchivedScene) -> dict[str, Any]:
    """What is known of a scene without reading a pixel."""
    document: dict[str, Any] = {
        "scene": scene.id,
        "state": scene.state,
        "time": scene.item["properties"].get("datetime"),
        "model": scene.model,
        "groups": {},
    }
    if scene.state != COMPLETE:
        return document
    for name, group in scene.items():
        quality = group.quality()
        bands, height, width = group.image.shape
        document["groups"][name] = {
            "bands": list(group.bands),
            "shape": [bands, height, width],
            "dtype": str(group.image.dtype),
            "bytes": quality.nbytes,
            "pixel_bytes": group.image.nbytes,
            "ratio": group.image.nbytes / quality.nbytes,
            "bits_per_pixel": quality.bits_per_pixel,
            "asked": None if group.asked is None else targets.to_json(group.asked),
            "target": None if group.target is None else targets.to_json(group.target),
            "psnr_db": quality.psnr(group.peak).tolist(),
            "psnr_db_together": quality.psnr_together(group.peak),
            "max_error": quality.max_error.tolist(),
            "peak": group.peak,
        }
    return document


def scene_text(document: dict[str, Any], *, long: bool = False) -> str:
    """The same in words."""
    lines = [f"{document['scene']}  {document['time'] or 'no time'}  {document['state']}"]
    for name, group in document["groups"].items():
        bands, height, width = group["shape"]
        lines.append(
            f"  {name}: {bands} × {height} × {width} {group['dtype']}, {group['bytes'] / 1e6:.3f} MB, "
            f"ratio {group['ratio']:.1f}, {decimals(group['bits_per_pixel'], 3)} bits per pixel and band, "
            f"PSNR {_psnr(group['psnr_db'])} dB{_promise(group)}"
        )
        if long:
            for band, psnr, largest in zip(group["bands"], group["psnr_db"], group["max_error"], strict=True):
                lines.append(f"    {band}: {_psnr([psnr])} dB (peak {group['peak']:g}), largest error {largest:g} DN")
    return "\n".join(lines)


def _promise(group: dict[str, Any]) -> str:
    """What was asked, what that became, and how well it is met; nothing of a model that takes no target."""
    if group["asked"] is None:
        return ""
    asked, kept = targets.from_json(group["asked"]), targets.from_json(group["target"])
    together = f" (together {_psnr([group['psnr_db_together']])})" if asked != Lossless() else ""
    by = "" if kept == asked else f", by {targets.text(kept)}"
    return f"{together}; asked: {targets.text(asked)}{by}"


def decimals(value: float, count: int) -> str:
    """A number for people, who are told `no` where there is none."""
    return "no" if math.isnan(value) else f"{value:.{count}f}"


def _psnr(values: list[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "no"
    low, high = min(known), max(known)
    return f"{low:.1f}" if f"{low:.1f}" == f"{high:.1f}" else f"{low:.1f} to {high:.1f}"
