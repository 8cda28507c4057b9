"""The stages of the deep presets' training as single steps that can be timed, and the operations that each takes.

What is timed are the library's own trainings, as `harmonium.models.deep_training` starts them, on inputs that are
ready: neither the drawing of layers below a machine nor the making of batches is in them. The optimiser, the checks for
finite numbers and the generators of noise are. A sample is a cell that a step learns from; in greedy training, one that
every machine of the stack has learned from.

Floating-point operations are those of matrix products, two for each multiplication with its addition. With the widths
n_0 ... n_L from the visible to the code layer, P = Σ n_i n_(i+1), and a batch of b:

    greedy          Σ 2 n_i n_(i+1) (5 b + 6)           up and down, up again, two correlations; 6 products of vectors
                                                        with the weight for centring
    joint           2 b ((4 + 2 g) P + 2 m (P - n_0 n_1))     a pass up, m iterations of mean field over the weights
                                                        between hidden layers, g steps of the chains, each of these
                                                        twice; the particles' odd means, two correlations
    fine-tuning     2 b (6 P - n_0 n_1)                 forward 2 P, backward 4 P, but for the gradient of the data
    codebook        2 · 2^n_L P                         the decoder on all codes
    nearest         2 b · 2^n_L p                       all codes' distances to b cells of p pixels
    decoder         2 b (3 P - n_(L-1) n_L)             forward P, backward 2 P, but for the gradient of the codes
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import cycle, pairwise
from typing import Any

import torch
from torch import Tensor

from harmonium.models import dbm_training, deep_training, fine_tuning
from harmonium.models.cells import from_bit_probabilities, to_bits
from harmonium.models.dbm import DBM
from harmonium.models.dbm_training import Doubling
from harmonium.models.deep_training import StageSchedule, binary_stack
from harmonium.models.nearest_codes import Codebook, SearchSchedule, train_decoder
from harmonium.models.presets.binary_dbm import BinaryDbm
from harmonium.models.presets.real_dbm import RealDbm
from harmonium.models.tensor_rbm import Stackable
from harmonium.models.training import StageLog
from harmonium.models.units import Bernoulli, Gaussian, Units
from harmonium.models.unrolled import UnrolledStack, centre_hidden
from harmonium.models.unrolled_dbm import unroll_dbm

_CODE = 16
_ENDLESS = 1_000_000
"""Steps of trainings that are stopped when they have been timed."""

_BATCHES = 4
"""Batches that are ready; trainings take them in turn."""

NO_PATH = "no path"
CODEBOOK = "search: codebook"


# --- what is counted -----------------------------------------------------------------------------------------------


def products(sizes: Sequence[int]) -> int:
    """P, the multiplications of one cell's pass through all layers."""
    return sum(below * above for below, above in pairwise(sizes))


def greedy_flops(sizes: Sequence[int], batch: int) -> int:
    """Operations of a CD-1 step of every machine."""
    return 2 * products(sizes) * (5 * batch + 6)


def joint_flops(sizes: Sequence[int], batch: int, iterations: int, gibbs_steps: int) -> int:
    """Operations of a step of joint training in which mean field took that many iterations."""
    between = products(sizes[1:])
    return 2 * batch * ((4 + 2 * gibbs_steps) * products(sizes) + 2 * iterations * between)


def fine_tuning_flops(sizes: Sequence[int], batch: int) -> int:
    """Operations of a step of fine-tuning."""
    return 2 * batch * (6 * products(sizes) - sizes[0] * sizes[1])


def codebook_flops(sizes: Sequence[int]) -> int:
    """Operations of decoding all codes."""
    return 2 * (1 << sizes[-1]) * products(sizes)


def nearest_flops(sizes: Sequence[int], cells: int, pixels: int) -> int:
    """Operations of finding the nearest code of each cell."""
    return 2 * cells * (1 << sizes[-1]) * pixels


def decoder_flops(sizes: Sequence[int], batch: int) -> int:
    """Operations of a decoder's step with codes that are known."""
    return 2 * batch * (3 * products(sizes) - sizes[-1] * sizes[-2])


# --- what is timed -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Network:
    """The machines of a preset at their start, for smooth cells of one band that are drawn."""

    name: str
    """The preset's."""

    sizes: tuple[int, ...]
    """Units of all layers, the visible one first."""

    binary: bool
    """Whether visible units are the bits of pixels; otherwise they are real."""

    def cells(self, count: int) -> Tensor:
        """Visible states (count, visible) of random walks along a cell."""
        generator = torch.Generator().manual_seed(1)
        pixels = self.sizes[0] // 8 if self.binary else self.sizes[0]
        walk = torch.randn(count, pixels, generator=generator).cumsum(1)
        return to_bits(128 + 16 * walk) if self.binary else walk / walk.std()

    def points(self, visible: Tensor) -> Tensor:
        """Pixels of visible states, as the presets take distortion."""
        return from_bit_probabilities(visible) / 255 if self.binary else visible

    @property
    def pixels(self) -> int:
        """Numbers that a point has."""
        return self.sizes[0] // 8 if self.binary else self.sizes[0]

    def stack(self) -> list[Stackable]:
        """The machines, untrained."""
        visible: Units = Bernoulli(size=self.sizes[0]) if self.binary else Gaussian(size=self.sizes[0], variance=0.5)
        return binary_stack(visible, self.sizes[1:], self.cells(1024), torch.Generator().manual_seed(0))

    @cached_property
    def _balanced(self) -> UnrolledStack:
        net = unroll_dbm(DBM.compose(self.stack()))
        deep_training.balance(net, self.cells(2048))
        centre_hidden(net)
        return net

    def net(self) -> UnrolledStack:
        """A copy of the unrolled machines as fine-tuning starts from them."""
        return deepcopy(self._balanced)


