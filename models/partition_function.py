r"""Partition functions: exact by enumeration, by annealed importance sampling (AIS) in both directions, and RAISE.

One half of the layers is summed out in closed form, x stands for the other (`harmonium.models.layer_chain`), and f_k(x)
is its unnormalised probability at inverse temperature β_k, 0 = β_0 < ... < β_K = 1:

    forward   x_0 ~ p_0 ──T_1──▶ x_1 ──T_2──▶ ... ──▶ x_K-1     log w =  sum_k log f_k(x_k-1) / f_k-1(x_k-1)
    reverse   x_0 ◀──T_1── x_1 ◀──T_2── ... ◀──T_K── x_K ~ p_K  log w = -sum_k log f_k(x_k-1) / f_k-1(x_k-1)

T_k is a step of block Gibbs sampling, which leaves p_k as it is and is its own reversal. Forward, E[w] = Z_K / Z_0
(Neal 2001; Salakhutdinov and Murray 2008): log w falls short of it on average, so that too few temperatures
flatter the model. Reverse, E[w] = Z_0 / Z_K if x_K is a sample of the model, and too few temperatures slander it.

RAISE starts the reverse chain at a test point v: f(v) w / Z_0 is then unbiased for the probability of v under the
forward *sampler*, and the logarithm of its average is in expectation a lower bound of that (Burda, Grosse and
Salakhutdinov 2015). No sample of the model is needed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harmonium.models.annealing_path import Path, check_temperatures
from harmonium.models.layer_chain import LayerChain, States, log_conditional

MOST_UNITS = 30
"""Enumeration of more binary units than these is refused: it would take days."""

_BATCH = 1 << 13

# --- exact -----------------------------------------------------------------------------------------------------------


def log_sum_over_states(
    log_f: Callable[[Tensor], Tensor], size: int, *, dtype: torch.dtype = torch.float64, device: str = "cpu"
) -> Tensor:
    """Log of the sum of exp(log_f(x)) over all 2^size binary x, for any function of (batch, size) to (batch,).

    Raises
    ------
    ValueError
        If there are more than `MOST_UNITS` units.
    """
    if not 1 <= size <= MOST_UNITS:
        raise ValueError(f"States of 1 to {MOST_UNITS} binary units can be enumerated, got {size}; estimate by `ais`")
    bits = torch.arange(size, device=device)
    total = torch.full((), -torch.inf, dtype=torch.float64, device=device)
    for start in range(0, 1 << size, _BATCH):
        numbers = torch.arange(start, min(start + _BATCH, 1 << size), device=device)
        x = ((numbers.unsqueeze(1) >> bits) & 1).to(dtype)
        total = torch.logaddexp(total, torch.logsumexp(log_f(x).to(torch.float64), 0))
    return total


def exact_log_partition(chain: LayerChain) -> Tensor:
    """Log Z, () float64, by enumeration of the half of the layers with fewer units; differentiable.

    Raises
    ------
    ValueError
        If neither half consists of at most `MOST_UNITS` Bernoulli units.
    """
    sizes = {parity: chain.half_size(parity) for parity in (0, 1) if chain.enumerable(parity)}
    if not sizes:
        kinds = ", ".join(type(units).__name__ for units in chain.units)
        raise ValueError(f"Enumeration needs a half of Bernoulli layers, got {kinds}; estimate log Z by `ais`")
    parity = min(sizes, key=lambda parity: sizes[parity])
    widths = [units.size for units in chain.units[parity::2]]
    device = str(chain.weights[0].device)
    return log_sum_over_states(
        lambda x: chain.log_unnormalised(parity, torch.split(x, widths, dim=1)),
        sizes[parity],
        dtype=chain.dtype,
        device=device,
    )


@torch.no_grad()
def mean_log_likelihood(chain: LayerChain, v: Tensor, log_z: float) -> float:
    """Mean log p(v) in nats of an RBM over a batch v (batch, visible), by its log Z.

    Raises
    ------
    ValueError
        If the machine has more than one hidden layer, where the bound of `harmonium.models.dbm` has to do.
    """
    if len(chain.units) != 2:
        raise ValueError(f"log p(v) has a closed form for 2 layers, got {len(chain.units)}; take `DBM.lower_bound`")
    return float(chain.log_unnormalised(0, (v,)).mean()) - log_z


# --- annealing -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LogPartition:
    """An estimate of log Z by annealing."""

    value: float
    """The estimate."""

    standard_error: float
    """Of `value`, from the spread of the weights."""

    interval: tuple[float, float]
    """The central 99 % of what the chains give when they are drawn anew from themselves (bootstrap)."""

    effective_chains: float
    """(sum w)² / sum w²: near 1, a single chain decides, and no error bar can be trusted."""

    log_weights: Tensor
    """Each chain's log w, (chains,) float64."""


@torch.no_grad()
def ais(path: Path, betas: Sequence[float], chains: int, generator: torch.Generator) -> LogPartition:
    """Forward AIS: too few temperatures make log Z too small and the model look too good."""
    x = path.at(0.0).independent(chains, generator)[path.parity :: 2]
    check_temperatures(betas)
    before, total = path.at(betas[0]), torch.zeros(chains, dtype=torch.float64, device=x[0].device)
    for beta in betas[1:]:
        after = path.at(beta)
        inputs = after.inputs(1 - path.parity, x)
        total += _log_ratio(path.parity, x, inputs, after, before)
        other = after.draw(1 - path.parity, inputs, generator)
        x, before = after.sample_half(path.parity, other, generator), after
    return _estimate(path, total, 1, generator)


