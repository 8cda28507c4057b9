"""Payloads of version 2, kept for ever: a change of what they decode to is a new version of the format.

The model and the pixels are of whole-number arithmetic alone.
"""

from __future__ import annotations

import base64
import hashlib
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from harmonium.models.chunk_codec import Encoded
from harmonium.models.payload import Mode, unpack
from harmonium.models.targets import Lossless, MaxError, Step, Target
from harmonium.models.transform_codec import TransformCodec, _Chunk

from .tiny_networks import WholeNumbers, codec, whole_model

pytestmark = pytest.mark.usefixtures("one_thread")


def pixels(shape: tuple[int, int, int], dtype: str) -> NDArray[Any]:
    """A hill with noise."""
    numbers = WholeNumbers(7)
    y, x = np.mgrid[: shape[1], : shape[2]]
    hill = 1000 - (y - 9) ** 2 * 3 - (x - 5) ** 2 * 2 + np.where(x > y, 60, 0)
    noise = numbers.tensor(shape, -9, 9).numpy()
    values = hill // (1 + np.arange(shape[0])).reshape(-1, 1, 1) + noise
    if dtype == "uint8":
        values = values // 8 + 60
    found: NDArray[Any] = (values / 1024).astype(np.float32) if dtype == "float32" else values.astype(dtype)
    return found


def marked() -> NDArray[np.float32]:
    """A hole in both bands, one pixel of one band, an infinity."""
    found: NDArray[np.float32] = pixels((2, 19, 21), "float32")
    found[:, 3:8, 10:] = math.nan
    found[1, 0, 0], found[0, 18, 20] = -9999, math.inf
    return found


def drawn() -> NDArray[np.uint16]:
    return np.where(np.indices((1, 9, 40)).sum(axis=0) % 8, 7, 9).astype(np.uint16)


def combed() -> NDArray[np.int16]:
    """One value in 13 occurs in the first band; the second one's pixels are two by two; the third has a hole."""
    found = pixels((3, 32, 30), "int16")
    found[0] = found[0] // 40 * 13
    found[1] = np.repeat(np.repeat(found[1, :16, :15], 2, axis=0), 2, axis=1)
    found[2, 4:9, 20:] = -1
    return found


CASES: dict[str, tuple[NDArray[Any], float, Target, Mode]] = {
    "steps": (pixels((2, 24, 21), "uint16"), 0, Step((24.0, 8.0)), Mode.TRANSFORM),
    "exact": (pixels((1, 26, 25), "int16"), -1, Lossless(), Mode.TRANSFORM),
    "bound": (pixels((3, 16, 17), "uint8"), 0, MaxError(1), Mode.TRANSFORM),
    "masked": (marked(), -9999, Step(0.02), Mode.TRANSFORM),
    "deflated": (
        drawn(),
        0,
        Lossless(),
        Mode.DEFLATED,
    ),
    "levels": (pixels((2, 24, 21), "uint16"), 0, MaxError(1), Mode.PREDICTED),
    "combed": (combed(), -1, Lossless(), Mode.PREDICTED),
}

