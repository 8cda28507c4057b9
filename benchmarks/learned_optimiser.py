"""Whether an optimiser that was learned trains RBMs by CD-1 better than SGD and Adam do, and what it costs.

    python -m benchmarks.learned_optimiser

An LSTM learns to optimise on small machines: 7 × 7 pixels of MNIST's digits 0 to 4, 4 to 8 hidden units, 100 updates.
The learning rates of SGD and Adam are chosen on machines of the same kind; the LSTM is taken as it is, and with a
factor on what it puts out that is chosen like a rate. All are then tried on digits 5 to 9: on machines as practised,
for longer, with more hidden units, on larger images, and with both; at the rate from practice, and at the best in
hindsight. Another `--lesson-seed` makes another learned optimiser.

Log-likelihoods are exact, or pseudo-likelihoods where enumeration would take too long, and of the images that are
learned: optimisers are compared, not what machines make of unseen images. Seeds (images, first weights, noise) are the
same for all optimisers.
"""

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks import common
from benchmarks.common import Report, Table
from benchmarks.optimiser_problems import (
    LARGEST,
    PRACTICE,
    PROBLEMS,
    SIZE,
    Contender,
    Digits,
    Problem,
    contenders,
    gradient,
    practised,
    train,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """What one optimiser did with one problem at one learning rate."""

    contender: str
    """Its title."""

    rate: float
    """Learning rate."""

    curves: list[list[float]]
    """For each seed, log-likelihoods at equal distances from the start to the end, in nats."""

    def final(self) -> float:
        """Mean over the seeds at the end."""
        return float(np.mean([curve[-1] for curve in self.curves]))

    def mean(self) -> float:
        """Mean over seeds and way: by this the learned optimiser was taught, and rates are chosen."""
        return float(np.mean([curve[1:] for curve in self.curves]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What all optimisers did with one problem."""

    title: str
    """The problem's."""

    steps: int
    """Updates of each training."""

    runs: list[Runs]
    """Each optimiser at the rate that was best in practice; last the learned one as it is, and scaled."""

    hindsight: list[Runs]
    """The best hand-made optimiser and the learned one, at the rates that end best with this problem's first seed."""


def tried(digits: Digits, problem: Problem, contender: Contender, rate: float, seeds: Sequence[int]) -> Runs:
    """One optimiser at one rate."""
    curves = [train(digits, problem, contender, rate, seed) for seed in seeds]
    return Runs(contender=contender.title, rate=rate, curves=curves)


def solve(
    digits: Digits, problem: Problem, optimisers: Sequence[Contender], best: Sequence[float], seeds: int
) -> Outcome:
    """All optimisers at their rates from practice, and at the best of all rates."""
    numbers = range(min(seeds, problem.most_seeds))
    runs = [tried(digits, problem, one, rate, numbers) for one, rate in zip(optimisers, best, strict=True)]
    hindsight = []
    for group in (optimisers[:-2], optimisers[-1:]):
        attempts = [(one, rate) for one in group for rate in one.rates]
        ends = [tried(digits, replace(problem, marks=1), *attempt, numbers[:1]).final() for attempt in attempts]
        hindsight.append(tried(digits, problem, *attempts[int(np.argmax(ends))], numbers))
    print(f"{problem.title}: done", flush=True)
    return Outcome(title=problem.title, steps=problem.steps, runs=runs, hindsight=hindsight)


def milliseconds(digits: Digits, problem: Problem, optimisers: Sequence[Contender], repeats: int = 5) -> list[float]:
    """Processor time of CD-1's gradient and of each optimiser's step, the shortest of some."""
    generator = torch.Generator().manual_seed(0)
    rbm, v = digits.draw(problem, generator)
    steps: list[Callable[[], object]] = [lambda: gradient(rbm, v, generator)]
    steps += [one.make(rbm, 1e-3).step for one in optimisers]
    took = []
    for step in steps:
        step()
        seconds = []
        for _ in range(repeats):
            begin = time.process_time()
            step()
            seconds.append(time.process_time() - begin)
        took.append(1000 * min(seconds))
    return took


def likelihood_table(outcomes: Sequence[Outcome], title: str, value: Callable[[list[float]], float]) -> Table:
    """One number of each curve, averaged over the seeds, and by how much the learned optimiser is ahead."""
    rows = []
    for outcome in outcomes:
        found = [np.array([value(curve) for curve in run.curves]) for run in outcome.runs]
        hand_made, learned = (np.array([value(curve) for curve in run.curves]) for run in outcome.hindsight)
        start = np.mean([curve[0] for curve in outcome.runs[-1].curves])
        rows.append(
            (
                f"{outcome.title}, {outcome.steps} steps",
                *(str(len(learned)), f"{start:.2f}", *(f"{values.mean():.2f}" for values in found)),
                _difference(found[-2], max(found[:-2], key=lambda values: float(values.mean()))),
                f"{hand_made.mean():.2f} ({outcome.hindsight[0].contender}, {outcome.hindsight[0].rate:g})",
                f"{learned.mean():.2f} ({outcome.hindsight[1].rate:g})",
                _difference(learned, hand_made),
            )
        )
    rates = [f"{run.contender} ({run.rate:g})" for run in outcomes[0].runs]
    last = ("learned − best", "in hindsight: hand-made", "learned, scaled", "difference")
    columns = ("problem", "seeds", "start", *rates, *last)
    return Table(title=title, columns=columns, rows=tuple(rows))


def _difference(one: NDArray[np.float64], other: NDArray[np.float64]) -> str:
    """Mean and standard error over the seeds, which the two have in common."""
    gap = one - other
    error = gap.std(ddof=1) / math.sqrt(len(gap)) if len(gap) > 1 else math.nan
    return f"{gap.mean():+.2f} ± {error:.2f}"


def draw_curves(outcomes: Sequence[Outcome], path: Path) -> None:
    """Mean log-likelihood against steps, a panel for each problem; dashed at the best rates in hindsight."""
    figure = Figure(figsize=(4 * len(outcomes), 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    for column, outcome in enumerate(outcomes, start=1):
        axes = figure.add_subplot(1, len(outcomes), column)
        for run, style in [(run, "-") for run in outcome.runs] + [(run, "--") for run in outcome.hindsight]:
            curve = np.mean(run.curves, axis=0)
            colour = f"C{[other.contender for other in outcome.runs].index(run.contender)}"
            steps, label = np.linspace(0, outcome.steps, len(curve)), f"{run.contender}, {run.rate:g}"
            axes.plot(steps, curve, style, color=colour, label=label)
        # Trainings that break down would make the others a line at the top.
        start, best = outcome.runs[-1].curves[0][0], outcome.hindsight[0].final()
        axes.set_ylim(bottom=max(axes.get_ylim()[0], start - abs(best - start)))
        axes.set(title=outcome.title, xlabel="steps", ylabel="log-likelihood in nats")
        axes.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def measure(options: argparse.Namespace) -> Report:
    """Teach, choose rates, compare."""
    torch.set_num_threads(1)
    digits = Digits.load()
    shorter = {name: replace(one, steps=max(2, round(one.steps * options.effort))) for name, one in PROBLEMS.items()}
    practice = replace(PRACTICE, steps=max(2, round(PRACTICE.steps * options.effort)))
    tasks, begin = max(1, round(options.tasks * options.effort)), time.process_time()
    rule = practised(digits, tasks, practice, options.lesson_seed)
    lessons = time.process_time() - begin
    options.out.mkdir(parents=True, exist_ok=True)
    torch.save(rule.state_dict(), options.out / "learned_optimiser.pt")
    optimisers = contenders(rule)
    grids = [[tried(digits, practice, one, rate, range(options.seeds)) for rate in one.rates] for one in optimisers]
    best = [max(grid, key=Runs.mean).rate for grid in grids]
    problems = [shorter[name] for name in options.problems]
    outcomes = [solve(digits, problem, optimisers, best, options.seeds) for problem in problems]
    draw_curves(outcomes, options.out / "learned_optimiser.png")
    steppers = [one for one in optimisers[:-1] if not one.falling]
    costs = {one.title: milliseconds(digits, one, steppers) for one in [*problems, LARGEST]}
    return report(outcomes, grids, costs, f"The {tasks} lessons took {lessons:.0f} s of processor time.")


def report(
    outcomes: Sequence[Outcome], grids: Sequence[Sequence[Runs]], costs: Mapping[str, Sequence[float]], lessons: str
) -> Report:
    """What was measured, as tables."""
    tables = [
        likelihood_table(outcomes, "Log-likelihood after the last step, nats", lambda curve: curve[-1]),
        likelihood_table(outcomes, "Mean log-likelihood over all steps, nats", lambda curve: float(np.mean(curve[1:]))),
        rates_table(grids),
        cost_table(costs),
    ]
    notes = [
        lessons,
        f"The learned optimiser keeps {4 * SIZE} numbers for each parameter, Adam 2, SGD with momentum 1.",
        "In brackets the learning rate, or the factor on what the learned optimiser puts out: the one with the best "
        "mean log-likelihood in practice or, in hindsight, the one that ends best with the first seed of the problem.",
        "`learned − best` is the learned optimiser as it is against the best hand-made one, both from practice.",
        "± is the standard error of the difference over seeds, which share images, first weights and noise.",
        "Likelihoods are of the images that are learned, and exact except where the row says pseudo-likelihood.",
    ]
    measured = {
        "outcomes": [asdict(outcome) for outcome in outcomes],
        "practice": [asdict(run) for grid in grids for run in grid],
        "milliseconds": costs,
    }
    return Report(name="learned_optimiser", tables=tables, notes=notes, measured=measured)


def rates_table(grids: Sequence[Sequence[Runs]]) -> Table:
    """What learning rates were chosen by."""
    rows = tuple(
        (run.contender, f"{run.rate:g}", f"{run.mean():.3f}", f"{run.final():.3f}") for grid in grids for run in grid
    )
    columns = ("optimiser", "rate", "mean over all steps", "after the last step")
    return Table(title="Practice: digits 0 to 4, log-likelihood in nats", columns=columns, rows=rows)


def cost_table(costs: Mapping[str, Sequence[float]]) -> Table:
    """Processor time of a step's parts."""
    rows = tuple((title, *(f"{value:.2f}" for value in values)) for title, values in costs.items())
    columns = ("problem", "gradient by CD-1", "step of SGD", "step of Adam", "step of the learned optimiser")
    return Table(title="Processor time in ms, one thread", columns=columns, rows=rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = common.parser(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS), help="rows of the tables")
    parser.add_argument("--tasks", type=int, default=400, help="lessons of the learned optimiser")
    parser.add_argument("--lesson-seed", type=int, default=1, help="of the optimiser's first weights and lessons")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each machine by each optimiser")
    common.run(measure, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
