"""`harmonium compress`: scenes into an archive."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harmonium.models import targets
from harmonium.models.model_file import ModelFile
from harmonium.models.targets import Target
from harmonium.pipeline import compress as pipeline_compress
from harmonium.pipeline import packaged_models
from harmonium.pipeline.archive import Archive, create_archive
from harmonium.pipeline.cluster import connect
from harmonium.pipeline.compress import SceneDone, SceneFailed, ShardDone, StepFound
from harmonium.pipeline.scene import Scene
from harmonium.pipeline.scene_layout import grid_of
from harmonium.workflows.describe import scene_document, scene_text
from harmonium.workflows.session import Bars, Output, Stopwatch


def compress(
    scenes: Sequence[Scene],
    url: str | Path,
    model: str | Path | ModelFile | None,
    output: Output,
    *,
    cluster: str,
    workers: int | None,
    target: Target | None = None,
    peak: float | None = None,
) -> bool:
    """Compress scenes and say what they became; True if every scene is complete.

    Raises
    ------
    SceneError, ModelError, ArchiveError, UsageError, ClusterError
        Before anything is written, if something does not fit.
    """
    watch = Stopwatch()
    found, target = packaged_models.find(model, scenes, target, peak)
    pipeline_compress.check_scenes(scenes, found, target)
    archive = create_archive(url)
    pipeline_compress.check_archive(archive, scenes, found, target)
    with connect(cluster, workers) as executor, output.progress(("rate",)) as bars:
        output.say(f"compressing {len(scenes)} scene(s) on {executor.description}{_aim(target)}")
        tally = _Tally(scenes, bars, watch)
        for event in pipeline_compress.compress(archive, scenes, found, executor, target):
            tally.count(event)
            if isinstance(event, SceneFailed):
                output.console.print(f"error: scene {event.scene_id}: {event.error}", markup=False)
            elif isinstance(event, StepFound):
                output.say(
                    f"{event.scene_id}/{event.group}: {targets.text(event.step)} for {targets.text(event.asked)}"
                )
    document = tally.document(archive) | {"target": None if target is None else targets.to_json(target)}
    output.result(document, _text(document, archive))
    return not tally.failed


def _aim(target: Target | None) -> str:
    return "" if target is None else f", {targets.text(target)}"


class _Tally:
    """What has been done so far."""

    def __init__(self, scenes: Sequence[Scene], bars: Bars, watch: Stopwatch) -> None:
        self._shards = {
            scene.id: sum(math.prod(grid_of(group).shard_counts) for group in scene.groups) for scene in scenes
        }
        self._left = dict(self._shards)
        self._bars = bars
        self._watch = watch
        self._made = 0
        self._pixel_bytes = self._payload_bytes = 0
        self._seconds = {"read": 0.0, "codec": 0.0, "write": 0.0}
        self._done: list[SceneDone] = []
        self.failed: dict[str, str] = {}

    def count(self, event: StepFound | ShardDone | SceneFailed | SceneDone) -> None:
        if isinstance(event, StepFound):
            return
        if isinstance(event, SceneDone):
            self._done.append(event)
            self._left[event.scene_id] = 0  # those that an earlier run made, too
        elif isinstance(event, SceneFailed):
            self.failed[event.scene_id] = str(event.error)
        else:
            self._made += 1
            self._left[event.scene_id] -= 1
            self._pixel_bytes += event.pixel_bytes
            self._payload_bytes += event.quality.nbytes
            self._seconds["read"] += event.read_seconds
            self._seconds["codec"] += event.codec_seconds
            self._seconds["write"] += event.write_seconds
        total = sum(self._shards.values())
        self._bars.show("shards", total - sum(self._left.values()), total, rate=self._rate())

    def _rate(self) -> str:
        if not self._payload_bytes:
            return ""
        rate = self._pixel_bytes / 1e6 / self._watch.seconds
        return f"{rate:.0f} MB/s  ratio {self._pixel_bytes / self._payload_bytes:.1f}"

    def document(self, archive: Archive) -> dict[str, Any]:
        return {
            "archive": archive.url,
            "seconds": self._watch.seconds,
            "shards_made": self._made,
            "pixel_bytes": self._pixel_bytes,
            "payload_bytes": self._payload_bytes,
            "worker_seconds": self._seconds,
            "resumed": [event.scene_id for event in self._done if event.resumed],
            "scenes": [scene_document(archive[event.scene_id]) for event in self._done],
            "failed": self.failed,
        }


def _text(document: dict[str, Any], archive: Archive) -> str:
    lines = [scene_text(scene) for scene in document["scenes"]]
    rate = document["pixel_bytes"] / 1e6 / document["seconds"]
    lines.append(
        f"{archive.url}: {len(document['scenes'])} scene(s) complete, {len(document['failed'])} failed; "
        f"{document['shards_made']} shard(s) made in {document['seconds']:.1f} s, {rate:.0f} MB/s of pixels"
    )
    if document["failed"]:
        lines.append("run the same command again to resume what failed")
    return "\n".join(lines)
