"""The fits of the lecture's comparison: each is one preset at one rate, whole or with stages left out, in a folder.

A fit that lies there already is not made again, so that an interrupted run goes on where it was.
"""

import hashlib
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks import lecture_scenes
from harmonium.models import model_file, presets
from harmonium.models.codec import Codec
from harmonium.models.detail_coding import DetailModel
from harmonium.models.model_file import GroupModel
from harmonium.models.presets import FitOptions, Preset

PRESETS = ("binary-dbm", "real-dbm", "tensor-dbm", "autoencoder", "limited-state-autoencoder")
MACHINES = PRESETS[:3]
"""Deep Boltzmann machines; the other two are autoencoders."""

RATIOS = {2: 4.0, 16: 0.5, 32: 0.25}
"""Ratio to 8 bits: bits per pixel."""

SENTINEL_BITS = 0.5
"""Bits per pixel and band of Sentinel-2: ratio 32 to its 16 bits."""

WHOLE = "whole"
_CELLS = 300_000
_SENTINEL_CELLS = 100_000
_GROUP = "lecture"

_STAGES: dict[str, dict[str, Any]] = {
    "greedy only": {"joint": 0, "fine_tuning": 0, "search": 0},
    "greedy and joint": {"fine_tuning": 0, "search": 0},
    "without joint, without search": {"joint": 0, "search": 0},
    "without search": {"search": 0},
    "random start, without search": {"greedy": 0, "joint": 0, "search": 0},
    "random start": {"greedy": 0, "joint": 0},
}
"""How the stages of a deep Boltzmann machine differ from the preset's, by variant."""

_CODES: dict[str, dict[str, Any]] = {
    "dithered code, without search": {"code": "dithered", "search": 0},
    "noisy code, without search": {"code": "noisy", "search": 0},
}
"""Other ways to train hard code units, of `binary-dbm` alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One fit."""

    preset: str
    """Its name."""

    bits: float
    """Per pixel and band."""

    variant: str = WHOLE
    """What is left out, or where it starts from."""

    sentinel: bool = False
    """Whether it learns from Sentinel-2, four bands together, instead of pictures of 8 bits."""

    @property
    def name(self) -> str:
        """Of its files, and in tables of what was left out."""
        data = "sentinel" if self.sentinel else "8-bit"
        return f"{self.preset}-{data}-{self.bits:g}-{self.variant}".replace(", ", "-").replace(" ", "-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What a job gave."""

    job: Job
    """Which."""

    codec: Codec
    """The codec."""

    record: dict[str, Any]
    """`stages`, `held_out` as in the model file; `seconds` of one core; `curve`: [stage, step, steps, loss] each."""


def jobs() -> list[Job]:
    """All that the comparison needs: whole fits at all rates, those of Sentinel-2, and variants at the lowest rate."""
    at_rates = [Job(preset=name, bits=bits) for name in PRESETS for bits in RATIOS.values()]
    low = min(RATIOS.values())
    variants = [Job(preset=name, bits=low, variant=variant) for name in PRESETS for variant in _variants(name)]
    sentinel = [Job(preset=name, bits=SENTINEL_BITS, sentinel=True) for name in PRESETS]
    return [*at_rates, *sentinel, *variants]


def fit_all(todo: list[Job], folder: Path, effort: float, processes: int) -> dict[Job, Fit]:
    """Fit what is not in `folder` yet, one thread each, and read all of it."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [job for job in todo if not _path(folder, job, effort).exists()]
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting = {pool.submit(_fit, job, folder, effort): job for job in missing}
        for number, done in enumerate(as_completed(waiting), start=1):
            print(f"[{number}/{len(missing)}] {waiting[done].name}: {done.result():.0f} s", flush=True)
    return {job: load(job, folder, effort) for job in todo}


def load(job: Job, folder: Path, effort: float) -> Fit:
    """A fit that was made."""
    group = model_file.from_bytes(_path(folder, job, effort).read_bytes()).groups[_GROUP]
    assert isinstance(group.codec, Codec)
    return Fit(job=job, codec=group.codec, record=dict(group.training))


def _fit(job: Job, folder: Path, effort: float) -> float:
    begun = time.process_time()
    cells = lecture_scenes.sentinel_cells(_SENTINEL_CELLS) if job.sentinel else lecture_scenes.training_cells(_CELLS)
    curve: list[tuple[str, int, int, float]] = []
    fitted = preset_of(job).fit(cells, FitOptions(bits=job.bits, effort=effort), lambda *step: curve.append(step))
    seconds = time.process_time() - begun
    assert not isinstance(fitted.transform, DetailModel)
    assert fitted.prior is not None
    codec = Codec(radiometry=fitted.radiometry, transform=fitted.transform, prior=fitted.prior)
    bands = tuple(f"band{number}" for number in range(fitted.transform.bands))
    training = {**fitted.record, "seconds": seconds, "curve": [list(step) for step in curve]}
    model = GroupModel(preset=job.preset, bands=bands, resolution=None, codec=codec, training=training)
    path = _path(folder, job, effort)
    half = path.with_suffix(f".{os.getpid()}")
    half.write_bytes(model_file.to_bytes({_GROUP: model}))
    half.rename(path)
    return seconds


def preset_of(job: Job) -> Preset:
    """The preset of a job, with its stages."""
    whole: Any = presets.get(job.preset)
    changed: Preset = whole if job.variant == WHOLE else replace(whole, **_variants(job.preset)[job.variant])
    return changed


def _variants(name: str) -> dict[str, dict[str, Any]]:
    """What of a preset is different, by the variant's name."""
    if name in MACHINES:
        whole: Any = presets.get(name)
        lecture = name == "binary-dbm"
        chosen = {**_STAGES, **_CODES} if lecture else _STAGES
        staged: dict[str, Any] = {key: {"stages": replace(whole.stages, **changes)} for key, changes in chosen.items()}
        gray = {"Gray code, without search": {"gray": True, **staged["without search"]}}
        return {**staged, **gray} if lecture else staged
    untrained = {"rounds": ()} if name == "autoencoder" else {"fine_tuning_steps": 0}
    return {
        "pre-trained machines, not fine-tuned": {"start": "machines", **untrained},
        "pre-trained machines": {"start": "machines"},
        "random start": {"start": "random"},
        "transform, not fine-tuned": untrained,
    }


def _path(folder: Path, job: Job, effort: float) -> Path:
    """Named after all that decides what is fitted, but for the library's own code."""
    decides = json.dumps([job.name, effort, repr(preset_of(job)), _CELLS, _SENTINEL_CELLS])
    return folder / f"{job.name}-{hashlib.sha256(decides.encode()).hexdigest()[:8]}.harmonium"
