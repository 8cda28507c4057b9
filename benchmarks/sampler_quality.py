"""What a sampler of small MNIST is worth: its likelihood as a mixture, and how far it is from the images.

- CSL: the log-likelihood of test images under the mixture of what the sampler's states make of the pixels (Bengio, Yao
  and Cho 2013). In expectation it is below the sampler's own: an image that no state comes near costs much.
- Pixels in which a sample differs from its nearest training image: is it a digit? Pixels in which a test image differs
  from its nearest sample: is every digit there? Beside them stands what other training images get in place of samples.
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from benchmarks.common import Table
from benchmarks.mnist_images import BATCH, load_images
from harmonium.models.directed_generator import DirectedGenerator, TrainingState
from harmonium.models.layer_chain import LayerChain
from harmonium.models.rbm import RBM

SIDE = 14
PIXELS = SIDE**2
SHOWN = 40

Sampler = Callable[[int], tuple[Tensor, Tensor]]
"""From a count to states (count, pixels), and the pixels' logits that they were drawn from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Images of 14 × 14 pixels."""

    grey: Tensor
    """Training images, (n, 196), from 0 to 1."""

    train: Tensor
    """Some of them, drawn, as many as there will be samples."""

    other: Tensor
    """As many others."""

    test: Tensor
    """Test images, drawn."""


def small_images(images: Tensor) -> Tensor:
    """Images (n, 784) averaged over 2 × 2 pixels, (n, 196)."""
    return F.avg_pool2d(images.reshape(-1, 1, 2 * SIDE, 2 * SIDE), 2).reshape(-1, PIXELS)


def load(options: argparse.Namespace, noise: torch.Generator) -> Data:
    """MNIST made small and binary."""
    train, test = (small_images(images) for images in load_images())
    order = torch.randperm(len(train), generator=noise)
    first, second = order[: options.samples], order[options.samples : 2 * options.samples]
    return Data(
        grey=train,
        train=torch.bernoulli(train[first], generator=noise),
        other=torch.bernoulli(train[second], generator=noise),
        test=torch.bernoulli(test[: options.test_images], generator=noise),
    )


# --- samplers --------------------------------------------------------------------------------------------------------


def chain_sampler(rbm: RBM, steps: int, noise: torch.Generator) -> Sampler:
    """Chains of so many Gibbs steps that start with every unit on its own."""
    chain = LayerChain.of_rbm(rbm)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        states = chain.independent(count, noise)
        for _ in range(steps - 1):
            states = chain.gibbs_step(states, noise)
        hidden = chain.sample_half(1, states[:1], noise)
        logits = chain.inputs(0, hidden)[0] + rbm.visible_parameters["bias"]
        return torch.bernoulli(torch.sigmoid(logits), generator=noise), logits

    return draw


def generator_sampler(generator: DirectedGenerator, state: TrainingState, noise: torch.Generator) -> Sampler:
    """One pass of the generator."""

    def draw(count: int) -> tuple[Tensor, Tensor]:
        made = generator(generator.latent_states(count, noise), noise, state.normalisation)
        return made.states, torch.logit(made.means, eps=1e-6)

    return draw


# --- measures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Of a sampler."""

    energy_model: str
    """That it samples from."""

    sampler: str
    """Which."""

    microseconds: float
    """Of CPU for a sample, drawn in batches of 100."""

    csl: float
    """Test log-likelihood of the mixture, in nats."""

    to_train: float
    """Pixels between a sample and the nearest training image."""

    from_test: float
    """Pixels between a test image and the nearest sample."""

    lit: float
    """Pixels that are on in a sample."""


def csl(logits: Tensor, x: Tensor) -> float:
    """Mean log of the mixture of independent pixels with these logits (states, pixels), at x (n, pixels)."""
    log_p = x @ logits.T - F.softplus(logits).sum(1)
    return float(torch.logsumexp(log_p, 1).mean()) - math.log(len(logits))


def nearest(x: Tensor, among: Tensor) -> float:
    """Mean number of pixels in which a row of x differs from the nearest row of `among`."""
    differing = x.sum(1, keepdim=True) + among.sum(1) - 2 * x @ among.T
    return float(differing.amin(1).mean())


@torch.no_grad()
def quality(energy_model: str, name: str, sampler: Sampler, data: Data) -> Quality:
    """All measures of a sampler."""
    count, begin = len(data.train), time.process_time()
    parts = [sampler(BATCH) for _ in range(count // BATCH)]
    seconds = time.process_time() - begin
    x, logits = (torch.cat([part[place] for part in parts]) for place in (0, 1))
    return Quality(
        energy_model=energy_model,
        sampler=name,
        microseconds=1e6 * seconds / count,
        csl=csl(logits, data.test),
        to_train=nearest(x, data.train),
        from_test=nearest(data.test, x),
        lit=float(x.sum(1).mean()),
    )


def quality_table(qualities: Sequence[Quality], data: Data) -> Table:
    """What is drawn, beside images of the training set."""
    rows = [
        (
            row.energy_model,
            row.sampler,
            f"{row.csl:.2f}",
            f"{row.to_train:.1f}",
            f"{row.from_test:.1f}",
            f"{row.lit:.1f}",
            f"{row.microseconds:.0f}",
        )
        for row in qualities
    ]
    lit = float(data.other.sum(1).mean())
    images = ("—", "other training images", "—", f"{nearest(data.other, data.train):.1f}")
    rows.append((*images, f"{nearest(data.test, data.other):.1f}", f"{lit:.1f}", "—"))
    columns = ("model", "sampler", "CSL, nats", "to training image", "from test image", "pixels on", "µs for a sample")
    return Table(title="Samples", columns=columns, rows=tuple(rows))


def draw_figure(pictures: Sequence[tuple[str, Tensor]], path: Path) -> None:
    """Write panels of 4 × 10 images (40, pixels) each, two panels beside each other."""
    columns, rows = 2, math.ceil(len(pictures) / 2)
    figure = Figure(figsize=(9, 2.1 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (title, images) in enumerate(pictures, start=1):
        axes = figure.add_subplot(rows, columns, place)
        framed = F.pad(images.reshape(4, SHOWN // 4, SIDE, SIDE), (1, 1, 1, 1), value=torch.nan)
        axes.imshow(framed.permute(0, 2, 1, 3).flatten(2).flatten(0, 1).numpy(), cmap="gray_r", vmin=0, vmax=1)
        axes.set_title(title, fontsize=8)
        axes.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
