r"""An optimiser that is learned: a small LSTM reads each coordinate's gradient and says how far the coordinate moves.

    θ(t + 1) = θ(t) + g(t),    (g(t), m(t + 1)) = LSTM(∇(t), m(t); φ)      (Andrychowicz et al. 2016)

    θ(t) ────────────── + ──── θ(t + 1) ────────────── + ────▶        L(φ) = mean over t of f(θ(t))
     ┊ gradient         │ g(t)   ┊ gradient            │ g(t + 1)
     └┈┈┈┈┈▶ LSTM ──────┴─ m ────┴┈┈┈┈┈▶ LSTM ─────────┴─ m ──▶       ┈ is a constant for ∂L/∂φ

The same LSTM serves all coordinates, each with a memory m of its own; so what was learned on small machines can be used
on large ones. It is learned by gradient descent, too, through a few unrolled updates at a time.

Contrastive divergence follows the gradient of no function (Sutskever and Tieleman 2010). So the LSTM reads CD-k's
direction, as `set_gradient` stores it, and is judged by another f: the exact negative log-likelihood of small machines.
The paper drops ∂∇(t)/∂φ; here it does not even exist, as particles are drawn.
"""

import copy
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from harmonium.models.contrastive_divergence import negative_particles
from harmonium.models.energy_model import set_gradient, update
from harmonium.models.layer_chain import LayerChain
from harmonium.models.partition_function import exact_log_partition
from harmonium.models.rbm import RBM

# Coordinates that a deployed LSTM takes at a time, so that what it computes of them stays in the processor's cache.
_ROWS = 1 << 13


def preprocess(gradient: Tensor, p: float = 10.0) -> Tensor:
    """Magnitude and sign of every coordinate (n,) of a gradient, in two columns (n, 2) from about -1 to 1.

    (log |∇| / p, sgn ∇) where |∇| >= exp(-p), else (-1, exp(p) ∇) (Andrychowicz et al. 2016, appendix A).
    """
    # Where the one column reaches its limit, the other one leaves its own.
    magnitude = (gradient.abs().log() / p).clamp(min=-1)
    return torch.stack([magnitude, (math.exp(p) * gradient).clamp(-1, 1)], dim=1)


