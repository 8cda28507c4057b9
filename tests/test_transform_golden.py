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
        "AiMAAhgV1QTAk9hAAJaqQBgKEBrKDeYHAADAQQAAAEGN5ofmzjYgC5q9zhVqwQcoVV/VIoFsd1JKtbBcrE1NI83bou9+2Jz8U50RaOq3"
        "R2u0sgK2L/k7yCGiUDoZTFFzvUuQCDUtR6YJg5/is60oDldkFB3DWSfcGJo8P24FxpxpG0MpKXcy9Zhl8CU+ZsIYOjYnPVfEd2tDO1HA"
        "RIYhsEBXHEV+Si/H5YqWCQAAyyIqh5tjGmUkpIo3zulT5VekD7o2hG644ItftE+xQI9NpYW3FmyhoNRTB8VdxUYNwum0li/OABUbRiFt"
        "s8SUweKaIY/Fy3CZwB2AqUm7p3RPLMeUymMPdfGsFWxBXYAbfCy1Xtk2vpPMjMOjyxosYwmrA3GkBFVPza6Olc2AB5d1SROzTnrGHhFE"
        "0bcVFpKc9D/z/yiz54beGuV4s6v0XFyxVbb8+UDChIjHFcMntQivvd1/hn+i9IgxHKLKOU1/cop+wcKpmI5EmwAYhhoyn+94zIDGHoKo"
        "kDq1secfHZMKCsu3CDTml4mAIVaT4ewXSqf//09cLIUP+/7/8LJIy9YDAPQA20MDYSWPFKzW4/9HpZgUyJsZ+fS10oK+SlujxQgAEchS"
        "iP5++f//68CffDS7MZdSMSzLoLl5gbrvUQpPlyEAKHH3n6XLQXxM4rOF/CT+B//3///S////J75bP/L+1ppxeo1M1w3PngMcTZfZ4VYB"
        "k2k8B99SVwDNmf//l0oZAMj2/xvV9///9wMMAIzhPQA18/8XwAIAAP+V5BbX+f8bxvL/H9T7/w/n7/8X/7BRNuhXyQ0A",
        "990afc73fe65910e55a137bc243c7513d7b4e4554b44724d85462425ee0947b5",
    ),
    "exact": (
        "AhMgARoZwQgAAAAAAADwvwAAAAAAEQDYCT4AAP+IQ38YfqBb+ccPDMCgS4DB/5XwFwCcLg6WBiwPn/QizKPiS8pGkTZ5kka0T8AH5o5q"
        "24zljxPBiQeTyISRjpKRYtOwcc70FpU4FwZGI8hLak2UeEttg9F6LTtkBRB3wwF8gvGigLy/vgMBFAgAX3x63/ex8Q2+JPCpFhiNv5Ao"
        "QewEeAN2cm5bQiJZv9R3KD8J6VR/YgQywoS6SMDrYc9lM2T7lMcg8FuIx1hpFYixcsfionoW9O6J+E0LiPxs/SxhaCoAEQYy7IYCgAtO"
        "YWik24UVgVjncut9Fo804mk4hbdWOxgNyKcwKhLA1GlEkCXMdrEnqspMQ//U5OXm8TcFHYVbPhmdOzO/nFJDRMEhSR00WnfTtvthR7Ze"
        "fze0PSqKoNMyJWEg8vh1qJdUVQcAPLjG9eew7PoGukFX7hAO0KfP5rgPgzAIwr8HOVfs7KIPwVUXAiO2zriiWW7E8NDFrHalBm3VZ0DS"
        "0aOU7x0aqbVDG2uK3Th85Lb8k5DXbHaZZB18V6C3fLIvs1GQumHnxm4IAABsAAAZyqzXgJOhex1/9cGD+Oj/9/FdEHy+PibKbdwJ4eOD"
        "0CeVBPCWw9cnYxIAiCmdFrcQfUldjrR84Hq1GbKRMQNvu3lswjvZYYOMuM6VC1PRcUbaJ4JEdT2B9Zgig4U+g3bps4ApfSAeC4F3R5R5"
        "eKa9gvz275XF//I3IhQkie/vCAKSAAu/hWzs7acPUYI6ZXk9uJmQWPExVjBoM1CcpXKn4GZKfmvdAJGky4Kcl/gYdMqDe3G0/1iSqwUS"
        "A2GxK5Awj++Fz95iEFO6DQACpZD+saa2EPz3/f/c/07+ACxA7ugH9AcBEPg/FdbXk4FPUZVwZj9/7bVJ0azejxUeNeL/CBA/Ae3/oQAE"
        "8B8RAPA/nKEBI5BqVnqHPkTxdm5eFa78zx+V3ijEAAIDDwEUMGEM+T+fh34fORDSrMtI9PAP1tRW+SCnKTU36zpDhQFGRv2VY17/XT1u"
        "/ypgHAoUjv8pfQEV4RSz5H9miSyLXs7WV9V/sZFdhyP83lTZZJfNbAAN4Jj/BCDPAv1PwAP4hP19gkHwPhmtLoy/XYZmByaXhfxn5xTT"
        "QMkAC9hj/RNoAAoVBBAAnMMf2HrA7fOaIKlvEhmMlOFC7gb6TmkP2/luJ8fd5muvh0OoCTv8lGsBAfQUfJWAdyb//x9K/y9j/cI/GcCs"
        "DsteEQBRBf+LwkmKzWNqcZNsXP4TA1XM/wA10A5W9P//kO+GhGI+iNp7WIiFR+qH7GWCzxTHjqFPIgsJALSAXTpbkI8SQLabHLE///+y"
        "kAxWx0KSIYmio8L7AQAA7hSool8jixWgDowfDfvh/8zA9P/js6oxieEFAHnbgCHDOv7/VpBQJwnx///h4WEJifD//y0trRxJ9///CAUA"
        "AP8/ITPBB6AvPr4WLdDESh0C",
        "297b775d8d99b30e74523d15683e9ad18e916b978fe70635cf3b560f0601cb5f",
    ),
    "bound": (
        "AgMIAxARmAJCAKBlQACgYkAAgGFAAQEBGBXWAuYBwgFnZmZA22vlfWrpm2rnKBoYmKHFsf1bFBq4xYxxZJ+b4AoRub5Ov70ASK+kyZXN"
        "0GM6OZqe5VriG74VYQVLb0LKkWUwTLmSPgQ0iPRqbdzp2mQHJZ1M72Phdyxga1eHksR77dRcSE18WFadbvqT8JKTP/OQ7oKbfLEJl5BL"
        "NjKirKBMlim9fpw5l6wyJPfb+kMJ8IoMFtiUFQOxlNFgPHJV9BaOnmGJBXrZxf4zc+ZE/EZ2nvnWIJzFDiSLbzFpYC8+zW6ScmaTJM4x"
        "cdxTTIjWfBJv81hlbzdXfXnRn6imtiBYdyrvElrUvkgOSnPpAn8BAAgQ8///PuMIAGWfGK+YpLoQKAAAGC2S5cu0V/UFAAAAQEAAAEBA"
        "AABAQAEAAAAAAEyIiJLsr7GgEk5DCnmmkGP0TTufnML+XMyNjT07PkvraW7BkXnlSJ2JlQdv1QAAAA==",
        "bb72cec46ad3c0b8cfcde2cd344c60e58b8aba694f358d2781a4e9204334a11f",
    ),
    "masked": (
        "AjMmAhMV2wIcAAAAAICHw8DXAtcCqr2GP5U6gT8AAAAAMLKMPwAAAAD8MIs/eJxjYKASYEIA2goOZ8DMSC2TRqODGgAApKIA4QgVAgtO"
        "P4etzT4K16M8bW5tMAD9YG1JzY6N14BxwKJQWSu3ILKH58shA7/KjgqgZa2vCciEkV9WdX9S4QNSJADWqG5ndGvQfH+a59umaMYILvJl"
        "0URswnCur7VI6UyNEv1yH3zK/0nVtzoQgivMn9DhmSqBtkRYbmF+3/ZBFX4MMYcX8rGPCbGOcyZGjWREDMZu7S2FkDpKindvzAptHMuS"
        "xRgpyW1HUf3JViWNtF4MZ/d/9+Wb7iaOV6MzIFwQdmtTBP7iVo6EkkdWYgXD4k0JSY5I8JKbuFdoiSo1SU65GRMzef7/xtniTHmo/P/v"
        "vP//zObgA7TS//9zqG+TpQKTcpCAvYAAPVJ3XfztFxTlv5bzDwAQAYizxElIAADVMV9gQo2hfz3D5w+ZqQIA+fcfnKr3Thg3JLb/hPr/"
        "//QfAEAADgAAEhCLtYinABgM8P8ixI/f3NvrxB4B",
        "dde1cc8b56aba51717d0bc2df1a7582f82a11a9c85c06c9b568988474e6c6dde",
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
