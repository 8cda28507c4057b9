"""What each idea of the codec `transform` brings: bits beside the whole of it, with one thing changed at a time.

Models are those of the folds (`benchmarks.train_transform`), on scenes that they have not seen. Only what an encoder,
or an encoder and a decoder together, can do without another training is changed here.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import archive_scenes, common, transform_models
from benchmarks.bd_rate import bd_rate
from benchmarks.common import Report, Table
from harmonium.models import detail_coding, plane_rotation, subbands
from harmonium.models.detail_coding import DetailModel, Rounding
from harmonium.models.integer_network import IntegerLevel
from harmonium.models.symbol_coding import Tables

SCENES = ("spyndex-10m", "t33uub-20m", "bouconne-10m", "landsat7-30m")
"""Small ones of four sensors or levels."""

STEPS = (0.056, 0.028, 0.014, 0.007, 0.0035)
"""In shares of the peak."""

_LOW, _HIGH = 38.0, 56.0

WHOLE = "everything"
VARIANTS = (
    WHOLE,
    "no price on bits, dead zone 0.34",
    "no price, plain rounding",
    "restored at whole steps",
    "no adjustments",
    "one rotation for all levels",
    "no rotation",
)


def _one_rotation(details: Sequence[torch.Tensor], multiple: int = 1) -> list[NDArray[np.int16]]:
    """The principal components of all levels together, as those of pixels would be."""
    flat = [values.mul(subbands.gain_column(level)).flatten(1).numpy() for level, values in enumerate(details)]
    pixels = sum(values.shape[1] for values in flat)
    covariance = sum((values @ values.T for values in flat), np.zeros((len(flat[0]),) * 2)) / pixels
    return [plane_rotation.principal_angles(covariance, multiple)] * subbands.CLASSES


def _no_rotation(details: Sequence[torch.Tensor], _: int = 1) -> list[NDArray[np.int16]]:
    return [np.zeros(plane_rotation.count(len(details[0])), np.int16)] * subbands.CLASSES


def _nothing_restored(_: IntegerLevel, seen: torch.Tensor, details: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(details)


@contextmanager
def _changed(variant: str) -> Iterator[None]:
    with ExitStack() as stack:

        def change(place: Any, name: str, value: Any) -> None:
            stack.enter_context(mock.patch.object(place, name, value))

        if variant == "no adjustments":
            change(Tables, "best_adjustment", lambda *_: (0, 0))
        elif variant == "restored at whole steps":
            change(IntegerLevel, "restored", _nothing_restored)
        elif variant == "one rotation for all levels":
            change(subbands, "spectral_angles", _one_rotation)
        elif variant == "no rotation":
            change(subbands, "spectral_angles", _no_rotation)
        yield


@torch.inference_mode()
def curve(model: DetailModel, scene: archive_scenes.Scene, variant: str) -> list[tuple[float, float]]:
    """Bits and PSNR at each step, of the coded numbers in chunks of 512 pixels; headers are left out."""
    dead_zone = 0.5 if "plain" in variant else detail_coding.DEAD_ZONE
    price = 0.0 if "no price" in variant else detail_coding.PRICE
    rounding = Rounding(exact=False, dead_zone=dead_zone, price=price)
    found = []
    for share in STEPS:
        step = share * scene.peak
        nbytes, error = 0, 0.0
        for row, column in np.ndindex(*(-(-length // 512) for length in scene.pixels.shape[1:])):
            window = (slice(None), slice(512 * row, 512 * row + 512), slice(512 * column, 512 * column + 512))
            pixels = torch.from_numpy(scene.pixels[window].astype(np.float64))
            mean = pixels.mean((1, 2), keepdim=True).round()
            with _changed(variant):
                coded = detail_coding.encode(model, (pixels - mean).mul(64 / step).round(), rounding)
            nbytes += len(coded.words)
            wrong = ((coded.restored * (step / 64) + mean).round() - pixels).numpy()
            error += float(np.square(wrong[scene.valid[window]]).sum())
        count = int(scene.valid.sum())
        found.append((8 * nbytes / count, float(10 * np.log10(scene.peak**2 * count / error))))
    return found


def measure(options: argparse.Namespace) -> Report:
    """All variants on all scenes."""
    rows = []
    percents: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for name in options.scenes:
        scene = archive_scenes.load(name, options.size)
        model = transform_models.model_of(transform_models.of_fold(options.models, name))
        anchor = curve(model, scene, WHOLE)
        for variant in VARIANTS[1:]:
            found = bd_rate(anchor, curve(model, scene, variant), _LOW, _HIGH)
            percents[variant].append(found.percent)
            print(f"{name}: {variant}: {found.percent:+.2f} %", flush=True)
    for variant in VARIANTS[1:]:
        each = percents[variant]
        rows.append((variant, *(f"{value:+.2f} %" for value in each), f"{sum(each) / len(each):+.2f} %"))
    table = Table(
        title=f"Bits beside the whole codec, {_LOW:g} to {_HIGH:g} dB",
        columns=("changed", *options.scenes, "mean"),
        rows=tuple(rows),
    )
    notes = ("Coded numbers only, without headers. Each row changes one thing; models are not trained anew for it.",)
    return Report(name="transform_ablation", tables=[table], notes=list(notes), measured={"percent": percents})


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, measure, publish."""
    parser = common.parser(__doc__)
    parser.add_argument(
        "--models", type=Path, default=Path("rate-distortion/models"), help="folder of the folds' models"
    )
    parser.add_argument("--scenes", nargs="+", choices=archive_scenes.FILES, default=list(SCENES))
    parser.add_argument("--size", type=int, help="pixels of a side, from the middle; whole scenes without it")
    common.run(measure, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
