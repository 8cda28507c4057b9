"""The kinds of unit that a layer of a restricted Boltzmann machine may consist of.

Every kind is an exponential family in its own input. With `x` the state of a layer, `a = W s(y)` the input that it gets
from the other layer's state `y`, and `s` the kind's sufficient statistic,

    E(x, y) = e(x) + e'(y) - s(x) . W s'(y)              (Welling, Rosen-Zvi and Hinton 2004)
    p(x | a) is proportional to exp(-e(x) + s(x) . a)
    log Z(a) = log sum_x exp(-e(x) + s(x) . a)

| kind              | states              | e(x)              | s(x)     | source                                      |
|-------------------|---------------------|-------------------|----------|---------------------------------------------|
| Bernoulli         | 0, 1                | -b x              | x        | Hinton 2002                                 |
| Gaussian          | real                | (x - b)² / 2 σ²   | x / σ²   | Cho, Ilin and Raiko 2011                    |
| RectifiedGaussian | real, not negative  | x² / 2 - b x      | x        | Su, Liao, Chen and Carin 2016               |
| LimitedState      | L equidistant reals | x² / 2 - b x      | x        | a Gaussian unit that has only L states      |
| Categorical       | L unordered labels  | -b · x, x one-hot | x        | Potts 1952; Salakhutdinov et al. 2007       |

A unit of `LimitedState` takes the values δ (k - (L - 1) / 2), k = 0 ... L - 1. Its most probable state is the grid
point that lies nearest to `b + a`: conditioning such a unit *is* uniform scalar quantisation. With L = 2 it is a
Bernoulli unit up to a shift. The states of a `Categorical` unit have no
order (`harmonium.models.categorical`).

Units are values without state: their parameters (`bias`, and `log_variance` of Gaussian units) are handed to every
call.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention


class Parameters(Protocol):
    """The parameters of one layer by name: a dict of tensors, or torch's own `ParameterDict`."""

    def __getitem__(self, name: str, /) -> Tensor:
        """The parameter of that name, (size,)."""


