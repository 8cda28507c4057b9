"""The stages of a deep codec's training: greedy, joint, unrolled and fine-tuned, each of which can be run by itself.

    stack of machines ── pretrain ──▶ DBM ── train_jointly ──▶ DBM ── unroll_dbm ──▶ network ── fine_tune ──▶ codec
       CD-1, doubled inputs,             mean field, persistent         `balance`      backpropagation, hard codes
       centred (`dbm_training`)          chains, centred                               (`fine_tuning`), searched codes
                                                                                       (`nearest_codes`)

Each stage is reported through a `StageLog`, and takes batches of cells from a source that may be endless. A machine on
tensors (`harmonium.models.tensor_rbm`) sees cells as tensors, and its network keeps factors while it is fine-tuned.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise, tee

import torch
from torch import Tensor, nn

from harmonium.models import dbm_training, fine_tuning
from harmonium.models.balance import balance as balance
from harmonium.models.cell_transform import Encoder
from harmonium.models.dbm import DBM
from harmonium.models.dbm_training import Doubling, JointSchedule, JointState
from harmonium.models.fine_tuning import CodeUnits
from harmonium.models.nearest_codes import Points, SearchSchedule, can_search, train_decoder
from harmonium.models.presets import FitOptions
from harmonium.models.rbm import RBM
from harmonium.models.tensor_rbm import Stackable
from harmonium.models.training import Batches, StageLog, noise_source, steps
from harmonium.models.units import Bernoulli, Units
from harmonium.models.unrolled import UnrolledStack, centre_hidden, uncentre_hidden
from harmonium.models.unrolled_dbm import expand_factors, keep_factors, unroll_dbm

Lowest = Callable[[Units, Units], Stackable]
"""Makes the machine of a visible and a hidden layer."""

_BALANCE_CELLS = 2048
"""Cells that `balance` looks at."""

_OFFSET_RATE = 0.05
"""Share of a batch's means in the offsets of centring; without it all units of a layer learn a cell's brightness."""

JOINT = JointSchedule(gibbs_steps=1, mean_field_iterations=5, mean_field_tolerance=1e-2, offset_rate=_OFFSET_RATE)
"""Few iterations: a start from pre-trained machines is near, and each costs as much as a step of fine-tuning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSchedule:
    """How long and how fast one stage of Boltzmann learning is: Adam, the step size falling to zero along a cosine."""

    steps: int
    """Parameter updates, of each machine in greedy training."""

    batch: int = 256
    """Cells in a batch, and chains in joint training."""

    learning_rate: float = 1e-3
    """Step size at the start."""

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch < 1 or not self.learning_rate > 0:
            raise ValueError(f"A stage needs steps >= 0, batch >= 1 and learning_rate > 0, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """How long each stage of a deep Boltzmann machine's training is; 0 leaves it out."""

    greedy: int = 400
    """Steps of CD-1 for each machine of the stack."""

    joint: int = 150
    """Steps of joint training, at twice the cost of the others."""

    fine_tuning: int = 1500
    """Steps of backpropagation."""

    search: int = 8
    """Rounds of training the decoder with codes that are searched, where they can be (`nearest_codes`)."""

    code: CodeUnits = "rounded"
    """What the decoder sees of the code while it is fine-tuned."""

    learning_rate: float = 1e-3
    """Step size of greedy training at its start; joint training takes a fifth."""

    fine_tuning_rate: float = 1e-3
    """Step size of fine-tuning at its start: larger ones saturate wide logistic layers, which then learn no more."""

    def __post_init__(self) -> None:
        if min(self.greedy, self.joint, self.fine_tuning, self.search) < 0:
            raise ValueError(f"Stages need steps >= 0, got {self}")

    def encoder(self, net: UnrolledStack) -> Encoder:
        """What finds codes, in training after fine-tuning and from then on."""
        searched = self.fine_tuning > 0 and self.search > 0 and can_search(net)
        return "nearest" if searched else "network"


def train_deep(
    stack: Sequence[Stackable],
    batches: Batches,
    stages: Stages,
    options: FitOptions,
    generator: torch.Generator,
    log: StageLog,
    points: Points,
) -> UnrolledStack:
    """All stages, one after the other: a stack of untrained machines, the lowest first, to a network.

    What is lowered is the squared distance between the `points` of visible values and of their reconstruction. Batches
    are of rows (cells, visible). Randomness on the training's device comes from `generator`, which is a CPU one, or
    from one that is seeded alike.
    """
    noise = noise_source(generator, options)
    modes = DBM.compose(stack).modes

    def distortion(reconstruction: Tensor, target: Tensor) -> Tensor:
        return fine_tuning.squared_error(points(reconstruction), points(target))

    def states(batch: int) -> Iterator[Tensor]:
        """Batches as visible states of the machines, which may be tensors."""
        return (x.reshape(len(x), *modes) for x in batches(batch))

    if stages.greedy:
        greedy = StageSchedule(steps=steps(stages.greedy, options.effort), learning_rate=stages.learning_rate)
        pretrain(stack, states, greedy, noise, log)
    dbm = DBM.compose(stack)
    if stages.joint:
        joint = StageSchedule(
            steps=steps(stages.joint, options.effort), batch=128, learning_rate=stages.learning_rate / 5
        )
        train_jointly(dbm, states, joint, noise, log)
    net = unroll_dbm(dbm)
    if stages.fine_tuning:
        keep_factors(net, dbm)
        balance(net, next(batches(_BALANCE_CELLS)))
        count = steps(stages.fine_tuning, options.effort)
        schedule = fine_tuning.Schedule(steps=count, batch=256, learning_rate=stages.fine_tuning_rate, code=stages.code)
        centre_hidden(net)
        losses = fine_tuning.fine_tune(net, batches(schedule.batch), schedule, noise, distortion)
        log.run("fine-tuning", count, losses)
        if stages.encoder(net) == "nearest":
            rounds = steps(stages.search, options.effort)
            search = SearchSchedule(rounds=rounds, learning_rate=stages.fine_tuning_rate)
            log.run("search", rounds * search.steps, train_decoder(net, batches, search, generator, points))
        uncentre_hidden(net)
        expand_factors(net)
    return net


@torch.no_grad()
def binary_stack(
    visible: Units, hidden: Sequence[int], x: Tensor, generator: torch.Generator, lowest: Lowest = RBM
) -> list[Stackable]:
    """Machines with layers of `hidden` binary units each, small random weights, the visible bias fitted to x (n, size).

    Binary visible biases start at the log odds of the data (Hinton 2010, section 8.1), real ones at its mean. `lowest`
    makes the machine of the visible and the first hidden layer.
    """
    layers = [visible, *(Bernoulli(size=size) for size in hidden)]
    makers: list[Lowest] = [lowest, *[RBM] * (len(hidden) - 1)]
    stack = [
        make(below, above).initialise(generator).to(x.device)
        for make, (below, above) in zip(makers, pairwise(layers), strict=True)
    ]
    mean = x.mean(0)
    if isinstance(visible, Bernoulli):
        mean = torch.logit(mean.clamp(0.01, 0.99))
    stack[0].visible_parameters["bias"].copy_(mean)
    return stack


def pretrain(
    stack: Sequence[Stackable], batches: Batches, schedule: StageSchedule, generator: torch.Generator, log: StageLog
) -> None:
    """Train the machines of a deep one in place by CD-1, one after the other, each on draws of those below.

    They count twice what will have a second neighbour in the deep machine (`harmonium.models.dbm_training`).
    """
    for index, machine in enumerate(stack):
        source = islice(batches(schedule.batch), schedule.steps)
        lifted = dbm_training.lifted(stack[:index], len(stack), source, generator)
        _pretrain_one(machine, lifted, Doubling.of(index, len(stack)), f"greedy-{index + 1}", schedule, generator, log)


def pretrain_apart(
    stack: Sequence[Stackable], batches: Batches, schedule: StageSchedule, generator: torch.Generator, log: StageLog
) -> None:
    """As `pretrain`, for machines that stay apart: nothing counts twice."""
    for index, machine in enumerate(stack):
        lifted = _lifted_alone(stack[:index], islice(batches(schedule.batch), schedule.steps), generator)
        _pretrain_one(machine, lifted, Doubling.of(0, 1), f"greedy-{index + 1}", schedule, generator, log)


def _pretrain_one(
    machine: Stackable,
    lifted: Iterator[Tensor],
    doubling: Doubling,
    name: str,
    schedule: StageSchedule,
    generator: torch.Generator,
    log: StageLog,
) -> None:
    optimiser, annealing = _adam(machine, schedule)
    errors = dbm_training.pretrain(
        machine, lifted, doubling, optimiser, generator, offset_rate=_OFFSET_RATE, layer=name
    )
    log.run(name, schedule.steps, _annealed(errors, annealing))


def _lifted_alone(
    stack: Sequence[Stackable], batches: Iterator[Tensor], generator: torch.Generator
) -> Iterator[Tensor]:
    for x in batches:
        for machine in stack:
            x = machine.sample_hidden(x, generator)
        yield x.detach()


def train_jointly(
    dbm: DBM, batches: Batches, schedule: StageSchedule, generator: torch.Generator, log: StageLog
) -> None:
    """Train a deep machine in place on its variational bound.

    What is reported is how far the mean of the chains' visible states is from that of a batch, squared.
    """
    optimiser, annealing = _adam(dbm, schedule)
    source = batches(schedule.batch)
    state = dbm_training.start(dbm, schedule.batch, next(source), generator)
    log.run(
        "joint", schedule.steps, _annealed(_joint_errors(dbm, source, optimiser, schedule, state, generator), annealing)
    )


def _joint_errors(
    dbm: DBM,
    source: Iterator[Tensor],
    optimiser: torch.optim.Optimizer,
    schedule: StageSchedule,
    state: JointState,
    generator: torch.Generator,
) -> Iterator[float]:
    here, there = tee(islice(source, schedule.steps))
    states = dbm_training.train_jointly(dbm, here, optimiser, JOINT, state, generator)
    for state, v in zip(states, there, strict=True):
        yield float((state.chains[0].mean(0) - dbm.rows(v).mean(0)).square().mean())


def _adam(
    model: nn.Module, schedule: StageSchedule
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(learned, lr=schedule.learning_rate, foreach=True)
    return optimiser, torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=max(1, schedule.steps))


def _annealed(errors: Iterator[float], annealing: torch.optim.lr_scheduler.LRScheduler) -> Iterator[float]:
    for error in errors:
        annealing.step()
        yield error
