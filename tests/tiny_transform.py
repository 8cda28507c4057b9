"""Models of the preset `transform` that are made in a moment: small networks of random weights, in whole numbers."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from benchmarks import transform_models
from benchmarks.transform_cases import smooth
from harmonium.models.context_network import LevelNetwork
from harmonium.models.context_training import Source, new_networks


def random_networks(seed: int = 0) -> nn.ModuleList:
    """Networks whose outputs depend on all that they see, as trained ones do."""
    found, generator = new_networks(seed, 4, 4), torch.Generator().manual_seed(seed)
    for network in found:
        assert isinstance(network, LevelNetwork)
        for layer in (*network.outputs, network.restoring[-1]):
            assert isinstance(layer, nn.Conv2d)
            assert layer.bias is not None
            nn.init.normal_(layer.weight, std=0.2, generator=generator)
            nn.init.normal_(layer.bias, std=0.3, generator=generator)
    return found


@cache
def source() -> Source:
    """Made-up pixels of three bands."""
    return Source(pixels=smooth((3, 140, 150), "uint16", 0), peak=10_000.0)


@cache
def model() -> bytes:
    """A file as the package has them."""
    torch.set_num_threads(1)
    return transform_models.finish(random_networks(), [source()], 0, {"made": "at random"})