class LearnedOptimiser(nn.Module):
    """An LSTM of two layers that turns the gradient of a coordinate into its update.

    Parameters
    ----------
    size
        Units in each layer.
    scale
        Factor on what the LSTM puts out, so that fresh weights make small updates; kept in the `state_dict`.

    Notes
    -----
    All weights are zero, and so are all updates, until `initialise` or `load_state_dict` fills them. The memory of n
    coordinates is one tensor (4, n, size): hidden state and cell of the lower layer, then of the upper.

    Raises
    ------
    ValueError
        If size is below 1 or scale not a finite number above 0.
    """

    scale: Tensor

    def __init__(self, size: int = 20, scale: float = 0.1) -> None:
        super().__init__()
        if size < 1 or not 0 < scale < math.inf:
            raise ValueError(f"A learned optimiser needs size >= 1 and a finite scale > 0, got {size}, {scale}")
        self.size = size
        # torch's own initialisation draws from the global generator.
        self.lower: nn.LSTMCell = nn.utils.skip_init(nn.LSTMCell, 2, size)  # type: ignore[no-untyped-call]
        self.upper: nn.LSTMCell = nn.utils.skip_init(nn.LSTMCell, size, size)  # type: ignore[no-untyped-call]
        self.output: nn.Linear = nn.utils.skip_init(nn.Linear, size, 1)  # type: ignore[no-untyped-call]
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        self.register_buffer("scale", torch.tensor(scale))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> Self:
        """Draw all weights uniformly within ±1/√size, as torch does."""
        for parameter in self.parameters():
            parameter.uniform_(-(self.size**-0.5), self.size**-0.5, generator=generator)
        return self

    def blank(self, coordinates: int) -> Tensor:
        """The memory of coordinates that have seen no gradient, (4, coordinates, size)."""
        return self.output.weight.new_zeros(4, coordinates, self.size)

    def forward(self, gradient: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Updates (n,) to be added to n coordinates, from their gradient (n,) and memory, and the new memory.

        Raises
        ------
        ValueError
            If the gradient is not (n,) in the weights' dtype.
        """
        if gradient.ndim != 1 or gradient.dtype != self.output.weight.dtype:
            found = f"{tuple(gradient.shape)} of {gradient.dtype}; flatten the gradient or cast one of the two"
            raise ValueError(f"Expected a gradient (n,) of {self.output.weight.dtype}, as the rule is, found {found}")
        hidden, cell = self.lower(preprocess(gradient), (memory[0], memory[1]))
        upper_hidden, upper_cell = self.upper(hidden, (memory[2], memory[3]))
        change: Tensor = self.scale * self.output(upper_hidden).squeeze(1)
        return change, torch.stack([hidden, cell, upper_hidden, upper_cell])


class LearnedDescent(torch.optim.Optimizer):
    """A learned optimiser at work: takes the place of `torch.optim.SGD`, for instance in `energy_model.update`.

    Parameters
    ----------
    params
        Parameters to be trained, or groups of them, in the dtype of the learned optimiser and on its device.
    rule
        The learned optimiser; it is not changed, and not part of the `state_dict`.
    lr
        Factor on all updates; 1 is what was learned.

    Raises
    ------
    ValueError
        If lr is not a finite number >= 0.
    """

    def __init__(self, params: Iterable[nn.Parameter], rule: LearnedOptimiser, lr: float = 1.0) -> None:
        if not 0 <= lr < math.inf:
            raise ValueError(f"A learned optimiser needs a finite lr >= 0, got {lr}")
        self.rule = rule
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient.

        Raises
        ------
        FloatingPointError
            If a gradient is not finite; nothing is changed then.
        """
        moving = [(p, group["lr"]) for group in self.param_groups for p in group["params"] if p.grad is not None]
        for parameter, _ in moving:
            _check_finite(parameter.grad)
        for parameter, rate in moving:
            gradient, state = parameter.grad.flatten(), self.state[parameter]
            if not state:
                state["memory"] = self.rule.blank(len(gradient))
            memory, change = state["memory"], torch.empty_like(gradient)
            for first in range(0, len(gradient), _ROWS):
                rows = slice(first, first + _ROWS)
                change[rows], memory[:, rows] = self.rule(gradient[rows], memory[:, rows])
            parameter.add_(change.view_as(parameter), alpha=rate)


def _check_finite(gradient: Tensor) -> None:
    # The logarithm of an infinite gradient saturates the LSTM, which would then make a finite update of it.
    wrong = int((~torch.isfinite(gradient)).sum())
    if wrong:
        found = f"found {wrong} values of {gradient.numel()} that are not"
        raise FloatingPointError(f"Expected a finite gradient, {found}; look into the model and its data")


class Task(Protocol):
    """A training that the optimiser practises on. Parameters are one vector (n,)."""

    def start(self) -> Tensor:
        """The parameters that the training starts from."""

    def gradient(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        """The descent direction (n,) that the optimiser is shown."""

    def loss(self, parameters: Tensor) -> Tensor:
        """What it is judged by, (), differentiable."""


class LikelihoodTask:
    """An RBM to be trained by CD-k, judged by its exact negative log-likelihood.

    Parameters
    ----------
    rbm
        Parameters to start from; a copy is used. A layer has to be Bernoulli and small: all its states are summed.
    data
        Visible states (count, visible) that are learned and that the likelihood is the mean of.
    batch, k
        States drawn for each gradient, and Gibbs steps from there to the particles.
    """

    def __init__(self, rbm: RBM, data: Tensor, batch: int = 100, k: int = 1) -> None:
        self._rbm, self._data, self._batch, self._k = copy.deepcopy(rbm), data, batch, k
        self._learned = {name: p for name, p in self._rbm.named_parameters() if p.requires_grad}
        self._start = torch.cat([parameter.detach().flatten() for parameter in self._learned.values()])

    def start(self) -> Tensor:
        return self._start.clone()

    @torch.no_grad()
    def gradient(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        for name, value in self._named(parameters).items():
            self._learned[name].copy_(value)
        v = self._data[torch.randint(len(self._data), (self._batch,), generator=generator, device=self._data.device)]
        particles = negative_particles(self._rbm, v, self._k, generator)
        set_gradient(self._rbm, self._rbm.statistics(v), self._rbm.statistics(particles))
        return torch.cat([p.grad.flatten() for p in self._learned.values() if p.grad is not None])

    def loss(self, parameters: Tensor) -> Tensor:
        values = {**dict(self._rbm.named_parameters()), **self._named(parameters)}
        visible, hidden = (
            {name.removeprefix(layer): value for name, value in values.items() if name.startswith(layer)}
            for layer in ("visible_parameters.", "hidden_parameters.")
        )
        units = (self._rbm.visible, self._rbm.hidden)
        chain = LayerChain(units=units, parameters=(visible, hidden), weights=(values["weight"],))
        return exact_log_partition(chain) - chain.log_unnormalised(0, (self._data,)).mean()

    def _named(self, parameters: Tensor) -> dict[str, Tensor]:
        """The parts of the vector by the names that they have in the machine."""
        pieces = torch.split(parameters, [parameter.numel() for parameter in self._learned.values()])
        return {name: piece.view_as(p) for (name, p), piece in zip(self._learned.items(), pieces, strict=True)}


def unroll(
    rule: LearnedOptimiser, task: Task, parameters: Tensor, memory: Tensor, steps: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean loss after each of the next `steps` updates, (), and the parameters and the memory at their end.

    The loss is differentiable in the rule φ: its derivative is exactly that of φ ↦ mean f(θ(t)) with the gradients that
    the rule was shown held fast. What φ did earlier counts as far as the graphs of `parameters` and `memory` go.

    Raises
    ------
    FloatingPointError
        If a gradient is not finite.
    """
    total = parameters.new_zeros((), dtype=torch.float64)
    for _ in range(steps):
        gradient = task.gradient(parameters.detach(), generator)
        _check_finite(gradient)
        change, memory = rule(gradient, memory)
        parameters = parameters + change
        total = total + task.loss(parameters)
    return total / steps, parameters, memory


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaSchedule:
    """How long and how fast a rule is taught."""

    tasks: int
    """Trainings to practise on."""

    horizon: int = 100
    """Updates of a task before the next one begins."""

    unrolled: int = 20
    """Updates that are differentiated through at a time; each such part gives one update of the optimiser."""

    learning_rate: float = 3e-3
    """Step size of Adam at the start; it falls to zero along half a cosine, over all tasks."""

    largest_gradient: float = 1.0
    """Norm that the rule's gradient is shortened to where it is larger, as on the edge of divergence."""

    def __post_init__(self) -> None:
        counts, sizes = (self.horizon, self.unrolled), (self.learning_rate, self.largest_gradient)
        if self.tasks < 0 or min(counts) < 1 or not all(0 < size < math.inf for size in sizes):
            needed = "tasks >= 0, horizon and unrolled >= 1, and finite learning_rate and largest_gradient > 0"
            raise ValueError(f"A schedule needs {needed}, got {self}")


def meta_train(
    rule: LearnedOptimiser, tasks: Iterable[Task], schedule: MetaSchedule, generator: torch.Generator
) -> Iterator[float]:
    """Teach `rule` in place, by truncated backpropagation through the trainings; yields the mean loss of each task.

    Raises
    ------
    FloatingPointError
        If a gradient, a task's or the rule's own, is not finite; the rule is the one before that update.
    """
    optimiser = torch.optim.Adam(rule.parameters(), lr=schedule.learning_rate, foreach=True)
    for number, task in zip(range(schedule.tasks), tasks, strict=False):
        for group in optimiser.param_groups:
            group["lr"] = schedule.learning_rate * 0.5 * (1 + math.cos(math.pi * number / schedule.tasks))
        parameters, total = task.start(), 0.0
        memory = rule.blank(len(parameters))
        for done in range(0, schedule.horizon, schedule.unrolled):
            steps = min(schedule.unrolled, schedule.horizon - done)
            loss, parameters, memory = unroll(rule, task, parameters.detach(), memory.detach(), steps, generator)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(rule.parameters(), schedule.largest_gradient)
            update(rule, optimiser, number, "the learned optimiser")
            total += float(loss.detach()) * steps
        yield total / schedule.horizon
