"""What a fit refuses before it reads a pixel: unknown presets, and scenes that it cannot learn from."""

from collections.abc import Sequence

import numpy as np

from harmonium.errors import SceneError, UsageError
from harmonium.models import presets
from harmonium.models.preset_settings import with_settings
from harmonium.models.presets import FitOptions
from harmonium.pipeline.resolution_group import ResolutionGroup
from harmonium.pipeline.scene import Scene


def check_preset(name: str, settings: Sequence[str] = ()) -> None:
    """Raise `UsageError` unless there is such a preset with such settings."""
    if name not in presets.names():
        raise UsageError(f"Unknown preset {name!r}; known are {', '.join(presets.names())}")
    try:
        with_settings(presets.get(name), settings)
    except ValueError as error:
        raise UsageError(str(error)) from error


def agreeing_groups(scenes: Sequence[Scene]) -> dict[str, list[tuple[str, ResolutionGroup]]]:
    """Name of a resolution group to all scenes' names and groups of that name, by name of the scene.

    Raises
    ------
    SceneError
        If there is no scene, or groups of one name differ in bands, type or resolution.
    """
    found: dict[str, list[tuple[str, ResolutionGroup]]] = {}
    for scene in sorted(scenes, key=lambda scene: scene.id):
        for group in scene.groups:
            found.setdefault(group.name, []).append((scene.id, group))
    if not found:
        raise SceneError("A fit needs at least one scene, got none")
    for name, members in found.items():
        (first_id, first), *others = members
        for scene_id, group in others:
            if (group.bands, group.dtype, group.resolution) != (first.bands, first.dtype, first.resolution):
                raise SceneError(
                    f"Group {name} of {first_id} has {', '.join(first.bands)} as {first.dtype}, of {scene_id} "
                    f"{', '.join(group.bands)} as {group.dtype}; fit such scenes apart"
                )
    return found


def check_pixels(name: str, groups: Sequence[ResolutionGroup], preset: str, options: FitOptions) -> None:
    """Refuse agreeing groups of this name whose pixels are too few for one sample block, or have too few bits.

    Raises
    ------
    SceneError
        If no group is as large as a block of the preset.
    UsageError
        If more bits per pixel and band are asked for than the pixel type has: codes would be longer than the pixels.
    """
    side = presets.get(preset).patch
    if all(min(group.shape[1:]) < side for group in groups):
        _, height, width = max((group.shape for group in groups), key=lambda shape: min(shape[1:]))
        raise SceneError(
            f"Group {name}: expected a scene of at least {side} × {side} pixels, found {height} × {width} at the most; "
            "give larger scenes"
        )
    depth = 8 * np.dtype(groups[0].dtype).itemsize
    if options.bits is not None and options.bits > depth:
        raise UsageError(
            f"Group {name}: expected at most the {depth} bits that a pixel of {groups[0].dtype} has, found "
            f"bits {options.bits:g}; ask for fewer"
        )
