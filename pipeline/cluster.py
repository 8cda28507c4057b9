"""Where work runs: in this process, on workers of this machine, or on a Dask cluster that runs already.

Everything else in harmonium hands plain functions and their arguments to an `Executor` and does not know which it is.
This is the only module that knows `distributed`.
"""

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol

import dask
from dask.system import CPU_COUNT

from harmonium.errors import ClusterError, UsageError
from harmonium.pipeline.worker_processes import ENVIRONMENT, interrupts_held_back, main_module_hidden

CONNECT_SECONDS = 10
"""How long a scheduler that runs already may take to answer, at first and after a connection broke."""

_VERSION = version("harmonium")

TaskReport = Callable[..., None]
"""Called inside a task with plain values; they reach the caller of `Executor.reporter`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one task."""

    index: int
    """Position of its arguments in the sequence that was handed in."""

    result: Any = None
    """What it returned."""

    error: Exception | None = None
    """What it raised instead."""


class Executor(Protocol):
    """Runs plain functions somewhere."""

    workers: int
    """Tasks that run at the same time."""

    description: str
    """For people."""

    def map(
        self, function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], *, gpu: bool = False
    ) -> Iterator[Outcome]:
        """Outcomes of `function(*a)` as they come; no more tasks are under way than keep the workers busy.

        With `gpu`, tasks take a GPU slot each where the cluster's workers declare the Dask resource GPU.
        """

    def fan_in(self, jobs: Iterable["FanIn"], *, gpu: bool = False) -> Iterator[Outcome]:
        """Outcomes of jobs as they come; what their parts return stays where it was made until the whole takes it."""

    def reporter(self, listen: Callable[..., None]) -> TaskReport:
        """A function that tasks can be handed: calling it in a task calls `listen` in this process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FanIn:
    """Many tasks whose results one more task takes: `whole([part(*a) for a in arguments], *extra)`."""

    part: Callable[..., Any]
    """The function of the many."""

    arguments: Sequence[tuple[Any, ...]]
    """Their arguments."""

    whole: Callable[..., Any]
    """The function of the one."""

    extra: tuple[Any, ...] = ()
    """What it takes beside their results."""


class InProcess:
    """Runs one task after the other, here."""

    workers = 1
    description = "this process"

    def map(
        self,
        function: Callable[..., Any],
        arguments: Iterable[tuple[Any, ...]],
        *,
        gpu: bool = False,
    ) -> Iterator[Outcome]:
        """See `Executor.map`."""
        for index, each in enumerate(arguments):
            try:
                yield Outcome(index=index, result=function(*each))
            except Exception as error:  # noqa: BLE001 - handed on: what one task raises is for its caller to judge
                yield Outcome(index=index, error=error)

    def fan_in(self, jobs: Iterable[FanIn], *, gpu: bool = False) -> Iterator[Outcome]:
        """See `Executor.fan_in`."""
        return self.map(_whole, ((job,) for job in jobs), gpu=gpu)

    def reporter(self, listen: Callable[..., None]) -> TaskReport:
        """See `Executor.reporter`."""
        return listen


def _whole(job: FanIn) -> Any:
    return job.whole([job.part(*each) for each in job.arguments], *job.extra)


@dataclass(frozen=True)
class _EventReport:
    """Sends what a task reports through the scheduler."""

    topic: str

    def __call__(self, *values: Any) -> None:
        _distributed().get_worker().log_event(self.topic, list(values))


class OnDask:
    """Runs tasks on the workers of a Dask cluster."""

    def __init__(self, client: Any, description: str) -> None:
        self._client = client
        self.description = description
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        self.workers = sum(worker["nthreads"] for worker in workers)
        self._has_gpu_slots = any("GPU" in worker["resources"] for worker in workers)

    def map(
        self, function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], *, gpu: bool = False
    ) -> Iterator[Outcome]:
        """See `Executor.map`."""
        source = enumerate(arguments)
        positions: dict[str, int] = {}
        running = _distributed().as_completed(loop=self._client.loop)
        while True:
            # One task more than fits each worker waits beside it, so that none is idle between two.
            while len(positions) < 2 * self.workers and (following := next(source, None)) is not None:
                index, each = following
                future = self._submit(function, *each, gpu=gpu)
                positions[future.key] = index
                running.add(future)
            if not positions:
                return
            future = next(running)
            yield _outcome(positions.pop(future.key), future)

    def fan_in(self, jobs: Iterable[FanIn], *, gpu: bool = False) -> Iterator[Outcome]:
        """See `Executor.fan_in`."""
        positions: dict[str, int] = {}
        running = _distributed().as_completed(loop=self._client.loop)
        for index, job in enumerate(jobs):
            parts = [self._submit(job.part, *each) for each in job.arguments]
            future = self._submit(job.whole, parts, *job.extra, gpu=gpu)
            positions[future.key] = index
            running.add(future)
        for future in running:
            yield _outcome(positions.pop(future.key), future)

    def reporter(self, listen: Callable[..., None]) -> TaskReport:
        """See `Executor.reporter`."""
        topic = f"harmonium-{os.urandom(6).hex()}"
        self._client.subscribe_topic(topic, lambda event: listen(*event[1]))
        return _EventReport(topic)

    def _submit(self, function: Callable[..., Any], *arguments: Any, gpu: bool = False) -> Any:
        resources = {"GPU": 1} if gpu and self._has_gpu_slots else None
        return self._client.submit(function, *arguments, pure=False, resources=resources)


def _outcome(index: int, future: Any) -> Outcome:
    try:
        return Outcome(index=index, result=future.result())
    except _distributed().KilledWorker as error:
        message = (
            f"A task took down one worker after the other, the last was {error.last_worker.address}; the cause is most "
            "often too little memory: use fewer --workers, or workers with more"
        )
        return Outcome(index=index, error=ClusterError(message))
    except Exception as error:
        if future.status in ("cancelled", "lost"):
            raise ClusterError(
                "The connection to the scheduler was lost while tasks ran; see its log, and run the same command again"
            ) from error
        return Outcome(index=index, error=error)


@contextmanager
def connect(cluster: str = "local", workers: int | None = None) -> Iterator[Executor]:
    """An executor for as long as the context lasts.

    Parameters
    ----------
    cluster
        `none`: this process. `local`: worker processes of one thread each on this machine, which end with the context.
        `tcp://HOST:PORT` or `tls://HOST:PORT`: the scheduler of a cluster that runs already.
    workers
        Worker processes of a local cluster; None takes one for each processor core.

    Raises
    ------
    UsageError
        If `cluster` is none of these.
    ClusterError
        If no scheduler answers at the address, or it has no workers.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"A cluster needs at least 1 worker, got {workers}")
    if cluster == "none":
        yield InProcess()
    elif cluster == "local":
        with _quiet(), _local(workers or CPU_COUNT) as client:
            yield OnDask(client, f"{len(client.nthreads())} local worker(s)")
    elif re.fullmatch(r"(tcp|tls)://.+:\d+", cluster):
        with _quiet(), _running(cluster) as client:
            yield OnDask(client, cluster)
    else:
        raise UsageError(
            f"A cluster is 'local', 'none', or a scheduler's tcp://HOST:PORT or tls://HOST:PORT, got {cluster!r}"
        )


