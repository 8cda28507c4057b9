"""One thread for torch inside the codec.

Parallelism comes from chunks and shards: threads within one chunk would contend with them, and a matrix product that is
cut among another number of threads may round differently, so that the same pixels would give other bytes.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_inside = 0
_configured = 1


@contextmanager
def single_threaded() -> Iterator[None]:
    """Let torch use one thread in the calling thread; the process's own setting holds again afterwards.

    The number belongs to each thread, but a thread that torch has not seen yet starts with what was set last in any.
    So the process's number is read only when no thread is inside, and each thread is made known before its own is set.
    """
    global _inside, _configured
    with _lock:
        current = torch.get_num_threads()
        if _inside == 0:
            _configured = current
        _inside += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            torch.set_num_threads(_configured)
