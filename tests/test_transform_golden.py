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

from harmonium.models import pixel_coding, predicted_section
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


def repeated() -> NDArray[np.int16]:
    """A band with a comb, one with a hole, one repeated to a finer grid; the last row of blocks is cut."""
    found = pixels((3, 49, 44), "int16")
    found[0] = found[0] // 78 * 13 + np.arange(49).reshape(-1, 1) // 25
    found[1, 5:9, 30:40] = 0
    found[2] = np.repeat(np.repeat(found[2, :25, :22], 2, axis=0), 2, axis=1)[:49]
    return found


def drawn() -> NDArray[np.uint16]:
    return np.where(np.indices((1, 9, 40)).sum(axis=0) % 8, 7, 9).astype(np.uint16)


CASES: dict[str, tuple[NDArray[Any], float, Target, Mode]] = {
    "steps": (pixels((2, 24, 21), "uint16"), 0, Step((24.0, 8.0)), Mode.TRANSFORM),
    "exact": (pixels((1, 26, 25), "int16"), -1, Lossless(), Mode.TRANSFORM),
    "bound": (pixels((3, 16, 17), "uint8"), 0, MaxError(1), Mode.TRANSFORM),
    "masked": (marked(), -9999, Step(0.02), Mode.TRANSFORM),
    "predicted": (repeated(), 0, MaxError((0, 1, 1)), Mode.PREDICTED),
    "deflated": (
        drawn(),
        0,
        Lossless(),
        Mode.DEFLATED,
    ),
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
    "predicted": (
        "AhUGAzEsnBBL0hDEEOwQAAAAAAAklkAAEJdAAAEBeJzt1EEKwCAMBEDz/0/Xi5eCYJDQFGauLut6cYyN2B1cZnPhquKy12U0GNxgQoO5"
        "39eeRyMRLShNXA/A/DWXf2QBAACAtwfaFQBDAOsQ3wkBAQEAAA3YBZQBEwWpAzsA3P+b+zX8dQAAAAMAAQAtACsALAAgABkAIQANFykp"
        "KSkpISEAACQpJSkpKCEdGRkZGRkZrTLfCQMBAQAAALoGgQOzA4oBUQA9/6v8zfxgAYP/Wf/H/pQAsgCg/5sA7AACAAIA/v8MABEACgAC"
        "ABAAEAAGAAMAAwAIAAcAEg0pCR0hIR0hISEhISEhiwGKAQMCAgAAAJQBgACUAQAAlAGUAYAAgACfAaT+w/+8/0EA2P9m/ywAcf+y/9D/"
        "MABLACcB7v4SAHYB9P8UAPT/JQASAO//6f8FAA8ADAAaAAAABwABAAkADwD3//v///8QDSkpKSkhISEdGRkZGRnP8///pKJZpoVWqWAW"
        "HT2+i6szXH25xnsA077MzN/SHCgwB6xO77Madc1ALQbGGLbw5QS4bun5/YVgodp3uMteH5YlW1wKSXamuzvdv8lFvZYWj0VQgN3LsEvI"
        "+dGzBfkhxv+azumRpJB+XHMr8ETw7jyytswElFl2DdSpwETM4eXfqoticOoE9bX2PbCYTH9XzGFWbfUi9wSIWmv/ToyJRKm3axm6S/RL"
        "ZVbzyrFIchZBvAU3o3Egw23c7YqzEO71WeuORvDy49s8iy1u5CkP/8yFqC35GfrvJ+4RJ/snKO8ag7V8mwwrR1XVAa4jEIggfUNILqRD"
        "+/aSq8YO8Myt6aslZlR19pu5l26LLzw4C421IbUthSW/3wlAmVt/Vg9F7Ds2KeloItUOj2aRngwGojSk5Bq4RyQJMBUjfUtgrPZbYQ2v"
        "LrI+CopSQ5zHA4ALjd1tMdG++msiLE0JtmiEDnFy9uFyiXa/QABM9jfdh9qFUw9lSMSDk528SLUVBdEnjPOWFYaozRShRmwFVcRykpBb"
        "JPTNPBUgubpNJkZbmsA3+dDYpWYSipBS3GOm0EUYuit8kWC77m7ByMlwq19kKv7JU8fPeAIAAN1FQnFymoY+byT+k6h1ebNkoWfwzl5g"
        "d/74Ddvd9fvSfVV8ii1jKQntSdu7LzSrKx3vpSQmwwyFJrWEn1ZYX8XAf11Erkqj8rich7ydVW1HsPlzi0dkae0ki/VFd+P48GagpkA8"
        "+L6RjMdo9NWGcTgLvL5Sv0jluz0Bub9dtMQDr/95rRK/sDRSB/oe7mlCXJYKyZdTWCooHaRHa0A1zuJkm+fRv/dxgnEzBCx9xRuoLF8H"
        "GJGMN+AYK8XK4D+dCIiTXiaYfIJMZ4OWGi49yLT4TIMfWBFOEwSFcIuMPnipGTVyYToEfkL8iI8p8+GTUkcxfjmOw4n/Cfl/hOJ2tXoN"
        "Ewo3pu7cdFjGK4XjjOw9NZk48DissjuK17oB/mt0yxDi6w1sPNDi8FZP0iiZ9pn2xVKtAvRxF9UqfvaLgFKSjEXD/wr5EkcDRI9IVjG2"
        "T5tlhuNsTb8Ocuetvkh9X5dAX1VqC5LEUWWLynfHO/8ZBviN312qKMlEE8AF74BcvvW1FzikK2zpmNyEiTQkPqC2/wipbMQ8SUrH93Ou"
        "XD6JZ2wPQv7kYTjz8lZqRMKFzqES0WS7Yh4p5ykL+8HMXvjh4VWeQl7rTXC2kS3rk7Zs3dQPl0zz4wofVOIX5Pzpucj+vCQQ2+fCHqYB"
        "sJO3qBMOYEywcx7gKVqmwhmJ7iukvs8EOovt+lcGMRWzhxbdv81eRX51qlTKmGXpzYKFY+iEnij5AOOkJsZfbJ27lzBkQRK/wqwttb2+"
        "RQ98sxMZACXumVgnihLgGItY8/xmmGPWu3TTLfz/auJzUG6wDUneF34CL1OSO+MsNSRNlGCRJ46THVxJLxjuwE1duMs/hFXzMemUGRZs"
        "0eFsTsAxl4ZnifAU8q9RKGgBksBX9dM2NKU1PiEYt3RkhOM+RhRkdTQm+LFgEE4Vjsyddhkq+Z422p193AOq9bI+QQA1p7zvp3x/jYfl"
        "kK5HkPvCjd1lrrvCBtPlLAF61LVLXa5snDrfzToOBgrlAk8ciqOwp2Xnudp3J/NkEXVwXefYSm+yMga7Y0c6LRO4UhNSG1hHtP2AXaOu"
        "GMfDoA7mXFZzRpsQOBz1SqHdXJhX6RpSUv8879JjDzpX6RBf7VFjHcghwdCBi2UJllK0t0z9X/RvHrvSCgYhG7e1o05I8uYkJQekO+qq"
        "Xf/PBpQQEPTtF86SItl3AdfjxKOSAqmqPIaPAMBbmOdtsufvJS2oRyvm5IoFi/5ursVzIfMgFUlocPWOfwbdmD1dZItKjl7RULtNO3ZP"
        "/6ENdKF3wUnRc79lHU8d+0RxWAo+vSw1NwY8TUdqVc11awKyx+1G30vcOVVwywugas6XIyOHE09aDzATyT2u7EmMlfiMyoVXW7B9/C02"
        "ijbHtdkK8z0g6Oxdb2c9nGO9dozWnNFgRUAeUxjh6pbpUn45c56wPTuY9Lr/2vEmIicQIgG/oZk+GLWja/42ksKebzM0A6kocw0ftgjC"
        "h8kX4svm4AtP/+xhKexoN4afnNi8eWm+/zGU+dLWqgcs2V1WAFqa4P34Vp8TNj/cJdHVkdvr45imoatgH6UnH7r4n1LXj4ttqjYr/Z0t"
        "KcUyT6UnTdN0xsl7AnvqLVZNfXNy28d6S0FmoLfUofwZtElYkJUdH+/pK5XfHGU5UlTUxAuyYdGom1Q2CIWdA4Lr+9ypOA52tmAo+Me5"
        "y9pabwOsvYjQyS5GeDEp8V8CeyT51pG5xm2bCvGYlrRTSS7NhNHNaP7qpNW8SyJqpt3UJNY7H768UHGKlF0+tqKLP3L/g9+GD69S",
        "081590c2e35d0c1b254bd0e177fe0eab3fbb2db3df7d31053076c2d41047690d",
    ),
    "deflated": (
        "AiQAAQkoPAAAAAAAeJzj/McABkwEaHbilDGxE6fsHztxysD2EqEMpI4YZUB1RCljYCdOGQMnkeHH8J9ImrrK/o80ZQBoqFgW",
        "e140e9b64d596df180cb819d9de2eb8eb1b53cf74af8e09297bdd4a4505d6e4c",
    ),
}
"""Payload in base64, and SHA-256 of the pixels' bytes, little-endian."""


