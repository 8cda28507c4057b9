"""The documents are true: their tables decode what the library wrote, and their examples run.

What follows `docs/format.md` here uses nothing of harmonium's models: struct, zlib, numpy and integers.

In docs/design.md and README.md, a Python block after the line `<!-- runnable -->` is run where `scene.tif`,
`s2.harmonium` and `archive.zarr` with the scene `t33uub` lie, all blocks of a document in one namespace, in order.
After the line `<!-- runnable: NAME.py -->` it is the file of a preset.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from harmonium.models import model_file, presets
from harmonium.models.code_prior import CodePrior, PackedBits, StaticTables
from harmonium.models.model_file import GroupModel
from harmonium.models.payload import Mode, unpack
from harmonium.pipeline.archive import open_archive
from harmonium.workflows.cli import main

from .conftest import WriteGeotiff
from .tiny_models import blocks, by_hand, fit, fitted_codec, group, of_cells, smooth_pixels

ROOT = Path(__file__).resolve().parents[1]
FORMAT = (ROOT / "docs" / "format.md").read_text()
SCENE = "t33uub"
CODES = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "f64": "d"}


# --- the payload, by the tables of docs/format.md --------------------------------------------------------------------


def section(title: str) -> str:
    """What stands below a heading of docs/format.md, up to the next."""
    found = re.search(rf"^#+ {title}\n(.*?)(?=^#|\Z)", FORMAT, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def table(title: str) -> list[list[str]]:
    """The cells of the first table of a section, without its head."""
    rows = [row.strip("|").split("|") for row in section(title).splitlines() if row.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def record(title: str) -> tuple[struct.Struct, list[str]]:
    """The structure that a table of offsets, types and fields describes."""
    rows = table(title)
    layout = struct.Struct("<" + "".join(CODES[kind] for _, kind, *_ in rows))
    sizes = [struct.calcsize(CODES[kind]) for _, kind, *_ in rows]
    assert [int(offset) for offset, *_ in rows] == list(itertools.accumulate(sizes, initial=0))[:-1]
    return layout, [name for _, _, name, *_ in rows]


HEADER, HEADER_FIELDS = record("Header")
BAND, BAND_FIELDS = record("Band table")


def numbered(title: str, field: str) -> dict[int, str]:
    """The numbers that a field may have, and their names: `0 EMPTY, 1 CONSTANT` in the field's row."""
    row = next(row for row in table(title) if row[2] == field)
    return {int(number): name for number, name in re.findall(r"(\d+) (\w+)", row[3])}


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """A payload, taken apart by hand."""

    header: dict[str, Any]
    bands: list[dict[str, Any]]
    classes: NDArray[np.uint8]
    codes: bytes

    @property
    def mode(self) -> str:
        return numbered("Header", "mode")[self.header["mode"]]

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.header["bands"], self.header["height"], self.header["width"]


def parse(data: bytes) -> Parsed:
    header = dict(zip(HEADER_FIELDS, HEADER.unpack_from(data), strict=True))
    shape = header["bands"], header["height"], header["width"]
    end = HEADER.size + BAND.size * header["bands"]
    bands = [dict(zip(BAND_FIELDS, values, strict=True)) for values in BAND.iter_unpack(data[HEADER.size : end])]
    mask, codes = data[end : end + header["mask_bytes"]], data[end + header["mask_bytes"] :]
    assert len(codes) == header["code_bytes"]
    classes = np.zeros(shape, np.uint8)
    if header["planes"]:
        planes = 1 if header["planes"] == 1 else header["bands"]
        classes[:] = np.frombuffer(zlib.decompress(mask), np.uint8).reshape(planes, *shape[1:])
    return Parsed(header=header, bands=bands, classes=classes, codes=codes)


def bits_for(count: int) -> int:
    """The least b with 2^b ≥ count, by trying."""
    return next(b for b in range(17) if 2**b >= count)


def unpack_bits(data: bytes, states: list[int], cells: int) -> list[list[int]]:
    """Prior `packed`."""
    bits = iter(f"{int.from_bytes(data):0{8 * len(data)}b}" if data else "")
    codes = []
    for count in states:
        unit = [0] * cells
        for _ in range(bits_for(count)):
            unit = [2 * state + int(next(bits)) for state in unit]
        codes.append(unit)
    assert set(bits) <= {"0"}
    return codes


