"""The figures of docs/guide: what its models do, beside what is known exactly.

    python -m benchmarks.guide_figures

Writes small PNGs into docs/guide/figures; names after the command draw these figures only. They are drawn with a
palette, so that git need not keep megabytes.
"""

import argparse
import io
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from benchmarks.guide_learning import RULES, STEPS, bars_and_stripes, best_possible, likelihoods, trained
from harmonium.models.annealing import geometric_cooling, simulated_annealing
from harmonium.models.annealing_path import Path as AnnealingPath
from harmonium.models.annealing_path import base_rates, temperatures
from harmonium.models.boltzmann_machine import binary_states
from harmonium.models.hopfield import damage, hebbian, pseudo_inverse, recall_asynchronous
from harmonium.models.ising import Ising, exact_energies, heat_bath
from harmonium.models.layer_chain import LayerChain
from harmonium.models.mcmc import Proposed, metropolis_hastings, normal_steps
from harmonium.models.partition_function import ais, exact_log_partition, raise_log_likelihood, reverse_ais

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "guide" / "figures"

BLUE, ORANGE, GREEN, PURPLE, RED, GREY = "#2468b4", "#e08214", "#2a8f5d", "#8456a8", "#c0392b", "#8a8a8a"
_CRITICAL = 2 / math.log(1 + math.sqrt(2))


