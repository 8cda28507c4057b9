"""MNIST's images, made binary as the literature does."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import ROOT, Skipped

PIXELS = 784
BATCH = 100

Binarisation = Literal["stochastic", "threshold"]


def load_images() -> tuple[Tensor, Tensor]:
    """Training and test images (n, 784) as grey values from 0 to 1, of `HARMONIUM_DATA` or `../shared/data`.

    Raises
    ------
    Skipped
        If they are not there.
    """
    given = os.environ.get("HARMONIUM_DATA")
    file = (Path(given) if given else ROOT.parent / "shared" / "data") / "mnist" / "mnist.npz"
    if not file.is_file():
        raise Skipped("the development data have no mnist/mnist.npz; set HARMONIUM_DATA to their folder")
    with np.load(file) as arrays:
        train, test = (torch.from_numpy(arrays[f"{part}_images"]).reshape(-1, PIXELS) for part in ("train", "test"))
    return train / 255, test / 255


def binarised(images: Tensor, how: Binarisation, generator: torch.Generator) -> Tensor:
    """Images of zeros and ones."""
    return torch.bernoulli(images, generator=generator) if how == "stochastic" else (images > 0.5).to(images.dtype)


def epoch_of(images: Tensor, how: Binarisation, generator: torch.Generator, most: int | None) -> Iterator[Tensor]:
    """Batches of all images in random order, binarised afresh; the first `most` of them."""
    order = torch.randperm(len(images), generator=generator)[: None if most is None else most * BATCH]
    for rows in order.split(BATCH):  # type: ignore[no-untyped-call]
        yield binarised(images[rows], how, generator)