def unpack_tables(data: bytes, tables: list[list[int]], cells: int) -> list[list[int]]:
    """Prior `tables`: the four steps of the document, in Python's integers."""
    words = list(struct.unpack(f"<{len(data) // 4}I", data))
    x = words.pop() if words else 0
    if words:
        x = (x << 32) + words.pop()
    codes = []
    for frequencies in tables:
        n = len(frequencies)
        if n == 1:
            codes.append([0] * cells)
            continue
        sums = itertools.accumulate(frequencies, initial=0)
        c = [total * ((1 << 24) - n) // (1 << 20) + k for k, total in zip(range(n), sums, strict=False)]
        c.append(1 << 24)
        unit = []
        for _ in range(cells):
            q = x % (1 << 24)
            k = bisect.bisect_right(c, q) - 1
            x = (x >> 24) * (c[k + 1] - c[k]) + q - c[k]
            if x < 1 << 32 and words:
                x = (x << 32) + words.pop()
            unit.append(k)
        codes.append(unit)
    assert x == 0
    assert not words
    return codes


def test_the_header_is_that_of_the_library() -> None:
    pixels = smooth_pixels((2, 17, 12), "int16")
    pixels[1, :3] = -7
    data = by_hand(2, "int16").compress(pixels, -7).payload
    parsed, known = parse(data), unpack(data)
    assert parsed.header["version"] == data[0]
    assert parsed.mode == known.mode.name == "LEARNED"
    assert numbered("Header", "dtype")[parsed.header["dtype"]] == known.dtype == "int16"
    assert parsed.shape == known.shape == (2, 17, 12)
    assert (parsed.header["planes"], parsed.header["fill"]) == (2, -7.0)
    assert (parsed.header["reserved"], parsed.header["residual_bytes"]) == (0, 0)
    np.testing.assert_array_equal(parsed.classes, pixels == -7)
    for field in BAND_FIELDS:
        assert [band[field] for band in parsed.bands] == getattr(known.quality, field).tolist()
    assert parsed.codes == known.codes


def test_all_modes_types_and_classes_are_named() -> None:
    first, second = ({mode.value: mode.name for mode in Mode if mode.version == version} for version in (1, 2))
    assert numbered("Header", "mode") == first
    kinds = next(row for row in table("Header and band table of version 2") if row[1] == "kinds")
    assert {int(number): name for number, name in re.findall(r"(\d+) ([A-Z]{3,})", kinds[2])} == second
    for number, name in numbered("Header", "dtype").items():
        data = by_hand(1, name).compress(np.full((1, 8, 8), 5, name), 0).payload
        parsed = parse(data)
        assert (parsed.header["dtype"], parsed.mode, parsed.codes) == (number, "CONSTANT", struct.pack("<d", 5))
    empty = parse(by_hand(1).compress(np.zeros((1, 8, 8), np.uint16), 0).payload)
    assert (empty.mode, empty.codes, empty.classes.min()) == ("EMPTY", b"", 1)
    special = {"the fill value": 9.0, "NaN": np.nan, "+infinity": np.inf, "-infinity": -np.inf}
    for number, name in ((int(row[0]), row[1].removeprefix("has ")) for row in table("Mask section")):
        pixels = smooth_pixels((1, 8, 8), "float32")
        pixels[0, 2, 3] = special.get(name, 0.25)
        classes = parse(by_hand(1, "float32").compress(pixels, 9.0).payload).classes
        assert classes[0, 2, 3] == number
        assert classes.sum() == number


STATES = [1, 2, 3, 16, 17, 256, 65536]


def random_codes(states: list[int], cells: int) -> NDArray[np.int32]:
    rng = np.random.default_rng(0)
    return np.stack([rng.integers(0, count, cells) for count in states]).astype(np.int32)


@pytest.mark.parametrize("cells", [1, 7, 64])
def test_packed_codes_by_hand(cells: int) -> None:
    codes = random_codes(STATES, cells)
    assert unpack_bits(PackedBits(STATES).encode(codes), STATES, cells) == codes.tolist()


@pytest.mark.parametrize("cells", [0, 1, 7, 500])
def test_tables_by_hand(cells: int) -> None:
    codes = random_codes(STATES, 500)
    prior = StaticTables.learn(codes, STATES)
    frequencies = np.split(prior.to_arrays()["frequencies"], np.cumsum(STATES)[:-1])
    found = unpack_tables(prior.encode(codes[:, :cells]), [each.tolist() for each in frequencies], cells)
    assert found == codes[:, :cells].tolist()


# --- an archive, file by file ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a scene, a model and an archive that the command line made."""
    from .conftest import _write_geotiff

    folder = tmp_path_factory.mktemp("docs")
    pixels = smooth_pixels((4, 600, 520), "uint16")
    pixels[:, :70, :90] = 0
    pixels[1, 300:] = 0
    pixels[:, 512:, 512:] = 1234
    tags = {"ACQUISITION_DATETIME": "2019-07-27T10:20:30Z"}
    scene = _write_geotiff(folder / "scene.tif", pixels, nodata=0, descriptions=("B02", "B03", "B04", "B08"), tags=tags)
    model, archive = folder / "s2.harmonium", folder / "archive.zarr"
    call("fit", scene, "-o", model, "--effort", "0.003", "--cluster", "none", "--json")
    call("compress", scene, "-a", archive, "--model", model, "--id", SCENE, "--cluster", "none", "--json")
    return folder


def call(*arguments: object) -> None:
    """Run the command line; what it would exit with has to be 0."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as ended:
        assert not ended.code, arguments  # noqa: PT017


def document(path: Path) -> dict[str, Any]:
    return json.loads((path / "zarr.json").read_text())  # type: ignore[no-any-return]


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def safetensors(data: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Metadata and tensors, by the layout that safetensors documents."""
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__")
    tensors = {
        name: np.frombuffer(
            data[8 + length :][slice(*entry["data_offsets"])], {"F32": "<f4", "I32": "<i4"}[entry["dtype"]]
        ).reshape(entry["shape"])
        for name, entry in header.items()
    }
    return metadata, tensors


def decode_cells(spec: dict[str, Any], tensors: dict[str, NDArray[Any]], codes: NDArray[np.int64]) -> NDArray[Any]:
    """Codes (units, cells) to normalised pixels (cells, bands * 64), in float64."""
    stack = spec["stack"]
    functions = {"identity": lambda a: a, "relu": lambda a: np.maximum(a, 0), "sigmoid": lambda a: 1 / (1 + np.exp(-a))}
    values = ((tensors["low"][:, None] + codes) * tensors["spacing"].astype(np.float64)[:, None]).T
    layers = len(stack["sizes"]) - 1
    for layer in range(layers):
        weight, bias = tensors[f"decoder.{layer}.weight"], tensors[f"decoder.{layer}.bias"]
        assert weight.shape == (stack["sizes"][layers - 1 - layer], stack["sizes"][layers - layer])
        values = functions[stack["visible" if layer == layers - 1 else "hidden"]](values @ weight.T + bias)
    return values


def test_an_archive_by_hand(workplace: Path) -> None:
    """From the files to the pixels, with nothing but the document."""
    root = workplace / "archive.zarr"
    scene, image = root / "scenes" / SCENE, root / "scenes" / SCENE / "r10m" / "image"
    assert document(root)["attributes"] == {"harmonium": {"format": 1}}
    own = document(scene)["attributes"]["harmonium"]
    assert (own["state"], own["groups"]) == ("complete", ["r10m"])
    metadata = document(image)
    sharding = metadata["codecs"][0]["configuration"]
    codec = sharding["codecs"][0]
    assert codec == {
        "name": "harmonium",
        "configuration": {"model": own["model"], "group": "r10m", "source": str(root)},
    }
    assert sharding["chunk_shape"] == [4, 512, 512]

    data = (root / "models" / own["model"] / "c" / "0").read_bytes()
    assert hashlib.sha256(data).hexdigest() == own["model"]
    texts, tensors = safetensors(data)
    assert set(texts) == {"harmonium"}
    model = json.loads(texts["harmonium"])["groups"]["r10m"]
    below = {name.removeprefix("r10m/transform/"): each for name, each in tensors.items()}
    states = tensors["r10m/prior/states"]
    tables = [each.tolist() for each in np.split(tensors["r10m/prior/frequencies"], np.cumsum(states)[:-1])]
    assert all(sum(each) == 1 << 20 for each in tables)

    shown = open_archive(root)[SCENE]["r10m"].open(chunks=None).values
    shard = (image / "c" / "0" / "0" / "0").read_bytes()
    index = shard[-(4 * 16 + 4) : -4]
    assert crc32c(index) == struct.unpack("<I", shard[-4:])[0]
    modes = []
    for (row, column), (offset, length) in zip(np.ndindex(2, 2), struct.iter_unpack("<QQ", index), strict=True):
        stored = shard[offset : offset + length]
        payload = stored[:-4]
        assert crc32c(payload) == struct.unpack("<I", stored[-4:])[0]
        parsed = parse(payload)
        modes.append(parsed.mode)
        pixels = np.zeros(parsed.shape)
        if parsed.mode == "LEARNED":
            occupied = (parsed.classes == 0).any(axis=0).reshape(64, 8, 64, 8).any(axis=(1, 3)).reshape(-1)
            codes = np.zeros((len(tables), 64 * 64), np.int64)
            codes[:, occupied] = unpack_tables(parsed.codes, tables, int(occupied.sum()))
            cells = decode_cells(model["transform"], below, codes).reshape(64, 64, 4, 8, 8)
            pixels = cells.transpose(2, 0, 3, 1, 4).reshape(4, 512, 512)
            column_of = [np.array(model["radiometry"][name])[:, None, None] for name in ("scale", "offset")]
            pixels = np.clip(np.rint(pixels * column_of[0] + column_of[1]), 0, 65535)
        elif parsed.mode == "CONSTANT":
            pixels += np.array(struct.unpack("<4d", parsed.codes))[:, None, None]
        pixels[pixels == parsed.header["fill"]] += 1
        pixels[parsed.classes == 1] = parsed.header["fill"]
        here = shown[:, row * 512 :, column * 512 :][:, :512, :512]
        error = np.abs(pixels[:, : here.shape[1], : here.shape[2]] - here)
        # float64 here, float32 there: a mean that lies between two integers may be rounded to either.
        assert error.max() <= 1
        assert (error > 0).mean() < 0.001
    assert modes == ["LEARNED", "LEARNED", "LEARNED", "CONSTANT"]


def test_quality_arrays_and_attributes_are_those_of_the_document(workplace: Path) -> None:
    archived = open_archive(workplace / "archive.zarr")[SCENE]["r10m"]
    kinds = {"u8": "uint8", "u32": "uint32", "f64": "float64"}
    found = archived.quality_by_chunk()
    described = {row[0].strip("`"): (kinds[row[1]], row[2].replace(" ", "").split(",")) for row in table("Quality")}
    assert described == {name: (str(each.dtype), list(each.dims)) for name, each in found.data_vars.items()}

    nodes = {"root": workplace / "archive.zarr", "scene": workplace / "archive.zarr" / "scenes" / SCENE}
    nodes |= {"group": nodes["scene"] / "r10m", "image": nodes["scene"] / "r10m" / "image"}
    named: dict[str, set[str]] = {node: set() for node in nodes}
    for node, names, *_ in table("Attributes"):
        named[node.strip("`")] |= {name.split(".")[0] for name in re.findall(r"`([^`]+)`", names)}
    for node, path in nodes.items():
        assert set(document(path)["attributes"]) <= named[node]


def test_chunks_beyond_the_scene_are_not_stored(tmp_path: Path, write_geotiff: WriteGeotiff) -> None:
    """A scene of 5 × 1 chunks: its second shard holds one chunk, and three that are not there."""
    scene = write_geotiff(tmp_path / "strip.tif", smooth_pixels((1, 16, 2080), "uint8"), descriptions=("B1",))
    model = tmp_path / "strip.harmonium"
    made = model_file.make({"r10m": named_bands(group("real-rbm", fit("real-rbm", blocks(256, 1, "uint8"))), "B1")})
    model.write_bytes(made.data)
    call("compress", scene, "-a", tmp_path / "a.zarr", "--model", model, "--cluster", "none", "--json")
    shard = (tmp_path / "a.zarr/scenes/strip/r10m/image/c/0/0/1").read_bytes()
    index = list(struct.iter_unpack("<QQ", shard[-(4 * 16 + 4) : -4]))
    assert index[1:] == [(2**64 - 1, 2**64 - 1)] * 3
    assert parse(shard[index[0][0] : sum(index[0]) - 4]).shape == (1, 512, 512)


def named_bands(made: GroupModel, *bands: str) -> GroupModel:
    return GroupModel(
        preset=made.preset, bands=bands, resolution=made.resolution, codec=made.codec, training=made.training
    )


@pytest.mark.parametrize(("preset", "dtype"), [("real-rbm", "uint16"), ("binary-rbm", "uint8")])
def test_model_files_are_those_of_the_document(preset: str, dtype: str) -> None:
    made = group(preset, fit(preset, blocks(256, 3, dtype)))
    metadata, tensors = safetensors(model_file.to_bytes({"r10m": made}))
    header = json.loads(metadata["harmonium"])
    example = json.loads(re.search(r"```json\n(.*?)```", section("Model file"), re.DOTALL)[1])  # type: ignore[index]
    assert set(header) == set(example)
    spec, shown = header["groups"]["r10m"], example["groups"]["r10m"]
    assert set(spec) == set(shown)
    assert set(spec["radiometry"]) == set(shown["radiometry"])
    assert set(spec["transform"]) == set(shown["transform"])
    assert set(spec["transform"]["stack"]) == set(shown["transform"]["stack"])

    layers = len(spec["transform"]["stack"]["sizes"]) - 1
    names = {
        f"transform/{half}.{i}.{part}"
        for half in ("encoder", "decoder")
        for i in range(layers)
        for part in ("weight", "bias")
    }
    names |= {f"transform/{name}" for name in ("spacing", "low", "states")} | {"prior/states"}
    names |= {"prior/frequencies"} if spec["prior"] == "tables" else set()
    assert {name.removeprefix("r10m/") for name in tensors} == names
    if spec["transform"]["units"] == "bits":
        transform = of_cells(made.codec).transform
        codes = np.random.default_rng(0).integers(0, 2, (len(transform.states), 1))
        below = {name.removeprefix("r10m/transform/"): each for name, each in tensors.items()}
        # The units of the bands follow one another.
        bits = decode_cells(spec["transform"], below, codes.reshape(3, -1).T).reshape(3, 64, 8)
        expected = (bits * 2.0 ** np.arange(7, -1, -1)).sum(-1).reshape(3, 8, 8)
        found = transform.decode(torch.from_numpy(codes.astype(np.int32)).reshape(-1, 1, 1), 8, 8)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-3)


