"""Seconds of an epoch of persistent contrastive divergence, 784-500 on binarised MNIST, beside scikit-learn and rbms.

    pip install -c constraints.txt '.[peers]'
    python -m benchmarks.rbm_speed

All train the same machine from the same data at the same learning rate, one Gibbs step of their chains to an update.
In each repeat, every library trains anew for the same epochs, in turn; the pseudo-likelihood of the test images is
taken afterwards with one and the same function. scikit-learn has as many chains as images in a batch; the others take
`--chains`. It is measured in float32, its faster dtype, and in float64, which integer data become. Of rbms, the update
itself is called: its own loop writes to a file in every step.
"""

import argparse
import statistics as averages
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks import common
from benchmarks.common import Report, Skipped, Table, spread, verdict
from benchmarks.mnist_images import PIXELS, binarised, load_images
from harmonium.models import sparse_bits
from harmonium.models.energy_model import set_gradient, update
from harmonium.models.persistent_chains import PersistentChains
from harmonium.models.rbm import RBM
from harmonium.models.sparse_bits import SparseBits
from harmonium.models.units import Bernoulli

_HIDDEN = 500
_RATE = 0.05
_LIMITS = {128: 3.0, 1024: 6.0}
_OURS, _DENSE = "harmonium", "harmonium, dense products"
_SKLEARN, _SKLEARN64, _RBMS = "scikit-learn, float32", "scikit-learn, float64", "rbms"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What every library is given."""

    images: Tensor
    """Training images (n, 784) of zeros and ones, float32."""

    batch: int
    """Images in a batch."""

    chains: int
    """Persistent chains of those that let one choose."""

    epochs: int
    """Passes over the images."""

    seed: int
    """Of all randomness."""

    rate_of_rbms: float
    """Length of each of rbms' updates: it divides gradients by their norms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How one library did."""

    seconds: float
    """Of one epoch, the mean over all of them."""

    preparation: float
    """Seconds before the first epoch that belong to the training."""

    pseudo_likelihood: float
    """Of the test images, in nats."""


Trained = tuple[Tensor, Tensor, Tensor]
"""Weight (784, hidden), visible and hidden bias of a trained machine."""


def of_harmonium(task: Task, sparse: bool = True) -> Iterator[Trained]:
    """Train with this library: yields before the first epoch, and after each."""
    generator = torch.Generator().manual_seed(task.seed)
    rbm = RBM(Bernoulli(size=PIXELS), Bernoulli(size=_HIDDEN)).initialise(generator)
    dense: Sequence[Tensor] = task.images.split(task.batch)  # type: ignore[no-untyped-call]
    batches = [SparseBits.of(v) for v in dense] if sparse else []
    chains = PersistentChains(particles=_coins(task, generator))
    optimiser = torch.optim.SGD(rbm.parameters(), lr=_RATE, foreach=True)
    result = rbm.weight, rbm.visible_parameters["bias"], rbm.hidden_parameters["bias"]
    yield result
    for _ in range(task.epochs):
        for step in torch.randperm(len(dense), generator=generator).tolist():
            with torch.no_grad():
                chains = chains.advance(rbm, generator)
            positive = sparse_bits.statistics(rbm, batches[step]) if sparse else rbm.statistics(dense[step])
            set_gradient(rbm, positive, rbm.statistics(chains.particles))
            update(rbm, optimiser, step)
        yield result


def of_scikit_learn(task: Task, dtype: str = "float32") -> Iterator[Trained]:
    """Train with scikit-learn's `BernoulliRBM`."""
    try:
        from sklearn.neural_network import BernoulliRBM
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise Skipped("scikit-learn is not installed; pip install scikit-learn") from error
    x = task.images.numpy().astype(dtype, copy=False)
    machine = BernoulliRBM(
        n_components=_HIDDEN, learning_rate=_RATE, batch_size=task.batch, n_iter=task.epochs, random_state=task.seed
    )
    yield torch.zeros(PIXELS, _HIDDEN), torch.zeros(PIXELS), torch.zeros(_HIDDEN)
    with threadpool_limits(torch.get_num_threads()):
        machine.fit(x)
    found = machine.components_.T, machine.intercept_visible_, machine.intercept_hidden_
    weight, visible, hidden = (torch.from_numpy(np.ascontiguousarray(part)).float() for part in found)
    yield weight, visible, hidden


def of_rbms(task: Task) -> Iterator[Trained]:
    """Train with rbms' `fit_batch_pcd`, without centring, as the others."""
    try:
        from rbms.bernoulli_bernoulli.classes import BBRBM
        from rbms.training.pcd import fit_batch_pcd
    except ImportError as error:
        raise Skipped("rbms is not installed; pip install rbms") from error
    generator = torch.manual_seed(task.seed)  # rbms draws from torch's own
    weight = 0.01 * torch.randn(PIXELS, _HIDDEN)
    machine = BBRBM(weight_matrix=weight, vbias=torch.zeros(PIXELS), hbias=torch.zeros(_HIDDEN))
    machine.init_grad()
    chains = machine.init_chains(num_samples=task.chains, start_v=_coins(task, generator))
    optimiser = torch.optim.SGD(machine.parameters(), lr=task.rate_of_rbms, maximize=True, foreach=True)
    result = machine.weight_matrix, machine.vbias, machine.hbias
    ones = torch.ones(task.batch, 1)
    yield result
    with torch.no_grad():
        for _ in range(task.epochs):
            for rows in torch.randperm(len(task.images)).split(task.batch):  # type: ignore[no-untyped-call]
                optimiser.zero_grad(set_to_none=False)
                data = task.images[rows], ones[: len(rows)]
                chains, _ = fit_batch_pcd(data, chains, machine, gibbs_steps=1, beta=1.0, centered=False)
                optimiser.step()
            yield result


