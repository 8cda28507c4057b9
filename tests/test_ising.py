"""The Ising model against sums over all states written out bond by bond, and against Onsager, Yang and Kaufman."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special, stats
from torch import Tensor

from harmonium.models.couplings import LatticeCouplings, PairCouplings
from harmonium.models.ising import (
    Ising,
    all_spins,
    exact_distribution,
    exact_energies,
    exact_log_partition,
    heat_bath,
    metropolis,
    state_number,
)

# For tensors this small, threads that wait for each other cost more than they gain.
pytestmark = pytest.mark.usefixtures("one_thread")

Sweep = Callable[[Ising, Tensor, torch.Generator, int], Tensor]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_model(shape: tuple[int, ...], periodic: tuple[bool, ...], seed: int = 0, beta: float = 0.4) -> Ising:
    generator = seeded(seed)
    bonds = torch.randn(len(shape), *shape, generator=generator, dtype=torch.float64)
    field = torch.randn(shape, generator=generator, dtype=torch.float64)
    return Ising.on_lattice(
        shape, coupling=bonds, field=field, moment=0.7, beta=beta, periodic=periodic, dtype=torch.float64
    )


def bond_list(shape: tuple[int, ...], periodic: tuple[bool, ...]) -> list[tuple[int, int, int]]:
    """(axis, site, next site), the sites by their row-major numbers."""
    bonds = []
    for site in itertools.product(*map(range, shape)):
        for axis, length in enumerate(shape):
            if site[axis] + 1 < length or periodic[axis]:
                following = (*site[:axis], (site[axis] + 1) % length, *site[axis + 1 :])
                bonds.append(
                    (axis, int(np.ravel_multi_index(site, shape)), int(np.ravel_multi_index(following, shape)))
                )
    return bonds


def energy_by_hand(model: Ising, spins: Tensor, periodic: tuple[bool, ...]) -> float:
    assert isinstance(model.couplings, LatticeCouplings)
    flat, strength = spins.flatten(), model.couplings.bonds.flatten(1)
    pairs = sum(float(strength[a, i] * flat[i] * flat[j]) for a, i, j in bond_list(model.shape, periodic))
    return -pairs - model.moment * float((model.field.flatten() * flat).sum())


@st.composite
def lattices(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3).filter(lambda s: math.prod(s) <= 12)))
    return shape, tuple(length > 1 and draw(st.booleans()) for length in shape)


# --- exact -----------------------------------------------------------------------------------------------------------


@given(lattice=lattices(), seed=st.integers(0, 1000))
def test_energy_is_the_sum_over_bonds(lattice: tuple[tuple[int, ...], tuple[bool, ...]], seed: int) -> None:
    shape, periodic = lattice
    model = random_model(shape, periodic, seed)
    spins = model.random_spins(3, seeded(seed))
    expected = [energy_by_hand(model, one, periodic) for one in spins]
    np.testing.assert_allclose(model.energy(spins).numpy(), expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(model.log_weight(spins).numpy(), -0.4 * np.array(expected), rtol=0, atol=1e-10)
    np.testing.assert_allclose(model.magnetisation(spins).numpy(), spins.flatten(1).numpy().mean(1))


@given(lattice=lattices(), seed=st.integers(0, 1000))
def test_colours_part_the_lattice_into_uncoupled_sites(
    lattice: tuple[tuple[int, ...], tuple[bool, ...]], seed: int
) -> None:
    shape, periodic = lattice
    colours = random_model(shape, periodic, seed).couplings.colours()
    assert (colours.sum(0) == 1).all()
    assert len(colours) == (3 if any(p and n % 2 for n, p in zip(shape, periodic, strict=True)) else 2)
    for _, i, j in bond_list(shape, periodic):
        assert not (colours.flatten(1)[:, i] & colours.flatten(1)[:, j]).any()


@given(n=st.integers(1, 30), density=st.floats(0, 1), seed=st.integers(0, 1000))
def test_colours_of_any_couplings(n: int, density: float, seed: int) -> None:
    coupled = (torch.rand(n, n, generator=seeded(seed)) < density).triu(1).double()
    colours = PairCouplings(matrix=coupled + coupled.T).colours()
    assert (colours.sum(0) == 1).all()
    masks = colours.double()
    assert not torch.einsum("ci,ij,cj->c", masks, coupled, masks).any()
    # Greedy colouring never takes more than the largest degree plus one.
    assert len(colours) <= int((coupled + coupled.T).sum(1).max()) + 1


@given(lattice=lattices(), seed=st.integers(0, 1000))
def test_a_lattice_equals_its_list_of_pairs(lattice: tuple[tuple[int, ...], tuple[bool, ...]], seed: int) -> None:
    shape, periodic = lattice
    model = random_model(shape, periodic, seed)
    assert isinstance(model.couplings, LatticeCouplings)
    matrix = torch.zeros(model.sites, model.sites, dtype=torch.float64)
    for axis, i, j in bond_list(shape, periodic):
        matrix[i, j] += model.couplings.bonds.flatten(1)[axis, i]
        matrix[j, i] += model.couplings.bonds.flatten(1)[axis, i]
    pairs = Ising.on_pairs(matrix, field=model.field.flatten(), moment=model.moment, beta=model.beta)
    torch.testing.assert_close(exact_energies(pairs), exact_energies(model), rtol=0, atol=1e-10)
    assert float(exact_log_partition(pairs)) == pytest.approx(float(exact_log_partition(model)), abs=1e-10)


def test_distribution_and_log_partition_are_sums_over_all_states() -> None:
    periodic = (True, False)
    model = random_model((3, 4), periodic)
    energies = [
        energy_by_hand(model, torch.tensor(spins, dtype=torch.float64).reshape(3, 4), periodic)
        for spins in itertools.product((-1.0, 1.0), repeat=12)
    ]
    weights = np.exp(-0.4 * np.array(energies))
    assert float(exact_log_partition(model)) == pytest.approx(math.log(weights.sum()), abs=1e-10)
    # itertools counts with the last site as the lowest bit, state_number with the first.
    order = state_number(torch.tensor(list(itertools.product((-1.0, 1.0), repeat=12))))
    np.testing.assert_allclose(exact_distribution(model)[order].numpy(), weights / weights.sum(), rtol=0, atol=1e-12)


def test_states_are_numbered_in_order_and_enumerated_in_blocks() -> None:
    model = random_model((3, 6), (False, False))
    assert torch.equal(state_number(all_spins(model)), torch.arange(2**18))
    torch.testing.assert_close(exact_energies(model), model.energy(all_spins(model)))


def test_twenty_spins_in_a_ring_have_the_partition_function_of_the_transfer_matrix() -> None:
    coupling, field, beta = 0.8, 0.3, 0.7
    ring = Ising.on_lattice((20,), coupling=coupling, field=field, beta=beta, dtype=torch.float64)
    transfer = np.exp(beta * np.array([[coupling + field, -coupling], [-coupling, coupling - field]]))
    expected = math.log((np.linalg.eigvalsh(transfer) ** 20).sum())
    assert float(exact_log_partition(ring)) == pytest.approx(expected, abs=1e-10)


def test_several_temperatures_at_once() -> None:
    betas = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    model = random_model((2, 3), (False, True)).at(betas)
    together = exact_log_partition(model)
    assert float(together[0]) == pytest.approx(6 * math.log(2), abs=1e-12)
    for row, beta in enumerate(betas):
        alone = model.at(beta)
        assert float(together[row]) == pytest.approx(float(exact_log_partition(alone)), abs=1e-12)
        torch.testing.assert_close(exact_distribution(model)[row], exact_distribution(alone))


def kaufman_log_partition(rows: int, columns: int, k: float) -> float:
    """Log Z of a torus at β J = k (Kaufman 1949), by products over 2 · columns modes."""
    # cosh γ_j = cosh 2K* cosh 2K - sinh 2K* sinh 2K cos(π j / n) with K* the dual: cosh 2K coth 2K - cos(π j / n).
    j = np.arange(1, 2 * columns)
    gamma = np.arccosh(np.cosh(2 * k) / np.tanh(2 * k) - np.cos(np.pi * j / columns))
    gamma = np.concatenate([[2 * k + math.log(math.tanh(k))], gamma])
    odd, even = gamma[1::2] * rows / 2, gamma[0::2] * rows / 2
    products = [np.prod(2 * np.cosh(odd)), np.prod(2 * np.sinh(odd)), np.prod(2 * np.cosh(even))]
    return rows * columns / 2 * math.log(2 * math.sinh(2 * k)) + math.log(
        (sum(products) + np.prod(2 * np.sinh(even))) / 2
    )


@pytest.mark.parametrize("k", [0.2, 0.4406868, 0.7])
def test_a_torus_has_kaufmans_partition_function(k: float) -> None:
    model = Ising.on_lattice((4, 5), coupling=k / 0.5, beta=0.5, dtype=torch.float64)
    assert float(exact_log_partition(model)) == pytest.approx(kaufman_log_partition(4, 5, k), abs=1e-8)


# --- samplers --------------------------------------------------------------------------------------------------------


def follows(model: Ising, sweep: Sweep, sweeps: int = 30, replicas: int = 20_000) -> bool:
    """Whether independent replicas, started with all spins up, end in the exact distribution by a chi-square test."""
    spins = sweep(model, torch.ones(replicas, *model.shape, dtype=torch.float64), seeded(), sweeps)
    expected = exact_distribution(model).numpy() * replicas
    observed = np.bincount(state_number(spins).numpy(), minlength=len(expected))
    # Rare states are taken together, since the test's approximation asks for 5 in each cell.
    rare = expected < 5
    observed = np.append(observed[~rare], observed[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum() + 1e-9)
    return bool(
        stats.chi2.sf(((observed - expected) ** 2 / np.maximum(expected, 1e-3)).sum(), len(expected) - 1) > 1e-3
    )


def all_at_once(model: Ising, spins: Tensor, generator: torch.Generator, sweeps: int) -> Tensor:
    """Draws every spin given the old neighbours, coupled or not: the mistake that colours are there to avoid."""
    for _ in range(sweeps):
        up = torch.rand(spins.shape, generator=generator) < torch.sigmoid(2 * model.beta * model.local_field(spins))
        spins = 2 * up.double() - 1
    return spins


def a_little_warm(sweep: Sweep) -> Sweep:
    return lambda model, spins, generator, sweeps: sweep(model.at(model.beta * 0.93), spins, generator, sweeps)


MODELS = {
    "checkerboard with an edge": random_model((2, 4), (False, True)),
    "odd ring": random_model((7,), (True,)),
    "three colours": random_model((3, 3), (True, True)),
    "three axes": random_model((2, 2, 2), (False, False, True)),
    "pairs": Ising.on_pairs(
        (lambda m: (m + m.T) / 2)(torch.randn(6, 6, generator=seeded(5), dtype=torch.float64).fill_diagonal_(0)),
        field=torch.linspace(-0.5, 0.5, 6),
        beta=0.5,
    ),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("sweep", [heat_bath, metropolis], ids=["heat bath", "metropolis"])
def test_samplers_reach_the_exact_distribution_and_wrong_ones_do_not(model: Ising, sweep: Sweep) -> None:
    assert follows(model, sweep)
    assert not follows(model, a_little_warm(sweep))
    assert not follows(model, all_at_once)


def test_replicas_at_different_temperatures_are_independent() -> None:
    betas = torch.tensor([0.1, 0.8], dtype=torch.float64).repeat_interleave(10_000)
    model = random_model((2, 3), (False, False))
    spins = heat_bath(model.at(betas), torch.ones(20_000, 2, 3, dtype=torch.float64), seeded(), 40)
    for half, beta in zip((spins[:10_000], spins[10_000:]), (0.1, 0.8), strict=True):
        expected = exact_distribution(model.at(beta)).numpy() * 10_000
        observed = np.bincount(state_number(half).numpy(), minlength=64)
        z = (observed - expected) / np.sqrt(expected + 1)
        assert np.abs(z).max() < 4.5


def test_a_generator_decides_the_samples() -> None:
    model = Ising.on_lattice((6, 6), beta=0.4)
    start = model.random_spins(4, seeded(3))
    for sweep in (heat_bath, metropolis):
        assert torch.equal(sweep(model, start, seeded(1), 3), sweep(model, start, seeded(1), 3))
        assert not torch.equal(sweep(model, start, seeded(1), 3), sweep(model, start, seeded(2), 3))
        in_parts, generator = start, seeded(1)
        for _ in range(3):
            in_parts = sweep(model, in_parts, generator, 1)
        assert torch.equal(in_parts, sweep(model, start, seeded(1), 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_every_float_dtype_samples(dtype: torch.dtype) -> None:
    model = Ising.on_lattice((8, 8), beta=0.3, field=0.1, dtype=dtype)
    spins = heat_bath(model, model.random_spins(2, seeded()), seeded(), 2)
    assert spins.dtype == dtype
    assert torch.equal(spins.abs(), torch.ones_like(spins))
    assert model.energy(spins).dtype == dtype


def test_without_coupling_heat_bath_has_langevins_magnetisation_in_one_sweep() -> None:
    model = Ising.on_lattice((100, 100), coupling=0.0, field=0.5, moment=2.0, beta=0.6)
    m = float(model.magnetisation(heat_bath(model, torch.ones(10, 100, 100), seeded())).mean())
    # 10^5 independent spins of variance 1 - m²: four standard errors.
    assert m == pytest.approx(math.tanh(0.6), abs=4 * math.sqrt((1 - math.tanh(0.6) ** 2) / 1e5))


# --- the plane -------------------------------------------------------------------------------------------------------


def onsager_energy(k: float) -> float:
    """Energy per spin of the infinite square lattice with J = 1 at β = k (Onsager 1944)."""
    modulus = 2 * math.sinh(2 * k) / math.cosh(2 * k) ** 2
    elliptic = float(special.ellipk(modulus**2))
    return -(1 + 2 / math.pi * (2 * math.tanh(2 * k) ** 2 - 1) * elliptic) / math.tanh(2 * k)


def test_onsagers_energy_is_the_slope_of_his_partition_function() -> None:
    def log_partition(k: float) -> float:
        def inner(x: float, y: float) -> float:
            return math.log(math.cosh(2 * k) ** 2 - math.sinh(2 * k) * (math.cos(x) + math.cos(y)))

        integral = float(integrate.dblquad(inner, 0, math.pi, 0, math.pi, epsabs=1e-11)[0])
        return math.log(2) + integral / (2 * math.pi**2)

    slope = (log_partition(0.3 + 1e-4) - log_partition(0.3 - 1e-4)) / 2e-4
    assert onsager_energy(0.3) == pytest.approx(-slope, abs=1e-6)


def replicas_in_the_plane(k: float, side: int, sweep: Sweep, burn_in: int, draws: int) -> tuple[Tensor, Tensor]:
    """Energy and magnetisation per spin of 16 replicas, each the mean over its draws."""
    model = Ising.on_lattice((side, side), beta=k)
    generator = seeded(7)
    spins = sweep(model, torch.ones(16, side, side), generator, burn_in)
    energy, magnetisation = torch.zeros(16, dtype=torch.float64), torch.zeros(16, dtype=torch.float64)
    for _ in range(draws):
        spins = sweep(model, spins, generator, 2)
        energy += model.energy(spins).double() / side**2 / draws
        magnetisation += model.magnetisation(spins).double() / draws
    return energy, magnetisation


def standard_error(replicas: Tensor) -> float:
    return float(replicas.std()) / math.sqrt(len(replicas))


@pytest.mark.parametrize("sweep", [heat_bath, metropolis], ids=["heat bath", "metropolis"])
@pytest.mark.parametrize("k", [0.3, 0.5])
def test_onsagers_energy_and_yangs_magnetisation(k: float, sweep: Sweep) -> None:
    """Away from k = 0.4407 correlations reach a few sites, so that 64 × 64 sites are as good as infinitely many.

    What remains is the statistical error, known from independent replicas: four and a half of it are allowed, and it
    must itself be small.
    """
    energy, magnetisation = replicas_in_the_plane(k, 64, sweep, burn_in=100, draws=180)
    assert standard_error(energy) < 1.2e-3
    assert float(energy.mean()) == pytest.approx(onsager_energy(k), abs=4.5 * standard_error(energy))
    yang = (1 - math.sinh(2 * k) ** -4) ** 0.125 if k > 0.5 * math.log(1 + math.sqrt(2)) else 0.0
    assert standard_error(magnetisation) < 4e-3
    assert float(magnetisation.mean()) == pytest.approx(yang, abs=4.5 * standard_error(magnetisation))


def test_onsagers_energy_notices_one_per_cent_of_the_temperature() -> None:
    energy, _ = replicas_in_the_plane(0.3 * 1.01, 64, heat_bath, burn_in=100, draws=180)
    assert abs(float(energy.mean()) - onsager_energy(0.3)) > 4.5 * standard_error(energy)


def test_energy_of_a_small_torus_at_the_critical_point() -> None:
    """Where the plane's formula does not hold for small lattices, Kaufman's does."""
    k, side = 0.5 * math.log(1 + math.sqrt(2)), 8
    slope = (kaufman_log_partition(side, side, k + 1e-4) - kaufman_log_partition(side, side, k - 1e-4)) / 2e-4
    energy, _ = replicas_in_the_plane(k, side, heat_bath, burn_in=200, draws=1000)
    assert standard_error(energy) < 8e-3
    assert float(energy.mean()) == pytest.approx(-slope / side**2, abs=4.5 * standard_error(energy))


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": ()}, "1 axis or more"),
        ({"shape": (3, 0)}, "1 axis or more with 1 site or more"),
        ({"shape": (1, 4)}, r"Axis 0 is periodic and needs 2 or more sites, got shape \(1, 4\)"),
        ({"shape": (3, 4), "periodic": (True,)}, "one for each of the 2 axes"),
        ({"shape": (3, 4), "coupling": torch.ones(3)}, r"got a tensor of \(3,\)"),
        ({"shape": (3, 4), "coupling": math.nan}, "Couplings must be finite, got 24 values"),
        ({"shape": (3, 4), "field": torch.ones(4, 3)}, r"\(3, 4\), got a tensor of \(4, 3\)"),
        ({"shape": (3, 4), "field": math.inf}, "field must be finite"),
        ({"shape": (3, 4), "moment": math.nan}, "moment must be finite, got nan"),
        ({"shape": (3, 4), "beta": -0.1}, "not negative, got -0.1"),
        ({"shape": (3, 4), "beta": math.inf}, "inverse temperature must be finite"),
        ({"shape": (3, 4), "beta": torch.ones(2, 2)}, "inverse temperature must be"),
    ],
    ids=str,
)
def test_models_that_cannot_be(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ising.on_lattice(**arguments)  # type: ignore[arg-type]


def test_integers_are_no_parameters() -> None:
    with pytest.raises(TypeError, match=r"floating dtype, got torch\.int64"):
        Ising.on_lattice((3, 4), dtype=torch.int64)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.ones(2, 3), r"\(sites, sites\), got \(2, 3\)"),
        (torch.ones(2, 2), r"\|J_ii\| up to 1"),
        (torch.tensor([[0.0, 1.0], [0.5, 0.0]]), r"\|J - Jᵀ\| up to 0.5"),
    ],
    ids=str,
)
def test_pairs_that_cannot_be(matrix: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ising.on_pairs(matrix)


def test_bonds_across_an_open_edge_are_refused() -> None:
    with pytest.raises(ValueError, match="Axis 0 is open"):
        LatticeCouplings(bonds=torch.ones(1, 3), periodic=(False,))
    with pytest.raises(ValueError, match=r"got bonds \(2, 3\)"):
        LatticeCouplings(bonds=torch.ones(2, 3), periodic=(True, True))


def test_spins_that_do_not_fit() -> None:
    model = Ising.on_lattice((3, 4))
    for use in (model.energy, lambda spins: heat_bath(model, spins, seeded())):
        with pytest.raises(ValueError, match=r"\(replicas, 3, 4\), got \(3, 4\)"):
            use(torch.ones(3, 4))
        with pytest.raises(ValueError, match="-1 or \\+1"):
            use(torch.zeros(2, 3, 4))
        with pytest.raises(TypeError, match=r"got torch\.float64"):
            use(torch.ones(2, 3, 4).double())
    with pytest.raises(ValueError, match="3 inverse temperatures, for as many replicas, got 2"):
        metropolis(model.at(torch.ones(3)), torch.ones(2, 3, 4), seeded())


def test_enumeration_has_an_end() -> None:
    with pytest.raises(ValueError, match="up to 24 sites, got 25"):
        exact_log_partition(Ising.on_lattice((5, 5)))
