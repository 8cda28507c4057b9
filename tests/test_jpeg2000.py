from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harmonium.errors import UsageError
from harmonium.pipeline import figures, jpeg2000
from harmonium.pipeline.scene_arrays import open_raster

from .archives import pixels


@pytest.mark.parametrize(
    ("shape", "dtype"), [((3, 256, 256), "uint8"), ((2, 301, 133), "uint16"), ((1, 200, 200), "int16")]
)
@pytest.mark.parametrize("bits", [0.5, 2.0])
def test_the_rate_is_kept_and_used(shape: tuple[int, int, int], dtype: str, bits: float) -> None:
    array = pixels(shape, dtype)
    decoded, nbytes = jpeg2000.at_bits(array, bits)
    budget = bits * array.size / 8
    assert (decoded.shape, decoded.dtype) == (array.shape, array.dtype)
    assert 0.8 * budget < nbytes <= budget
    assert np.square(decoded.astype(float) - array).mean() < array.astype(float).var()


def test_more_bits_give_less_error() -> None:
    array = pixels((2, 256, 256))
    errors = [np.abs(jpeg2000.at_bits(array, bits)[0].astype(int) - array).mean() for bits in (0.5, 1.0, 2.0, 4.0)]
    assert errors == sorted(errors, reverse=True)


def test_fewer_bits_than_headers_need_are_refused() -> None:
    with pytest.raises(UsageError, match=r"JPEG 2000 takes at least .* bytes for pixels of shape"):
        jpeg2000.at_bits(pixels((2, 16, 16)), 0.01)


def test_reconstruction_figure(tmp_path: Path) -> None:
    original = pixels((4, 60, 80))
    decoded = original.copy()
    decoded[2, 10:20, 10:20] += 100
    figures.reconstruction(
        tmp_path / "f.png",
        original,
        decoded,
        bands=("B02", "B03", "B04", "B08"),
        rgb=(2, 1, 0),
        psnr_db=(50.0, 50.0, 40.0, 50.0),
        bits_per_pixel=0.5,
        peer="JPEG 2000 at the same bits: 41.0 dB",
        title="here",
    )
    with open_raster(str(tmp_path / "f.png")) as source:
        assert (source.width, source.height) == (1485, 616)
        assert source.read(1).std() > 10
