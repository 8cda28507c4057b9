"""Compressing scenes into an archive: checks first, then one idempotent task for each shard, then the summary.

    scene ── checks ── metadata ─┬─ shard task: read, reduce, encode, decode, measure, write ─┐
                                 ├─ shard task ───────────────────────────────────────────────┼─ quality, complete
                                 └─ ... ──────────────────────────────────────────────────────┘

A PSNR or a ratio is first turned into a quantiser step for each group (`rate_control`), which its metadata then keep.
The graph has one task a shard, however many pixels it holds. A shard's overview is written before the shard itself, so
that a stored shard means that nothing of it is missing.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from harmonium.errors import ArchiveError, SceneError
from harmonium.models import targets
from harmonium.models.model_file import GroupModel, ModelFile
from harmonium.models.targets import Psnr, Ratio, Target
from harmonium.pipeline import scene_layout, scene_summary
from harmonium.pipeline.archive import Archive
from harmonium.pipeline.chunk_payloads import UNREADABLE
from harmonium.pipeline.cluster import Executor
from harmonium.pipeline.rate_control import StepFound, StepRequest, find_steps
from harmonium.pipeline.resolution_group import ResolutionGroup
from harmonium.pipeline.scene import Scene
from harmonium.pipeline.scene_layout import COMPLETE, PREPARING, WRITING
from harmonium.pipeline.shard_encoding import ShardDone, ShardTask, encode_shard
from harmonium.pipeline.target_checks import check_target

__all__ = [
    "SceneDone",
    "SceneFailed",
    "ShardDone",
    "StepFound",
    "check_archive",
    "check_group",
    "check_scenes",
    "compress",
    "with_groups",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneFailed:
    """A scene that stays unfinished, and why."""

    scene_id: str
    """Name of the scene."""

    error: Exception
    """What the first of its tasks that failed raised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneDone:
    """A scene that is complete."""

    scene_id: str
    """Name of the scene."""

    resumed: bool
    """Whether there was nothing to do: it had been complete before."""


def check_scenes(scenes: Sequence[Scene], model: ModelFile, target: Target | None = None) -> None:
    """Refuse scenes that the model cannot code, and targets that it does not take, before an archive is even made.

    Raises
    ------
    SceneError
        If a scene's bands, type or resolution are not the model's, or two scenes have the same name.
    UsageError
        If the model needs a target and there is none, or the other way round, or one for other bands.
    """
    names = [scene.id for scene in scenes]
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise SceneError(f"Scenes need different names, found {', '.join(duplicates)} twice; give them with --id")
    for scene in scenes:
        for group in scene.groups:
            found = check_group(scene.id, group, model)
            check_target(found.codec, target, f"Scene {scene.id}, group {group.name}: the model")


def check_archive(archive: Archive, scenes: Sequence[Scene], model: ModelFile, target: Target | None = None) -> None:
    """Refuse scenes whose names the archive has for something else.

    Raises
    ------
    ArchiveError
        If the archive has another scene of that name, or the same coded by another model or for another target, or
        other groups of it.
    """
    for scene in scenes:
        if scene.id not in archive:
            continue
        existing = {"source": [], **archive[scene.id].attributes["harmonium"]}
        remedy = f"name it anew with --id, or delete {archive.url}/scenes/{scene.id} first"
        source, groups = [str(path) for path in scene.source], [group.name for group in scene.groups]
        if existing["source"] != source:
            raise ArchiveError(
                f"The archive has a scene {scene.id} from {', '.join(existing['source'])}, this one is from "
                f"{', '.join(source)}; {remedy}"
            )
        if existing["model"] != model.sha256:
            raise ArchiveError(
                f"Scene {scene.id} is in the archive, coded by model {existing['model'][:12]}, not by "
                f"{model.sha256[:12]}; {remedy}"
            )
        if existing["groups"] != groups:
            raise ArchiveError(
                f"Scene {scene.id} is in the archive with the groups {', '.join(existing['groups'])}, not "
                f"{', '.join(groups)}; {remedy}"
            )
        if archive[scene.id].state == PREPARING:
            continue  # it is made anew
        for group in archive[scene.id].values():
            if group.asked != target:
                raise ArchiveError(
                    f"Scene {scene.id}, group {group.name} is in the archive with {_words(group.asked)}, not "
                    f"{_words(target)}; {remedy}"
                )


def _words(target: Target | None) -> str:
    return "no target" if target is None else f"the target {targets.text(target)}"


