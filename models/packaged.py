"""Models that come with the package: networks of the preset `transform`, for any bands and types.

`weights/NAME.safetensors` holds the trained networks, for fits that go on from them, and what was made of them in
whole numbers, which codes; its header has the record of the training.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load, save
from torch import nn

from harmonium.models.context_network import LevelNetwork
from harmonium.models.detail_coding import DetailModel
from harmonium.models.radiometry import Radiometry, default_peak
from harmonium.models.subbands import CLASSES
from harmonium.models.transform_codec import TransformCodec

_FOLDER = Path(__file__).parent / "weights"
_TRAINED = "trained/"
_CODING = "coding/"


def names() -> tuple[str, ...]:
    """Names of all packaged models, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.safetensors")))


def codec(name: str, dtype: str, bands: int, peak: float | None = None) -> TransformCodec:
    """A codec for such pixels.

    Raises
    ------
    ValueError
        If there is no packaged model of that name, or no codec takes such pixels.
    """
    radiometry = Radiometry(dtype=dtype, offset=(0.0,) * bands, scale=(1.0,) * bands, peak=peak or default_peak(dtype))
    return TransformCodec(radiometry=radiometry, model=_coding(name))


def record(name: str) -> dict[str, Any]:
    """How it was trained, and on what: JSON values."""
    with _open(name) as file:
        return dict(json.loads(file.metadata()["harmonium"]))


def networks(name: str) -> nn.ModuleList:
    """The trained networks in float32, a copy of one's own."""
    return load_networks(_FOLDER / f"{_known(name)}.safetensors")


def load_networks(path: Path) -> nn.ModuleList:
    """The trained networks of such a file."""
    with safe_open(path, "pt") as file:
        names_here = [name for name in file.keys() if name.startswith(_TRAINED)]  # noqa: SIM118, it is no dict
        state = {name.removeprefix(_TRAINED): file.get_tensor(name).float() for name in names_here}
    trunk, head = len(state["0.trunk_layers.0.bias"]), len(state["0.joined.0.bias"])
    found = nn.ModuleList(LevelNetwork(trunk, head) for _ in range(CLASSES))
    found.load_state_dict(state)
    return found


def from_bytes(data: bytes) -> DetailModel:
    """What codes, of the bytes of such a file.

    Raises
    ------
    ValueError, KeyError
        If they contradict themselves.
    """
    length = int.from_bytes(data[:8], "little")
    about = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["harmonium"])
    coding = {name.removeprefix(_CODING): value for name, value in load(data).items() if name.startswith(_CODING)}
    return DetailModel.load(about["spec"], coding)


def to_bytes(trained: nn.ModuleList, model: DetailModel, about: Mapping[str, Any]) -> bytes:
    """A file of this folder; trained weights as float16."""
    tensors = {f"{_TRAINED}{name}": value.half() for name, value in trained.state_dict().items()}
    tensors |= {f"{_CODING}{name}": value for name, value in model.to_tensors().items()}
    return save(tensors, metadata={"harmonium": json.dumps({**about, "spec": model.to_spec()}, sort_keys=True)})


@cache
def _coding(name: str) -> DetailModel:
    return from_bytes((_FOLDER / f"{_known(name)}.safetensors").read_bytes())


def _known(name: str) -> str:
    if name not in names():
        raise ValueError(f"There is no packaged model {name!r}; there are {', '.join(names()) or 'none'}")
    return name


def _open(name: str) -> Any:
    return safe_open(_FOLDER / f"{_known(name)}.safetensors", "pt")