def _coins(task: Task, generator: torch.Generator) -> Tensor:
    """Where all chains start: scikit-learn's hidden units at zero make of small weights the same."""
    return torch.randint(2, (task.chains, PIXELS), generator=generator).float()


LIBRARIES: dict[str, Callable[[Task], Iterator[Trained]]] = {
    _OURS: of_harmonium,
    _DENSE: lambda task: of_harmonium(task, sparse=False),
    _SKLEARN: of_scikit_learn,
    _SKLEARN64: lambda task: of_scikit_learn(task, "float64"),
    _RBMS: of_rbms,
}


def timed(library: Callable[[Task], Iterator[Trained]], task: Task, test: Tensor) -> Run:
    """Train, and judge what came of it."""
    begin = time.perf_counter()
    training = library(task)
    trained = next(training)
    ready = time.perf_counter()
    for after in training:
        trained = after
    seconds = (time.perf_counter() - ready) / task.epochs
    quality = pseudo_likelihood(trained, test, torch.Generator().manual_seed(0))
    return Run(seconds=seconds, preparation=ready - begin, pseudo_likelihood=quality)


@torch.no_grad()
def pseudo_likelihood(trained: Trained, v: Tensor, generator: torch.Generator) -> float:
    """Mean over images of 784 log p(v_i | all other pixels) in nats, i drawn for each (scikit-learn's measure)."""
    weight, visible, hidden = trained

    def free_energy(x: Tensor) -> Tensor:
        return -(x @ visible) - torch.nn.functional.softplus(x @ weight + hidden).sum(1)

    pixel = torch.randint(v.shape[1], (len(v), 1), generator=generator)
    turned = v.scatter(1, pixel, 1 - v.gather(1, pixel))
    difference = free_energy(turned) - free_energy(v)
    return float(v.shape[1] * torch.nn.functional.logsigmoid(difference).mean())


def measure(options: argparse.Namespace) -> Report:
    """All libraries in turn, as often as was asked for."""
    torch.set_num_threads(options.threads)
    noise = torch.Generator().manual_seed(0)
    train, test = (binarised(images, "threshold", noise) for images in load_images())
    names, notes = list(LIBRARIES), []
    found: dict[int, dict[str, list[Run]]] = {batch: {} for batch in options.batches}
    for batch in options.batches:
        for repeat in range(options.repeats):
            task = Task(
                images=train[: options.images],
                batch=batch,
                chains=options.chains,
                epochs=options.epochs,
                seed=repeat,
                rate_of_rbms=options.rate_of_rbms,
            )
            for name in tuple(names):
                try:
                    run = timed(LIBRARIES[name], task, test)
                except Skipped as reason:
                    notes.append(f"{name} was left out: {reason}.")
                    names.remove(name)
                    continue
                found[batch].setdefault(name, []).append(run)
                print(f"batch {batch}, repeat {repeat}: {name}, {run.seconds:.2f} s", flush=True)
    tables = [_table(batch, runs) for batch, runs in found.items()]
    for batch, runs in found.items():
        notes += _verdicts(batch, runs)
    notes.append(
        f"{options.epochs} epochs each, learning rate {_RATE}, {options.chains} chains where they can be chosen, "
        f"{torch.get_num_threads()} threads; {options.repeats} repeats: median (range)."
    )
    measured = {
        str(batch): {name: [asdict(r) for r in rs] for name, rs in runs.items()} for batch, runs in found.items()
    }
    return Report(name="rbm_speed", tables=tables, notes=notes, measured=measured)


def ratios(runs: dict[str, list[Run]], peer: str) -> list[float]:
    """How many times as long the peer took, repeat by repeat."""
    return [theirs.seconds / ours.seconds for theirs, ours in zip(runs[peer], runs[_OURS], strict=True)]


def _table(batch: int, runs: dict[str, list[Run]]) -> Table:
    rows = [
        (
            name,
            spread([run.seconds for run in mine]),
            spread([run.preparation for run in mine]),
            spread(ratios(runs, name)),
            spread([run.pseudo_likelihood for run in mine], 1),
        )
        for name, mine in runs.items()
    ]
    columns = ("library", "s / epoch", "s before the first", "times harmonium's", "pseudo-likelihood, nats")
    return Table(title=f"Batch {batch}", columns=columns, rows=tuple(rows))


def _verdicts(batch: int, runs: dict[str, list[Run]]) -> list[str]:
    limits = {_SKLEARN: _LIMITS.get(batch, 1.0), _RBMS: 1.0}
    ours = averages.median(run.pseudo_likelihood for run in runs[_OURS])
    notes = []
    for peer, limit in limits.items():
        if peer not in runs:
            continue
        ratio = averages.median(ratios(runs, peer))
        quality = ours - averages.median(run.pseudo_likelihood for run in runs[peer])
        holds = verdict(ratio >= limit)
        notes.append(
            f"Batch {batch}: {ratio:.1f} times as fast as {peer}, {quality:+.1f} nats; {limit} are asked for: {holds}."
        )
    return notes


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = common.parser(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--batches", type=int, nargs="+", default=[128, 1024], help="images in a batch")
    add("--chains", type=int, default=32, help="persistent chains")
    add("--epochs", type=int, default=3, help="of each training")
    add("--images", type=int, default=60_000, help="training images")
    add("--repeats", type=int, default=5, help="of every measurement")
    add("--rate-of-rbms", type=float, default=0.5, help="length of rbms' updates")
    add("--threads", type=int, default=2, help="of torch and of numpy's products")
    common.run(measure, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
