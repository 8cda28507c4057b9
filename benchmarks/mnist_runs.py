"""What `mnist_likelihood` trains: recipes, and training that goes on where it was stopped."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.mnist_images import BATCH, PIXELS, Binarisation, binarised, epoch_of
from harmonium.models.dbm import DBM
from harmonium.models.dbm_training import Doubling, JointSchedule, JointState, lifted, pretrain, start, train_jointly
from harmonium.models.rbm import RBM
from harmonium.models.units import Bernoulli

_PRETRAINING_RATE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One row of the table."""

    title: str
    """For people."""

    published: str
    """Test log-likelihood or bound in nats, and whose."""

    binarisation: Binarisation
    """How grey values became binary in the source: drawn with the pixel as probability, or above 0.5."""

    hidden: tuple[int, ...]
    """Sizes of the hidden layers."""

    epochs: int
    """Of the joint training, or of the only one."""

    learning_rate: float
    """At the start; it falls linearly to zero."""

    schedule: JointSchedule
    """What a step does."""

    growing: bool = False
    """Whether the number of Gibbs steps grows from 1 to the schedule's over the first half of the epochs."""

    weight_decay: float = 0.0
    """Per step and unit of learning rate, on weights alone."""

    pretraining: tuple[int, ...] = ()
    """Epochs of each machine of the stack; none for training from random weights."""


RECIPES = {
    "rbm-cd25": Recipe(
        title="centred RBM 500, CD-25",
        published="-86.3 (Salakhutdinov and Murray 2008)",
        binarisation="stochastic",
        hidden=(500,),
        epochs=40,
        learning_rate=0.1,
        schedule=JointSchedule(gibbs_steps=25, persistent=False, offset_rate=0.01),
        growing=True,
    ),
    "rbm-pcd": Recipe(
        title="centred RBM 500, PCD-1",
        published="-84.9 forward, -96.6 reverse (PyDeep)",
        binarisation="threshold",
        hidden=(500,),
        epochs=200,
        learning_rate=0.05,
        schedule=JointSchedule(gibbs_steps=1, offset_rate=0.01),
    ),
    "dbm": Recipe(
        title="DBM 500-1000, pre-trained",
        published="-84.6 (Salakhutdinov and Hinton 2009)",
        binarisation="stochastic",
        hidden=(500, 1000),
        epochs=70,
        learning_rate=0.05,
        schedule=JointSchedule(gibbs_steps=3, mean_field_iterations=5, offset_rate=0.01),
        weight_decay=1e-4,
        pretraining=(20, 20),
    ),
    "dbm-centred": Recipe(
        title="DBM 500-1000, centred, not pre-trained",
        published="-84.6 (Salakhutdinov and Hinton 2009)",
        binarisation="stochastic",
        hidden=(500, 1000),
        epochs=70,
        learning_rate=0.1,
        schedule=JointSchedule(gibbs_steps=3, mean_field_iterations=5, offset_rate=0.01),
        weight_decay=1e-4,
    ),
}
"""By the names that `--models` takes."""