GOLDEN: dict[str, tuple[str, str]] = {
    "steps": (
        "AiMAAhgVzgQAmdhAANCpQBYJED7KDeYHAADAQQAAAEGN5jYk+Wm1QeNFfjQOv4oplCS2trhmVDDBHGRWcOc5thsdx9WodYiHTRGBzngk"
        "aoW+sjq/xPNQ+qYrYznnA9tkaK0tR2J5fu5qbKGFQh2Kn19ibSKcOWfo+eYCY3X5G0N26GQ/fOtozPbbmR+qqbM5VPVBTKZDO1F8NIYh"
        "C6tKzE55Rh9spkZZa8lCuR7SVS1jOGSooDhmonmyn2etDLo2tlfLX72lkYsihGrY+Me87OBveBB3C86DltcGUyDd4dUjFhUbtIGCjjC/"
        "iwqXMYupHlfxWO7aQWZLXk5v6maUyNh4A3qoHc4ZVnJFYfqfoDiQ0ZSIvrhrfXDQZSTHk5GipQ5QVJQGqY6CAVG+4hhIZld0xPz30yNt"
        "AiWQuOkPbeI8Rsts0YbJu9nPtHjutioKAUFywvfpT1GNbYPW5vTSMtW+9nI5J26GHnoIBiEAAO/eno3srQwkh3yOjCtFSYv4Yv3/zBCw"
        "BLp/Ff1LWfqTKNjHbh5RnxD6/4pLbqLeHOHsTiyFRuMIHAUAAKxZWQOh4JZa5I4AAIj73hRIPeX/6vD//8YKAKc4BAAhJwWReGb4//8i"
        "UQ2GvnmQlxUQ5bP5A0aVDVY1moB5Qm8caJ2vDPgAAP1Ki3tUQ/5fn8NOQUlxuqGOzDcaAW8fArQnClsjF3/2ks/yg55NXbi02i7/uPD/"
        "/42x//9H5kYI7vb/V7/u//+OBPz/D5tAAD/4/xfnBAAA/i3WFdT8/xvI+/8f1Pv//9ICAAAtIio6YAVaAwA=",
        "789eed3f3ac47455b3b58cf4968b0dcf75cfd135fcf2fa31473eedeeb2761f42",
    ),
    "exact": (
        "AhMgARoZwQgAAAAAAADwvwAAAAAAEQDYCT4AAP+IQ38YfqBb+ccPDMCgS4DB/5XwFwCcLg6WBiwPn/QizKPiS8pGkTZ5kka0T8AH5o5q"
        "24zljxPBiQeTyISRjpKRYtOwcc70FpU4FwZGI8hLak2UeEttg9F6LerKBd09yAF8gvGigLy/vgMBFAgAX3x63/ex8Q2+JPCpFhiNv5Ao"
        "QewEeAN2BI9iXYtvuXM+oTdp+l9s2M6Zx6dQDb/7631lUirxkjl+kKbaVV1nIceJlg0VR2v/H2uFLd+toAz0djHIZDMAFIYx7YYC4ApO"
        "YWik24UVgVjncut9Fo804mk4hbdWOxgNPBcxCzu6MTrV0yM6yK8wgws3RqWsyOWz2HQFdOwIO3IgzBVVn75GY+ajSYt97W5QXzkoCiLM"
        "fLVN/jgNcdIVifCq86PowIwSsAEAA2yr9ry5afvfNptTSSUY1qdhNev7MAgDwr8HMVfs7KIPE9qpea/pzY/NDn8bj1DBeuWYB6sCkzw2"
        "ToyPAtJvqWLOAqCn1RyGo2nCmIG58IzBVG7waRX5iL7QkKpsx6bkrKsGAAC+AACRPwLc/9DoctveBbDV+tEj/3vWEHy+ngqJchsL4eND"
        "P/qkkoBvOXzNGZMAwEzptDgKiL1tAOdYhVGoFa4z47KPnRdu1ms7EJCZ0IJ4I98yb7cNK5JyA0CCXpB6vDRWa5FKDfXjIL5bB4tPQ0s7"
        "hozQXbOe7pXFf+/8jQj9SeL7CQKSABjwW8gm3n760BLUKcPrwc0ExcdmTxgedVADNUh05yTJH2zTxY2Z9P9ogJLBe+N/85d98JOCcTGO"
        "EdtGz0Y+FKKMGunREXZgI/6fbeL/iIxC3ovpvwD/n8v++QNw/Hf0A/4gAIK/p8OZ4hcYyNlqMxV9M/z00PDulOJbZeD/CBDf/wlonwAF"
        "IEARAPD/BzPoqoatVpFygsb+Zmhimau42+pxVRbEAE9DDwEUMGEM+T+fp9DvI9chrwBI6SHONTDnll4Fqp9LMYF8VqN8KP1qYV3/tDJi"
        "/ypgHCoKFI4JlL7AG5wXeIQZqBJdDrgP7tERtggXQJkGll3YiZtglP8NoJn/BADAAv1PwAP4hP2d/xMMekzpNG9QtEKm6sk1je4A7QX+"
        "StQAC3hj/RNoAAAKFQTQAOfwX9Sq4qGf6y+MY1DEgTI46eW51V7FNvzvt6N1PvX2FSp7TiABUMC/OYSeV2RZdLT+/1Vt/xPLWN89nbvq"
        "hggW/v8Wov7rEoujl4KU5okQhwUXBULdezyUFg8M8///S/RggljhWBp+Kw5zFf/cmuxwqCHFIOL/oFz7/4pQz0MmHqeUCMAvAPTjdCKt"
        "BUgZVrvkyAZjPgFlAgAAhvhOMFBN8xcFqAMdaZDT/zhsAAD2G///N8sAACi1tCWQTP4Z/0tqJwn5//87PDwJifr/Ev+Hhx1J//9/Dw4A"
        "AOEBAAASMrMvPldqMHHNXAMA",
        "297b775d8d99b30e74523d15683e9ad18e916b978fe70635cf3b560f0601cb5f",
    ),
    "bound": (
        "AgMIAxARlQJCAMBlQADAYkAA4GBAAQEBGB3WAuYBwgFnZmZA22vlm2rnKBoYLZcWnHuYkwJTQasR4xCKUpiEvZefW2aiYJ6YgJJgnkf2"
        "FWeoxEt7+XHhQYenLI6Wpianu+MIHek+jB8OHdAOoKu1F3irtr/5BDWcf1WkioOHB8FKtTh6VAtLltZiR5DSPwKhNsAAXiHIF5BTCWFm"
        "LkXZvzjYi21mxQ1AhgRF/MZjAmrVJ/mAdDf8qfU+M3sDTC+Yjb2IBTAm3P9iEf1TH8aoaNAqrnp8XxSci0KMeHf9fol6AIXnJViMbtOK"
        "79iTUqR+/9n2nlRJUm/NavWMJL7DoLcM3nQLx10NSig1Az8NAEC08v//mGYKAMI4YthxkMsQKAwAGC3y/MrSdUscAAAAQEAAAEBAAABA"
        "QAEAAAAAALLbV8r5hD6sjGPkrnHktzKbVYq/+/bgriVFaHFcNdfPTLmpxFZ+Nie43gaZbTByDA==",
        "803c3115e208ccea28de12e226fe13e780b7f3aaa6e37a667d2b36a2efa01c1e",
    ),
    "masked": (
        "AjMmAhMV2QIcAAAAAICHw8DXAtcCThyHPwxEgT8AAAAAEFiOPwAAAAAojYo/eJxjYKASYEIA2goOZ8DMSC2TRqODGgAApKIA4Qg9AgtO"
        "P4etzT4K16M8bTAAVkZ7ECWPgmZjJHUzYoTNLKxC26eMR5feBDV0RefCwjJaJHhiv3WU2DAK8UWfPZyrneOWdpI4PErPG27uQ1iPuzWJ"
        "igQF6paWsZ01kEMGGjKnVyew+EwZjqYSGbYXxIg2SqWKYQ4aJvVdLa5Te/6d7g/6CL86b7DO8QspRm9xkpjgJXHGhEB+XyNdgsu3RGkc"
        "iSd7IOZXczXII1/JL1+NoGZll3UUpEJteGtIizfLTKkFjnhIdk1IXcyhiwzfpGnIQWN3F9TKc9pJ49t1nf4Kv50/AED7/v+ockb/F76/"
        "AHid///QAPWSQhAejCb1M4Xy0A5zlrO4lX1GCgB/JY+begQAFBRhzcMOXij0ZEWpNM+qvXsm5zawNCDLhQPxc4rbu5cS4iqmF+/0///6"
        "FwAYAgQAAACdAAD4+f//p/7//08he9zglg4AAA==",
        "1bebd8dc2b752191ebcab1b283c55ab2a27c01b0e8827c77ed71835d8ac9ffe4",
    ),
    "deflated": (
        "AiQAAQkoPAAAAAAAeJzj/McABkwEaHbilDGxE6fsHztxysD2EqEMpI4YZUB1RCljYCdOGQMnkeHH8J9ImrrK/o80ZQBoqFgW",
        "e140e9b64d596df180cb819d9de2eb8eb1b53cf74af8e09297bdd4a4505d6e4c",
    ),
    "levels": (
        "AiUAAhgVxQYAgHVAAEB1QAEBAB7GqgEDAQEAAABqBm4IdQEuAq7+DQFK/Ib3/3+V7BkSjQdd10Dk9DzF5KP/LeEAMz8/Pz8/Pz8/Pz8/"
        "Pz8/Pz8/Pz8/Pz8/Pz8/Pz8/Pz8/Pz8/Pz8/Pz8/Pz8/Pz8AAAAAABbOqgEDAQEAAAA6ASH+qACRAkkBmgAWA7YFARCm/K38Wf4AAP//"
        "KP8BADIA/v8WAAkAAAAWABYAJQAKABAAAAAdABMAAAAAABQHJSUdIR0hHfqRBgAOBN61/05tcPzxtAOHKq14djh5TMnusXNc8d1ENeNB"
        "qWs7y96kxG3s1EOT+bcrrbyIM4SzstPxCT2wbbPwGFk/mDEsbs6BhMHIilC6ge97eqKne6EktefTcrUbr/y0kfxXhefDA6ThHvoKXeN0"
        "sNu2EISlLd2WYSLGkbOZ1sW6HVJj94KEOhqc7piW0HZRJPAGN5q/EA+M47rqhB511oKX90zVk1oGszcH/KcI0+g067oig32MD+W4YD2p"
        "QhyvXuQftk2nCnP5DeMd6o1yHRBPpCm8v4v+/eLjjwyFbNYFOtg4L3hPyCzsz1q8sANHnl8B6QDnMIZmE1yBLtD2HrBKtXAnQryvSS16"
        "rzXkinjcJ53RjEhLNmQZNc8M5o8OR7y7qqZWwwkeFijjISchy6ihcTvmOz6X41ESWTRvG3E4OMQdCvSiHC9KPcmAzh2a2laYN/T7yx5O"
        "UNrnj24Xd9dTFt8LvNvs2aoBu8E+wOv9QDQsGPvoqTqIiwPDuDbohVT5A+zi/INqf91wcZsg5jLRkrtfRW5Y2De9h9U4v5RQ3rbEYd0e"
        "In7nolm+0JejNEwzm2TJri3EZUVxbnndmuUTI21R1Ti9HagTyOGPva401NJ+NhFBvZ3aGjP2DfETKyI6AEGcS0t3fusckyFmLPKhfswk"
        "S8tX665vE2sJGQypn2IjS2/tkfu7ID0ovmvxwG7h6NOCXGLgWyKeVF/PxGZzU9q05B9QxvF6TG6Ovop5dYp9NMBGwVQibmEn68KPjOSB"
        "xTZREY7FNc8X6fzWM/qyVaMbmQwSj9YhRmGne4Vw8x1HISIimEpEMUa9ccC+YhZNsCdi0LBtmUdgciYzU3yJ+1vCt54FSxsZgOVH",
        "f32d951cb883869c26e970063c70cec70d129387eb1b95bf2d15f9fdcf7ed1ac",
    ),
    "combed": (
        "AhUmAyAesgknAAAAAAAA8L/AB8AHjAcAAAAAAAAAAAAAAAAAAAB4nGNgGAWjYBSMglEwCkbBSAaMcDCYZEcBNQHZQTwaN1gBAKE2ADUA"
        "jwjNBgEBAQAADo8HXwQ+A1sC7/96/7H7a/qPAQMAAgD8/xcAMwA6ABoABAAQABcIHTElKSUlIRmcBbIBAQICAAAAXAEXAFwBAABcAVwB"
        "FwAXAFIFMv5p/gf+mwD0AsL59P8JCOj/SADo/3cAHADo/77/sv/s/+3/LwD7/5D/NQAcBSUlKiYjvQj2BgEBAQAAAIwEqgH0AtAD6wD1"
        "/wMAPv5oAqz/AAFm/ygAd/3SAO4ApgTv/cP7nf14ARcCGf2nATgB/v8KAAMADgAJAPn/+/8LABoA8v8dAAoACAAFABwABQAbAPz/FwAZ"
        "BiYqJiciKlDz//8EpO+1mu4ss8g+3G2Kj51q7sb/TUUgR8o0ghJf0qJctTze7UiuuUpQuFuzm33q9ViuCciseIDfESeZIvmY5k3r0wSX"
        "Au7FvFsWp4taxqx7slbf7rdIDYUyvR8o2gPLzmCIHim411WboMto+mdcknNo/H2xsqKkjvw3Hr47hcT+kjcUd1n0S2gAJYJW6htbTkL5"
        "jr5GxsaEKGr89svu5sQvcrt3Rh9ihiRwLYQwR6YVovjapjqDxmOtFpU10EjTKJ1+soa8LKp6hhRxKd3Yt8Kd+A8MHkhn/XimruWRczPz"
        "yZW99nSqC0uXiu0i87O1kxO9hRlHwM96fXzUxicHYyztL2NQOHgzsop24jfyhlPvB93W3A41LsUkb/kBRQ/f8FCBHTh0AABc15YCixUV"
        "BMuv1qUUWPTvL0r2rKrSY31E7Rfm5zPqUtCWYLQkYciym8tyK7v2D71bBtI8UtOp8LsT5Q4MMQ7uF8nPfPfiDJagfhRkRKQjAW7yLsdJ"
        "1D797B9T9N4BK2ByEEB4TkQ6ry+nbD+mCrtJ137mac83Cj4zRs3frEqossdJxUhfE+CB6EGcnwpxCuMwDli3g2sjqfkfAWfcL3Ry4ttp"
        "wyOwZeLR5gAdyevwAmpCYKF/eXpCB2OrH/1TNGmnJkrYfjr9JZsUYIsuqg0lsXHAx2Mm7mkPTWbUxf382NHqXcXRGUear06MdMirwrhU"
        "Te0SI6KZWwo3Zlb4kSLLj6UU9bX+ErRiyWi0sDibq6cYnh2e9tuCE820aN37wuJTygv64qNgpgmx9eM9QEqULiQ4QpSRe8PEJAeea3i+"
        "vRB+wUULXXLQdyVoVphaKUuMjo3BGhM4p4CZa5doZBakiInCIsHzLaLjYm+67dTRtZnM4fo48yRKZvhbtqpaE2zf/UxfkHAdOgYjuBiU"
        "19mpZno/J3NaLTFkMsvQeyj7zK9g6ZohLYfii7ehzUjF/ochQQv7qutNqwCkfsVSyL8AHhP+CRPuFC0TpUx3OqI8ois0EHyVf1SExXc5"
        "+aEcVek9e11o2iw22XR6oKXDhleTJj5I7151P8f+2N2PKEOxWBgoRPoRUYnvEStANT3wGGKBJnSpQ7X/FdixpzbLZPMyDZ+M534HPvza"
        "UOsga4Td9aW3bFiB3PEe0ISuXfQfSBzDssfmwIzrfXo/y2lWK4mA6YTMBi8rFgyGW/hWw3AvBr+WFmhwt6NmZD4EY+hMSaQPe8TknD4O"
        "1uLeMmoLZ9vv6qyY+3M4MVn7AKOV4BeyJfhI3H12Dg==",
        "90551f5298cb4b735e62ec51b36457fe714b3938b549c899e58a51452d22a6bd",
    ),
}
"""Payload in base64, and SHA-256 of the pixels' bytes, little-endian."""


