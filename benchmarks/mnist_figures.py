"""Filters, samples and chains of machines on MNIST's pixels."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from harmonium.models.dbm import DBM, mean_field
from harmonium.models.layer_chain import States

_SIDE = 28
_ROWS = 10


@torch.no_grad()
def draw_figures(dbm: DBM, v: Tensor, stem: Path, burn_in: int) -> None:
    """Write `stem`-filters.png, -samples.png and -chains.png.

    Filters are the weights of the 100 hidden units of largest norm, red above zero; samples are the pixels' means in
    100 chains from noise after `burn_in` steps of Gibbs sampling; chains start at the images v (10, 784), each a row,
    with a column after 0, 1, 2, 5, 10, 20, 50, 100, 200 and 500 steps.
    """
    chain, generator = dbm.chain(), torch.Generator().manual_seed(3)
    weight = dbm.weights[0]
    filters = weight[:, weight.norm(dim=0).argsort(descending=True)[: _ROWS * _ROWS]].T
    limit = float(filters.abs().quantile(0.995))
    _save(filters, stem.with_name(f"{stem.name}-filters.png"), "RdBu_r", -limit, limit)
    states = chain.independent(_ROWS * _ROWS, generator)
    for _ in range(burn_in):
        states = chain.gibbs_step(states, generator)
    _save(_means(dbm, states), stem.with_name(f"{stem.name}-samples.png"), "gray_r", 0, 1)
    states, columns, done = (v, *mean_field(chain, v).means), [v], 0
    for steps in (1, 2, 5, 10, 20, 50, 100, 200, 500):
        for _ in range(steps - done):
            states = chain.gibbs_step(states, generator)
        done = steps
        columns.append(_means(dbm, states))
    _save(torch.stack(columns, 1).flatten(0, 1), stem.with_name(f"{stem.name}-chains.png"), "gray_r", 0, 1)


def _means(dbm: DBM, states: States) -> Tensor:
    """The visible units' means, given the layer above."""
    return dbm.chain().mean_half(0, states[1::2])[0]


def _save(images: Tensor, path: Path, colours: str, low: float, high: float) -> None:
    """Draw images (100, 784) in 10 rows."""
    figure = Figure(figsize=(6, 6))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.imshow(_mosaic(images), cmap=colours, vmin=low, vmax=high)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _mosaic(images: Tensor) -> NDArray[np.float32]:
    """Images (rows · columns, 784) side by side with a line of NaN between them."""
    columns = len(images) // _ROWS
    cells = images.reshape(_ROWS, columns, _SIDE, _SIDE).float()
    framed = torch.nn.functional.pad(cells, (1, 1, 1, 1), value=torch.nan)
    side = _SIDE + 2
    mosaic: NDArray[np.float32] = framed.permute(0, 2, 1, 3).reshape(_ROWS * side, columns * side).numpy()
    return mosaic