# --- training ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Job:
    """A machine in training, as it stands in its checkpoint."""

    path: Path
    module: nn.Module
    optimiser: torch.optim.SGD
    generator: torch.Generator
    epochs: int
    state: JointState | None = None
    epoch: int = 0
    seconds: float = 0.0

    def save(self) -> None:
        """Write the checkpoint, complete or not at all."""
        document: dict[str, Any] = {
            "module": self.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "progress": [self.epochs, self.epoch, self.seconds],
            "state": None if self.state is None else [list(self.state.chains), list(self.state.offsets)],
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        torch.save(document, part)
        part.replace(self.path)

    def load(self) -> None:
        """Go on from the checkpoint if there is one.

        Raises
        ------
        ValueError
            If it is one of a training of another length, whose learning rate fell differently.
        """
        if not self.path.is_file():
            return
        document = torch.load(self.path, weights_only=True)
        epochs, self.epoch, self.seconds = document["progress"]
        if epochs != self.epochs:
            raise ValueError(f"{self.path} is of a training of {epochs} epochs, expected {self.epochs}; remove it")
        self.module.load_state_dict(document["module"])
        self.optimiser.load_state_dict(document["optimiser"])
        self.generator.set_state(document["generator"])
        if document["state"] is not None:
            chains, offsets = (tuple(part) for part in document["state"])
            self.state = JointState(chains=chains, offsets=offsets)


def optimiser_of(module: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """Plain stochastic gradient descent, weight decay on matrices alone."""
    groups = [
        {"params": [p for p in module.parameters() if (p.ndim == 2) == matrices], "weight_decay": decay}
        for matrices, decay in ((True, recipe.weight_decay), (False, 0.0))
    ]
    return torch.optim.SGD(groups, lr=recipe.learning_rate, foreach=True)


def run_epochs(job: Job, rate: float, epoch: Callable[[Job], None], deadline: float) -> bool:
    """Run the epochs that are left, with a checkpoint after each; False if time ran out."""
    while job.epoch < job.epochs:
        if time.monotonic() > deadline:
            return False
        for group in job.optimiser.param_groups:
            group["lr"] = rate * (1 - job.epoch / job.epochs)
        begin = time.perf_counter()
        epoch(job)
        took = time.perf_counter() - begin
        job.epoch, job.seconds = job.epoch + 1, job.seconds + took
        job.save()
        print(f"{job.path.stem}: epoch {job.epoch} of {job.epochs}, {took:.1f} s", flush=True)
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much of a recipe is run."""

    epochs: int | None
    """Of every training in place of the recipe's."""

    batches: int | None
    """In an epoch; all by default."""

    deadline: float
    """In `time.monotonic`'s seconds, after which no epoch begins."""

    products: torch.dtype
    """Dtype of matrix products in the chains and in mean field."""


def train_recipe(name: str, images: Tensor, folder: Path, effort: Effort) -> tuple[DBM, float] | None:
    """The trained machine and its seconds of training; None if time ran out."""
    recipe, generator = RECIPES[name], torch.Generator().manual_seed(1)
    units = [Bernoulli(size=size) for size in (PIXELS, *recipe.hidden)]
    stack, seconds = list[RBM](), 0.0
    for index, epochs in enumerate(recipe.pretraining):
        rbm = RBM(units[index], units[index + 1]).initialise(generator)
        optimiser = torch.optim.SGD(rbm.parameters(), lr=_PRETRAINING_RATE, momentum=0.5, foreach=True)
        path = folder / f"{name}-layer{index}.pt"
        job = Job(path, rbm, optimiser, generator, effort.epochs or epochs)
        job.load()
        if not run_epochs(job, _PRETRAINING_RATE, _greedily(recipe, images, effort, [*stack, rbm]), effort.deadline):
            return None
        stack.append(rbm)
        seconds += job.seconds
    dbm = DBM.compose(stack) if stack else from_scratch(recipe, units, images, generator)
    chains = start(dbm, BATCH, binarised(images[:1000], recipe.binarisation, generator), generator)
    path = folder / f"{name}.pt"
    job = Job(path, dbm, optimiser_of(dbm, recipe), generator, effort.epochs or recipe.epochs, chains)
    job.load()
    if not run_epochs(job, recipe.learning_rate, _jointly(recipe, images, effort, dbm), effort.deadline):
        return None
    return dbm, seconds + job.seconds


@torch.no_grad()
def from_scratch(recipe: Recipe, units: Sequence[Bernoulli], images: Tensor, generator: torch.Generator) -> DBM:
    """Small random weights, and visible biases that give the pixels' rates (Hinton 2010)."""
    dbm = DBM(units[0], units[1:]).initialise(generator)
    rates = binarised(images, recipe.binarisation, generator).mean(0).clamp(1e-3, 1 - 1e-3)
    dbm.chain().parameters[0]["bias"].copy_(torch.logit(rates))
    return dbm


def _greedily(recipe: Recipe, images: Tensor, effort: Effort, stack: Sequence[RBM]) -> Callable[[Job], None]:
    depth, doubling = len(recipe.hidden), Doubling.of(len(stack) - 1, len(recipe.hidden))

    def epoch(job: Job) -> None:
        batches = epoch_of(images, recipe.binarisation, job.generator, effort.batches)
        seen = lifted(stack[:-1], depth, batches, job.generator)
        for _ in pretrain(stack[-1], seen, doubling, job.optimiser, job.generator):
            pass

    return epoch


def _jointly(recipe: Recipe, images: Tensor, effort: Effort, dbm: DBM) -> Callable[[Job], None]:
    def epoch(job: Job) -> None:
        assert job.state is not None, "joint training has chains"
        batches = epoch_of(images, recipe.binarisation, job.generator, effort.batches)
        schedule = schedule_at(recipe, job.epoch / job.epochs, effort.products)
        for state in train_jointly(dbm, batches, job.optimiser, schedule, job.state, job.generator):
            job.state = state

    return epoch


def schedule_at(recipe: Recipe, share: float, products: torch.dtype) -> JointSchedule:
    """What a step does after that share of the epochs."""
    steps = recipe.schedule.gibbs_steps
    if recipe.growing:
        steps = min(steps, 1 + math.floor(2 * share * steps))
    return replace(recipe.schedule, gibbs_steps=steps, products=None if products == torch.float32 else products)
