"""The deep energy and the directed generator against enumeration, quadrature, closed forms and torch's own layers."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from harmonium.models.deep_energy import DeepEnergy
from harmonium.models.directed_generator import (
    DirectedGenerator,
    Optimisers,
    Schedule,
    TrainingState,
    joint_step,
    objective,
    start,
)
from harmonium.models.energy_model import free_energy_statistics, set_gradient
from harmonium.models.rbm import RBM
from harmonium.models.units import Bernoulli, Gaussian, Units

from .enumeration import assert_same, binary, counts_of, gradients, joint_energies, randomise

V, H = 5, 4
STATES = binary(V)
DATA = STATES[[0, 0, 1, 16, 31, 31, 15, 30]]


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bits(*, hidden: tuple[int, ...] = (8,), seed: int = 0) -> DirectedGenerator:
    generator = DirectedGenerator(V, "bits", latent=3, hidden=hidden).double()
    randomise(generator, seed, 1.0)
    return generator


def machine(seed: int = 0) -> RBM:
    rbm = RBM(Bernoulli(size=V), Bernoulli(size=H)).double()
    randomise(rbm, seed, 1.0)
    return rbm


def optimisers(model: nn.Module, generator: DirectedGenerator, rate: float, generator_rate: float) -> Optimisers:
    return Optimisers(
        model=torch.optim.SGD(model.parameters(), lr=rate),
        generator=torch.optim.Adam(generator.parameters(), lr=generator_rate, betas=(0.5, 0.999)),
    )


# --- the deep energy -------------------------------------------------------------------------------------------------

VISIBLE = [Bernoulli(size=V), Gaussian(size=V), Gaussian(size=V, variance=0.5)]


def deep(visible: Units, features: tuple[int, ...] = (6, 7)) -> DeepEnergy:
    model = DeepEnergy(visible, features=features, experts=Bernoulli(size=H)).double()
    randomise(model)
    return model


@pytest.mark.parametrize("visible", VISIBLE, ids=str)
@torch.no_grad()
def test_free_energy_sums_over_the_experts(visible: Units) -> None:
    model, x = deep(visible), torch.randn(9, V, generator=noise()).double()
    wanted = -torch.logsumexp(-joint_energies(model, x, binary(H)), 1)
    torch.testing.assert_close(model.free_energy(x), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("visible", VISIBLE, ids=str)
@torch.no_grad()
def test_without_features_it_is_the_rbm(visible: Units) -> None:
    model, rbm = deep(visible, ()), RBM(visible, Bernoulli(size=H)).double()
    assert rbm.load_state_dict(model.state_dict())
    x = torch.randn(9, V, generator=noise()).double()
    torch.testing.assert_close(model.free_energy(x), rbm.free_energy(x), rtol=0, atol=1e-12)


@torch.no_grad()
def test_with_real_units_it_is_the_product_of_experts_of_the_paper() -> None:
    """x²/σ² - bᵀx - sum_j log(1 + exp(W_jᵀ f(x) + c_j)), whatever x is, up to a constant."""
    model, x = deep(Gaussian(size=V, variance=0.5)), torch.randn(50, V, generator=noise()).double()
    b, (c, w) = model.visible_parameters["bias"], (model.hidden_parameters["bias"], model.weight)
    f = x / 0.5
    for weight, bias in zip(model.feature_weights, model.feature_biases, strict=True):
        f = (f @ weight + bias).clamp(min=0)
    theirs = x.square().sum(1) / (2 * 0.5) - x @ b / 0.5 - torch.log(1 + torch.exp(f @ w + c)).sum(1)
    constant = model.free_energy(x) - theirs
    # The variance is kept as a logarithm that was rounded to float32.
    torch.testing.assert_close(constant, constant[:1].expand(50), rtol=0, atol=1e-6)


@pytest.mark.parametrize("visible", VISIBLE, ids=str)
def test_energy_gradients_are_those_of_finite_differences(visible: Units) -> None:
    model, x = deep(visible), torch.randn(3, V, generator=noise()).double().requires_grad_()
    assert torch.autograd.gradcheck(model.free_energy, (x,))
    with torch.no_grad():
        found = free_energy_statistics(model, x).sums["feature_weights.0"][2, 3]
        weight = model.feature_weights[0]
        energies = []
        for shift in (1e-6, -2e-6):
            weight[2, 3] += shift
            energies.append(float(model.free_energy(x).sum()))
    assert float(found) == pytest.approx(-(energies[0] - energies[1]) / 2e-6, rel=1e-5)


def test_initial_weights_come_from_the_generator_alone() -> None:
    one, other = (DeepEnergy(Bernoulli(size=V), features=(6,), experts=Bernoulli(size=H)) for _ in range(2))
    before = torch.random.get_rng_state()
    one.initialise(noise(4))
    other.initialise(noise(4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert_same(one.state_dict(), other.state_dict(), atol=0)
    assert float(one.feature_weights[0].detach().abs().min()) > 0


@pytest.mark.parametrize("x", [torch.zeros(2, V + 1), torch.zeros(V)], ids=["wide", "flat"])
def test_states_of_another_shape_are_refused(x: Tensor) -> None:
    with pytest.raises(ValueError, match=rf"Expected states \(batch, {V}\) of Bernoulli.*found shape"):
        deep(Bernoulli(size=V)).free_energy(x.double())
    with pytest.raises(ValueError, match=r"torch.float64, as the parameters are, found torch.float32"):
        deep(Bernoulli(size=V)).free_energy(torch.zeros(2, V))
    with pytest.raises(ValueError, match=r"at least 1 unit, got \(3, 0\)"):
        DeepEnergy(Bernoulli(size=V), features=(3, 0), experts=Bernoulli(size=H))


# --- one pass of the generator ---------------------------------------------------------------------------------------


@torch.no_grad()
def test_layers_are_torchs_batch_normalised_ones() -> None:
    generator, z = bits(hidden=(6, 7)), torch.randn(40, 3, generator=noise()).double()
    x = z
    for layer, (w, g, b) in enumerate(zip(generator.weights, generator.scales, generator.shifts, strict=True)):
        x = F.batch_norm((x.relu() if layer else x) @ w, None, None, g, b, training=True, eps=1e-5)
    made = generator(z, noise())
    torch.testing.assert_close(made.means, torch.sigmoid(x), rtol=0, atol=1e-12)
    again = generator(z, noise(), made.normalisation)
    torch.testing.assert_close(again.means, made.means, rtol=0, atol=1e-12)
    torch.testing.assert_close(generator(z[:1], noise(), made.normalisation).means, made.means[:1], rtol=0, atol=1e-12)


@torch.no_grad()
def test_bits_are_drawn_with_their_probabilities_and_reals_are_their_means() -> None:
    generator = bits()
    z = torch.randn(4, 3, generator=noise()).double()
    normalisation = generator(z, noise()).normalisation
    made = generator(z.repeat(5000, 1), noise(), normalisation)
    share = made.states.reshape(5000, 4, V).mean(0)
    error = (made.means[:4] * (1 - made.means[:4]) / 5000).sqrt()
    assert set(made.states.unique().tolist()) == {0.0, 1.0}
    assert bool(((share - made.means[:4]).abs() < 4.5 * error).all())
    real = DirectedGenerator(2, "reals", latent=3, hidden=()).initialise(noise())
    made = real(real.latent_states(8, noise()), noise())
    assert torch.equal(made.states, made.means)
    assert float(made.entropy) == 0


@torch.no_grad()
def test_entropy_of_the_bits_is_that_of_their_distribution() -> None:
    generator = bits()
    made = generator(generator.latent_states(30, noise()), noise())
    wanted = (torch.special.entr(made.means) + torch.special.entr(1 - made.means)).sum(1).mean()
    torch.testing.assert_close(made.entropy, wanted, rtol=0, atol=1e-12)


@torch.no_grad()
def test_surrogate_is_the_entropy_of_gaussians_and_exact_where_the_output_is_one() -> None:
    generator = bits(hidden=(6, 7))
    wanted = sum(stats.norm(scale=gamma).entropy() for scale in generator.scales for gamma in scale.abs().tolist())
    assert float(generator.surrogate_entropy()) == pytest.approx(wanted, abs=1e-10)
    # One layer without correlations: the output is Gaussian, its covariance that of many draws.
    real = DirectedGenerator(2, "reals", latent=2, hidden=())
    real.weights[0].copy_(torch.tensor([[3.0, 4.0], [-4.0, 3.0]]))
    real.scales[0].copy_(torch.tensor([0.5, 3.0]))
    x = real(real.latent_states(100_000, noise()), noise()).states
    exact = stats.multivariate_normal(cov=torch.cov(x.T).numpy()).entropy()
    assert float(real.surrogate_entropy()) == pytest.approx(exact, abs=1e-3)


@torch.no_grad()
def test_objective_bounds_the_divergence_of_bits_from_a_machine() -> None:
    """Over a given batch of z, q is a mixture that can be enumerated, and so are H(q) and I(x; z)."""
    generator, rbm = bits(), machine()
    made = generator(generator.latent_states(6, noise()), noise())
    p = made.means[:, None]
    given_z = torch.where(STATES == 1, p, 1 - p).prod(2)  # (6, 32)
    q = given_z.mean(0)
    log_z = torch.logsumexp(-rbm.free_energy(STATES), 0)
    divergence = float((q * (q.log() + rbm.free_energy(STATES) + log_z)).sum())
    information = float((given_z * (given_z / q).log()).sum(1).mean())
    bound = float(objective(rbm, generator, made, 0.0) + log_z)
    assert bound - information > divergence > 0
    # The gap is Jensen's, and closes where the energy is linear in x.
    rbm.weight.zero_()
    log_z = torch.logsumexp(-rbm.free_energy(STATES), 0)
    divergence = float((q * (q.log() + rbm.free_energy(STATES) + log_z)).sum())
    bound = float(objective(rbm, generator, made, 0.0) + log_z)
    assert bound - information == pytest.approx(divergence, abs=1e-10)


def test_what_cannot_be_generated_is_refused() -> None:
    generator = bits()
    for shape in ((1, 3), (4, 2), (3,)):
        with pytest.raises(ValueError, match=r"Expected latent states \(batch, 3\), at least 2 unless"):
            generator(torch.zeros(shape).double(), noise())
    for sizes in ((0, 3), (5, 0)):
        with pytest.raises(ValueError, match="layers of at least 1 unit and output bits or reals"):
            DirectedGenerator(sizes[0], "bits", latent=sizes[1], hidden=())
    with pytest.raises(ValueError, match="particles >= 2, entropy_weight >= 0 and 0 < slide <= 1, got"):
        Schedule(particles=1)


# --- a step ----------------------------------------------------------------------------------------------------------


def test_a_step_takes_generated_states_for_the_model_and_descends_the_objective() -> None:
    rbm, twin, generator = machine(), machine(), bits()
    state, schedule = start(generator, noise(1)), Schedule(particles=20, entropy_weight=0.3, slide=0.1)
    before = [p.detach().clone() for p in generator.parameters()]
    draws = noise(2)
    made = generator(generator.latent_states(20, draws), draws)
    surrogate = sum(scale.abs().log().sum() for scale in generator.scales)  # up to a constant
    loss = twin.free_energy(made.means).mean() - made.entropy - 0.3 * surrogate
    wanted = torch.autograd.grad(loss, list(generator.parameters()))
    set_gradient(twin, free_energy_statistics(twin, DATA), free_energy_statistics(twin, made.states))
    descents = [torch.optim.SGD(module.parameters(), lr=0.1) for module in (rbm, generator)]
    both = Optimisers(model=descents[0], generator=descents[1])
    after = joint_step(rbm, generator, DATA, both, schedule, state, noise(2))
    for parameter, old, gradient in zip(generator.parameters(), before, wanted, strict=True):
        torch.testing.assert_close(parameter.detach(), old - 0.1 * gradient, rtol=0, atol=1e-12)
    moved = zip(rbm.named_parameters(), twin.parameters(), strict=True)
    assert_same({name: (old - new).detach() / 0.1 for (name, new), old in moved}, gradients(twin), atol=1e-12)
    assert after.step == 1
    for slid, old, new in zip(
        after.normalisation.means, state.normalisation.means, made.normalisation.means, strict=True
    ):
        torch.testing.assert_close(slid, 0.9 * old + 0.1 * new, rtol=0, atol=1e-12)


def trained(
    model: RBM | DeepEnergy,
    generator: DirectedGenerator,
    batches: Iterable[Tensor],
    both: Optimisers,
    schedule: Schedule,
    draws: torch.Generator,
    falling_over: float = math.inf,
) -> TrainingState:
    """Train on all batches, the learning rates falling to zero over so many steps."""
    state = start(generator, draws)
    groups = both.model.param_groups + both.generator.param_groups
    rates = [group["lr"] for group in groups]
    for step, v in enumerate(batches):
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * (1 - step / falling_over)
        state = joint_step(model, generator, v, both, schedule, state, draws)
    return state


def test_the_same_seed_trains_the_same_pair() -> None:
    ends = []
    for _ in range(2):
        rbm, generator, draws = machine(), bits(), noise(3)
        both = optimisers(rbm, generator, 0.1, 1e-2)
        state = trained(rbm, generator, itertools.repeat(DATA, 5), both, Schedule(particles=10), draws)
        samples = generator.sample(6, state.normalisation, draws)
        ends.append([*rbm.parameters(), *generator.parameters(), *state.normalisation.variances, samples])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


@pytest.mark.parametrize("spoilt", ["the batch", "the generator", "the energy model"])
def test_numbers_that_are_not_finite_stop_the_step_and_change_nothing(spoilt: str) -> None:
    rbm, generator = machine(), bits()
    rates = {"the generator": (0.1, math.inf), "the energy model": (math.inf, 0.1)}
    both = optimisers(rbm, generator, *rates.get(spoilt, (0.1, 0.1)))
    state = replace(start(generator, noise()), step=7)
    before = [p.detach().clone() for p in (*rbm.parameters(), *generator.parameters())]
    v = torch.full_like(DATA, math.nan) if spoilt == "the batch" else DATA
    with pytest.raises(FloatingPointError, match=f"(?i){spoilt}.*step 7"):
        joint_step(rbm, generator, v, both, Schedule(particles=10), state, noise())
    assert all(torch.equal(p, old) for p, old in zip((*rbm.parameters(), *generator.parameters()), before, strict=True))


# --- where training leads --------------------------------------------------------------------------------------------


def bowl() -> DeepEnergy:
    """Two independent Gaussian units without experts, of means 1 and -2 and variances 0.25 and 4."""
    model = DeepEnergy(Gaussian(size=2), features=(), experts=Bernoulli(size=1))
    with torch.no_grad():
        model.visible_parameters["bias"].copy_(torch.tensor([1.0, -2.0]))
        model.visible_parameters["log_variance"].copy_(torch.tensor([0.25, 4.0]).log())
    return model


def settled(entropy_weight: float) -> tuple[DirectedGenerator, Tensor]:
    """A generator trained on an energy that stays as it is, and 20 000 of its samples."""
    model, draws = bowl(), noise()
    generator = DirectedGenerator(2, "reals", latent=2, hidden=(16,)).initialise(draws)
    both = optimisers(model, generator, 0.0, 2e-2)
    schedule = Schedule(particles=50, entropy_weight=entropy_weight, slide=0.05)
    state = trained(model, generator, itertools.repeat(torch.zeros(2, 2), 400), both, schedule, draws)
    return generator, generator.sample(20_000, state.normalisation, draws)


def test_a_generator_takes_on_the_moments_of_a_given_energy() -> None:
    generator, x = settled(1.0)
    torch.testing.assert_close(generator.scales[-1].detach().abs(), torch.tensor([0.5, 2.0]), rtol=0.1, atol=0)
    torch.testing.assert_close(x.mean(0), torch.tensor([1.0, -2.0]), rtol=0, atol=0.3)
    torch.testing.assert_close(x.std(0), torch.tensor([0.5, 2.0]), rtol=0.15, atol=0)


def test_without_its_entropy_a_generator_collapses_onto_the_minimum() -> None:
    _, x = settled(0.0)
    torch.testing.assert_close(x.mean(0), torch.tensor([1.0, -2.0]), rtol=0, atol=0.2)
    assert float(x.std(0).max()) < 0.1


def likelihood(rbm: RBM) -> float:
    with torch.no_grad():
        return float(-rbm.free_energy(DATA).mean() - torch.logsumexp(-rbm.free_energy(STATES), 0))


def test_a_machine_learns_from_generated_bits_and_the_generator_becomes_its_sampler() -> None:
    draws = noise()
    rbm = RBM(Bernoulli(size=V), Bernoulli(size=H)).initialise(draws, 0.1).double()
    generator = DirectedGenerator(V, "bits", latent=6, hidden=(16,)).double().initialise(draws, DATA)
    both, before = optimisers(rbm, generator, 0.1, 1e-2), likelihood(rbm)
    state = trained(rbm, generator, itertools.repeat(DATA, 500), both, Schedule(), draws)
    entropy = -0.5 * math.log(4) - 0.5 * math.log(8)
    assert before == pytest.approx(-V * math.log(2), abs=0.05)
    assert before + 1 < likelihood(rbm) < entropy
    q = torch.from_numpy(counts_of(generator.sample(20_000, state.normalisation, draws), STATES)) / 20_000
    p = torch.softmax(-rbm.free_energy(STATES).detach(), 0)
    uniform = torch.full_like(p, 1 / len(p))
    # Total variation: how far it is from the machine, which itself has come far from where it began.
    assert float((q - p).abs().sum()) / 2 < 0.3 < 0.5 < float((uniform - p).abs().sum()) / 2


def test_a_deep_energy_and_a_generator_learn_a_mixture_of_four_gaussians() -> None:
    """Likelihood by quadrature on a grid, beside that of the best single Gaussian and that of the mixture itself."""
    draws, width = noise(), 0.4
    centres = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 2.0], [0.0, -2.0]])

    def drawn(count: int) -> Tensor:
        place = torch.randint(4, (count,), generator=draws)
        return centres[place] + width * torch.randn(count, 2, generator=draws)

    data = drawn(5000)
    model = DeepEnergy(Gaussian(size=2, variance=4.0), features=(32, 32), experts=Bernoulli(size=32))
    model.initialise(draws, 0.1)
    generator = DirectedGenerator(2, "reals", latent=4, hidden=(64, 64)).initialise(draws, data)
    both = optimisers(model, generator, 0.05, 3e-3)
    state = trained(model, generator, (drawn(100) for _ in range(800)), both, Schedule(), draws, 800)
    x = generator.sample(2000, state.normalisation, draws)
    distance, mode = torch.cdist(x, centres).min(1)
    assert bool(((torch.bincount(mode, minlength=4) / 2000 - 0.25).abs() < 0.08).all())
    assert float((distance < 3 * width).float().mean()) > 0.85
    torch.testing.assert_close(x.std(0), data.std(0), rtol=0.2, atol=0)
    axis = torch.linspace(-8, 8, 321)
    with torch.no_grad():
        grid = -model.free_energy(torch.cartesian_prod(axis, axis))
        log_z = float(torch.logsumexp(grid, 0)) + 2 * math.log(0.05)
        found = float(-model.free_energy(data).mean()) - log_z
    single = -0.5 * float(torch.logdet(2 * math.pi * math.e * torch.cov(data.T)))
    mixture = -math.log(4) - math.log(2 * math.pi * math.e * width**2)
    assert single + 0.1 < found < mixture


# --- the benchmark's measures ----------------------------------------------------------------------------------------


def test_measures_of_a_sampler_are_those_of_all_pairs() -> None:
    quality = pytest.importorskip("benchmarks.sampler_quality", reason="benchmarks are not part of the wheel")
    draws = noise()
    logits, x = torch.randn(7, V, generator=draws), torch.bernoulli(torch.full((9, V), 0.5), generator=draws)
    p = torch.sigmoid(logits)
    mixture = torch.where(x[:, None] == 1, p, 1 - p).prod(2).mean(1)
    assert quality.csl(logits, x) == pytest.approx(float(mixture.log().mean()), abs=1e-5)
    differing = (x[:6, None] != x[6:]).sum(2)
    assert quality.nearest(x[:6], x[6:]) == pytest.approx(float(differing.amin(1).float().mean()), abs=1e-6)


@pytest.mark.slow
def test_the_benchmark_writes_its_tables_and_its_figure(tmp_path: Path, shared_data: Path) -> None:
    if not (shared_data / "mnist" / "mnist.npz").is_file():
        pytest.skip("no mnist/mnist.npz among the development data")
    benchmark = pytest.importorskip("benchmarks.directed_generator", reason="benchmarks are not part of the wheel")
    small = "--effort 0.001 --samples 100 --test-images 50 --temperatures 10 --burn-in 2"
    benchmark.main(["--out", str(tmp_path), *small.split()])
    measured = json.loads((tmp_path / "directed_generator.json").read_text())["measured"]
    assert [row["hidden"] for row in measured["likelihoods"]] == [20, 20, 20, 200, 200, 200, 200]
    assert all(-200 < row["csl"] < -30 for row in measured["samplers"])
    assert (tmp_path / "directed_generator.png").stat().st_size > 10_000
