"""What the fits of all presets share: batches, the stages' reports, and the measure on blocks held out."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harmonium.models.block_transform import BlockTransform
from harmonium.models.cells import CELL
from harmonium.models.code_prior import CodePrior, StaticTables
from harmonium.models.presets import Blocks, FitOptions, Fitted, Report
from harmonium.models.radiometry import DTYPES, Radiometry, default_peak

Batches = Callable[[int], Iterator[Tensor]]
"""Given a batch size, an endless source of batches of visible states."""

MIN_BLOCKS = 256
"""Fewest sample blocks that a fit accepts."""


@dataclass(slots=True)
class StageLog:
    """Runs the stages of a fit, reports their progress, and keeps a record of them."""

    report: Report
    """Told about every 20th step, and the last."""

    stages: list[dict[str, Any]] = field(default_factory=list)
    """For each stage its name, its steps, and the mean error or loss at its start and at its end."""

    def run(self, name: str, steps: int, errors: Iterator[float]) -> None:
        """Drain a training's generator of errors."""
        values: list[float] = []
        for step, error in enumerate(errors, start=1):
            values.append(error)
            if step % 20 == 0 or step == steps:
                self.report(name, step, steps, error)
        window = max(1, len(values) // 20)
        if values:
            first, last = float(np.mean(values[:window])), float(np.mean(values[-window:]))
            self.stages.append({"stage": name, "steps": len(values), "first": round(first, 6), "last": round(last, 6)})


def random_batches(x: Tensor, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of rows of x, drawn with replacement; the generator is a CPU one."""
    while True:
        yield x[torch.randint(len(x), (batch,), generator=generator).to(x.device)]


def symmetric_batches(x: Tensor, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Like `random_batches` for cells (n, k * 64), each batch turned or mirrored by one of a square's 8 symmetries."""
    pixels = torch.arange(CELL * CELL).reshape(CELL, CELL)
    turned = [torch.rot90(image, turns) for image in (pixels, pixels.T) for turns in range(4)]
    orders = torch.stack(turned).reshape(len(turned), -1).to(x.device)
    for cells in random_batches(x, batch, generator):
        order = orders[int(torch.randint(len(orders), (), generator=generator))]
        yield cells.reshape(batch, -1, CELL * CELL)[:, :, order].reshape(batch, -1)


def noise_source(generator: torch.Generator, options: FitOptions) -> torch.Generator:
    """The generator to draw noise from on the training's device: `generator` itself on a CPU, else one seeded alike."""
    if options.device.type == "cpu":
        return generator
    return torch.Generator(options.device).manual_seed(options.seed)


def hold_out(blocks: Blocks) -> tuple[Blocks, Blocks]:
    """Blocks (n, bands, 8, 8) to learn from and blocks, every tenth, to measure on.

    Raises
    ------
    ValueError
        If there are fewer than `MIN_BLOCKS`, or they are of another shape or type, or hold values that are not finite.
    """
    if blocks.ndim != 4 or blocks.shape[1] < 1 or blocks.shape[2:] != (CELL, CELL) or blocks.dtype.name not in DTYPES:
        raise ValueError(
            f"A fit takes blocks (n, bands, {CELL}, {CELL}) of {', '.join(DTYPES)}, got shape {blocks.shape} of "
            f"{blocks.dtype}"
        )
    if len(blocks) < MIN_BLOCKS:
        raise ValueError(
            f"A fit needs at least {MIN_BLOCKS} blocks without masked pixels, found {len(blocks)}; give more or larger "
            "scenes"
        )
    if blocks.dtype.kind == "f" and not np.isfinite(blocks).all():
        raise ValueError(
            "A fit takes blocks of finite values, found NaN or infinity; leave out blocks with masked pixels"
        )
    held_out = np.arange(len(blocks)) % 10 == 9
    return blocks[~held_out], blocks[held_out]


def equal_errors(blocks: Blocks, options: FitOptions) -> Radiometry:
    """Centre every band; one scale for all, so that an error of 1 DN costs the same in each."""
    values = blocks.astype(np.float64)
    offset = values.mean(axis=(0, 2, 3))
    deviation = float(np.sqrt(values.var(axis=(0, 2, 3)).mean()))
    scale = deviation if deviation >= float(np.finfo(np.float32).tiny) else 1.0
    return Radiometry(
        dtype=blocks.dtype.name,
        offset=tuple(offset.tolist()),
        scale=(scale,) * len(offset),
        peak=peak_of(blocks, options),
    )


def peak_of(blocks: Blocks, options: FitOptions) -> float:
    """The range for PSNR: what the user says, else the type's; floats have none, and take what the blocks span."""
    if options.peak is not None:
        return options.peak
    return (
        default_peak(blocks.dtype.name) if blocks.dtype.kind != "f" else float(np.ptp(blocks.astype(np.float64))) or 1.0
    )


def fitted(
    radiometry: Radiometry,
    transform: BlockTransform,
    prior: CodePrior,
    options: FitOptions,
    log: StageLog,
    blocks: Blocks,
    held_out: Blocks,
) -> Fitted:
    """A codec with the record of how it was learned from `blocks`, and what it gives on those of them held out."""
    record = {
        "seed": options.seed,
        "effort": options.effort,
        "blocks": len(blocks),
        "stages": log.stages,
        "held_out": measure(radiometry, transform, prior, held_out),
    }
    return Fitted(radiometry=radiometry, transform=transform, prior=prior, record=record)


@torch.no_grad()
def measure(radiometry: Radiometry, transform: BlockTransform, prior: CodePrior, blocks: Blocks) -> dict[str, float]:
    """What a codec gives on blocks (n, bands, 8, 8): bits per pixel and band, and PSNR in dB over all bands."""
    count, bands = blocks.shape[:2]
    pixels = blocks.transpose(1, 2, 0, 3).reshape(bands, CELL, -1)
    codes = transform.encode(radiometry.normalise(pixels))
    decoded = radiometry.restore(transform.decode(codes, CELL, count * CELL))
    error = float(np.square(decoded.astype(np.float64) - pixels).mean())
    bits = bits_per_cell(prior, codes.flatten(1).numpy()) / (bands * CELL * CELL)
    psnr = 10 * math.log10(radiometry.peak**2 / max(error, 1e-12))
    return {"bits_per_pixel": round(bits, 4), "psnr_db": round(psnr, 3)}


def bits_per_cell(prior: CodePrior, codes: NDArray[np.int32]) -> float:
    """Bits that one cell's code needs on average; codes (units, cells)."""
    if isinstance(prior, StaticTables):
        return prior.bits(codes) / int(codes.shape[1])
    return 8 * len(prior.encode(codes)) / int(codes.shape[1])


def steps(base: int, effort: float) -> int:
    """Number of steps of a stage at this effort, at least one."""
    return max(1, math.ceil(base * effort))
