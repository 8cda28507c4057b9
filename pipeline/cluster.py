"""Where work runs: in this process, on workers of this machine, or on a Dask cluster that runs already.

Everything else in harmonium hands plain functions and their arguments to an `Executor` and does not know which it is.
This is the only module that knows `distributed`.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import dask
import psutil

from harmonium.errors import ClusterError, UsageError

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
        gpu: bool = False,  # noqa: ARG002
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
        from distributed import get_worker

        get_worker().log_event(self.topic, list(values))


class OnDask:
    """Runs tasks on the workers of a Dask cluster."""

    def __init__(self, client: Any, description: str) -> None:
        self._client = client
        self.description = description
        threads: dict[str, int] = client.nthreads()
        self.workers = max(1, sum(threads.values()))
        resources = [worker.get("resources", {}) for worker in client.scheduler_info(n_workers=-1)["workers"].values()]
        self._has_gpu_slots = any("GPU" in slots for slots in resources)

    def map(
        self, function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], *, gpu: bool = False
    ) -> Iterator[Outcome]:
        """See `Executor.map`."""
        from distributed import as_completed

        resources = {"GPU": 1} if gpu and self._has_gpu_slots else None
        source = enumerate(arguments)
        positions: dict[str, int] = {}
        running = as_completed()
        ended = False
        while True:
            # One task more than fits each worker waits beside it, so that none is idle between two.
            while not ended and len(positions) < 2 * self.workers:
                following = next(source, None)
                if following is None:
                    ended = True
                    break
                index, each = following
                future = self._client.submit(function, *each, pure=False, resources=resources)
                positions[future.key] = index
                running.add(future)
            if not positions:
                return
            future = next(running)
            yield self._outcome(positions.pop(future.key), future)

    def fan_in(self, jobs: Iterable[FanIn], *, gpu: bool = False) -> Iterator[Outcome]:
        """See `Executor.fan_in`."""
        from distributed import as_completed

        resources = {"GPU": 1} if gpu and self._has_gpu_slots else None
        positions: dict[str, int] = {}
        running = as_completed()
        for index, job in enumerate(jobs):
            parts = [self._client.submit(job.part, *each, pure=False) for each in job.arguments]
            future = self._client.submit(job.whole, parts, *job.extra, pure=False, resources=resources)
            positions[future.key] = index
            running.add(future)
        for future in running:
            yield self._outcome(positions.pop(future.key), future)

    def _outcome(self, index: int, future: Any) -> Outcome:
        from distributed import KilledWorker

        try:
            return Outcome(index=index, result=future.result())
        except KilledWorker as error:
            message = f"A task took {error.last_worker} down with it, as it had others before; is there memory enough?"
            return Outcome(index=index, error=ClusterError(message))
        except Exception as error:  # noqa: BLE001 - see InProcess.map
            if future.status in ("cancelled", "lost"):
                raise ClusterError(
                    f"The cluster was lost while tasks ran ({error}); run the same command again"
                ) from error
            return Outcome(index=index, error=error)

    def reporter(self, listen: Callable[..., None]) -> TaskReport:
        """See `Executor.reporter`."""
        topic = f"harmonium-{os.urandom(6).hex()}"
        self._client.subscribe_topic(topic, lambda event: listen(*event[1]))
        return _EventReport(topic)


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
        with _local(workers or os.cpu_count() or 1) as client:
            yield OnDask(client, f"{len(client.nthreads())} local workers")
    elif cluster.startswith(("tcp://", "tls://")):
        with _running(cluster) as client:
            yield OnDask(client, cluster)
    else:
        raise UsageError(f"A cluster is 'local', 'none', or a scheduler's tcp:// or tls:// address, got {cluster!r}")


@contextmanager
def _local(workers: int) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    memory_bytes = int(psutil.virtual_memory().total * 0.9 / workers)
    # Workers that a user's script starts would otherwise run that script again, up to the line that starts workers.
    with (
        dask.config.set({"distributed.worker.daemon": True, "distributed.admin.log-format": "%(message)s"}),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=memory_bytes,
            dashboard_address=None,
            silence_logs="ERROR",
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def _running(address: str) -> Iterator[Any]:
    from distributed import Client

    try:
        client = Client(address, timeout="10s")
    except (OSError, TimeoutError) as error:
        raise ClusterError(
            f"No Dask scheduler answers at {address} ({error}); is it running, is the port open?"
        ) from error
    with client:
        if not client.nthreads():
            raise ClusterError(f"The scheduler at {address} has no workers; start some with `dask worker {address}`")
        yield client
