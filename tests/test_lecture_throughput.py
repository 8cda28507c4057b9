"""The operations that the throughput benchmark counts, against torch's own counter; and its tables."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("benchmarks", reason="no folder benchmarks/: it is not part of the wheel")

from benchmarks.lecture_stages import STAGES, Network, Work, search

BINARY = Network(name="binary", sizes=(16, 9, 7, 5), binary=True)
REAL = Network(name="real", sizes=(10, 12, 8, 6, 4), binary=False)


def taken(work: Work) -> tuple[int, int]:
    """Operations that a work says it took in its second step, and those that torch saw."""
    work.step()
    with FlopCounterMode(display=False) as counter:
        said = work.step()
    return said, int(counter.get_total_flops())


@pytest.mark.parametrize("network", [BINARY, REAL], ids=["binary", "real"])
@pytest.mark.parametrize("stage", STAGES)
def test_training_takes_the_products_that_are_counted(network: Network, stage: str) -> None:
    said, seen = taken(STAGES[stage](network, 11, torch.float32))
    assert said == seen


@pytest.mark.parametrize("network", [BINARY, REAL], ids=["binary", "real"])
def test_a_search_takes_the_products_that_are_counted(network: Network) -> None:
    codebook, nearest = search(network, 13)
    for work in (codebook, nearest):
        said, seen = taken(work)
        assert said == seen


@pytest.mark.parametrize("stage", STAGES)
def test_bfloat16_takes_the_same_products(stage: str) -> None:
    said, seen = taken(STAGES[stage](REAL, 11, torch.bfloat16))
    assert said == seen
