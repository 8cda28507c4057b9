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
}

GOLDEN: dict[str, tuple[str, str]] = {
    "steps": (
        "AgMCAAIAAAAYAAAAFQAAAAAAAACAAgAAAAAAAAAAAAAAAAAA+AEAAAAAAAAABdZAAAAAAAAANkD4AQAAAAAAAAB0pUAAAAAAAAAc"
        "QAAAAAAAAAAAAAAAABgAAAAVAAAAAEBZRACA+UMAAMBBAAAAQY3mh+Yp5zYchodLtuqDz794uc6ncpJxRV05nkgQMjnmhkgX/uZP"
        "V6VBxtvuVNjbo5guaAI3jJ5KOMQPtMRicbJ0ptAs7KMFy2pDhSrLWDzWGMqWZbIU14+1xliRXck0HRVyFFcxmwW99qx8XtvFSlHC"
        "dSwELLG0vsL6DW2jRTbyWOFJHOI+cQBo/f/3wlRI5noXdLmCgbJ1ivBMJoqjb9L1jawSyQQyrsComuoKOFURD9ic2IsX3lEZICH0"
        "Ui7EzsjN8XvB+XbddSMpxTPQco6IOYQuAYdT1h7oupfSFoEMCxFvBOI2lUqn13SH0+528pw/ebgWCl94VVewLV0dvCkmXhDrZjyU"
        "01oJUjEuA77Cd82Q5nLRqHXwjJOyvOivcDd0FCSA6P85N4SYSfr//z8cFYQH3f//h73bEziYQ5YwMYgI2oB4AQPb6fX0CRAiTxFJ"
        "f9sVtsIKfjoACQE2MAzuf1Z5WWqHwEdgrBPIqru6Zup/x4YyiJLSSGMozo4z51ZjG0CnNFqyNYohptu5NNM2ABmVDgzLM5YMJL0w"
        "6gVznR0XlsV0l/i7rhTI+Dj4Vj3V7M+dAJAuJzIRyHQR/IX8//+bj5LEHVEue3B4rL/jDoR2POk9o97n2WqPjzu5/A8ZkJJZZxMD"
        "TL2h89OhM4tuzYSFAEeG+Ow3AsfuXH1hNuhFtvIrn1UfVGtwvhZe3sX/BlndKAbCG8UCDRm4AKpLHACvYWkZ1ce4bmQUcKDyQEsA"
        "CszPF4D1//8Dwg5aM+b9GuCSpJp+I1OgRxjndQr7WG4zOyI37U/pBgA=",
        "742a32d5e409e95f99c6ff63d9eac01a97db96adbcd0fcc0d82d033523d4daff",
    ),
    "exact": (
        "AgMBAAEAAAAaAAAAGQAAAAAAAABdBAAAAAAAAAAAAAAAAPC/igIAAAAAAAAAAAAAAAAAAAAAAAABAAAAAAAAAAAAAAAaAAAAGQAA"
        "AAAAG0QAAIA/PgAA/4hDfxh+oFv5xw8MwKBLgMH/lfAXAJwuDpYGLA+f9CLMo+JLykaRNnmSRrRPwAfmjmrbjOWPE8GJB5PIhJGO"
        "kpFi07BxzvQWlTgXBkYjyEtqTZR4S22D0XotO2QFEHfDAXyC8aKAvL++AwEUCABffHrf97HxDb4k8KkWGI2/kChB7AR4A3ZybltC"
        "Ilm/1HcoPwnpVH9iBDLChLpIwOthz2UzZPuUxyDwW4jHWGkViLFyx+Kiehb07on4TQuI/Gz9LGFoKgARBjLshgKAC05haKTbhRWB"
        "WOdy630WjzTiaTiFt1Y7GA3IpzAqEsDUaUSQJcx2sSeqykxD/9Tk5ebxNwUdhVs+GZ07M7+cUkNEwSFJHTRad9O2+2FHtl5/N7Q9"
        "Koqg0zIlYSDy+HWol1RVBwA8uMb157Ds+ga6QVfuEA7Qp8/muA+DMAjCvwc5V+zsog/BVRcCI7bOuKJZbsTw0MWsdqUGbdVnQNLR"
        "o5TvHRqptUMba4rdOHzktvyTkNdsdplkHXxXoLd8si+zUZC6YefGbggAAGwAABnKrNeAk6F7HX/1wYP46P/38V0QfL4+Jspt3Anh"
        "44PQJ5UE8JbD1ydjEgCIKZ0WtxB9SV2OtHzgerUZspExA2+7eWzCO9lhg4y4zpULU9FxRtongkR1PYH1mCKDhT6DdumzgCl9IB4L"
        "gXdHlHl4pr2C/PbvlcX/8jciFCSJ7+8IApIAC7+FbOztpw9RgjpleT24mZBY8TFWMGgzUJylcqfgZkp+a90AkaTLgpyX+Bh0yoN7"
        "cbT/WJKrBRIDYbErkDCP74XP3mIQU7oNAAKlkP6xprYQ/Pf9/9z/Tv4ALEDu6Af0BwEQ+D8V1teTgU9RlXBmP3/ttUnRrN6PFR41"
        "4v8IED8B7f+hAATwHxEA8D+coQEjkGpWeoc+RPF2bl4VrvzPH5XeKMQAAgMPARQwYQz5P5+Hfh85ENKsy0j08A/W1Fb5IKcpNTfr"
        "OkOFAUZG/ZVjXv9dPW7/KmAcChSO/yl9ARXhFLPkf2aJLIteztZX1X+xkV2HI/zeVNlkl81sAA3gmP8EIM8C/U/AA/iE/X2CQfA+"
        "Ga0ujL9dhmYHJpeF/GfnFNNAyQAL2GP9E2gAChUEEACcwx/YesDt85ogqW8SGYyU4ULuBvpOaQ/b+W4nx62ijtDM/odfU+6N7PgS"
        "F8Wt1jQueah0oBarGst3/gRFoSYALsngiCv4SgnLK/X/2etBhK4Qyg4ZAeN27ojb//Py//806eOiDX3QFRVwiIJbniMQqh6p7Bia"
        "7BIIXS0ACuOOQU5EEGv+zxLcFlDL/7lAtusJoVoZmnAOhZsMAADOw///fSwx0IHRWxhA9gf/ODew/57C5ztSUiUA2fjff/Q0+f/9"
        "ajMzM9T//8OKLJlsIP7/7jS1BAn3//8ye5MSn8ImB06pX6kQProvvrSqL1ulQAkA",
        "297b775d8d99b30e74523d15683e9ad18e916b978fe70635cf3b560f0601cb5f",
    ),
    "bound": (
        "AgMAAAMAAAAQAAAAEQAAAAAAAABBAQAAPgAAAAAAAAAAAAAAEAEAAAAAAAAAQGRAAAAAAAAA8D8QAQAAAAAAAAAgYUAAAAAAAADw"
        "PxABAAAAAAAAAMBgQAAAAAAAAPA/AAAAAAAAAAAAAAAAEAAAABEAAAAAACtDAADmQgAAwkJnZmZAZ2ZmQGdmZkC37aA1y/JMPtw0"
        "SPS0zes05PMoGhgN+LU2pjENobIBiajuGePtEOPB/BTEz+eOVawCLjOqKtmrtCD7DD4jvtXT+q1NfqWM4ZN/DNNf3eQ4QVN+r+a3"
        "vS3qPEZtVoBZF7k4bXqMR/h6PTd+JbV3O8qsz5/Wy3YA37SKJ6AROVpaiF6NU0x/eQ57ebaQhiWnmveAu9+ZujHmreWRY1Q9OUyR"
        "2Lhdc69ZlwWJOwcEDvI2U5AR+b2dPK6vIWGxvtVQmIVMfRPhCxtH9rQ1FeMFfgIADDwvgdf6iLwuGl1mQxlBwsIY+cjRR+ueNWgh"
        "Dg3aPQJhUmlgDnSJAMrqCQCX77ZTvSWGmlPC93QY/v//KasfyVYm6xEAAABAQAAAQEAAAEBAAAAAAAAATimOhR6Ycn8+mUo9nMiR"
        "A0hflbW9LVchwxEYjmPMFhP3PAxk6HEB01EAAAA=",
        "6dcd794c33a597840a21824fe208b4299123dd36888fbeb9d327ce6549314cbf",
    ),
    "masked": (
        "AgMDAgIAAAATAAAAFQAAABwAAAB4AQAAAAAAAAAAAACAh8PAVwEAAACIB+gsOYM/AAAAAMBKlD9XAQAAAHF5ehY+fz8AAAAAPDuM"
        "P3icY2CgEmBCANoKDmfAzEgtk0ajgxoAAKSiAOEAAAAAAAAAAAAAAAATAAAAFQAAAAILTj+Hrc0+CtejPArXozzANiM3bjYwEAQe"
        "guXLFalz7/qRlevAycSlRlxUv3PVtbWUSno6Ax1KENSzIlJNmcTWQLamxSQe0irupm1sbWBahDFD0Fk4koQbdYZ6whtDxOnJa7fk"
        "6rDsU/9S+QbANHuT8ROzA26u1Ww7fU84Ckdbkmg9zgg2pP4pGaD0+Vpf8QZzl1F99sWieCtyFuq50EOegXtPbZGLDU+U7Ei8Xw6E"
        "bzT3wEBwU0iJdyWXRFDSe+AbRYNCkSMD9S/THj8DG8j5m5oJ4Rk+ydEBr8QXNcb2kOLfTOaxF5EInwhe2/r/VYmS8wEpFAHimv//"
        "gbBTzJ46xDfLmcoWxnglcPrtuhmilAiRFPb8kKX+Fp280QYA70tCDjyd/TbOw9V+nyx+qEUyyoErjd2PMZ1rthqGSAXfL1wVbwqR"
        "oxRMLhgC+A93J2Qxhu2nRxtMaJ0ixA9w3MWWfC6k",
        "8bf09131fc75fad1cf98108d51e8c4f1de109fa3a5192c4549e7b8c80c7eada9",
    ),
    "deflated": (
        "AgQCAAEAAAAJAAAAKAAAAAAAAAA8AAAAAAAAAAAAAAAAAAAAaAEAAAAAAAAAAAAAAAAAAAAAAAB4nOP8xwAGTARoduKUMbETp+wf"
        "O3HKwPYSoQykjhhlQHVEKWNgJ04ZAyeR4cfwn0iausr+jzRlAGioWBY=",
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


def test_the_model_is_the_one_that_they_were_written_with() -> None:
    found = hashlib.sha256()
    for name, value in sorted(whole_model().to_tensors().items()):
        found.update(name.encode())
        found.update(value.double().numpy().astype("<f8").tobytes())
    assert found.hexdigest() == "8ead2b2d9d961867425527a83ebadc80df63a8e9345442d96420d51acb77fbdd"
