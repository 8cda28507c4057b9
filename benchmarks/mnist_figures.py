"""One figure of a machine on MNIST's pixels: its filters, samples and chains."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from harmonium.models.dbm import DBM, mean_field
from harmonium.models.layer_chain import States

_SIDE = 28
_ROWS = 8
_STEPS = (0, 1, 2, 5, 10, 50, 200, 500)
_COLOURS = 64


@torch.no_grad()
def draw_figure(dbm: DBM, v: Tensor, path: Path, burn_in: int) -> None:
    """Write a PNG of three panels, each of 8 by 8 images.

    Filters are the weights of the 64 hidden units of largest norm, red above zero; samples are the pixels' means in
    64 chains from noise after `burn_in` steps of Gibbs sampling; chains start at the images v (8, 784), each a row,
    with a column after 0, 1, 2, 5, 10, 50, 200 and 500 steps.
    """
    chain, generator = dbm.chain(), torch.Generator().manual_seed(3)
    weight = dbm.weights[0]
    filters = weight[:, weight.norm(dim=0).argsort(descending=True)[: _ROWS * _ROWS]].T
    states = chain.independent(_ROWS * _ROWS, generator)
    for _ in range(burn_in):
        states = chain.gibbs_step(states, generator)
    samples = _means(dbm, states)
    states, columns, done = (v, *mean_field(chain, v).means), [v], 0
    for steps in _STEPS[1:]:
        for _ in range(steps - done):
            states = chain.gibbs_step(states, generator)
        done = steps
        columns.append(_means(dbm, states))
    chains = torch.stack(columns, 1).flatten(0, 1)

    figure = Figure(figsize=(15, 5.4))
    FigureCanvasAgg(figure)
    limit = float(filters.abs().quantile(0.995))
    after = ", ".join(map(str, _STEPS[:-1]))
    panels = (
        (filters, "RdBu_r", -limit, "filters of 64 hidden units"),
        (samples, "gray_r", 0.0, f"samples, {burn_in} steps from noise"),
        (chains, "gray_r", 0.0, f"chains after {after} and {_STEPS[-1]} steps"),
    )
    for place, (images, colours, low, title) in enumerate(panels):
        axes = figure.add_axes((place / 3 + 0.004, 0.005, 1 / 3 - 0.008, 0.93))
        axes.set_axis_off()
        axes.set_title(title, fontsize=14)
        axes.imshow(_mosaic(images), cmap=colours, vmin=low, vmax=limit if low else 1.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    # A few colours say as much as all, in a third of the bytes.
    with Image.open(path) as full:
        few = full.convert("RGB").quantize(_COLOURS, Image.Quantize.MAXCOVERAGE)
    few.save(path, optimize=True)


def _means(dbm: DBM, states: States) -> Tensor:
    """The visible units' means, given the layer above."""
    return dbm.chain().mean_half(0, states[1::2])[0]


def _mosaic(images: Tensor) -> NDArray[np.float32]:
    """Images (rows · columns, 784) side by side with a line of NaN between them."""
    columns = len(images) // _ROWS
    cells = images.reshape(_ROWS, columns, _SIDE, _SIDE).float()
    framed = torch.nn.functional.pad(cells, (1, 1, 1, 1), value=torch.nan)
    side = _SIDE + 2
    mosaic: NDArray[np.float32] = framed.permute(0, 2, 1, 3).reshape(_ROWS * side, columns * side).numpy()
    return mosaic
