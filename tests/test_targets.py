from __future__ import annotations

import json
import math
import pickle
from typing import Any

import pytest
from hypothesis import given

from harmonium.models import targets
from harmonium.models.targets import Lossless, MaxError, Psnr, Ratio, Step, Target

from .strategies import any_target


@given(any_target())
def test_json_and_pickle_give_the_same_target_back(target: Target) -> None:
    text = json.dumps(targets.to_json(target), allow_nan=False)
    again = targets.from_json(json.loads(text))
    assert again == target
    assert hash(again) == hash(target)
    assert type(again) is type(target)
    assert json.dumps(targets.to_json(again)) == text
    assert pickle.loads(pickle.dumps(target)) == target


@pytest.mark.parametrize(
    ("target", "document", "words"),
    [
        (Step(12.5), {"step": 12.5}, "step 12.5"),
        (Psnr(45), {"psnr": 45.0}, "PSNR 45 dB"),
        (Psnr((45, 48)), {"psnr": [45.0, 48.0]}, "PSNR 45, 48 dB"),
        (Ratio(20), {"ratio": 20.0}, "ratio 20"),
        (MaxError((0, 2)), {"max_error": [0.0, 2.0]}, "largest error 0, 2"),
        (Lossless(), {"lossless": True}, "lossless"),
    ],
)
def test_what_stands_in_the_json(target: Target, document: dict[str, Any], words: str) -> None:
    assert targets.to_json(target) == document
    assert targets.from_json(document) == target
    assert targets.text(target) == words


def test_lists_and_whole_numbers_are_the_same_target() -> None:
    assert Step([1, 2]) == Step((1.0, 2.0))  # type: ignore[arg-type]
    assert targets.from_json({"ratio": 20}) == Ratio(20.0)


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        "psnr",
        {},
        {"psnr": 45, "ratio": 20},
        {"quality": 45},
        {"psnr": "45"},
        {"psnr": None},
        {"psnr": True},
        {"psnr": []},
        {"psnr": [45, "48"]},
        {"psnr": [[45]]},
        {"psnr": {"B02": 45}},
        {"psnr": float("nan")},
        {"step": float("inf")},
        {"step": 10**400},
        {"ratio": [20]},
        {"lossless": 1},
        {"lossless": False},
        {1: 2},
    ],
)
def test_anything_else_is_refused_with_what_was_found(document: object) -> None:
    with pytest.raises(ValueError, match=r"found "):
        targets.from_json(document)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Step, 0),
        (Step, -1),
        (Step, (1, 0)),
        (Step, ()),
        (Psnr, 0),
        (Psnr, math.nan),
        (Psnr, math.inf),
        (Ratio, 1),
        (Ratio, 0.5),
        (Ratio, (2, 3)),
        (MaxError, -1),
        (MaxError, (1, -1)),
        (MaxError, math.inf),
    ],
)
def test_values_out_of_range_are_refused(kind: Any, value: object) -> None:
    with pytest.raises(ValueError, match=r"found "):
        kind(value)


@pytest.mark.parametrize("target", [Step((1, 2)), Psnr((40, 41)), MaxError((1, 2))])
def test_values_for_each_band_need_as_many_bands(target: Target) -> None:
    target.check(2)
    with pytest.raises(ValueError, match=r"for each band needs 3 values, found 2: \(.*give as many"):
        target.check(3)


@pytest.mark.parametrize("target", [Step(1), Psnr(40), MaxError(0), Ratio(2), Lossless()])
def test_one_value_is_for_any_number_of_bands(target: Target) -> None:
    for bands in (1, 3, 13):
        target.check(bands)