def test_priors_are_named_in_the_document() -> None:
    priors: list[type[CodePrior]] = [PackedBits, StaticTables]
    assert set(re.findall(r"\*Prior `(\w+)`\.\*", section("Code section"))) == {prior.kind for prior in priors}
    assert fitted_codec("real-rbm", "uint16", 1).prior.kind == "tables"
    assert fitted_codec("binary-rbm", "uint8", 1).prior.kind == "packed"


# --- examples --------------------------------------------------------------------------------------------------------

_RUNNABLE = re.compile(r"^<!-- runnable(?:: (?P<file>\w+\.py))? -->\n+```python\n(?P<code>.*?)^```", re.M | re.S)


def runnable(path: str) -> list[tuple[str | None, str]]:
    """(file name or None, code) of the blocks that are marked as runnable."""
    return [(found["file"], found["code"]) for found in _RUNNABLE.finditer((ROOT / path).read_text())]


@pytest.mark.parametrize("path", ["docs/design.md", "README.md"])
def test_snippets_run(path: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snippets = [code for file, code in runnable(path) if file is None]
    if not snippets:
        pytest.skip(f"{path} has no snippet that is marked as runnable")
    monkeypatch.chdir(workplace)
    namespace: dict[str, Any] = {"__name__": path}
    for code in snippets:
        exec(compile(code, path, "exec"), namespace)


def test_the_preset_of_the_design_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_geotiff: WriteGeotiff
) -> None:
    """Its one file is all that fit, compress and xarray need; numpy says what comes back."""
    [(file, code)] = [(file, code) for file, code in runnable("docs/design.md") if file is not None]
    (tmp_path / file).write_text(code)
    monkeypatch.setattr(presets, "__path__", [*presets.__path__, str(tmp_path)])
    pixels = smooth_pixels((2, 84, 100), "uint16")
    scene = write_geotiff(tmp_path / "scene.tif", pixels, descriptions=("B02", "B03"))
    model, archive = tmp_path / "mean.harmonium", tmp_path / "archive.zarr"
    call("fit", scene, "-o", model, "--codec", "block-mean", "--cluster", "none")
    call("compress", scene, "-a", archive, "--model", model, "--cluster", "none")
    call("verify", archive, "--cluster", "none")
    call("info", model)
    decoded = open_archive(archive)["scene"]["r10m"].open(chunks=None).values
    means = pixels[:, :80, :96].reshape(2, 10, 8, 12, 8).mean(axis=(2, 4))
    expected = np.kron(means.round(), np.ones((8, 8)))
    # float32 there: a mean that lies between two integers may be rounded to either.
    assert np.abs(decoded[:, :80, :96] - expected).max() <= 1
    with pytest.raises(ValueError, match="block-mean codes uint8 and uint16, got int16"):
        fit("block-mean", blocks(256, 1, "int16"))


@pytest.mark.parametrize("path", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/design.md", "docs/format.md"])
def test_links_lead_somewhere(path: str) -> None:
    source = ROOT / path
    if not (ROOT / "CONTRIBUTING.md").exists():
        pytest.skip("not in a checkout: only some of the documents are beside the tests")
    for target in re.findall(r"\]\(([^)#:]+)\)", source.read_text()):
        assert (source.parent / target).exists(), target
