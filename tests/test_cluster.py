from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest

from harmonium.errors import ClusterError, SceneError, UsageError
from harmonium.pipeline.cluster import Executor, FanIn, InProcess, OnDask, connect
from harmonium.pipeline.worker_processes import ENVIRONMENT


def divide(number: int, by: int) -> float:
    if by == 0:
        raise SceneError(f"expected something; found {number} / 0")
    return number / by


def total(parts: list[float], *extra: float) -> float:
    return sum(parts) + sum(extra)


def tell(report: Any, number: int) -> int:
    report("stage", number, 3, 0.5)
    return os.getpid()


def resources() -> dict[str, float]:
    from distributed import get_worker

    return dict(get_worker().state.total_resources)


@pytest.fixture(scope="module", autouse=True)
def _workers_import_tests() -> Iterator[None]:
    """Worker processes are started with this process's path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1]))
        yield


@pytest.fixture(scope="module")
def on_dask() -> Iterator[Executor]:
    with pytest.MonkeyPatch.context() as patch:
        # Two of Dask's nannies that start workers at once may leave their own values in this process's environment.
        for name in ENVIRONMENT:
            patch.delenv(name, raising=False)
        with connect("local", 2) as executor:
            yield executor


@pytest.fixture(params=["none", "local"])
def executor(request: pytest.FixtureRequest) -> Executor:
    return InProcess() if request.param == "none" else request.getfixturevalue("on_dask")


def test_outcomes_come_for_each_task_with_what_it_gave_or_raised(executor: Executor) -> None:
    outcomes = sorted(executor.map(divide, [(1, 2), (3, 0), (5, 4)]), key=lambda outcome: outcome.index)
    assert [outcome.result for outcome in outcomes] == [0.5, None, 1.25]
    assert [outcome.index for outcome in outcomes] == [0, 1, 2]
    assert isinstance(outcomes[1].error, SceneError)
    assert str(outcomes[1].error) == "expected something; found 3 / 0"
    assert list(executor.map(divide, [])) == []


def test_arguments_are_taken_as_workers_are_free(executor: Executor) -> None:
    taken = 0

    def arguments() -> Iterator[tuple[int, int]]:
        nonlocal taken
        for number in range(50):
            taken += 1
            yield number, 1

    outcomes = executor.map(divide, arguments())
    for done in range(1, 51):
        next(outcomes)
        assert taken <= done + 2 * executor.workers
    assert next(outcomes, None) is None


def test_the_whole_takes_what_its_parts_gave_in_their_order(executor: Executor) -> None:
    jobs = [
        FanIn(part=divide, arguments=[(1, 2), (3, 4)], whole=total, extra=(10.0,)),
        FanIn(part=divide, arguments=[(1, 1), (1, 0)], whole=total),
        FanIn(part=divide, arguments=[], whole=total),
        FanIn(part=divmod, arguments=[(7, 2), (9, 2)], whole=list),
    ]
    outcomes = {outcome.index: outcome for outcome in executor.fan_in(jobs)}
    assert outcomes[0].result == 11.25
    assert isinstance(outcomes[1].error, SceneError)
    assert outcomes[2].result == 0
    assert outcomes[3].result == [(3, 1), (4, 1)]


def test_reports_reach_who_listens(executor: Executor) -> None:
    heard: list[tuple[Any, ...]] = []
    report = executor.reporter(lambda *values: heard.append(values))
    pids = {outcome.result for outcome in executor.map(tell, [(report, number) for number in range(3)])}
    deadline = time.monotonic() + 5
    while len(heard) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(heard) == [("stage", number, 3, 0.5) for number in range(3)]
    assert (os.getpid() in pids) == isinstance(executor, InProcess)


def test_workers_keep_their_memory_and_use_one_thread(on_dask: Executor) -> None:
    names = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "OMP_NUM_THREADS")
    found = {outcome.index: outcome.result for outcome in on_dask.map(os.environ.get, [(name,) for name in names])}
    assert [found[index] for index in range(3)] == [str(256 << 20), str(256 << 20), "1"]
    assert on_dask.workers == 2
    assert on_dask.description == "2 local worker(s)"


def test_gpu_tasks_go_where_gpu_slots_are_declared() -> None:
    from distributed import Client, LocalCluster, SpecCluster, Worker

    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0", silence_logs=logging.CRITICAL
    ) as cluster:
        assert isinstance(cluster, SpecCluster)
        with Client(cluster) as client:  # type: ignore[no-untyped-call]
            # No slots anywhere: such tasks run all the same.
            assert [outcome.result for outcome in OnDask(client, "").map(resources, [()], gpu=True)] == [{}]
            spec = cluster.worker_spec[0]
            cluster.worker_spec["gpu"] = {
                "cls": Worker,
                "options": {**spec["options"], "resources": {"GPU": 1}},
            }
            cluster.sync(cluster._correct_state)  # type: ignore[no-untyped-call]
            client.wait_for_workers(2)
            executor = OnDask(client, "")
            assert executor.workers == 2
            assert [outcome.result for outcome in executor.map(resources, [()] * 6, gpu=True)] == [{"GPU": 1}] * 6
            jobs = [FanIn(part=abs, arguments=[(-1,)], whole=_resources_of) for _ in range(3)]
            assert [outcome.result for outcome in executor.fan_in(jobs, gpu=True)] == [{"GPU": 1}] * 3


def _resources_of(_parts: list[int]) -> dict[str, float]:
    return resources()


# --- what goes wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cluster", "workers"), [("cloud", None), ("local", 0), ("http://host:8786", None), ("", None)]
)
def test_what_is_no_cluster_is_refused(cluster: str, workers: int | None) -> None:
    with pytest.raises(UsageError, match="cluster"), connect(cluster, workers):
        pass


def test_a_scheduler_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harmonium.pipeline.cluster.CONNECT_SECONDS", 0.5)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        expected = f"No Dask scheduler answers at {address} .*is it running"
        with pytest.raises(ClusterError, match=expected), connect(address):
            pass


def test_a_scheduler_that_wants_certificates() -> None:
    with pytest.raises(ClusterError, match=r"certificates for tls://127\.0\.0\.1:1; .*distributed\.comm\.tls"):
        connect("tls://127.0.0.1:1").__enter__()


def test_a_scheduler_without_workers() -> None:
    from distributed import LocalCluster

    with (
        LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=0, dashboard_address=":0", protocol="tcp", silence_logs=logging.CRITICAL
        ) as cluster,
        pytest.raises(ClusterError, match=r"has no workers; start some with `dask worker tcp://"),
        connect(cluster.scheduler_address),
    ):
        pass


def test_a_task_that_takes_workers_down_is_told_and_the_others_go_on() -> None:
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}), connect("local", 1) as executor:
        (outcome,) = executor.map(os._exit, [(1,)])
        assert isinstance(outcome.error, ClusterError)
        assert "tcp://127.0.0.1:" in str(outcome.error)
        assert "memory" in str(outcome.error)
        assert [each.result for each in executor.map(divide, [(1, 2)])] == [0.5]


def test_a_scheduler_that_is_lost_ends_the_run(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # A cluster that somebody else runs: scheduler and worker in a process of their own.
    code = (
        "import asyncio, sys\n"
        "from distributed import Scheduler, Worker\n"
        "async def main():\n"
        f"    async with Scheduler(host='127.0.0.1', port={port}, dashboard_address=':0') as scheduler:\n"
        "        async with Worker(scheduler.address, nthreads=1):\n"
        "            print('ready', flush=True)\n"
        "            await asyncio.sleep(100)\n"
        "asyncio.run(main())"
    )
    command = [sys.executable, "-c", code]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=tmp_path)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        started = time.monotonic()
        with connect(f"tcp://127.0.0.1:{port}") as executor:
            outcomes = executor.map(time.sleep, [(60,)] * 2)
            threading.Timer(0.5, other.kill).start()
            with pytest.raises(ClusterError, match="connection to the scheduler was lost"):
                next(outcomes)
        assert time.monotonic() - started < 30
    finally:
        other.kill()
        other.communicate()


def test_workers_without_this_harmonium_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import LocalCluster

    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=1, dashboard_address=":0", protocol="tcp", silence_logs=logging.CRITICAL
    ) as cluster:
        with connect(cluster.scheduler_address) as executor:
            assert [outcome.result for outcome in executor.map(abs, [(-1,)])] == [1]
        monkeypatch.setattr("harmonium.pipeline.cluster._VERSION", "0.0.1")
        message = r"worker tcp://\S+ has harmonium \S+, this is harmonium 0\.0\.1"
        with pytest.raises(ClusterError, match=message), connect(cluster.scheduler_address):
            pass


UNGUARDED = """
from harmonium.pipeline.cluster import connect

print("once")
with connect("local", 1) as executor:
    print([outcome.result for outcome in executor.map(abs, [(-3,)])])
"""


@pytest.mark.parametrize("way", ["file", "stdin"])
def test_a_script_needs_no_guard_and_hears_nothing_of_dask(tmp_path: Path, way: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    arguments, given = ([str(script)], None) if way == "file" else (["-"], UNGUARDED)
    run = subprocess.run(
        [sys.executable, *arguments], input=given, capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout == "once\n[3]\n"
    assert run.stderr == ""


def test_the_cluster_ends_with_its_context_and_leaves_the_process_as_it_was() -> None:
    main = sys.modules["__main__"]
    before = (getattr(main, "__file__", None), main.__spec__, logging.getLogger("distributed").level)
    children = set(psutil.Process().children(recursive=True))
    with connect("local", 1) as executor:
        (outcome,) = executor.map(os.getpid, [()])
        worker = psutil.Process(outcome.result)
    psutil.wait_procs([worker], timeout=10)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    assert set(psutil.Process().children(recursive=True)) - children <= {worker}
    assert (getattr(main, "__file__", None), main.__spec__, logging.getLogger("distributed").level) == before
