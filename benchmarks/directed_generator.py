"""A directed generator in place of Markov chains: what it gains and what it loses, on MNIST of 14 × 14 pixels.

    python -m benchmarks.directed_generator

The same RBM is trained with persistent chains and with a generator (Kim and Bengio 2016) in the negative phase, by as
many updates of the same size. Its likelihood is exact where 20 hidden units are enumerated, otherwise by AIS in both
directions. Samplers, the generators as well as chains of n Gibbs steps from independent pixels, are judged by
`benchmarks.sampler_quality`, and drawn in directed_generator.png.

Pixels are drawn with their grey value as probability, anew in each batch; test images once. Times are of the CPU.
"""

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from benchmarks import common
from benchmarks.common import Report, Table
from benchmarks.mnist_images import BATCH
from benchmarks.sampler_quality import (
    PIXELS,
    SHOWN,
    Data,
    Quality,
    Sampler,
    chain_sampler,
    draw_figure,
    generator_sampler,
    load,
    quality,
    quality_table,
)
from harmonium.models.annealing_path import Path as AnnealingPath
from harmonium.models.annealing_path import base_rates, temperatures
from harmonium.models.deep_energy import DeepEnergy
from harmonium.models.directed_generator import (
    DirectedGenerator,
    EnergyModule,
    Optimisers,
    Schedule,
    TrainingState,
    joint_step,
    start,
)
from harmonium.models.energy_model import set_gradient, update
from harmonium.models.layer_chain import LayerChain
from harmonium.models.partition_function import ais, exact_log_partition, mean_log_likelihood, reverse_ais
from harmonium.models.persistent_chains import PersistentChains
from harmonium.models.rbm import RBM
from harmonium.models.units import Bernoulli

_STEPS = 6000
_LATENT, _LAYERS = 20, (200, 200)
_GENERATOR_RATE, _DEEP_RATE = 3e-3, 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A way to train an RBM. Learning rates are the best of a few that were tried, unless the title says otherwise."""

    title: str
    """For people."""

    hidden: int
    """Hidden units of the RBM."""

    rate: float
    """Learning rate of the RBM at the start."""

    entropy_weight: float | None
    """Factor on the generator's surrogate entropy; None for persistent chains in place of a generator."""


