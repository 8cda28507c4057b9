"""One thread for torch inside the codec.

Parallelism comes from chunks and shards: threads within one chunk would contend with them, and a matrix product that is
cut among another number of threads may round differently, so that the same pixels would give other bytes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# What threads that torch has not seen yet would be given. Remembered once: read later, it could be another thread's 1.
_CONFIGURED = torch.get_num_threads()


@contextmanager
def single_threaded() -> Iterator[None]:
    """Let torch use one thread in the calling thread; the process's own setting holds again afterwards."""
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(_CONFIGURED)
