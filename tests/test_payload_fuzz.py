"""Damage that is drawn by a number, and decoders that are caught when they fail."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

pytest.importorskip("benchmarks", reason="no folder benchmarks/: it is not part of the wheel")

from benchmarks import payload_fuzz, transform_cases
from benchmarks.payload_fuzz import DAMAGES, Found, Whole, attempt, one_try
from harmonium.errors import PayloadError

from .tiny_transform import model

DATA = bytes(range(256)) * 3


class Decoder:
    """Fails in the way that it is told."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error

    def decompress(self, _data: bytes, _shape: object) -> object:
        if self.error is not None:
            raise self.error
        return type("Pixels", (), {"shape": (1, 2, 2)})

    codes = decompress


def whole(error: BaseException | None, shape: tuple[int, int, int] = (1, 2, 2)) -> Whole:
    return Whole(name="made up", codec=Decoder(error), data=DATA, shape=shape)  # type: ignore[arg-type]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_is_drawn_by_its_number_and_leaves_the_payload_alone(damage: object) -> None:
    assert callable(damage)
    data, other = bytearray(DATA), DATA[::-1]
    found = {bytes(damage(bytearray(data), random.Random(number), other)) for number in range(50)}
    assert len(found) > 20
    assert bytes(data) == DATA
    assert found == {bytes(damage(bytearray(data), random.Random(number), other)) for number in range(50)}


def test_damage_reaches_empty_and_short_payloads() -> None:
    for damage in DAMAGES:
        for number in range(100):
            damage(bytearray(b"\x01"), random.Random(number), b"\x02")


def test_only_payload_errors_are_allowed() -> None:
    assert attempt(whole(None), DATA, codes=False) == "decoded"
    assert attempt(whole(PayloadError("damaged")), DATA, codes=True) == "refused"
    assert attempt(whole(ValueError("no")), DATA, codes=False) == "ValueError: no"
    assert attempt(whole(BaseException("panic")), DATA, codes=False) == "BaseException: panic"
    assert attempt(whole(MemoryError()), DATA, codes=False) == "MemoryError: "
    assert attempt(whole(None, (1, 2, 3)), DATA, codes=False) == "pixels of shape (1, 2, 2)"
    found = Found()
    one_try([whole(ValueError("no"))], 0, 7, found)
    assert found.failed[0][0].startswith("try 7, ")
    assert found.failed[0][0].endswith("made up: ValueError: no")


def test_the_command_counts_what_came_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = transform_cases.made_up(24)[:3]
    monkeypatch.setattr(transform_cases, "made_up", lambda _: cases)
    (tmp_path / "model").write_bytes(model())
    command = ["--model", str(tmp_path / "model"), "--out", str(tmp_path), "--minutes", "0.05"]
    payload_fuzz.main(command)
    assert "| wrong exceptions | 0 | 0 | pass |" in capsys.readouterr().out
    assert json.loads((tmp_path / "payload_fuzz.json").read_text())["measured"]["tries"] > 3


def test_it_ends_with_1_where_a_decoder_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(given: Whole, data: bytes, codes: bool) -> str:
        return "decoded" if data == given.data else f"ValueError: {codes}"

    monkeypatch.setattr(payload_fuzz, "attempt", broken)
    monkeypatch.setattr(payload_fuzz, "wholes", lambda *_: [whole(None)])
    (tmp_path / "model").write_bytes(b"")
    with pytest.raises(SystemExit, match="1"):
        payload_fuzz.main(["--model", str(tmp_path / "model"), "--out", str(tmp_path), "--minutes", "0.001"])
    assert "| FAIL |" in capsys.readouterr().out
    assert (tmp_path / "payload_fuzz_0.payload").is_file()
