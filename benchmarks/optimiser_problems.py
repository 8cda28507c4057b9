"""Machines on MNIST that optimisers are compared on, and the optimisers."""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from benchmarks.common import ROOT
from benchmarks.mnist_images import binarised, load_images
from harmonium.models import learned_optimiser
from harmonium.models.contrastive_divergence import negative_particles
from harmonium.models.energy_model import set_gradient, update
from harmonium.models.layer_chain import LayerChain
from harmonium.models.learned_optimiser import LearnedDescent, LearnedOptimiser, LikelihoodTask, MetaSchedule
from harmonium.models.partition_function import exact_log_partition, mean_log_likelihood
from harmonium.models.rbm import RBM
from harmonium.models.units import Bernoulli

_BATCH = 100
_PSEUDO_IMAGES = 50
SIZE = 16
"""Hidden units in each layer of the learned optimiser."""

# --- problems --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Machines to be trained."""

    title: str
    """Its row in the tables."""

    digits: tuple[int, ...]
    """Whose images are learned."""

    side: int = 7
    """Pixels along each side that images are shrunk to."""

    hidden: int = 8
    """Hidden units."""

    steps: int = 100
    """Updates."""

    marks: int = 10
    """How often the likelihood is measured on the way, at equal distances."""

    images: int = 300
    """How many are learned."""

    pseudo: bool = False
    """Whether the pseudo-likelihood is measured, where enumeration would take too long."""

    most_seeds: int = 100
    """Fewer than were asked for where each takes long."""


_NEW = tuple(range(5, 10))
PRACTICE = Problem(title="practice", digits=tuple(range(5)))
PROBLEMS = {
    "same": Problem(title="other digits", digits=_NEW),
    "longer": Problem(title="10 times as long", digits=_NEW, steps=1000),
    "hidden": Problem(title="14 hidden units", digits=_NEW, hidden=14),
    "images": Problem(title="14 × 14 pixels, 12 hidden units", digits=_NEW, side=14, hidden=12),
    "wide": Problem(title="28 × 28 pixels, 14 hidden units", digits=_NEW, side=28, hidden=14, marks=5),
    "large": Problem(
        title="28 × 28 pixels, 100 hidden units, pseudo-likelihood",
        digits=_NEW,
        side=28,
        hidden=100,
        marks=5,
        pseudo=True,
        most_seeds=3,
    ),
}
LARGEST = Problem(title="28 × 28 pixels, 500 hidden units", digits=_NEW, side=28, hidden=500)
"""Only a step of it is timed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Digits:
    """MNIST's training images."""

    grey: Tensor
    """Grey values from 0 to 1, (n, 784)."""

    labels: Tensor
    """The digits that they show, (n,)."""

    @classmethod
    def load(cls) -> Self:
        """Images and labels, of `HARMONIUM_DATA` or `../shared/data`; `Skipped` if they are not there."""
        grey, _ = load_images()
        given = os.environ.get("HARMONIUM_DATA")
        with np.load((Path(given) if given else ROOT.parent / "shared" / "data") / "mnist" / "mnist.npz") as arrays:
            return cls(grey=grey, labels=torch.from_numpy(arrays["train_labels"]))

    def draw(self, problem: Problem, generator: torch.Generator) -> tuple[RBM, Tensor]:
        """A machine as Hinton (2010) starts it, and the images that it is to learn."""
        among = torch.isin(self.labels, torch.tensor(problem.digits)).nonzero().squeeze(1)
        chosen = self.grey[among[torch.randperm(len(among), generator=generator)[: problem.images]]]
        small = F.adaptive_avg_pool2d(chosen.view(-1, 1, 28, 28), problem.side).flatten(1)
        v = binarised(small, "threshold", generator)
        rbm = RBM(Bernoulli(size=v.shape[1]), Bernoulli(size=problem.hidden)).initialise(generator)
        with torch.no_grad():
            rbm.visible_parameters["bias"].copy_(torch.logit((v.sum(0) + 1) / (len(v) + 2)))
        return rbm, v


@torch.no_grad()
def log_likelihood(rbm: RBM, v: Tensor, problem: Problem) -> float:
    """Mean over the images in nats, exact; or the pseudo-likelihood of some of them.

    Annealing would not do: after steps that are too large, weights are so large that AIS finds probabilities above 1.
    """
    if problem.pseudo:
        return pseudo_likelihood(rbm, v[:_PSEUDO_IMAGES])
    chain = LayerChain.of_rbm(rbm)
    return mean_log_likelihood(chain, v, float(exact_log_partition(chain)))