@torch.no_grad()
def reverse_ais(path: Path, betas: Sequence[float], start: States, generator: torch.Generator) -> LogPartition:
    """Reverse AIS from samples of the model: too few temperatures make log Z too large and the model look too bad.

    `start` are the sampled layers' states. Only as far as they are samples of the model is the estimate conservative;
    `raise_log_likelihood` needs none.
    """
    return _estimate(path, _anneal_down(path, betas, start, generator), -1, generator)


@torch.no_grad()
def raise_log_likelihood(
    path: Path,
    betas: Sequence[float],
    v: Tensor,
    chains: int,
    generator: torch.Generator,
    posterior: Sequence[Tensor] | None = None,
) -> Tensor:
    """RAISE: a conservative log p(v) for each row of v (batch, visible), (batch,) float64.

    Parameters
    ----------
    posterior
        For a path of parity 1, the probabilities of the odd layers given v, as mean field finds them: these layers are
        drawn from it and the weights divided by it. An RBM's path of parity 0 needs none.
    """
    repeated = v.repeat_interleave(chains, 0)
    if path.parity == 0 and len(path.chain.units) == 2:
        start: States = (repeated,)
        log_f = path.chain.log_unnormalised(0, start)
    elif path.parity == 1 and posterior is not None:
        means = [mean.repeat_interleave(chains, 0) for mean in posterior]
        start = tuple(torch.bernoulli(mean, generator=generator) for mean in means)
        log_q = sum((_log_bernoulli(x, mean) for x, mean in zip(start, means, strict=True)), torch.zeros(()))
        below = path.chain.inputs(0, start)
        log_f = path.chain.log_unnormalised(1, start, below) - log_q
        log_f = log_f + log_conditional(path.chain.units[0], repeated, below[0], path.chain.parameters[0])
    else:
        raise ValueError(
            "RAISE takes a path of parity 0 through 2 layers, or one of parity 1 with the posterior of the odd "
            f"layers, got parity {path.parity}, {len(path.chain.units)} layers, "
            f"{'no' if posterior is None else 'a'} posterior"
        )
    log_w = log_f - path.log_base_partition() + _anneal_down(path, betas, start, generator)
    return torch.logsumexp(log_w.reshape(len(v), chains), 1) - math.log(chains)


def _log_bernoulli(x: Tensor, mean: Tensor) -> Tensor:
    """Log probability of binary states x (batch, size), which may be certain, (batch,) float64."""
    return (torch.xlogy(x, mean) + torch.xlogy(1 - x, 1 - mean)).sum(-1, dtype=torch.float64)


def _anneal_down(path: Path, betas: Sequence[float], x: States, generator: torch.Generator) -> Tensor:
    """Log w of the reverse chains that start at x."""
    check_temperatures(betas)
    after, total = path.at(betas[-1]), torch.zeros(len(x[0]), dtype=torch.float64, device=x[0].device)
    inputs = after.inputs(1 - path.parity, x)
    for beta in reversed(betas[:-1]):
        x = after.sample_half(path.parity, after.draw(1 - path.parity, inputs, generator), generator)
        before = path.at(beta)
        inputs = before.inputs(1 - path.parity, x)
        total -= _log_ratio(path.parity, x, inputs, after, before)
        after = before
    return total


def _log_ratio(parity: int, x: States, inputs: Sequence[Tensor], after: LayerChain, before: LayerChain) -> Tensor:
    """Log f_after(x) / f_before(x), (chains,): differences of units before their sum, which keeps float32's digits."""
    total = torch.zeros(len(x[0]), dtype=torch.float64, device=x[0].device)
    for layer, state in zip(range(parity, len(after.units), 2), x, strict=True):
        units = after.units[layer]
        total -= units.self_energy(state, after.parameters[layer]) - units.self_energy(state, before.parameters[layer])
    for layer, a in zip(range(1 - parity, len(after.units), 2), inputs, strict=True):
        units = after.units[layer]
        higher = units.log_partition(a * after.strength, after.parameters[layer])
        lower = units.log_partition(a * before.strength, before.parameters[layer])
        total += (higher - lower).sum(-1, dtype=torch.float64)
    return total


def _estimate(path: Path, log_w: Tensor, sign: int, generator: torch.Generator) -> LogPartition:
    """Log Z from the log weights of Z / Z_0 (sign 1) or of Z_0 / Z (sign -1)."""
    count, base = len(log_w), path.log_base_partition()
    value = float(torch.logsumexp(log_w, 0)) - math.log(count)
    w = torch.exp(log_w - log_w.max())
    spread = float(w.std() / w.mean()) / math.sqrt(count) if count > 1 else math.inf
    drawn = torch.randint(count, (1000, count), generator=generator, device=log_w.device)
    again = base + sign * (torch.logsumexp(log_w[drawn], 1) - math.log(count))
    low, high = torch.quantile(again, torch.tensor([0.005, 0.995], dtype=torch.float64, device=log_w.device)).tolist()
    return LogPartition(
        value=base + sign * value,
        standard_error=spread,
        interval=(low, high),
        effective_chains=float(w.sum().square() / w.square().sum()),
        log_weights=log_w,
    )