CONTENDERS = (
    Contender(title="chains (PCD-1)", hidden=20, rate=0.2, entropy_weight=None),
    Contender(title="generator", hidden=20, rate=0.1, entropy_weight=1.0),
    Contender(title="generator, no surrogate", hidden=20, rate=0.1, entropy_weight=0.0),
    Contender(title="chains (PCD-1)", hidden=200, rate=0.2, entropy_weight=None),
    Contender(title="generator", hidden=200, rate=0.05, entropy_weight=1.0),
    Contender(title="generator, no surrogate", hidden=200, rate=0.05, entropy_weight=0.0),
    Contender(title="generator, at the chains' rate", hidden=200, rate=0.2, entropy_weight=1.0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Likelihood:
    """Of an RBM, in nats for a test image."""

    hidden: int
    """Hidden units."""

    negative: str
    """What the negative phase was."""

    rate: float
    """Learning rate of the RBM at the start."""

    milliseconds: float
    """Of CPU for an update."""

    value: float
    """Mean test log-likelihood, exact or by forward AIS."""

    reverse: float | None
    """By reverse AIS; None where the value is exact."""


# --- training --------------------------------------------------------------------------------------------------------


def batch_of(data: Data, noise: torch.Generator) -> Tensor:
    """Random training images, drawn anew."""
    return torch.bernoulli(data.grey[torch.randint(len(data.grey), (BATCH,), generator=noise)], generator=noise)


def new_rbm(hidden: int, data: Data, noise: torch.Generator) -> RBM:
    """Small random weights, and biases that give the pixels' rates (Hinton 2010)."""
    rbm = RBM(Bernoulli(size=PIXELS), Bernoulli(size=hidden)).initialise(noise)
    with torch.no_grad():
        rbm.visible_parameters["bias"].copy_(base_rates(LayerChain.of_rbm(rbm), data.train)[0]["bias"])
    return rbm


def decay(optimiser: torch.optim.Optimizer, rate: float, share: float) -> None:
    """Let the learning rate fall linearly to zero."""
    for group in optimiser.param_groups:
        group["lr"] = rate * (1 - share)


def train_with_chains(rbm: RBM, rate: float, data: Data, steps: int, noise: torch.Generator) -> float:
    """Train by persistent contrastive divergence, a Gibbs step for an update; milliseconds of CPU for one."""
    chains = PersistentChains(particles=batch_of(data, noise))
    optimiser = torch.optim.SGD(rbm.parameters(), lr=rate)
    begin = time.process_time()
    for step in range(steps):
        decay(optimiser, rate, step / steps)
        chains = chains.advance(rbm, noise)
        v = batch_of(data, noise)
        set_gradient(rbm, rbm.statistics(v), rbm.statistics(chains.particles))
        update(rbm, optimiser, step)
    return 1e3 * (time.process_time() - begin) / steps


def train_with_generator(
    model: EnergyModule, rate: float, data: Data, steps: int, weight: float, noise: torch.Generator
) -> tuple[DirectedGenerator, TrainingState, float]:
    """Train model and generator on each other; the generator, its last state, and milliseconds of CPU for an update."""
    generator = DirectedGenerator(PIXELS, "bits", latent=_LATENT, hidden=_LAYERS).initialise(noise, data.train)
    optimisers = Optimisers(
        model=torch.optim.SGD(model.parameters(), lr=rate),
        generator=torch.optim.Adam(generator.parameters(), lr=_GENERATOR_RATE, betas=(0.5, 0.999)),
    )
    schedule, state = Schedule(particles=BATCH, entropy_weight=weight), start(generator, noise)
    begin = time.process_time()
    for step in range(steps):
        decay(optimisers.model, rate, step / steps)
        decay(optimisers.generator, _GENERATOR_RATE, step / steps)
        state = joint_step(model, generator, batch_of(data, noise), optimisers, schedule, state, noise)
    return generator, state, 1e3 * (time.process_time() - begin) / steps


# --- measures --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def likelihood(
    rbm: RBM, contender: Contender, milliseconds: float, data: Data, options: argparse.Namespace, noise: torch.Generator
) -> Likelihood:
    """Exact for few hidden units, otherwise by AIS forward and, from the end of chains, in reverse."""
    chain = LayerChain.of_rbm(rbm)
    reverse = None
    if contender.hidden <= 20:
        log_z = float(exact_log_partition(chain))
    else:
        path, betas = AnnealingPath(chain=chain, base=base_rates(chain, data.train)), temperatures(options.temperatures)
        log_z = ais(path, betas, BATCH, noise).value
        samples, _ = chain_sampler(rbm, options.burn_in, noise)(BATCH)
        reverse = mean_log_likelihood(chain, data.test, reverse_ais(path, betas, (samples,), noise).value)
    value = mean_log_likelihood(chain, data.test, log_z)
    return Likelihood(
        hidden=contender.hidden,
        negative=contender.title,
        rate=contender.rate,
        milliseconds=milliseconds,
        value=value,
        reverse=reverse,
    )


# --- the experiment --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Findings:
    """Rows and pictures as they come."""

    likelihoods: list[Likelihood] = field(default_factory=list)
    """Of RBMs."""

    qualities: list[Quality] = field(default_factory=list)
    """Of samplers."""

    pictures: list[tuple[str, Tensor]] = field(default_factory=list)
    """Titles and images (40, pixels)."""

    def judge(self, energy_model: str, name: str, sampler: Sampler, data: Data) -> None:
        """Measure a sampler and keep the pixels' means in 40 of its images."""
        self.qualities.append(quality(energy_model, name, sampler, data))
        with torch.no_grad():
            self.pictures.append((f"{energy_model}, {name}", torch.sigmoid(sampler(SHOWN)[1])))


def run_contender(contender: Contender, found: Findings, data: Data, steps: int, options: argparse.Namespace) -> None:
    """Train one RBM, and judge it and its samplers."""
    noise = torch.Generator().manual_seed(1)
    rbm, name = new_rbm(contender.hidden, data, noise), f"RBM {contender.hidden} by {contender.title}"
    lengths: tuple[int, ...] = (10, 100, 1000)
    if contender.entropy_weight is None:
        milliseconds = train_with_chains(rbm, contender.rate, data, steps, noise)
    else:
        generator, state, milliseconds = train_with_generator(
            rbm, contender.rate, data, steps, contender.entropy_weight, noise
        )
        found.judge(name, "the generator", generator_sampler(generator, state, noise), data)
        lengths = lengths[-1:]
    found.likelihoods.append(likelihood(rbm, contender, milliseconds, data, options, noise))
    for n in lengths:
        found.judge(name, f"{n} Gibbs steps", chain_sampler(rbm, n, noise), data)


def try_deep_energy(found: Findings, data: Data, steps: int) -> None:
    """The deep energy, for which there is no chain and no likelihood."""
    noise = torch.Generator().manual_seed(1)
    model = DeepEnergy(Bernoulli(size=PIXELS), features=(200,), experts=Bernoulli(size=100)).initialise(noise)
    with torch.no_grad():
        model.visible_parameters["bias"].copy_(torch.logit((data.train.sum(0) + 1) / (len(data.train) + 2)))
    generator, state, _ = train_with_generator(model, _DEEP_RATE, data, steps, 1.0, noise)
    found.judge("deep energy 200-100", "the generator", generator_sampler(generator, state, noise), data)


def likelihood_table(found: Findings) -> Table:
    """What the negative phase makes of an RBM."""
    rows = [
        (
            str(row.hidden),
            row.negative,
            f"{row.rate:g}",
            f"{row.value:.2f}",
            "exact" if row.reverse is None else f"AIS; reverse {row.reverse:.2f}",
            f"{row.milliseconds:.1f}",
        )
        for row in found.likelihoods
    ]
    columns = ("hidden units", "negative phase", "rate", "nats for a test image", "how", "ms for an update")
    return Table(title="Likelihood of RBMs after as many updates", columns=columns, rows=tuple(rows))


def measure(options: argparse.Namespace) -> Report:
    """Train and judge all of them."""
    torch.set_num_threads(1)
    data, steps = load(options, torch.Generator().manual_seed(0)), max(1, math.ceil(_STEPS * options.effort))
    found = Findings(pictures=[("test images, drawn", data.test[:SHOWN])])
    for contender in CONTENDERS:
        run_contender(contender, found, data, steps, options)
    try_deep_energy(found, data, steps)
    draw_figure(found.pictures, options.out / "directed_generator.png")
    notes = [
        f"{steps} updates of {BATCH} images and {BATCH} negative particles each, RBMs by plain gradient descent, "
        f"generators by Adam at {_GENERATOR_RATE}, all rates falling linearly to zero; one run each.",
        f"CSL is over {options.samples} states and compares samplers only; images by {len(data.test)} test images.",
        "Gibbs steps start with every unit on its own. Times are of one core's CPU.",
        f"Forward AIS flatters where it errs; reverse AIS starts after {options.burn_in} Gibbs steps.",
    ]
    measured = {
        "likelihoods": [asdict(row) for row in found.likelihoods],
        "samplers": [asdict(row) for row in found.qualities],
    }
    tables = [likelihood_table(found), quality_table(found.qualities, data)]
    return Report(name="directed_generator", tables=tables, notes=notes, measured=measured)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = common.parser(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--test-images", type=int, default=2000, help="that likelihoods are averaged over")
    add("--samples", type=int, default=2000, help="of every sampler, a multiple of 100")
    add("--temperatures", type=int, default=1000, help="of AIS, in each direction")
    add("--burn-in", type=int, default=1000, help="Gibbs steps before reverse AIS")
    common.run(measure, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