_LOG_2PI = math.log(2 * math.pi)
_SQRT_2 = math.sqrt(2)
# Beyond this many standard deviations a normal density underflows what float32 can add to one (exp(-32) < 2^-46).
_REACH = 8.0
# A normal truncated this many standard deviations above its mean is, to float32's digits, given by its series in 1/m².
_FAR = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Units(ABC):
    """A layer of units of one kind. All tensors are (batch, size), inputs `a` exclude the bias."""

    size: int
    """Number of units in the layer."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"A layer needs at least 1 unit, got size={self.size}")

    def initial_parameters(self) -> dict[str, Tensor]:
        """Parameters of a layer that prefers nothing: zero bias, unit variance; each (size,) float32."""
        return {"bias": torch.zeros(self.size)}

    @property
    def width(self) -> int:
        """Numbers that the state of the layer consists of: one a unit, unless the kind says otherwise."""
        return self.size

    @property
    def learned(self) -> frozenset[str]:
        """Names of those parameters that a learning rule may change."""
        return frozenset(self.initial_parameters())

    @abstractmethod
    def self_energy(self, x: Tensor, parameters: Parameters) -> Tensor:
        """Energy e(x) of the layer without its input, (batch,)."""

    def coupled(self, x: Tensor, parameters: Parameters) -> Tensor:
        """Sufficient statistic s(x) that meets the weights, (batch, size)."""
        return x

    @abstractmethod
    def log_partition(self, a: Tensor, parameters: Parameters) -> Tensor:
        """Log Z(a) of each unit, (batch, size): the layer summed out, given its input."""

    @abstractmethod
    def mean(self, a: Tensor, parameters: Parameters) -> Tensor:
        """Expected state of each unit, given its input, (batch, size)."""

    @abstractmethod
    def mode(self, a: Tensor, parameters: Parameters) -> Tensor:
        """Most probable state of each unit, given its input, (batch, size)."""

    @abstractmethod
    def sample(self, a: Tensor, parameters: Parameters, generator: torch.Generator) -> Tensor:
        """One draw from p(x | a), (batch, size)."""

    def statistics(self, x: Tensor, a: Tensor, parameters: Parameters) -> dict[str, Tensor]:
        """Sums over the batch of -∂E/∂parameter at state `x` with input `a`, for each that is learned, (size,)."""
        return {"bias": x.sum(0)}

    def conditional_statistics(self, mean: Tensor, a: Tensor, parameters: Parameters) -> dict[str, Tensor]:
        """`statistics` in expectation over p(x | a), by its mean E[x | a], (batch, size).

        For parameters that meet the state linearly, as biases do, it is the statistic of the mean.
        """
        return self.statistics(mean, a, parameters)


class Bernoulli(Units):
    """Units that are 0 or 1."""

    __slots__ = ()

    def self_energy(self, x: Tensor, parameters: Parameters) -> Tensor:
        return -(x @ parameters["bias"])

    def log_partition(self, a: Tensor, parameters: Parameters) -> Tensor:
        return F.softplus(a + parameters["bias"])

    def mean(self, a: Tensor, parameters: Parameters) -> Tensor:
        return torch.sigmoid(a + parameters["bias"])

    def mode(self, a: Tensor, parameters: Parameters) -> Tensor:
        return (a + parameters["bias"] > 0).to(a.dtype)

    def sample(self, a: Tensor, parameters: Parameters, generator: torch.Generator) -> Tensor:
        p = self.mean(a, parameters)
        # On CPUs `torch.bernoulli` takes several times as long. Draws of 16 bits would be too coarse.
        fine = torch.promote_types(p.dtype, torch.float32)
        return (torch.rand(p.shape, dtype=fine, device=p.device, generator=generator) < p).to(p.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaussian(Units):
    """Real units with a variance σ² = exp(log_variance) each, learned or fixed."""

    variance: float | None = None
    """Variance σ² that all units have and keep, to the digits of their parameters; None learns one each, from 1 on."""

    def __post_init__(self) -> None:
        # slots=True rebuilds the class, and super() without arguments would look into the old one.
        Units.__post_init__(self)
        if self.variance is not None and not 0 < self.variance < math.inf:
            raise ValueError(f"Gaussian units need a finite variance > 0, or None to learn it, got {self.variance}")

    def initial_parameters(self) -> dict[str, Tensor]:
        start = 0.0 if self.variance is None else math.log(self.variance)
        return {"bias": torch.zeros(self.size), "log_variance": torch.full((self.size,), start)}

    @property
    def learned(self) -> frozenset[str]:
        return frozenset({"bias"} if self.variance is not None else {"bias", "log_variance"})

    def self_energy(self, x: Tensor, parameters: Parameters) -> Tensor:
        precision = torch.exp(-parameters["log_variance"])
        return 0.5 * ((x - parameters["bias"]).square() @ precision)

    def coupled(self, x: Tensor, parameters: Parameters) -> Tensor:
        return x * torch.exp(-parameters["log_variance"])

    def log_partition(self, a: Tensor, parameters: Parameters) -> Tensor:
        precision = torch.exp(-parameters["log_variance"])
        return (a * parameters["bias"] + 0.5 * a.square()) * precision + 0.5 * (_LOG_2PI + parameters["log_variance"])

    def mean(self, a: Tensor, parameters: Parameters) -> Tensor:
        return a + parameters["bias"]

    def mode(self, a: Tensor, parameters: Parameters) -> Tensor:
        return a + parameters["bias"]

    def sample(self, a: Tensor, parameters: Parameters, generator: torch.Generator) -> Tensor:
        noise = torch.randn(a.shape, dtype=a.dtype, device=a.device, generator=generator)
        return self.mean(a, parameters) + noise * torch.exp(0.5 * parameters["log_variance"])

    def statistics(self, x: Tensor, a: Tensor, parameters: Parameters) -> dict[str, Tensor]:
        precision = torch.exp(-parameters["log_variance"])
        residual = x - parameters["bias"]
        sums = {"bias": residual.sum(0) * precision}
        if self.variance is None:
            sums["log_variance"] = (0.5 * residual.square() - x * a).sum(0) * precision
        return sums

    def conditional_statistics(self, mean: Tensor, a: Tensor, parameters: Parameters) -> dict[str, Tensor]:
        sums = self.statistics(mean, a, parameters)
        if self.variance is None:
            # What the square of a state has beyond that of its mean: the variance σ², times 1 / 2 σ².
            sums["log_variance"] = sums["log_variance"] + 0.5 * len(mean)
        return sums


class RectifiedGaussian(Units):
    """Real units that are never negative: a normal of unit variance, truncated at zero."""

    __slots__ = ()

    def self_energy(self, x: Tensor, parameters: Parameters) -> Tensor:
        return 0.5 * x.square().sum(-1) - x @ parameters["bias"]

    def log_partition(self, a: Tensor, parameters: Parameters) -> Tensor:
        m = a + parameters["bias"]
        above = 0.5 * (m.square() + _LOG_2PI) + torch.special.log_ndtr(m.clamp(min=0))
        # Below zero m² / 2 and log Φ(m) cancel; the scaled complementary error function is their product in one.
        below = torch.log(torch.special.erfcx(-m.clamp(max=0) / _SQRT_2)) + 0.5 * math.log(math.pi / 2)
        return torch.where(m > 0, above, below)

    def mean(self, a: Tensor, parameters: Parameters) -> Tensor:
        m = a + parameters["bias"]
        # m plus the inverse Mills ratio φ/Φ; far below zero the two cancel, and a series in r = 1/m² takes over.
        near = m + math.sqrt(2 / math.pi) / torch.special.erfcx(-m / _SQRT_2)
        distance = (-m).clamp(min=_FAR)
        r = distance.square().reciprocal()
        far = (1 - r * (2 - r * (10 - r * (74 - r * 706)))) / distance
        return torch.where(m > -_FAR, near, far).clamp(min=0)

    def mode(self, a: Tensor, parameters: Parameters) -> Tensor:
        return torch.relu(a + parameters["bias"])

    def sample(self, a: Tensor, parameters: Parameters, generator: torch.Generator) -> Tensor:
        m = a + parameters["bias"]
        uniform = torch.rand(a.shape, dtype=a.dtype, device=a.device, generator=generator)
        # Inversion from the upper tail: x = m - Φ^-1(u Φ(m)), which keeps its digits for large m. Φ by `erfc`, because
        # torch's `ndtr` has few digits left in float32 from -4 on.
        tail = uniform * (0.5 * torch.special.erfc(-m / _SQRT_2))
        inverted = m - torch.special.ndtri(tail.clamp(min=torch.finfo(a.dtype).tiny))
        # Far below zero Φ(m) underflows; the tail is exponential there, to within 2 / m²: x ~ Exp(-m).
        exponential = -torch.log1p(-uniform) / m.abs().clamp(min=1)
        return torch.where(m > -10, inverted, exponential).clamp(min=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitedState(Units):
    """Real units that can take only `states` equidistant values, symmetric about zero."""

    states: int
    """Number of states L of each unit, at least 2."""

    spacing: float = 1.0
    """Distance δ between neighbouring states."""

    def __post_init__(self) -> None:
        Units.__post_init__(self)
        if self.states < 2 or not 0 < self.spacing < math.inf:
            raise ValueError(
                "Limited-state units need states >= 2 and a finite spacing > 0, "
                f"got states={self.states}, spacing={self.spacing}"
            )

    def self_energy(self, x: Tensor, parameters: Parameters) -> Tensor:
        return 0.5 * x.square().sum(-1) - x @ parameters["bias"]

    def _neighbours(self, m: Tensor) -> tuple[Tensor, Tensor]:
        """Values x of the states within reach of `m` and their log weights -(x - m)²/2, both (batch, size, window)."""
        half = (self.states - 1) / 2
        reach = min(math.ceil(_REACH / self.spacing) + 1, self.states - 1)
        nearest = (m / self.spacing + half).round().clamp(0, self.states - 1)
        k = nearest.unsqueeze(-1) + torch.arange(-reach, reach + 1, dtype=m.dtype, device=m.device)
        values = (k - half) * self.spacing
        # The square completed: x m and x²/2 by themselves would lose their difference to rounding where m is large.
        weights = -0.5 * (values - m.unsqueeze(-1)).square()
        return values, weights.masked_fill((k < 0) | (k > self.states - 1), -torch.inf)

    def log_partition(self, a: Tensor, parameters: Parameters) -> Tensor:
        m = a + parameters["bias"]
        return torch.logsumexp(self._neighbours(m)[1], dim=-1) + 0.5 * m.square()

    def mean(self, a: Tensor, parameters: Parameters) -> Tensor:
        values, weights = self._neighbours(a + parameters["bias"])
        return (values * torch.softmax(weights, dim=-1)).sum(-1)

    def mode(self, a: Tensor, parameters: Parameters) -> Tensor:
        half = (self.states - 1) / 2
        k = ((a + parameters["bias"]) / self.spacing + half).round().clamp(0, self.states - 1)
        return (k - half) * self.spacing

    def sample(self, a: Tensor, parameters: Parameters, generator: torch.Generator) -> Tensor:
        values, weights = self._neighbours(a + parameters["bias"])
        return values.gather(-1, draw_index(weights, generator).unsqueeze(-1)).squeeze(-1)


def draw_index(log_weights: Tensor, generator: torch.Generator) -> Tensor:
    """Draw an index along the last axis with probabilities proportional to exp(log_weights)."""
    # Gumbel's trick keeps the draw a few elementwise passes; torch.multinomial would flatten and copy.
    dtype = log_weights.dtype
    uniform = torch.rand(log_weights.shape, dtype=dtype, device=log_weights.device, generator=generator)
    gumbel = -torch.log(-torch.log(uniform.clamp(min=torch.finfo(dtype).tiny)))
    return (log_weights + gumbel).argmax(dim=-1)