NETWORKS = (
    Network(name="binary-dbm", sizes=(512, *BinaryDbm().hidden, _CODE), binary=True),
    Network(name="real-dbm", sizes=(64, *RealDbm().hidden, _CODE), binary=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A stage of training, ready to be timed."""

    stage: str
    """Which."""

    network: str
    """Whose."""

    batch: int
    """Samples of a step."""

    step: Callable[[], int]
    """Takes one step, and gives the operations of its products."""


@dataclass(slots=True)
class _Held(StageLog):
    """Keeps a stage's training instead of running it to its end."""

    report: Any = None
    trainings: list[Iterator[float]] = field(default_factory=list)

    def run(self, name: str, steps: int, errors: Iterator[float]) -> None:
        """See `StageLog.run`."""
        self.trainings.append(errors)


def greedy(network: Network, batch: int, dtype: torch.dtype) -> Work:
    """CD-1 of every machine; in bfloat16, machines and states are of it."""
    generator, stack, log = torch.Generator().manual_seed(2), network.stack(), _Held()
    for machine in stack:
        machine.to(dtype)
    schedule = StageSchedule(steps=_ENDLESS, batch=batch)
    for index, machine in enumerate(stack):
        x = _ready(network, batch, dtype)
        ready = list(dbm_training.lifted(stack[:index], len(stack), x, generator))
        doubling = Doubling.of(index, len(stack))
        deep_training._pretrain_one(machine, cycle(ready), doubling, network.name, schedule, generator, log)

    def step() -> int:
        for training in log.trainings:
            next(training)
        return greedy_flops(network.sizes, batch)

    return Work(stage="greedy", network=network.name, batch=batch, step=step)


def joint(network: Network, batch: int, dtype: torch.dtype) -> Work:
    """Mean field and as many chains; in bfloat16, by `JointSchedule.products`."""
    generator, dbm = torch.Generator().manual_seed(2), DBM.compose(network.stack())
    optimiser, _ = deep_training._adam(dbm, StageSchedule(steps=_ENDLESS, batch=batch, learning_rate=2e-4))
    ready = _ready(network, batch)
    state = dbm_training.start(dbm, batch, ready[0], generator)
    schedule = replace(deep_training.JOINT, products=None if dtype == torch.float32 else dtype)
    training = dbm_training.train_jointly(dbm, cycle(ready), optimiser, schedule, state, generator)

    def step() -> int:
        return joint_flops(network.sizes, batch, next(training).iterations, schedule.gibbs_steps)

    return Work(stage="joint", network=network.name, batch=batch, step=step)


def fine_tune(network: Network, batch: int, dtype: torch.dtype) -> Work:
    """Backpropagation through hard codes; in bfloat16, under autocast."""

    def distortion(reconstruction: Tensor, target: Tensor) -> Tensor:
        return fine_tuning.squared_error(network.points(reconstruction), network.points(target))

    schedule = fine_tuning.Schedule(steps=_ENDLESS, batch=batch)
    generator, ready = torch.Generator().manual_seed(2), cycle(_ready(network, batch))
    training = fine_tuning.fine_tune(network.net(), ready, schedule, generator, distortion)

    def step() -> int:
        with _autocast(dtype):
            next(training)
        return fine_tuning_flops(network.sizes, batch)

    return Work(stage="fine-tuning", network=network.name, batch=batch, step=step)


def decoder(network: Network, batch: int, dtype: torch.dtype) -> Work:
    """The steps of a search's round; in bfloat16, under autocast, which must not be on while codes are found."""
    generator, ready = torch.Generator().manual_seed(2), _ready(network, batch)
    schedule = SearchSchedule(rounds=1, steps=_ENDLESS, cells=batch, batch=batch)
    training = train_decoder(network.net(), lambda _: iter(ready), schedule, generator, network.points)
    next(training)

    def step() -> int:
        with _autocast(dtype):
            next(training)
        return decoder_flops(network.sizes, batch)

    return Work(stage="search: decoder", network=network.name, batch=batch, step=step)


def search(network: Network, cells: int) -> list[Work]:
    """Codebook and nearest codes, which have no path but that of the network's dtype."""
    net, x = network.net(), network.points(network.cells(cells))
    books: list[Codebook] = []

    def decode() -> int:
        books[:] = [Codebook(net, network.points)]
        return codebook_flops(network.sizes)

    def find() -> int:
        books[0].nearest(x)
        return nearest_flops(network.sizes, cells, network.pixels)

    return [
        Work(stage=CODEBOOK, network=network.name, batch=1 << network.sizes[-1], step=decode),
        Work(stage="search: nearest", network=network.name, batch=cells, step=find),
    ]


def _ready(network: Network, batch: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return list(torch.split(network.cells(_BATCHES * batch).to(dtype), batch))


def _autocast(dtype: torch.dtype) -> Any:
    return nullcontext() if dtype == torch.float32 else torch.autocast("cpu", dtype)


STAGES = {"greedy": greedy, "joint": joint, "fine-tuning": fine_tune, "search: decoder": decoder}
FIT_BATCHES = {"greedy": 256, "joint": 128, "fine-tuning": 256, "search: decoder": 256}
"""Those of `harmonium.models.deep_training`."""

BFLOAT16 = {
    "greedy": "machines in bfloat16",
    "joint": "`JointSchedule.products`",
    "fine-tuning": "autocast",
    "search: decoder": "autocast",
    CODEBOOK: NO_PATH,
    "search: nearest": NO_PATH,
}