def _distributed() -> Any:
    """Dask's `distributed`, which takes half a second to import and has no types."""
    import distributed

    return distributed


@contextmanager
def _local(workers: int) -> Iterator[Any]:
    distributed = _distributed()
    environment = {f"distributed.nanny.pre-spawn-environ.{name}": each for name, each in ENVIRONMENT.items()}
    with main_module_hidden(), dask.config.set(environment):
        with interrupts_held_back():
            cluster = distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                memory_limit=int(distributed.system.MEMORY_LIMIT * 0.9 / workers),
                dashboard_address="127.0.0.1:0",  # any free port: several commands may run at a time
                silence_logs=logging.CRITICAL,
            )
        with cluster, distributed.Client(cluster, set_as_default=False) as client:
            yield client


@contextmanager
def _running(address: str) -> Iterator[Any]:
    distributed = _distributed()
    if address.startswith("tls://") and not distributed.Security().get_connection_args("client").get("ssl_context"):
        raise ClusterError(f"No certificates for {address}; name them in Dask's configuration, distributed.comm.tls")
    try:
        client = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except OSError as error:
        raise ClusterError(
            f"No Dask scheduler answers at {address} ({error}); is it running, and is the port open?"
        ) from error
    with client:
        if not client.nthreads():
            raise ClusterError(f"The scheduler at {address} has no workers; start some with `dask worker {address}`")
        _check_versions(client)
        yield client


def _check_versions(client: Any) -> None:
    """Refuse workers that do not have this harmonium: one that cannot unpickle a task does not fail, it hangs."""
    # A function of Python's own, which any worker can unpickle.
    for worker, found in client.run(version, "harmonium", on_error="return").items():
        if found != _VERSION:
            what = "no harmonium" if isinstance(found, Exception) else f"harmonium {found}"
            raise ClusterError(f"The worker {worker} has {what}, this is harmonium {_VERSION}; install the same there")


@contextmanager
def _quiet() -> Iterator[None]:
    """Say nothing of what Dask logs here: what the user must know comes as an error."""
    _distributed()  # its import sets levels, too
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client", "tornado.application")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    yield
    # Not after an error: threads that still wait for a scheduler that is gone would tell of it later.
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)
