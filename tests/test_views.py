from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from harmonium.errors import ArchiveError, HarmoniumError
from harmonium.models.codec import Codec
from harmonium.pipeline import views
from harmonium.pipeline.archive import Archive
from harmonium.pipeline.zarr_codec import HarmoniumCodec

from .archives import compress, hand_made, pixels, tree
from .conftest import MakeScene

pytestmark = pytest.mark.usefixtures("fresh_models", "small_chunks")

SHAPE = (2, 150, 200)


@pytest.fixture
def archive(tmp_path: Path, make_scene: MakeScene) -> Archive:
    array = pixels(SHAPE)
    array[:, :64, :64] = 0  # the whole first chunk
    return compress(tmp_path / "a.zarr", [make_scene(array, nodata=0)], hand_made(2))[0]


@pytest.fixture
def image(archive: Archive) -> zarr.Array[Any]:
    return archive["here"]["r10m"].image


def padded_chunk(row: int, column: int) -> NDArray[Any]:
    array = pixels(SHAPE)
    array[:, :64, :64] = 0
    chunk = np.zeros((2, 64, 64), np.uint16)
    piece = array[:, row * 64 : (row + 1) * 64, column * 64 : (column + 1) * 64]
    chunk[:, : piece.shape[1], : piece.shape[2]] = piece
    return chunk


def test_payloads_are_those_of_the_codec(image: zarr.Array[Any]) -> None:
    view = views.payloads(image)
    assert (view.shape, view.chunks, view.shards) == ((1, 3, 4), (1, 1, 1), (1, 2, 2))
    codec = next(iter(hand_made(2).groups.values())).codec
    for row, column in np.ndindex(3, 4):
        expected = codec.compress(padded_chunk(row, column), 0).payload
        assert views.one_payload(view, row, column) == expected
        assert view[0, row, column] == expected


def test_codes_are_those_in_the_payloads_and_decode_no_pixel(
    archive: Archive, image: zarr.Array[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = next(iter(hand_made(2).groups.values())).codec
    view = views.payloads(image)
    units, rows, columns = 8, 19, 25
    expected = np.zeros((units, 3 * 8, 4 * 8), np.int32)
    for row, column in np.ndindex(3, 4):
        expected[:, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = codec.codes(
            views.one_payload(view, row, column)
        )
    read: list[int] = []
    original = Codec.codes

    def counting(self: Codec, data: bytes, shape: tuple[int, int, int] | None = None) -> NDArray[np.int32]:
        read.append(len(data))
        return original(self, data, shape)

    def refuse(*_: object) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr(Codec, "codes", counting)
    monkeypatch.setattr(Codec, "decompress", refuse)
    codes = archive["here"]["r10m"].codes
    assert (codes.dims, codes.shape, codes.dtype) == (
        ("unit", "cell_y", "cell_x"),
        (units, rows, columns),
        np.dtype("uint8"),
    )
    assert read == []
    np.testing.assert_array_equal(codes[:, 10:12, 10:12].values, expected[:, 10:12, 10:12])
    assert 1 <= len(read) <= 4  # Dask's chunks are whole shards
    np.testing.assert_array_equal(codes.values, expected[:, :rows, :columns])
    assert not codes[:, :8, :8].values.any()


def test_a_window_of_codes_reads_only_its_chunks(image: zarr.Array[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    original = Mock(wraps=Codec.codes)
    monkeypatch.setattr(Codec, "codes", lambda *arguments: original(*arguments))
    part = np.asarray(views.codes(image)[:, 7:9, 3])
    assert (part.shape, original.call_count) == ((8, 2), 2)


def test_codes_travel_to_other_processes(archive: Archive, tmp_path: Path) -> None:
    codes = archive["here"]["r10m"].codes
    (tmp_path / "codes.pickle").write_bytes(pickle.dumps(codes))
    code = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb')).values.tofile(sys.argv[2])"
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "codes.pickle"), str(tmp_path / "codes")], check=True, timeout=120
    )
    np.testing.assert_array_equal(np.fromfile(tmp_path / "codes", np.uint8).reshape(codes.shape), codes.values)


def test_views_store_nothing_and_cannot_be_written(archive: Archive, image: zarr.Array[Any]) -> None:
    before = tree(Path(archive.url))
    view = views.codes(image)
    with pytest.raises((ArchiveError, ValueError)):
        view[:] = 1
    with pytest.raises(ValueError, match="read-only"):
        views.payloads(image)[:] = b"x"
    assert tree(Path(archive.url)) == before


def test_payloads_written_through_the_view_are_what_the_image_decodes(image: zarr.Array[Any]) -> None:
    codec = next(iter(hand_made(2).groups.values())).codec
    flat = codec.compress(np.full((2, 64, 64), 1234, np.uint16), 0).payload
    view = views.payloads(zarr.open_array(image.store.with_read_only(False), path=image.path, mode="r+"), writable=True)
    one = np.empty((1, 1), dtype=object)
    one[0, 0] = flat
    view[0, 2:3, 3:4] = one
    assert (np.asarray(image[:, 128:, 192:]) == 1234).all()
    assert (np.asarray(image[:, 128:, :192]) != 1234).any()


def test_foreign_images_have_no_views(tmp_path: Path) -> None:
    plain = zarr.create_array(tmp_path / "p.zarr", shape=(2, 64, 64), dtype="uint16")
    with pytest.raises(ArchiveError, match="is coded by BytesCodec, not by 'harmonium'"):
        views.codes(plain)
    codec = HarmoniumCodec(model=hand_made(2))
    unsharded = zarr.create_array(tmp_path / "u.zarr", shape=(2, 64, 64), dtype="uint16", serializer=codec)
    odd = zarr.create_array(
        tmp_path / "o.zarr", shape=(2, 60, 60), chunks=(2, 30, 30), shards=(2, 60, 60), dtype="uint16", serializer=codec
    )
    for array in (unsharded, odd):
        with pytest.raises(HarmoniumError, match="views need an image"):
            views.payloads(array)
        with pytest.raises(HarmoniumError, match="views need an image"):
            views.codes(array)
