"""Whether the `transform` codec gives the same bytes and pixels with all arithmetic that a machine can be told to use.

    python -m benchmarks.exactness --model rate-distortion/models/fold_A.harmonium

Each setting is a new process: threads, chunks one by one or at once, oneDNN or not, instruction sets of torch, of
oneDNN and of numpy. Each encodes and decodes all chunks, and decodes what the first setting encoded. On a machine with
CUDA the networks run there, too. SHA-256 of all results is compared; where any differ, the command ends with 1.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import common, transform_cases
from benchmarks.common import ROOT, Report, Table
from benchmarks.transform_cases import Case

_LAST = "benchmarks.exactness_results"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How a process computes."""

    name: str
    """What tables call it."""

    environment: dict[str, str] = field(default_factory=dict)
    """Variables that are set before it starts."""

    threads: int = 1
    """Of torch."""

    at_once: int = 1
    """Chunks that are coded at the same time, each in a thread."""

    onednn: bool = True
    """Whether torch may use it."""

    cuda: bool = False
    """Whether networks run on the first GPU; only they are compared then."""


def settings() -> list[Setting]:
    """All that this machine can do, the one that others are compared with first."""
    found = [
        Setting(name="one thread"),
        Setting(name="one thread, again"),
        Setting(name="two threads", threads=2),
        Setting(name="four chunks at once", at_once=4),
        Setting(name="four chunks at once, two threads", at_once=4, threads=2),
        Setting(name="without oneDNN", onednn=False),
        Setting(name="without oneDNN, two threads", onednn=False, threads=2),
    ]
    found += [
        Setting(name=f"torch: {level}", environment={"ATEN_CPU_CAPABILITY": level})
        for level in ("default", "avx2", "avx512")
        if level != "avx512" or "avx512f" in _flags()
    ]
    found.append(
        Setting(name="torch: default, without oneDNN", environment={"ATEN_CPU_CAPABILITY": "default"}, onednn=False)
    )
    found += [
        Setting(name=f"oneDNN: {level}", environment={"ONEDNN_MAX_CPU_ISA": level}) for level in ("SSE41", "AVX2")
    ]
    if names := _numpy_features():
        found.append(Setting(name="numpy: baseline", environment={"NPY_DISABLE_CPU_FEATURES": " ".join(names)}))
    if torch.cuda.is_available():
        found.append(Setting(name="CUDA", cuda=True))
    return found


def _flags() -> list[str]:
    cpu_info = Path("/proc/cpuinfo")
    return cpu_info.read_text().split() if cpu_info.is_file() else []


def _numpy_features() -> list[str]:
    """Instruction sets that numpy chooses at run time, and that are here."""
    module: Any = np._core._multiarray_umath  # type: ignore[attr-defined]
    return [name for name in module.__cpu_dispatch__ if module.__cpu_features__.get(name)]


# --- processes -----------------------------------------------------------------------------------------------------


def save_cases(path: Path, cases: Sequence[Case]) -> None:
    """Write the chunks for all processes."""
    np.savez(path, *(case.pixels for case in cases))
    names = [{"name": case.name, "fill": None if np.isnan(case.fill) else case.fill} for case in cases]
    path.with_suffix(".json").write_text(json.dumps(names))


def results(setting: Setting, folder: Path, model: Path) -> dict[str, Any]:
    """Digests that a new process finds with a setting; the first one leaves its payloads in the folder."""
    command = [sys.executable, "-m", _LAST, str(model), str(folder)]
    command += ["--threads", str(setting.threads), "--at-once", str(setting.at_once)]
    command += [] if setting.onednn else ["--without-onednn"]
    command += ["--cuda"] if setting.cuda else []
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | setting.environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{setting.name}: ended with {done.returncode}\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def compare(first: dict[str, Any], other: dict[str, Any], kind: str) -> str:
    """`same`, or which cases differ; empty where the other has none."""
    if kind not in other:
        return ""
    expected = first[KINDS[kind]]
    differ = [name for name, digest in other[kind].items() if digest != expected[name]]
    return f"DIFFERENT: {'; '.join(differ)}" if differ else f"same {len(other[kind])}"


KINDS = {
    "payloads": "payloads",
    "pixels": "pixels",
    "pixels of the first's payloads": "pixels",
    "networks": "networks",
    "networks, one plane at a time": "networks",
}
"""What is compared, and with what of the first setting's."""


def measure(options: argparse.Namespace) -> Report:
    """Run all settings and compare."""
    with common.work_folder(options.work) as folder:
        cases = transform_cases.made_up(options.side) + (transform_cases.cut() if options.scenes else [])
        save_cases(folder / "cases.npz", cases)
        (folder / "payloads.npz").unlink(missing_ok=True)
        found = {}
        for setting in settings():
            found[setting.name] = results(setting, folder, options.model.resolve())
            print(f"{setting.name}: done", flush=True)
    first = next(iter(found.values()))
    rows = [
        (name, str(each["instructions"]), *(compare(first, each, kind) for kind in KINDS))
        for name, each in found.items()
    ]
    return Report(
        name="exactness",
        tables=[
            Table(title="SHA-256 beside the first row's", columns=("setting", "torch uses", *KINDS), rows=tuple(rows))
        ],
        notes=(
            f"{len(cases)} chunks, each at all targets of its type. Same: so many digests are equal.",
            "Networks: outputs of the trunk and of all heads on whole numbers drawn at random.",
        ),
        measured={
            "digests": found,
            "differ": [name for name, *cells in rows if any(cell.startswith("DIFFERENT") for cell in cells)],
        },
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, compare, publish; ends with 1 where anything differs."""
    parser = common.parser(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--model", type=Path, required=True, help="of `benchmarks.train_transform`")
    add("--side", type=int, default=80, help="of made-up chunks in pixels [80]")
    add("--scenes", action=argparse.BooleanOptionalAction, default=True, help="chunks of the development data, too")
    add("--work", type=Path, help="folder for chunks and payloads, which stay [a temporary one]")
    options = parser.parse_args(arguments)
    report = measure(options)
    common.publish(report, options.out)
    if report.measured["differ"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