def coder_of(name: str) -> TransformCodec:
    original = CASES[name][0]
    return codec(original.dtype.name, len(original), whole_model())


def written(name: str) -> Encoded:
    """What is written; but in its own mode even where another takes less."""
    original, fill, target, _ = CASES[name]
    coder, chunk = coder_of(name), _Chunk.of(original, fill)
    if CASES[name][3] is Mode.PREDICTED:
        found = coder._predicted(chunk, np.full(len(original), 1 if isinstance(target, MaxError) else 0, np.float32))
    elif name == "exact":
        found = coder._exact(chunk)
    elif name == "bound":
        found = coder._bounded(chunk, np.ones(len(original), np.float32))
    else:
        found = coder.compress(original, fill, target)
    assert found is not None
    return found


def digest(found: NDArray[Any]) -> str:
    return hashlib.sha256(found.astype(found.dtype.newbyteorder("<")).tobytes()).hexdigest()


def payload_of(name: str) -> bytes:
    return base64.b64decode(GOLDEN[name][0])


@pytest.mark.parametrize("name", CASES)
def test_golden_payloads_are_read(name: str) -> None:
    original, fill, target, mode = CASES[name]
    payload = payload_of(name)
    assert payload[0] == 2
    assert unpack(payload).mode is mode
    decoded = coder_of(name).decompress(payload, original.shape)
    assert digest(decoded) == GOLDEN[name][1]
    # And they are not just anything.
    special = ~np.isfinite(original) | (original == fill)
    np.testing.assert_array_equal(decoded[special], original[special])
    error = np.abs(np.where(special, 0, original.astype(np.float64) - np.where(special, 0, decoded)))
    if isinstance(target, Step):
        assert (np.sqrt(np.square(error).mean(axis=(1, 2))) < 0.5 * np.asarray(target.step)).all()
    else:
        assert error.max() <= (1 if isinstance(target, MaxError) else 0)
    np.testing.assert_allclose(unpack(payload).quality.max_error, error.max(axis=(1, 2)), rtol=1e-12)


@pytest.mark.parametrize("name", ["steps", "exact", "bound"])
def test_golden_payloads_are_written(name: str) -> None:
    """Those without zlib's bytes and without fitted factors, which are not the same everywhere."""
    payload = written(name).payload
    assert hashlib.sha256(payload).hexdigest() == hashlib.sha256(payload_of(name)).hexdigest()


def test_the_model_is_the_one_that_they_were_written_with() -> None:
    found = hashlib.sha256()
    for name, value in sorted(whole_model().to_tensors().items()):
        found.update(name.encode())
        found.update(value.double().numpy().astype("<f8").tobytes())
    assert found.hexdigest() == "051fe5beac43177c443a0a46f5099b0f0dbbef6169e79db8a5312b0dcbb7756c"
