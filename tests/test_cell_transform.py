"""Cells through a network, with codes that are searched; networks of the presets are tested with those."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from harmonium.errors import ModelError
from harmonium.models import model_file
from harmonium.models.cell_transform import CellTransform, VisibleUnits, load
from harmonium.models.code_prior import PackedBits
from harmonium.models.codec import Codec
from harmonium.models.model_file import GroupModel
from harmonium.models.radiometry import Radiometry
from harmonium.models.unrolled import Activation, StackShape, UnrolledStack

from .tiny_models import of_cells, smooth_pixels

pytestmark = pytest.mark.usefixtures("one_thread")

UNITS: list[VisibleUnits] = ["values", "bits", "gray"]
BANDS, HEIGHT, WIDTH = 2, 19, 24


def network(units: VisibleUnits, code: int) -> UnrolledStack:
    """Random, for two bands."""
    visible, last = (64 * BANDS, "identity") if units == "values" else (512, "sigmoid")
    activation: Activation = "identity" if last == "identity" else "sigmoid"
    net = UnrolledStack(StackShape(sizes=(visible, 7, code), hidden="sigmoid", code="sigmoid", visible=activation))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0.0, 1.0, generator=generator)
    return net


def codec(units: VisibleUnits, code: int = 5) -> Codec:
    transform = CellTransform(network(units, code), BANDS, units, "nearest")
    offset, scale = (120.0, 15.0) if units == "values" else (0.0, 1.0)
    radiometry = Radiometry(dtype="uint8", offset=(offset,) * BANDS, scale=(scale,) * BANDS, peak=255.0)
    return Codec(radiometry=radiometry, transform=transform, prior=PackedBits(transform.states))


def model(units: VisibleUnits) -> dict[str, GroupModel]:
    preset = "real-dbm" if units == "values" else "binary-dbm"
    return {"r10m": GroupModel(preset=preset, bands=("a", "b"), resolution=None, codec=codec(units), training={})}


def cell_errors(transform: CellTransform, codes: Tensor, pixels: Tensor) -> NDArray[np.float64]:
    """Squared ones of each cell that is wholly inside, in each band: (bands, rows, columns)."""
    difference = (transform.decode(codes, HEIGHT, WIDTH) - pixels).double().numpy()
    rows, columns = HEIGHT // 8, WIDTH // 8
    whole = difference[:, : 8 * rows, : 8 * columns].reshape(BANDS, rows, 8, columns, 8)
    found: NDArray[np.float64] = np.square(whole).sum((2, 4))
    return found


@pytest.mark.parametrize("units", UNITS)
def test_no_cell_is_nearer_under_any_other_code(units: VisibleUnits) -> None:
    """Each band by itself where bands are coded so, else both together; in a picture that cells do not divide."""
    one = codec(units)
    transform = one.transform
    assert isinstance(transform, CellTransform)
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randint(2, (len(transform.states), 3, 3), dtype=torch.int32, generator=generator)
    pixels = transform.decode(drawn, HEIGHT, WIDTH)
    pixels = pixels + pixels.std() * torch.randn(pixels.shape, generator=generator)
    codes = transform.encode(pixels)
    assert codes.shape == drawn.shape
    errors = []
    for bits in np.ndindex(2, 2, 2, 2, 2):
        every = torch.tensor(bits * (len(codes) // 5), dtype=torch.int32)[:, None, None].expand(-1, 3, 3)
        errors.append(cell_errors(transform, every, pixels))
    found, others = cell_errors(transform, codes, pixels), np.stack(errors)
    if units == "values":
        found, others = found.sum(0), others.sum(1)
    np.testing.assert_allclose(found, others.min(0), rtol=1e-5)
    assert len(np.unique(codes.flatten(1).numpy(), axis=1).T) > 4


@pytest.mark.parametrize("units", UNITS)
def test_a_model_file_keeps_the_encoder_and_chunks_their_bytes(units: VisibleUnits) -> None:
    groups = model(units)
    original = of_cells(groups["r10m"].codec)
    found = model_file.from_bytes(model_file.to_bytes(groups))
    again = of_cells(found.groups["r10m"].codec)
    assert again.transform.to_spec()["encoder"] == "nearest"
    assert model_file.to_bytes(found.groups) == model_file.to_bytes(groups)
    pixels = smooth_pixels((BANDS, HEIGHT, WIDTH), "uint8")
    payload = original.compress(pixels, 0).payload
    assert payload == original.compress(pixels, 0).payload == again.compress(pixels, 0).payload
    guessing = load({**original.transform.to_spec(), "encoder": "network"}, original.transform.to_tensors())
    normalised = original.radiometry.normalise(pixels)
    assert not torch.equal(guessing.encode(normalised), original.transform.encode(normalised))


def test_files_that_name_no_encoder_have_the_networks() -> None:
    transform = CellTransform(network("values", 17), BANDS, "values")
    assert "encoder" not in transform.to_spec()
    pixels = torch.randn(BANDS, 16, 16, generator=torch.Generator().manual_seed(0))
    found = load(transform.to_spec(), transform.to_tensors()).encode(pixels)
    cells = pixels.unfold(1, 8, 8).unfold(2, 8, 8).permute(1, 2, 0, 3, 4).reshape(4, -1)
    assert torch.equal(found.flatten(1).T, transform.net.encode(cells))


@pytest.mark.parametrize(
    ("code", "encoder", "message"),
    [
        (17, "nearest", "at most 16 units of 2 states.*found 17 units"),
        (5, "guess", "Expected an encoder of network, nearest, got 'guess'"),
        (5, None, "Expected an encoder of network, nearest, got None"),
        (5, ["nearest"], r"Expected an encoder of network, nearest, got \['nearest'\]"),
    ],
)
def test_files_that_ask_for_an_encoder_that_cannot_be(code: int, encoder: object, message: str) -> None:
    transform = CellTransform(network("values", code), BANDS, "values")
    spec = transform.to_spec()

    class Asking(CellTransform):
        def to_spec(self) -> dict[str, Any]:
            return {**spec, "encoder": encoder}

    radiometry = Radiometry(dtype="uint8", offset=(0.0,) * BANDS, scale=(1.0,) * BANDS, peak=255.0)
    asking = Codec(
        radiometry=radiometry,
        transform=Asking(transform.net, BANDS, "values"),
        prior=PackedBits(transform.states),
    )
    group = GroupModel(preset="real-dbm", bands=("a", "b"), resolution=None, codec=asking, training={})
    with pytest.raises(ModelError, match=message):
        model_file.from_bytes(model_file.to_bytes({"r10m": group}))


def test_pickles_leave_the_codebook_out() -> None:
    transform = codec("values", code=12).transform
    before = len(pickle.dumps(transform))
    pixels = torch.randn(BANDS, 16, 16, generator=torch.Generator().manual_seed(0))
    codes = transform.encode(pixels)
    assert len(pickle.dumps(transform)) == before
    assert before < 4 * 128 << 12  # the codes' points
    assert torch.equal(pickle.loads(pickle.dumps(transform)).encode(pixels), codes)