def coder_of(name: str) -> TransformCodec:
    original = CASES[name][0]
    return codec(original.dtype.name, len(original), whole_model())


def written(name: str) -> Encoded:
    """What is written; but exact details even where deflating takes less."""
    original, fill, target, _ = CASES[name]
    coder = coder_of(name)
    found = coder._exact(_Chunk.of(original, fill)) if name == "exact" else coder.compress(original, fill, target)
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
    """Those without zlib's bytes, which are not the same in all of its versions."""
    payload = written(name).payload
    assert hashlib.sha256(payload).hexdigest() == hashlib.sha256(payload_of(name)).hexdigest()


def test_golden_levels_are_coded_again() -> None:
    """With the factors that are stored: those that are fitted may differ between machines."""
    original, fill, target, _ = CASES["predicted"]
    assert isinstance(target, MaxError)
    payload = unpack(payload_of("predicted"))
    section = predicted_section.unpack(payload.codes, payload.shape)
    lowest, steps = np.array([(band.lowest, band.step) for band in section.bands]).T.reshape(2, -1, 1, 1)
    np.testing.assert_array_equal(steps[:, 0, 0], 2 * np.asarray(target.dn) + 1)
    levels = (original.astype(np.int64) - lowest + steps // 2) // steps
    tables = coder_of("predicted").model.tables
    _, words = pixel_coding.code(tables, section.bands, original != fill, levels)
    assert words == section.words


def test_the_model_is_the_one_that_they_were_written_with() -> None:
    found = hashlib.sha256()
    for name, value in sorted(whole_model().to_tensors().items()):
        found.update(name.encode())
        found.update(value.double().numpy().astype("<f8").tobytes())
    assert found.hexdigest() == "051fe5beac43177c443a0a46f5099b0f0dbbef6169e79db8a5312b0dcbb7756c"
