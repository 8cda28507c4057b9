"""Test log-likelihoods of Boltzmann machines on binarised MNIST, beside the published ones.

    python -m benchmarks.mnist_likelihood --models rbm-cd25 rbm-pcd dbm --minutes 60

Trains what is not trained yet, with a checkpoint after each epoch; run it again to go on where it stopped. Then
estimates each log Z forward (AIS, which flatters if it errs) and in reverse from samples of the model (which slanders),
and the log-likelihood conservatively by RAISE. With these log Z, a DBM's values are variational lower bounds; RAISE
weighs its draws from mean field, bounds the likelihood itself, and may therefore lie above.

Grey values are binarised as in the source of each published number: drawn with the pixel as probability, the training
images anew in each epoch and the test images once, or above 0.5. Likelihoods of the two do not compare.
"""

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import common
from benchmarks.common import Report, Table
from benchmarks.mnist_figures import draw_figure
from benchmarks.mnist_images import binarised, load_images
from benchmarks.mnist_runs import RECIPES, Effort, train_recipe
from harmonium.models.annealing_path import Path as AnnealingPath
from harmonium.models.annealing_path import base_rates, temperatures
from harmonium.models.dbm import DBM, mean_field
from harmonium.models.layer_chain import LayerChain, States
from harmonium.models.partition_function import ais, raise_log_likelihood, reverse_ais

_ROWS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Likelihoods:
    """What was estimated of one machine, in nats."""

    forward: float
    """Mean test log-likelihood, or its bound, with log Z by AIS."""

    forward_error: float
    """Standard error of that log Z."""

    reverse: float
    """The same with log Z by AIS from samples of the model."""

    conservative: float
    """Mean by RAISE: `forward` plus the mean difference on the images that RAISE was run on."""

    conservative_error: float
    """Standard error of that difference."""

    train: float
    """As `forward`, of as many training images."""

    log_z: float
    """By forward AIS."""

    effective_chains: float
    """Of forward AIS."""

    training_seconds: float
    """Of all layers and epochs."""

    evaluation_seconds: float
    """Of all estimates."""


def log_unnormalised(dbm: DBM, v: Tensor) -> tuple[Tensor, Tensor]:
    """Log p(v) + log Z, or its bound, of each row, and the posterior means of the lowest hidden layer."""
    values, means = [], []
    for rows in v.split(_ROWS):  # type: ignore[no-untyped-call]
        posterior = mean_field(dbm.chain(), rows, iterations=100, tolerance=1e-4)
        values.append(dbm.lower_bound(rows, posterior.means, 0.0))
        means.append(posterior.means[0])
    return torch.cat(values), torch.cat(means)


@torch.no_grad()
def evaluate(dbm: DBM, train: Tensor, test: Tensor, options: argparse.Namespace, seconds: float) -> Likelihoods:
    """All estimates of one machine."""
    begin, generator = time.perf_counter(), torch.Generator().manual_seed(2)
    dbm = dbm.double() if options.evaluate_in == "float64" else dbm.float()
    train, test = (v.to(dbm.chain().dtype) for v in (train, test))
    chain, deep = dbm.chain(), len(dbm.units) > 2
    path = AnnealingPath(chain=chain, base=base_rates(chain, train), parity=1 if deep else 0)
    betas = temperatures(options.temperatures, options.path)
    forward = ais(path, betas, options.chains, generator)
    backward = reverse_ais(path, betas, samples(chain, train, options, generator)[path.parity :: 2], generator)
    values, means = log_unnormalised(dbm, test)
    difference = _raise_difference(path, betas, test, values - forward.value, means, options, generator)
    return Likelihoods(
        forward=float(values.mean()) - forward.value,
        forward_error=forward.standard_error,
        reverse=float(values.mean()) - backward.value,
        conservative=float(values.mean()) - forward.value + float(difference.mean()),
        conservative_error=float(difference.std()) / math.sqrt(len(difference)),
        train=float(log_unnormalised(dbm, train[: options.test_images])[0].mean()) - forward.value,
        log_z=forward.value,
        effective_chains=forward.effective_chains,
        training_seconds=seconds,
        evaluation_seconds=time.perf_counter() - begin,
    )


def samples(chain: LayerChain, train: Tensor, options: argparse.Namespace, generator: torch.Generator) -> States:
    """Chains from training images after `--burn-in` steps of Gibbs sampling: samples as far as that mixes."""
    v = train[torch.randperm(len(train), generator=generator)[: options.chains]]
    states: States = (v, *mean_field(chain, v).means)
    for _ in range(options.burn_in):
        states = chain.gibbs_step(states, generator)
    return states


def _raise_difference(
    path: AnnealingPath,
    betas: Sequence[float],
    test: Tensor,
    forward: Tensor,
    means: Tensor,
    options: argparse.Namespace,
    generator: torch.Generator,
) -> Tensor:
    """RAISE minus the forward estimate of some test images."""
    rows = torch.randperm(len(test), generator=generator)[: options.raise_images]
    posterior = (means[rows],) if path.parity == 1 else None
    return raise_log_likelihood(path, betas, test[rows], options.raise_chains, generator, posterior) - forward[rows]


