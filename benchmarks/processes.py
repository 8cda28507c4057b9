"""`harmonium compress` as a process of its own: starting it, telling its children apart, watching their memory."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil


def compress_command(scene: Path, archive: Path, model: Path, workers: int) -> list[str]:
    """`harmonium compress … --json` with the interpreter that runs the benchmark."""
    main = "from harmonium.workflows.cli import main; main()"
    arguments = ["compress", str(scene), "-a", str(archive), "--model", str(model), "--workers", str(workers), "--json"]
    return [sys.executable, "-c", main, *arguments]


def is_worker(process: psutil.Process) -> bool:
    """Whether a child of `harmonium` is a Dask worker; its nanny lives in the client's process."""
    try:
        return any("spawn_main" in part for part in process.cmdline())
    except psutil.Error:
        return False


@dataclass(slots=True)
class Peak:
    """The most memory that a process was seen with."""

    role: str
    """`worker`, `client` (with scheduler and nannies, which live in it) or `other`."""

    sampled: int = 0
    """Largest resident set of all samples, in bytes."""

    kernel: int = 0
    """The kernel's own high-water mark at the last sample, in bytes; 0 where it tells none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of the command."""

    document: dict[str, Any]
    """What it printed."""

    peaks: dict[int, Peak]
    """By process id."""

    begun: float
    """Time at which it was started."""

    ended: float
    """Time at which it had ended."""


def watch(command: list[str], interval: float = 0.1) -> Run:
    """Run the command and watch the memory of its processes."""
    begun = time.time()
    peaks: dict[int, Peak] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        client = psutil.Process(process.pid)
        while process.poll() is None:
            _sample(client, peaks)
            time.sleep(interval)
        ended = time.time()
        assert process.stdout is not None
        printed = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"`harmonium compress` ended with {process.returncode}")
    return Run(document=json.loads(printed), peaks=peaks, begun=begun, ended=ended)


def _sample(client: psutil.Process, peaks: dict[int, Peak]) -> None:
    try:
        processes = [client, *client.children(recursive=True)]
    except psutil.Error:
        return
    for process in processes:
        if process.pid not in peaks:
            role = "client" if process.pid == client.pid else "worker" if is_worker(process) else "other"
            peaks[process.pid] = Peak(role)
        peak = peaks[process.pid]
        try:
            peak.sampled = max(peak.sampled, process.memory_info().rss)
            status = Path(f"/proc/{process.pid}/status").read_text()
        except (psutil.Error, OSError):
            continue
        marks = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
        peak.kernel = max(peak.kernel, int(marks[0]) * 1024 if marks else 0)
