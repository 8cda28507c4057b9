"""What the worker processes of a local cluster are started with, and what they are kept from."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

# Dask lets workers give memory back to the system from 64 KiB on, and glibc maps every large array anew: training and
# encoding, which take and drop arrays all the time, spent a third of their time on page faults. Up to 256 MiB stay with
# a worker instead. What the user's environment says comes first; Dask's own setting of one thread per worker stays.
ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": 256 << 20, "MALLOC_MMAP_THRESHOLD_": 256 << 20}
"""Environment variables, set unless the user's environment has them."""


@contextmanager
def main_module_hidden() -> Iterator[None]:
    """Let worker processes start without the user's script.

    Python's multiprocessing would run it in every new process, up to the line that starts a cluster, where a script
    without `if __name__ == "__main__":` fails, or starts clusters without end. Tasks need nothing of it.
    """
    main = sys.modules["__main__"]
    names = ("__file__", "__spec__")
    kept = {name: getattr(main, name) for name in names if hasattr(main, name)}
    for name in kept:
        setattr(main, name, None)
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(main, name, value)


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Hold Ctrl-C back in this thread, and for good in all threads and processes that are started meanwhile.

    A terminal sends it to every process. Workers would print what they were doing and die, and be started again, while
    this process, which is to end them, is still at it.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # or else it starts in a thread that makes workers, and unblocks the signal there
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