def ising() -> Figure:
    """Lattices below, at and above the critical temperature, and their magnetisation beside Yang's formula."""
    figure = Figure(figsize=(9.6, 2.9), layout="constrained")
    axes = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.45))
    generator, shown = torch.Generator().manual_seed(0), torch.tensor([1.8, _CRITICAL, 3.5])
    plane = Ising.on_lattice((160, 160), beta=1 / shown)
    spins = heat_bath(plane, torch.ones(3, 160, 160), generator, sweeps=2000)
    names = ("below", "at", "above")
    for ax, image, temperature, name in zip(axes, spins, shown.tolist(), names, strict=False):
        ax.imshow(image.numpy(), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        ax.set(xticks=[], yticks=[], title=f"T = {temperature:.2f}, {name} $T_c$")
    t = torch.tensor([1.0, 1.4, 1.7, 1.9, 2.05, 2.15, 2.2, 2.25, 2.3, 2.35, 2.4, 2.5, 2.7, 3.0, 3.5, 4.0])
    lattices = Ising.on_lattice((64, 64), beta=1 / t)
    spins, mean, sweeps = heat_bath(lattices, torch.ones(len(t), 64, 64), generator, sweeps=1000), 0 * t, 2000
    for _ in range(sweeps):
        spins = heat_bath(lattices, spins, generator)
        mean += lattices.magnetisation(spins).abs() / sweeps
    fine = np.linspace(0.9, _CRITICAL - 1e-9, 2000)
    yang = (1 - np.sinh(2 / fine) ** -4.0) ** 0.125
    axes[3].plot([*fine, _CRITICAL, 4.1], [*yang, 0, 0], color=BLUE, label="Yang 1952")
    axes[3].plot(t, mean, "o", color=ORANGE, markersize=4.5, label="64 × 64 spins")
    axes[3].set(xlabel="T (in J / k)", title="magnetisation per spin, |m|", ylim=(-0.03, 1.05))
    axes[3].legend(loc="upper right", bbox_to_anchor=(1.0, 0.8), fontsize=9)
    return figure


def _letters(text: str, side: int) -> Tensor:
    """Letters as patterns of ±1, (letters, side²)."""
    font = ImageFont.truetype(findfont("DejaVu Sans:bold"), round(0.95 * side))
    patterns = []
    for letter in text:
        image = Image.new("1", (side, side))
        ImageDraw.Draw(image).text((side / 2, side / 2), letter, fill=1, font=font, anchor="mm")
        patterns.append(2 * torch.from_numpy(np.array(image, dtype=np.float32)) - 1)
    return torch.stack(patterns).flatten(1)


def hopfield() -> Figure:
    """Eight letters, damaged, and recalled by both rules."""
    side, generator = 24, torch.Generator().manual_seed(0)
    patterns = _letters("HOPFIELD", side)
    damaged = damage(patterns, 0.25, generator)
    recalls = [recall_asynchronous(rule(patterns), damaged, generator).states for rule in (hebbian, pseudo_inverse)]
    rows = {"stored": patterns, "a quarter turned": damaged, "recalled, Hebb": recalls[0]}
    rows["recalled,\npseudo-inverse"] = recalls[1]
    figure = Figure(figsize=(7.2, 3.35), layout="constrained")
    for row, (name, states) in zip(figure.subplots(4, len(patterns)), rows.items(), strict=True):
        for ax, state in zip(row, states, strict=True):
            ax.imshow(state.reshape(side, side).numpy(), cmap="gray_r", vmin=-1, vmax=1, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_color("#c8c8c8")
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


def sampling() -> Figure:
    """Metropolis chains for N(-2, 1) as they start, all their draws, and annealing of a spin glass."""
    figure = Figure(figsize=(9.6, 2.9), layout="constrained")
    traces, histogram, cooling = figure.subplots(1, 3)
    generator = torch.Generator().manual_seed(0)

    def log_density(x: Tensor) -> Tensor:
        return -0.5 * (x[:, 0] + 2).square()

    _, path = metropolis_hastings(log_density, torch.zeros(5, 1), normal_steps(0.4), generator, draws=400)
    for chain, colour in zip(path[..., 0], (BLUE, ORANGE, GREEN, PURPLE, RED), strict=True):
        traces.plot(chain, color=colour, linewidth=0.8)
    traces.set(xlabel="step", ylabel="x", title="five Metropolis chains from x = 0")
    _, draws = metropolis_hastings(
        log_density, torch.zeros(100, 1), normal_steps(0.4), generator, draws=200, burn_in=300, thin=10
    )
    x = np.linspace(-6, 2, 200)
    histogram.hist(draws.flatten(), bins=60, range=(-6, 2), density=True, color="#b9cde6", label="20 000 draws")
    histogram.plot(x, np.exp(-0.5 * (x + 2) ** 2) / math.sqrt(2 * math.pi), color=BLUE, label="N(-2, 1)")
    histogram.set(xlabel="x", ylabel="density", title="100 chains after 300 steps", ylim=(0, 0.52))
    histogram.legend(loc="upper right", fontsize=8)
    _annealing(cooling, generator)
    return figure


def _annealing(ax: Axes, generator: torch.Generator) -> None:
    couplings = torch.randn(20, 20, generator=generator)
    glass = Ising.on_pairs((couplings + couplings.T).fill_diagonal_(0))

    def turn_one(spins: Tensor, generator: torch.Generator) -> Proposed:
        site = torch.randint(0, 20, (len(spins), 1), generator=generator)
        return Proposed(x=spins.scatter(1, site, -spins.gather(1, site)))

    steps, ground = 3000, float(exact_energies(glass).min())
    ax.axhline(ground, color="black", linewidth=0.8, linestyle="--", label="ground state, enumerated")
    schedules = {"T from 20 to 0.3": geometric_cooling(20.0, 0.3, steps), "T = 0.3": torch.full((steps,), 0.3)}
    for (name, schedule), colour in zip(schedules.items(), (BLUE, ORANGE), strict=True):
        spins, energies = glass.random_spins(200, torch.Generator().manual_seed(1)), []
        for part in schedule.split(20):  # type: ignore[no-untyped-call]
            energies.append(glass.energy(spins))
            spins = simulated_annealing(glass.energy, spins, turn_one, part, generator).x
        energies.append(glass.energy(spins))
        at = torch.arange(len(energies)) * 20
        low, middle, high = torch.stack(energies).quantile(torch.tensor([0.05, 0.5, 0.95]), dim=1)
        ax.fill_between(at, low, high, color=colour, alpha=0.2, linewidth=0)
        reached = float((energies[-1] < ground + 1e-3).float().mean())
        ax.plot(at, middle, color=colour, label=f"{name}: {reached:.0%} end in it")
    ax.set(xlabel="step", ylabel="energy", title="spin glass of 20 spins, 200 chains", ylim=(None, 48))
    ax.legend(loc="upper right", fontsize=8)


def learning() -> Figure:
    """Exact log-likelihood of bars and stripes along five learning rules."""
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    left, ax = figure.subplots(1, 2, width_ratios=(1, 2.4))
    images = torch.from_numpy(np.unique(bars_and_stripes(4), axis=0)).reshape(5, 6, 4, 4)
    framed = torch.nn.functional.pad(images, (1, 1, 1, 1), value=0.5).permute(0, 2, 1, 3).reshape(30, 36)
    left.imshow(framed.numpy(), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    left.set(xticks=[], yticks=[], title="30 bars and stripes of 4 × 4 pixels")
    left.spines[:].set_visible(False)
    for (name, rule), colour in zip(RULES.items(), (GREY, GREEN, RED, BLUE, ORANGE), strict=True):
        runs = np.array([likelihoods(rule, seed) for seed in range(3)])
        at = np.linspace(0, STEPS, runs.shape[1])
        ax.fill_between(at, runs.min(0), runs.max(0), color=colour, alpha=0.18, linewidth=0)
        ax.plot(at, np.median(runs, 0), color=colour, label=name)
    ax.axhline(best_possible(), color="black", linewidth=0.8, linestyle="--", label="best possible")
    ax.set(xlabel="updates", ylabel="mean log-likelihood (nats)", ylim=(-8.5, -3.0), xlim=(0, STEPS))
    ax.set_title("RBM with 16 hidden units: median and range of 3 seeds")
    ax.legend(loc="lower right", fontsize=8, ncols=2)
    return figure


@torch.no_grad()
def annealed() -> Figure:
    """Annealed estimates of log Z and of the likelihood of the tempered machine, beside the exact values."""
    figure = Figure(figsize=(9.6, 3.1), layout="constrained")
    left, right = figure.subplots(1, 2)
    rbm, data, generator = (
        trained(RULES["tempering, centred"], 0),
        bars_and_stripes(4),
        torch.Generator().manual_seed(0),
    )
    chain, images = LayerChain.of_rbm(rbm), binary_states(16)
    path, exact = AnnealingPath(chain=chain, base=base_rates(chain, data)), float(exact_log_partition(chain))
    p = torch.softmax(-rbm.free_energy(images), 0)
    samples = images[torch.multinomial(p, 500, replacement=True, generator=generator)]
    counts = (3, 10, 30, 100, 300, 1000, 3000)
    up = [ais(path, temperatures(count), 500, generator) for count in counts]
    down = [reverse_ais(path, temperatures(count), (samples,), generator) for count in counts]
    free = float(-rbm.free_energy(data).mean())
    bound = [float(raise_log_likelihood(path, temperatures(c), data, 10, generator).mean()) for c in counts]
    base = path.log_base_partition() - exact
    for found, sign, name, colour in ((up, 1, "forward AIS", BLUE), (down, -1, "reverse AIS", ORANGE)):
        one_chain = [base + sign * float(one.log_weights.mean()) for one in found]
        left.plot(counts, one_chain, "o-", color=colour, markersize=4, label=f"{name}, mean log weight")
        low, high = np.array([one.interval for one in found]).T
        right.fill_between(counts, free - high, free - low, color=colour, alpha=0.2, linewidth=0)
        values = np.array([one.value for one in found])
        right.plot(counts, free - values, "o-", color=colour, markersize=4, label=f"{name}, 500 chains")
    right.plot(counts, bound, "s-", color=GREEN, markersize=4, label="RAISE, 10 chains for each image")
    left.axhline(0, color="black", linewidth=0.8, linestyle="--", label="exact")
    right.axhline(free - exact, color="black", linewidth=0.8, linestyle="--", label="exact")
    left.set(ylabel="estimate - exact (nats)", title="log Z of an RBM: what one chain says on average")
    right.set(ylabel="nats", title="mean log-likelihood of its data, with 99 % intervals")
    for ax in (left, right):
        ax.set(xscale="log", xlabel="temperatures")
        ax.legend(fontsize=8)
    return figure


FIGURES = {draw.__name__: draw for draw in (ising, hopfield, sampling, learning, annealed)}


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG with a palette of 64 colours."""
    FigureCanvasAgg(figure)
    drawn = io.BytesIO()
    for axes in figure.axes:
        if axes.get_xticks().size:
            axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(drawn, dpi=100)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(drawn).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FIGURES)}; all by default")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the figures")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(FIGURES))
    if unknown:
        parser.error(f"expected names of {', '.join(FIGURES)}, got {', '.join(unknown)}")
    torch.set_num_threads(1)
    for name in options.names or FIGURES:
        with mpl.rc_context({"font.size": 9, "axes.titlesize": 9.5, "legend.frameon": False}):
            save(FIGURES[name](), options.out / f"{name}.png")


if __name__ == "__main__":
    main()
