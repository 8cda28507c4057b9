"""The machine with lateral connections against sums over all states."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harmonium.models.boltzmann_machine import BoltzmannMachine, binary_states
from harmonium.models.energy_model import free_energy_statistics, set_gradient, update
from harmonium.models.rbm import RBM
from harmonium.models.units import Bernoulli

from .enumeration import assert_same, binary, chi_square, counts_of, expected, gradients, joint_energies, randomise

V, H = 4, 3


def machine(visible: int = V, hidden: int = H, seed: int = 0, scale: float = 0.7) -> BoltzmannMachine:
    bm = BoltzmannMachine(visible, hidden).double()
    randomise(bm, seed, scale)
    return bm


def joint(bm: BoltzmannMachine) -> Tensor:
    """p(v, h), (2^visible, 2^hidden)."""
    energies = joint_energies(bm, binary(bm.visible), binary(bm.hidden))
    return torch.softmax(-energies.flatten(), 0).reshape(energies.shape)


@given(visible=st.integers(1, 5), hidden=st.integers(0, 4), seed=st.integers(0, 99))
@torch.no_grad()
def test_energy_is_the_formula(visible: int, hidden: int, seed: int) -> None:
    bm = machine(visible, hidden, seed)
    rng = np.random.default_rng(seed)
    v, h = (torch.from_numpy(rng.integers(0, 2, (3, n)).astype(float)) for n in (visible, hidden))
    w, r, s, b, c = (
        p.numpy() for p in (bm.weight, bm.visible_lateral, bm.hidden_lateral, bm.visible_bias, bm.hidden_bias)
    )
    for row in range(3):
        x, y = v[row].numpy(), h[row].numpy()
        wanted = -sum(b[i] * x[i] for i in range(visible)) - sum(c[j] * y[j] for j in range(hidden))
        wanted -= sum(x[i] * w[i, j] * y[j] for i in range(visible) for j in range(hidden))
        wanted -= sum(r[i, j] * x[i] * x[j] for i in range(visible) for j in range(i + 1, visible))
        wanted -= sum(s[i, j] * y[i] * y[j] for i in range(hidden) for j in range(i + 1, hidden))
        assert float(bm.energy(v, h)[row]) == pytest.approx(wanted, abs=1e-12)


@given(size=st.integers(0, 10))
def test_binary_states_are_all_states(size: int) -> None:
    assert torch.equal(binary_states(size, dtype=torch.float64), binary(size).reshape(1 << size, size))


@torch.no_grad()
def test_sums_over_hidden_and_over_all_states() -> None:
    bm = machine()
    energies = joint_energies(bm, binary(V), binary(H))
    torch.testing.assert_close(bm.free_energy(binary(V)), -torch.logsumexp(-energies, 1), rtol=0, atol=1e-10)
    torch.testing.assert_close(bm.hidden_posterior(binary(V)), torch.softmax(-energies, 1), rtol=0, atol=1e-10)
    assert float(bm.log_partition()) == pytest.approx(float(torch.logsumexp(-energies.flatten(), 0)), abs=1e-10)


@torch.no_grad()
def test_conditionals_of_single_units() -> None:
    bm = machine()
    v, h = binary(V).repeat_interleave(1 << H, 0), binary(H).repeat(1 << V, 1)

    def odds(layer: Tensor, unit: int) -> Tensor:
        on, off = layer.clone(), layer.clone()
        on[:, unit], off[:, unit] = 1, 0
        pairs = ((on, h), (off, h)) if layer is v else ((v, on), (v, off))
        return torch.sigmoid(bm.energy(*pairs[1]) - bm.energy(*pairs[0]))

    visible = torch.stack([odds(v, unit) for unit in range(V)], 1)
    hidden = torch.stack([odds(h, unit) for unit in range(H)], 1)
    torch.testing.assert_close(bm.visible_conditional(v, h), visible, rtol=0, atol=1e-12)
    torch.testing.assert_close(bm.hidden_conditional(v, h), hidden, rtol=0, atol=1e-12)


@torch.no_grad()
def test_without_lateral_connections_it_is_restricted() -> None:
    bm, rbm = machine(), RBM(Bernoulli(size=V), Bernoulli(size=H)).double()
    bm.visible_lateral.zero_()
    bm.hidden_lateral.zero_()
    rbm.weight.copy_(bm.weight)
    rbm.visible_parameters["bias"].copy_(bm.visible_bias)
    rbm.hidden_parameters["bias"].copy_(bm.hidden_bias)
    torch.testing.assert_close(bm.free_energy(binary(V)), rbm.free_energy(binary(V)), rtol=0, atol=1e-12)
    found = bm.mean_field(binary(V))
    assert found.change < 1e-12
    torch.testing.assert_close(found.means, rbm.mean_hidden(binary(V)), rtol=0, atol=1e-12)
    bound = bm.mean_field_bound(binary(V), found.means)
    torch.testing.assert_close(bound, -rbm.free_energy(binary(V)), rtol=0, atol=1e-12)


DATA = binary(V)[[3, 3, 12, 15, 6]]


def exact_gradient(bm: BoltzmannMachine) -> dict[str, Tensor | None]:
    (bm.log_partition() + bm.free_energy(DATA).mean()).backward()  # type: ignore[no-untyped-call]
    return gradients(bm)


def test_expected_statistics_are_the_exact_gradient() -> None:
    bm = machine()
    exact = exact_gradient(bm)
    p = joint(bm).detach()
    v, h = binary(V).repeat_interleave(1 << H, 0), binary(H).repeat(1 << V, 1)
    parts = [bm.statistics(row[None]) for row in bm.join(v, h)]
    negative = expected(parts, p.flatten())
    posterior = bm.hidden_posterior(DATA).detach()
    clamped = bm.join(DATA.repeat_interleave(1 << H, 0), binary(H).repeat(len(DATA), 1))
    positive = expected([bm.statistics(row[None]) for row in clamped], posterior.flatten() / len(DATA))
    set_gradient(bm, positive, negative)
    assert_same({name: g for name, g in gradients(bm).items() if g is not None}, exact, atol=1e-8)
    assert_same({n: s / 5 for n, s in free_energy_statistics(bm, DATA).sums.items()}, dict(positive.sums), atol=1e-8)


# --- sampling --------------------------------------------------------------------------------------------------------


def after(bm: BoltzmannMachine, steps: int, beta: float | None = None, chains: int = 5000) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    state = torch.zeros(chains, bm.visible + bm.hidden, dtype=torch.float64)
    inverse = None if beta is None else torch.full((chains,), beta, dtype=torch.float64)
    for _ in range(steps):
        state = bm.gibbs_step(state, generator, inverse)
    return state


@torch.no_grad()
def test_chains_reach_the_exact_distribution_and_a_wrong_one_does_not() -> None:
    bm = machine()
    p, everything = joint(bm).flatten(), binary(V + H)
    assert chi_square(counts_of(after(bm, 60), everything), p) > 1e-3
    # A chain that has not yet forgotten its start, and one with half of the lateral weights.
    assert chi_square(counts_of(after(bm, 1), everything), p) < 1e-6
    bm.visible_lateral.mul_(0.5)
    assert chi_square(counts_of(after(bm, 60), everything), p) < 1e-6


@torch.no_grad()
def test_chains_at_another_temperature() -> None:
    bm = machine(scale=1.0)
    energies = joint_energies(bm, binary(V), binary(H)).flatten()
    counts = counts_of(after(bm, 60, beta=0.5), binary(V + H))
    assert chi_square(counts, torch.softmax(-0.5 * energies, 0)) > 1e-3
    assert chi_square(counts, torch.softmax(-energies, 0)) < 1e-6
    state = binary(V + H)
    torch.testing.assert_close(bm.state_energy(state, torch.full((len(state),), 0.5).double()), 0.5 * energies)


@torch.no_grad()
def test_clamped_chains_reach_the_posterior() -> None:
    bm = machine(scale=1.0)
    v = DATA[:1].expand(8000, -1)
    generator, h = torch.Generator().manual_seed(1), torch.zeros(8000, H, dtype=torch.float64)
    for _ in range(60):
        h = bm.sample_hidden(v, h, generator)
    counts = counts_of(h, binary(H))
    assert chi_square(counts, bm.hidden_posterior(DATA[:1])[0]) > 1e-3
    assert chi_square(counts, bm.hidden_posterior(DATA[2:3])[0]) < 1e-6


@given(seed=st.integers(0, 99), scale=st.sampled_from((0.1, 1.0, 3.0)))
@torch.no_grad()
def test_mean_field_solves_its_equations_and_bounds_the_likelihood(seed: int, scale: float) -> None:
    bm = machine(4, 5, seed, scale)
    found = bm.mean_field(binary(4), steps=200, tolerance=1e-10)
    # Where strong weights let the iteration swing, it says so.
    residual = float((bm.hidden_conditional(binary(4), found.means) - found.means).abs().max())
    assert residual <= found.change + 1e-12
    if scale < 1:
        assert found.change < 1e-8
    assert (bm.mean_field_bound(binary(4), found.means) <= -bm.free_energy(binary(4)) + 1e-10).all()


@torch.no_grad()
def test_statistics_of_means_are_those_of_independent_units() -> None:
    bm = machine()
    v, means = DATA[:1], torch.tensor([[0.2, 0.7, 0.9]]).double()
    q = torch.exp(binary(H) @ means[0].log() + (1 - binary(H)) @ (1 - means[0]).log())
    parts = [bm.statistics(bm.join(v, h[None])) for h in binary(H)]
    assert_same(bm.statistics(bm.join(v, means)).sums, dict(expected(parts, q).sums), atol=1e-12)
    energies = torch.stack([bm.energy(v, h[None])[0] for h in binary(H)])
    bound = float(-(q * q.log()).sum() - (q * energies).sum())
    assert float(bm.mean_field_bound(v, means)) == pytest.approx(bound, abs=1e-12)


@pytest.mark.parametrize("hidden", [0, H])
def test_learning_raises_the_exact_likelihood(hidden: int) -> None:
    """Mean field for the data, chains that go on for the model (Salakhutdinov and Hinton 2009, section 2.1)."""
    bm = BoltzmannMachine(V, hidden).double().initialise(torch.Generator().manual_seed(0), 0.1)
    generator = torch.Generator().manual_seed(1)
    state = torch.zeros(200, V + hidden, dtype=torch.float64)
    optimiser = torch.optim.SGD(bm.parameters(), lr=0.1, momentum=0.5)

    def likelihood() -> float:
        return float(-bm.free_energy(DATA).mean().detach() - bm.log_partition().detach())

    before = likelihood()
    for step in range(150):
        state = bm.gibbs_step(state, generator)
        positive = bm.statistics(bm.join(DATA, bm.mean_field(DATA).means))
        set_gradient(bm, positive, bm.statistics(state))
        update(bm, optimiser, step)
    assert before == pytest.approx(-V * math.log(2), abs=0.1)
    assert before + 0.5 < likelihood() < -(3 * 0.2 * math.log(5) + 0.4 * math.log(2.5)) + 1e-9
    assert not bm.visible_lateral.detach().tril().any()


def test_what_cannot_be() -> None:
    bm = BoltzmannMachine(3, 2)
    with pytest.raises(ValueError, match=r"visible >= 1 and hidden >= 0 units, got 0, 2"):
        BoltzmannMachine(0, 2)
    with pytest.raises(ValueError, match=r"visible states \(batch, 3\) of torch.float32, found \(1, 4\)"):
        bm.free_energy(torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"hidden states .* found \(1, 2\) of torch.float64"):
        bm.energy(torch.zeros(1, 3), torch.zeros(1, 2).double())
    with pytest.raises(ValueError, match=r"at most 20 units, got 21 with 2\^21 states"):
        BoltzmannMachine(1, 21).free_energy(torch.zeros(1, 1))
    with pytest.raises(ValueError, match="steps >= 1 and 0 <= damping < 1, got 10, 1"):
        bm.mean_field(torch.zeros(1, 3), steps=10, damping=1)
