"""Kills a worker, then the client, in the middle of a compression, resumes it, and compares the archives byte by byte.

The reference is a run that nobody disturbs, at the same path: paths are part of what is stored.
"""

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks import common
from benchmarks.common import GROUP, Report, Table, verdict
from benchmarks.processes import compress_command, is_worker
from harmonium.models.presets import FitOptions

_SCENE = "restarted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """When to kill, drawn at random."""

    worker_after: int
    """Shards that are stored before a worker is killed."""

    client_after: int
    """Shards that are stored before the client is killed."""

    delay: float
    """Seconds to wait after each of them: how deep into the next shards it strikes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What came of one plan."""

    plan: Plan
    """When to kill."""

    worker_killed: int | None
    """Shards that were stored when a worker was killed; None if the run had ended before."""

    client_killed: int | None
    """Shards that were stored when the client was killed, and nothing of it ran any more."""

    resumed: int
    """Shards that the second run made."""

    partial_files: int
    """Unfinished files that the kills left behind."""

    differing: tuple[str, ...]
    """Files that differ from the undisturbed run, or that only one of both has."""


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file by its path in the folder."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _complete(command: list[str]) -> dict[str, Any]:
    """Run the command to its end; what it printed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"`harmonium compress` ended with {done.returncode}")
    return dict(json.loads(done.stdout))


def _stored(archive: Path) -> int:
    """Shards that are stored."""
    places = (archive / "scenes" / _SCENE / GROUP / "image" / "c").glob("*/*/*")
    return sum(1 for place in places if not place.name.endswith(".partial"))


def _wait(process: subprocess.Popen[bytes], archive: Path, shards: int, delay: float) -> bool:
    """Wait until so many shards are stored, then the delay; False if the process ended before."""
    while _stored(archive) < shards:
        if process.poll() is not None:
            return False
        time.sleep(0.02)
    time.sleep(delay)
    return process.poll() is None


def _disturb(command: list[str], archive: Path, plan: Plan) -> tuple[int | None, int | None]:
    """Start the command and kill as planned; shards stored at each kill."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        client = psutil.Process(process.pid)
        worker_killed = client_killed = None
        if _wait(process, archive, plan.worker_after, plan.delay):
            workers = _workers(client)
            if workers:
                workers[0].kill()
                worker_killed = _stored(archive)
        if _wait(process, archive, plan.client_after, plan.delay):
            left = client.children(recursive=True)
            client.kill()
            # Workers end themselves once their nanny is gone; what they still write until then counts.
            _, alive = psutil.wait_procs(left, timeout=60)
            if alive:
                raise SystemExit(f"{len(alive)} processes outlived their client by a minute")
            client_killed = _stored(archive)
    return worker_killed, client_killed


def _workers(client: psutil.Process) -> list[psutil.Process]:
    """Worker processes of the client, the oldest first; waits for one."""
    for _ in range(500):
        found = [child for child in client.children(recursive=True) if is_worker(child)]
        if found:
            return sorted(found, key=lambda child: child.create_time())
        time.sleep(0.02)
    return []


def _attempt(command: list[str], archive: Path, plan: Plan, reference: dict[str, str]) -> Attempt:
    shutil.rmtree(archive)
    worker_killed, client_killed = _disturb(command, archive, plan)
    partial = sum(1 for _ in archive.rglob("*.partial"))
    document = _complete(command)
    found = _digests(archive)
    differing = sorted(name for name in found.keys() | reference.keys() if found.get(name) != reference.get(name))
    return Attempt(
        plan=plan,
        worker_killed=worker_killed,
        client_killed=client_killed,
        resumed=document["shards_made"],
        partial_files=partial,
        differing=tuple(differing),
    )


def _plans(runs: int, shards: int, seed: int) -> list[Plan]:
    """Kills between the first shard and the last but one."""
    draw = random.Random(seed)
    plans = []
    for _ in range(runs):
        worker, client = sorted(draw.randint(1, max(1, shards - 2)) for _ in range(2))
        plans.append(Plan(worker_after=worker, client_after=client, delay=draw.uniform(0.0, 0.5)))
    return plans


def measure(options: argparse.Namespace) -> Report:
    """One run undisturbed, then as many disturbed ones as asked for."""
    source = common.demo_scene()
    with common.work_folder(options.work) as folder:
        model, file, archive = folder / "restart.harmonium", folder / f"{_SCENE}.tif", folder / "restart.zarr"
        if archive.exists():
            raise SystemExit(f"{archive} is there already: delete it, or name another folder")
        model.write_bytes(common.fit_or_load(options.model, source, FitOptions(effort=options.effort)).data)
        common.write_mirrored(source, options.size, file, "none")
        command = compress_command(file, archive, model, options.workers)
        shards = int(_complete(command)["shards_made"])
        reference = _digests(archive)
        attempts = [_attempt(command, archive, plan, reference) for plan in _plans(options.runs, shards, options.seed)]
        before = _digests(archive)
        again = int(_complete(command)["shards_made"])
        unchanged = _digests(archive) == before
    rows = tuple(_row(number, attempt, shards) for number, attempt in enumerate(attempts, start=1))
    columns = ("run", "worker killed at", "client killed at", "partial files", "resumed", "bytes equal", "")
    table = Table(title=f"Shards made, of {shards}", columns=columns, rows=rows)
    notes = (
        f"Scene of {options.size} × {options.size} pixels, {options.workers} workers, SIGKILL, seed {options.seed}.",
        f"{len(reference)} files are compared by SHA-256. A run of the complete archive made {again} shard(s) and "
        f"{'changed no' if unchanged else 'CHANGED a'} byte.",
    )
    measured = {"shards": shards, "attempts": [asdict(attempt) for attempt in attempts]}
    return Report(name="restart", tables=[table], notes=notes, measured=measured)


def _row(number: int, attempt: Attempt, shards: int) -> tuple[str, ...]:
    killed = ["ended before" if at is None else f"{at}" for at in (attempt.worker_killed, attempt.client_killed)]
    equal = "yes" if not attempt.differing else f"no: {', '.join(attempt.differing[:3])}"
    kept = attempt.client_killed if attempt.client_killed is not None else shards
    # What was stored when the last process had ended is kept, and nothing is made twice.
    holds = verdict(not attempt.differing and attempt.resumed == shards - kept)
    return str(number), *killed, str(attempt.partial_files), str(attempt.resumed), equal, holds


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, measure, publish."""
    parser = common.parser(__doc__)
    parser.set_defaults(effort=0.05)
    parser.add_argument("--size", type=int, default=6144, help="rows and columns of the scene")
    parser.add_argument("--runs", type=int, default=5, help="how often to kill and resume")
    parser.add_argument("--seed", type=int, default=0, help="of the times at which to kill")
    parser.add_argument("--workers", type=int, default=2, help="local workers")
    parser.add_argument("--model", type=Path, help="model file [a real-rbm fitted to the demo scene for a moment]")
    parser.add_argument("--work", type=Path, help="folder for scene and archive, which stay [a temporary one]")
    common.run(measure, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