def pseudo_likelihood(rbm: RBM, v: Tensor) -> float:
    """Sum over the pixels of log p(pixel | all others) (Besag 1975), averaged over binary images v (batch, visible)."""
    one_turned = torch.eye(v.shape[1])
    gaps = [rbm.free_energy((image - one_turned).abs()) - rbm.free_energy(image[None]) for image in v]
    return float(F.logsigmoid(torch.stack(gaps)).sum(1).mean())


# --- optimisers ------------------------------------------------------------------------------------------------------

Make = Callable[[RBM, float], torch.optim.Optimizer]
"""(machine, learning rate) to its optimiser."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A way to optimise."""

    title: str
    """Its column in the tables."""

    make: Make
    """What is made for each training."""

    rates: tuple[float, ...]
    """Learning rates to choose from; of the learned optimiser, factors on what it puts out."""

    falling: bool = False
    """Whether the rate falls to zero along half a cosine."""


_SGD_RATES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_ADAM_RATES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
_FACTORS = (0.1, 0.2, 0.5, 1.0, 2.0)


def contenders(rule: LearnedOptimiser) -> list[Contender]:
    """Hand-made optimisers; last the learned one, as it is and with a factor to choose."""

    def sgd(rbm: RBM, rate: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(rbm.parameters(), lr=rate, momentum=0.9, foreach=True)

    def adam(rbm: RBM, rate: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(rbm.parameters(), lr=rate, foreach=True)

    def learned(rbm: RBM, rate: float) -> torch.optim.Optimizer:
        return LearnedDescent(rbm.parameters(), rule, lr=rate)

    return [
        Contender(title="SGD", make=sgd, rates=_SGD_RATES),
        Contender(title="Adam", make=adam, rates=_ADAM_RATES),
        Contender(title="Adam, falling", make=adam, rates=_ADAM_RATES, falling=True),
        Contender(title="learned", make=learned, rates=(1.0,)),
        Contender(title="learned, scaled", make=learned, rates=_FACTORS),
    ]


def train(digits: Digits, problem: Problem, contender: Contender, rate: float, seed: int) -> list[float]:
    """Log-likelihoods at the start and at the problem's marks."""
    generator = torch.Generator().manual_seed(seed)
    rbm, v = digits.draw(problem, generator)
    optimiser = contender.make(rbm, rate)
    measured = {problem.steps * mark // problem.marks for mark in range(1, problem.marks + 1)}
    found = [log_likelihood(rbm, v, problem)]
    for step in range(problem.steps):
        gradient(rbm, v, generator)
        share = 0.5 * (1 + math.cos(math.pi * step / problem.steps)) if contender.falling else 1.0
        for group in optimiser.param_groups:
            group["lr"] = rate * share
        update(rbm, optimiser, step)
        if step + 1 in measured:
            found.append(log_likelihood(rbm, v, problem))
    return found


def gradient(rbm: RBM, v: Tensor, generator: torch.Generator) -> None:
    """That of CD-1 for a random batch."""
    batch = v[torch.randint(len(v), (_BATCH,), generator=generator)]
    set_gradient(rbm, rbm.statistics(batch), rbm.statistics(negative_particles(rbm, batch, 1, generator)))


def practised(digits: Digits, tasks: int, practice: Problem, seed: int) -> LearnedOptimiser:
    """The optimiser after its lessons."""
    generator = torch.Generator().manual_seed(seed)

    def lessons() -> Iterator[LikelihoodTask]:
        while True:
            hidden = int(torch.randint(4, 9, (1,), generator=generator))
            rbm, v = digits.draw(replace(practice, hidden=hidden), generator)
            yield LikelihoodTask(rbm, v, batch=_BATCH)

    rule = LearnedOptimiser(SIZE).initialise(generator)
    schedule = MetaSchedule(tasks=tasks, horizon=practice.steps, learning_rate=1e-2)
    for number, loss in enumerate(learned_optimiser.meta_train(rule, lessons(), schedule, generator), start=1):
        if number % 50 == 0 or number == tasks:
            print(f"lesson {number} of {tasks}: mean loss {loss:.3f}", flush=True)
    return rule