def products_of(option: str) -> torch.dtype:
    """The dtype asked for; for `auto`, bfloat16 where this processor takes products in it 1.5 times faster, or more."""
    if option != "auto":
        return torch.bfloat16 if option == "bfloat16" else torch.float32
    took = {dtype: _seconds_of_product(dtype) for dtype in (torch.float32, torch.bfloat16)}
    return torch.bfloat16 if 1.5 * took[torch.bfloat16] < took[torch.float32] else torch.float32


def _seconds_of_product(dtype: torch.dtype) -> float:
    v, weight = torch.ones(100, 784, dtype=dtype), torch.ones(784, 500, dtype=dtype)
    took = []
    for _ in range(20):
        begin = time.perf_counter()
        (v @ weight) @ weight.T
        took.append(time.perf_counter() - begin)
    return min(took)


def table(found: dict[str, Likelihoods]) -> Table:
    """Ours beside the published numbers."""
    rows = [
        (
            RECIPES[name].title,
            RECIPES[name].binarisation,
            RECIPES[name].published,
            f"{ours.forward:.2f} ± {ours.forward_error:.2f}",
            f"{ours.reverse:.2f}",
            f"{ours.conservative:.2f} ± {ours.conservative_error:.2f}",
            f"{ours.train:.2f}",
            f"{ours.training_seconds / 60:.0f} + {ours.evaluation_seconds / 60:.0f} min",
        )
        for name, ours in found.items()
    ]
    columns = ("model", "binary by", "published", "ours, forward", "reverse", "RAISE", "on training images", "time")
    return Table(title="Mean test log-likelihood in nats", columns=columns, rows=tuple(rows))


def verdicts(found: dict[str, Likelihoods]) -> list[str]:
    """Where the two directions disagree."""
    notes = [
        "Forward AIS flatters where it errs, RAISE slanders; the truth lies between them, up to their error bars.",
        "Reverse AIS starts at training images and is as good as Gibbs sampling forgets them; RAISE needs no samples.",
        "Forward and reverse values of DBMs are variational lower bounds; RAISE, which weighs its draws from mean "
        "field, bounds the likelihood itself and may lie above.",
    ]
    for name, ours in found.items():
        for direction, value in (("reverse AIS", ours.reverse), ("RAISE", ours.conservative)):
            if ours.forward - value > 1:
                by = f"{ours.forward - value:.1f} nats by {direction}"
                notes.append(f"{RECIPES[name].title}: the forward estimate may flatter, up to {by}.")
        if ours.effective_chains < 10:
            few = f"{ours.effective_chains:.1f} chains decide forward AIS"
            notes.append(f"{RECIPES[name].title}: {few}; distrust its error bar.")
    return notes


def measure(options: argparse.Namespace) -> Report:
    """Train, evaluate and draw what was asked for, as far as time allows."""
    train, test = load_images()
    effort = Effort(
        epochs=options.epochs,
        batches=options.batches,
        deadline=time.monotonic() + 60 * options.minutes,
        products=products_of(options.products),
    )
    folder: Path = options.out / "mnist_likelihood"
    found, notes = {}, [f"Matrix products of training in {str(effort.products).removeprefix('torch.')}."]
    for name in options.models:
        trained = train_recipe(name, train, folder, effort)
        if trained is None:
            notes.append(f"{RECIPES[name].title}: still in training; run again to go on.")
            continue
        dbm, seconds = trained
        how, generator = RECIPES[name].binarisation, torch.Generator().manual_seed(0)
        v, held_out = binarised(train, how, generator), binarised(test, how, generator)[: options.test_images]
        if not options.only_figures:
            found[name] = evaluate(dbm, v, held_out, options, seconds)
        draw_figure(dbm.float(), v[:8].float(), folder / f"{name}.png", options.burn_in)
    tables = [table(found)] if found else []
    measured = {name: asdict(ours) for name, ours in found.items()}
    return Report(
        name="mnist_likelihood", tables=tables, notes=[*notes, *(verdicts(found) if found else [])], measured=measured
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = common.parser(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--models", nargs="+", choices=RECIPES, default=["rbm-cd25", "rbm-pcd", "dbm"], help="rows of the table")
    add("--epochs", type=int, help="of every training, in place of the recipe's")
    add("--batches", type=int, help="in an epoch, to try the script; all by default")
    add("--minutes", type=float, default=math.inf, help="after which no epoch begins")
    add("--products", choices=("auto", "float32", "bfloat16"), default="auto", help="dtype of products in training")
    add("--evaluate-in", choices=("float32", "float64"), default="float32", help="dtype of the estimates")
    add("--temperatures", type=int, default=10_000, help="steps from β = 0 to 1")
    add("--path", choices=("linear", "geometric", "piecewise"), default="linear", help="how β rises")
    add("--only-figures", action="store_true", help="draw the machines, without the estimates")
    add("--chains", type=int, default=100, help="of AIS, in each direction")
    add("--burn-in", type=int, default=10_000, help="Gibbs steps before reverse AIS and samples")
    add("--test-images", type=int, default=10_000, help="that likelihoods are averaged over")
    add("--raise-images", type=int, default=100, help="that RAISE is run on")
    add("--raise-chains", type=int, default=5, help="of RAISE for each of them")
    common.run(measure, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
