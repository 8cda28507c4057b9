"""What all commands share: opening scenes, the cluster, and how things are said to people or to machines."""

import json
import math
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from harmonium.errors import UsageError

if TYPE_CHECKING:
    from harmonium.pipeline.scene import Scene


@dataclass(slots=True)
class Output:
    """Where a command says what it does: progress and remarks to stderr, results to stdout."""

    as_json: bool
    """Results as one JSON document instead of text, and no progress."""

    silent: bool = False
    """No results: for a workflow that is a step of another."""

    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False, soft_wrap=True))
    """Remarks and progress."""

    def say(self, text: str) -> None:
        """A remark for people."""
        if not self.as_json:
            self.console.print(text, markup=False)

    def result(self, document: Any, text: str) -> None:
        """The command's result: `document` for machines, `text` for people."""
        if self.silent:
            return
        # NaN is no JSON: what is not a number is null.
        shown = json.dumps(_finite(document), indent=2, allow_nan=False) if self.as_json else text
        sys.stdout.write(shown + "\n")

    @contextmanager
    def progress(self, columns: Sequence[str] = ()) -> Iterator["Bars"]:
        """Progress bars for as long as the context lasts."""
        bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            *(TextColumn(f"{{task.fields[{column}]}}") for column in columns),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=self.as_json or not self.console.is_terminal,
        )
        with bars:
            yield Bars(bars, dict.fromkeys(columns, ""))


@dataclass(slots=True)
class Bars:
    """Progress bars by name."""

    _bars: Progress
    _fields: dict[str, Any]
    _ids: dict[str, TaskID] = field(default_factory=dict)

    def show(self, name: str, done: int, total: int, **fields: Any) -> None:
        """Set a bar, making it the first time."""
        if name not in self._ids:
            self._ids[name] = self._bars.add_task(name, total=total, **self._fields)
        self._bars.update(self._ids[name], completed=done, total=total, **fields)


def open_scenes(
    paths: Sequence[str],
    output: Output,
    *,
    together: bool,
    groups: Sequence[str],
    time: str | None,
    scene_id: str | None,
) -> "list[Scene]":
    """Open the scenes that a command names: one for each path, or all files `together` as one.

    Raises
    ------
    UsageError
        If a name or a time is given for several scenes.
    SceneError
        If a scene cannot be opened.
    """
    # Half of the commands open no scene: they, and --help, need not wait for these imports.
    from harmonium.pipeline.compress import with_groups
    from harmonium.pipeline.scene import GeoreferenceWarning, open_scene
    from harmonium.pipeline.scene_files import is_remote

    # Workers may have another working directory.
    absolute = [path if is_remote(path) else str(Path(path).absolute()) for path in paths]
    sources = [absolute] if together else [[path] for path in absolute]
    if len(sources) > 1 and (scene_id, time) != (None, None):
        raise UsageError("--id and --time tell of one scene; give one scene, or its files with --together")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", GeoreferenceWarning)
        scenes = [open_scene(source, time=time, scene_id=scene_id) for source in sources]
    for warning in caught:
        output.console.print(f"warning: {warning.message}", markup=False)
    return [with_groups(scene, groups) for scene in scenes]


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._started


def _finite(document: Any) -> Any:
    if isinstance(document, dict):
        return {key: _finite(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [_finite(value) for value in document]
    return None if isinstance(document, float) and not math.isfinite(document) else document