def check_group(scene_id: str, group: ResolutionGroup, model: ModelFile) -> GroupModel:
    """The model of a resolution group.

    Raises
    ------
    SceneError
        If the model has none for it, or one for other bands, another type or another resolution.
    """
    where = f"Scene {scene_id}, group {group.name}"
    found = model.groups.get(group.name)
    if found is None:
        raise SceneError(
            f"{where}: the model has the groups {', '.join(model.groups)}; fit one that has it, or choose groups with "
            "--group"
        )
    if found.bands != group.bands:
        raise SceneError(
            f"{where}: the model's bands are {', '.join(found.bands)}, found {', '.join(group.bands)}; fit a model of "
            "these bands"
        )
    if found.codec.radiometry.dtype != group.dtype.name:
        raise SceneError(
            f"{where}: the model is for {found.codec.radiometry.dtype} pixels, found {group.dtype.name}; fit a model "
            "of such pixels"
        )
    fitted, here = found.resolution, group.resolution
    if fitted is not None and here is not None and not math.isclose(fitted, here, rel_tol=0.01):
        raise SceneError(
            f"{where}: the model is for pixels of {fitted:g}, found {here:g} units of the CRS; fit "
            "a model of such pixels"
        )
    return found


def compress(
    archive: Archive, scenes: Sequence[Scene], model: ModelFile, executor: Executor, target: Target | None = None
) -> Iterator[StepFound | ShardDone | SceneFailed | SceneDone]:
    """Compress scenes side by side, yielding what is done as it is; `check_scenes` and `check_archive` come first.

    A scene that fails stays in the state `writing`, or is not begun, and the others go on.
    """
    archive.add_model(model)
    failed: set[str] = set()
    steps: dict[str, dict[str, Target]] = {scene.id: {} for scene in scenes}
    for found in find_steps(_requests(archive, scenes, model, target), executor):
        if isinstance(found, StepFound):
            steps[found.scene_id][found.group] = found.step
            yield found
        elif found.scene_id not in failed:
            failed.add(found.scene_id)
            yield SceneFailed(scene_id=found.scene_id, error=found.error)
    tasks: list[ShardTask] = []
    remaining: dict[str, int] = {}
    for scene in scenes:
        if scene.id in failed:
            continue
        try:
            missing = _open_scene_for_writing(archive, scene, model, target, steps[scene.id])
        except UNREADABLE as error:
            yield SceneFailed(scene_id=scene.id, error=error)
            continue
        if missing is None:
            yield SceneDone(scene_id=scene.id, resumed=True)
        elif not missing:
            yield _finish(archive.url, scene.id)
        else:
            tasks += missing
            remaining[scene.id] = len(missing)
    for outcome in executor.map(encode_shard, ((task,) for task in tasks)):
        scene_id = tasks[outcome.index].scene_id
        if outcome.error is None:
            yield outcome.result
            remaining[scene_id] -= 1
            if remaining[scene_id] == 0:
                yield _finish(archive.url, scene_id)
        elif scene_id not in failed:
            failed.add(scene_id)
            yield SceneFailed(scene_id=scene_id, error=outcome.error)


def _requests(archive: Archive, scenes: Sequence[Scene], model: ModelFile, target: Target | None) -> list[StepRequest]:
    """The groups whose step is sought: those of scenes that are not begun. A scene that is keeps the step it has."""
    if not isinstance(target, Psnr | Ratio):
        return []
    return [
        StepRequest(
            url=archive.url,
            model=model.sha256,
            peak=model.groups[group.name].codec.radiometry.peak,
            scene_id=scene.id,
            group=group,
            grid=scene_layout.grid_of(group),
            asked=target,
        )
        for scene in scenes
        if _state(archive, scene) not in (WRITING, COMPLETE)
        for group in scene.groups
    ]


def _state(archive: Archive, scene: Scene) -> str | None:
    return archive[scene.id].state if scene.id in archive else None


def _open_scene_for_writing(
    archive: Archive, scene: Scene, model: ModelFile, target: Target | None, steps: Mapping[str, Target]
) -> list[ShardTask] | None:
    """Prepare or resume a scene: the shards that are still to be made; None if it is complete."""
    state = _state(archive, scene)
    if state == COMPLETE:
        return None
    scene_layout.remove_leftovers(archive.url, scene.id)
    if state != WRITING:
        scene_layout.prepare(archive.url, scene, model, target, steps)
    return [
        ShardTask(url=archive.url, scene_id=scene.id, group=group, tile=tile)
        for group in scene.groups
        for tile in scene_layout.missing_shards(archive.url, scene_layout.group_path(scene.id, group.name))
    ]


def _finish(url: str, scene_id: str) -> SceneDone | SceneFailed:
    try:
        scene_summary.finish(url, scene_id)
    except UNREADABLE as error:
        return SceneFailed(scene_id=scene_id, error=error)
    return SceneDone(scene_id=scene_id, resumed=False)


def with_groups(scene: Scene, names: Sequence[str]) -> Scene:
    """The scene with only the resolution groups of these names; all of them if no name is given.

    Raises
    ------
    SceneError
        If it has no group of that name.
    """
    if not names:
        return scene
    groups = tuple(group for group in scene.groups if group in [scene.group(name) for name in names])
    return replace(scene, groups=groups)
