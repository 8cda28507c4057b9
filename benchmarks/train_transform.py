"""Train the context networks of the `transform` preset on scenes of the development data.

    python -m benchmarks.train_transform --leave-out A --steps 2200 --out rate-distortion/models/fold_A.harmonium

A model is fitted to one sensor, as `harmonium fit --codec transform` does from the packaged one, by

    python -m benchmarks.train_transform --start MODEL --scenes NAME... --rate 3e-4 --steps 250 --out FITTED

Run the same command again to go on where it stopped: the networks, the optimiser's state and the step are kept beside
the output every `--every` steps. A training that was cut gives the same networks as one that was not, on one machine
and with one number of threads. `--from STATE.pt` trains nothing and writes the model of networks that are there.
"""

import argparse
import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import transform_models, transform_scenes
from benchmarks.common import Skipped
from harmonium.errors import UsageError
from harmonium.models import packaged
from harmonium.models.context_training import Schedule, Source, new_networks, train

_REPORTED = 100
"""Steps whose mean is printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What makes a training, and all that its result depends on but the machine."""

    steps: int
    """Number of steps."""

    seed: int
    """Of the first weights and of the crops."""

    trunk: int
    """Channels of the trunk."""

    head: int
    """Channels of the heads."""

    scenes: tuple[str, ...]
    """What is trained on."""

    left_out: str | None
    """The fold that is not; None where there is none."""

    rate: float
    """Learning rate at its highest."""

    start: str | None
    """SHA-256 of the networks that it goes on from; None for random ones."""


@dataclass(slots=True, kw_only=True)
class Checkpoint:
    """How far a training has come."""

    step: int
    """Steps that were taken."""

    networks: dict[str, Tensor]
    """State of the networks."""

    optimiser: dict[str, Any]
    """State of the optimiser."""

    bits: list[float]
    """Bits for each coefficient, of all steps."""


# --- checkpoints ---------------------------------------------------------------------------------------------------


def load_checkpoint(path: Path, settings: Settings) -> Checkpoint | None:
    """What was kept there; None where nothing was.

    Raises
    ------
    UsageError
        If it is of another training.
    """
    if not path.is_file():
        return None
    kept = torch.load(path, weights_only=True)
    if kept.pop("settings") != _plain(settings):
        raise UsageError(f"{path} was kept of a training with other settings than {settings}; move it away")
    return Checkpoint(**kept)


def save_checkpoint(path: Path, settings: Settings, found: Checkpoint) -> None:
    """Replace what was kept there; a file that is there is whole."""
    new = path.with_name(f"{path.name}.new")
    torch.save({"settings": _plain(settings), **{name: getattr(found, name) for name in Checkpoint.__slots__}}, new)
    new.replace(path)


def _plain(settings: Settings) -> dict[str, Any]:
    return asdict(settings)


# --- training ------------------------------------------------------------------------------------------------------


def training(
    networks: nn.ModuleList,
    sources: Sequence[Source],
    settings: Settings,
    path: Path,
    *,
    every: int,
    device: torch.device,
) -> Iterator[list[float]]:
    """Train in place from what was kept on, yielding the bits for each coefficient of all steps so far."""
    kept = load_checkpoint(path, settings)
    bits = kept.bits if kept is not None else []
    if kept is not None:
        networks.load_state_dict(kept.networks)
    optimiser: dict[str, Any] = {}

    def keep(_: int, state: dict[str, Any]) -> None:
        optimiser.update(state)

    schedule = Schedule(steps=settings.steps, learning_rate=settings.rate)
    steps = train(
        networks.to(device),
        sources,
        schedule,
        seed=settings.seed,
        device=device,
        first_step=kept.step if kept is not None else 0,
        optimiser_state=kept.optimiser if kept is not None else None,
        keep=keep,
    )
    for found in steps:
        bits.append(found)
        if len(bits) % every == 0 or len(bits) == settings.steps:
            new = Checkpoint(step=len(bits), networks=networks.state_dict(), optimiser=optimiser, bits=bits)
            save_checkpoint(path, settings, new)
        yield bits


def record(settings: Settings, bits: Sequence[float]) -> dict[str, Any]:
    """JSON values for the model file: no times, so that the same training gives the same bytes."""
    last = bits[-_REPORTED:]
    return asdict(settings) | {
        "scenes": list(settings.scenes),
        "sources": list(transform_scenes.SOURCES),
        "bits_per_coefficient": round(sum(last) / len(last), 4) if last else None,
    }


def run(options: argparse.Namespace) -> None:
    """Train or load, and write the model."""
    settings = Settings(
        steps=options.steps,
        seed=options.seed,
        trunk=options.trunk,
        head=options.head,
        scenes=tuple(options.scenes or transform_scenes.training_scenes(options.leave_out)),
        left_out=options.leave_out,
        rate=options.rate,
        start=None if options.start is None else hashlib.sha256(options.start.read_bytes()).hexdigest(),
    )
    networks = new_networks(options.seed, options.trunk, options.head)
    if options.start is not None:
        networks.load_state_dict(packaged.load_networks(options.start).state_dict())
    options.out.parent.mkdir(parents=True, exist_ok=True)
    # Rounding takes the ranges of activations from the very scenes that are trained on.
    sources = [transform_scenes.source(name) for name in settings.scenes]
    bits: list[float] = []
    if options.state is not None:
        networks.load_state_dict(torch.load(options.state, weights_only=True, map_location="cpu"))
    else:
        path = options.out.with_name(f"{options.out.name}.checkpoint")
        begun, first = time.monotonic(), None
        device = torch.device(options.device)
        for bits in training(networks, sources, settings, path, every=options.every, device=device):
            first = len(bits) - 1 if first is None else first
            if len(bits) % _REPORTED == 0 or len(bits) == settings.steps:
                last = bits[-_REPORTED:]
                pace = (time.monotonic() - begun) / (len(bits) - first)
                print(f"step {len(bits)}: {sum(last) / len(last):.4f} bits, {pace:.2f} s a step", flush=True)
        if not bits and (kept := load_checkpoint(path, settings)) is not None:
            bits = kept.bits  # it had ended before
    data = transform_models.finish(networks.cpu(), sources, options.seed, record(settings, bits))
    new = options.out.with_name(f"{options.out.name}.new")
    new.write_bytes(data)
    new.replace(options.out)
    print(f"{options.out}: {len(data)} bytes")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="the model")
    add("--leave-out", choices=tuple(transform_scenes.FOLDS), help="fold whose scenes are not trained on [none]")
    add("--scenes", nargs="+", choices=tuple(transform_scenes.FILES), help="train on these only")
    add("--steps", type=int, default=2200, help="of the training [2200]")
    add("--rate", type=float, default=Schedule(steps=1).learning_rate, help="highest learning rate [%(default)s]")
    add("--start", type=Path, help="model whose networks the training goes on from [none]")
    add("--seed", type=int, default=0, help="of weights and crops [0]")
    add("--trunk", type=int, default=48, help="channels of the trunk [48]")
    add("--head", type=int, default=32, help="channels of the heads [32]")
    add("--every", type=int, default=100, help="steps after which all is kept [100]")
    add("--threads", type=int, default=1, help="of torch [1]")
    add("--device", default="cpu", help="where to train [cpu]")
    add("--from", dest="state", type=Path, help="networks to write the model of, instead of training")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        run(options)
    except Skipped as reason:
        raise SystemExit(f"nothing was trained: {reason}") from reason


if __name__ == "__main__":
    main()
