"""Where a process finds the model that a chunk was coded with, by the SHA-256 of its file.

In this order: models that this process has loaded; sources that it was told of (archives that it opened, model files);
the folders and archives in `HARMONIUM_MODELS`, separated as in PATH; the user's cache; the hint that the codec's JSON
carries. Whatever is found is read only if its bytes have the digest that was asked for.
"""

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import zarr
import zarr.errors

from harmonium.errors import ModelError, ModelNotFound
from harmonium.models import model_file
from harmonium.models.model_file import MAX_BYTES, ModelFile

SUFFIX = ".harmonium"

_lock = threading.Lock()
_models: dict[str, ModelFile] = {}
_sources: dict[str, str] = {}


def register(model: ModelFile, source: str | None = None) -> None:
    """Make a model known to this process, and where other processes can find it: a model file's path or an archive."""
    with _lock:
        _models[model.sha256] = model
        if source is not None:
            _sources[model.sha256] = source


def register_source(sha256: str, source: str) -> None:
    """Remember where a model can be found, without reading it."""
    with _lock:
        _sources[sha256] = source


def known_source(sha256: str) -> str | None:
    """Where this process would find the model first, if anyone told it."""
    return _sources.get(sha256)


def load(sha256: str, hint: str | None = None) -> ModelFile:
    """The model with this digest.

    Raises
    ------
    ModelNotFound
        If no source has it; the message names all that were searched.
    ModelError
        If the source that has it holds a file that this harmonium cannot read.
    """
    if (model := _models.get(sha256)) is not None:
        return model
    searched = []
    for source in _candidates(sha256, hint):
        searched.append(source)
        data = _read(source, sha256)
        if data is not None:
            model = model_file.from_bytes(data)
            register(model, source)
            if source == hint:
                _keep(sha256, data)
            return model
    raise ModelNotFound(
        f"No source has the model {sha256}; searched: {', '.join(searched) or 'nothing'}. Open the archive with "
        "harmonium.open_archive or xarray's engine='harmonium', or put the folder of the model file, or the archive "
        "that was moved, into HARMONIUM_MODELS"
    )


def load_file(path: str | Path) -> ModelFile:
    """The model in a file, made known to this process.

    Raises
    ------
    ModelNotFound
        If there is no such file.
    ModelError
        If it is not a model file, or one that this harmonium cannot read.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelNotFound(f"No model file at {path}; `harmonium fit SCENE... -o {path}` makes one")
    if path.stat().st_size > MAX_BYTES:
        raise ModelError(f"{path} has {path.stat().st_size} bytes, a model file at most {MAX_BYTES}")
    try:
        model = model_file.from_bytes(path.read_bytes())
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    register(model, str(path.absolute()))
    return model


def cache_folder() -> Path:
    """Folder of models that were once found by a hint, so that an archive may move."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "harmonium" / "models"


def _candidates(sha256: str, hint: str | None) -> Iterator[str]:
    if (source := _sources.get(sha256)) is not None:
        yield source
    for entry in os.environ.get("HARMONIUM_MODELS", "").split(os.pathsep):
        if entry:
            yield entry
    yield str(cache_folder())
    if hint is not None:
        yield hint


def _read(source: str, sha256: str) -> bytes | None:
    """The model's bytes from a file, a folder of files, or an archive; None where they are not."""
    path = Path(source)
    if path.is_file():
        return _checked(path, sha256)
    if path.is_dir() and not (path / "zarr.json").exists():
        named = path / f"{sha256}{SUFFIX}"
        others = sorted(path.glob(f"*{SUFFIX}"))
        return next((data for file in [named, *others] if (data := _checked(file, sha256)) is not None), None)
    try:
        array = zarr.open_array(source, path=f"models/{sha256}", mode="r")
    except (OSError, ValueError, KeyError, zarr.errors.BaseZarrError):
        # Not a store, or one without this model: the next source may have it, and the error at the end names this one.
        return None
    if array.dtype != np.uint8 or array.nbytes > MAX_BYTES:
        raise ModelError(f"{source}: models/{sha256} should hold at most {MAX_BYTES} bytes, found {array.nbytes}")
    data = np.asarray(array[:]).tobytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ModelError(f"{source}: models/{sha256} is damaged: its digest is another; copy the model in again")
    return data


def _checked(file: Path, sha256: str) -> bytes | None:
    if not file.is_file() or file.stat().st_size > MAX_BYTES:
        return None
    stat = file.stat()
    return file.read_bytes() if _digest(str(file), stat.st_mtime_ns, stat.st_size) == sha256 else None


@lru_cache(maxsize=4096)
def _digest(path: str, _mtime_ns: int, _size: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _keep(sha256: str, data: bytes) -> None:
    """Copy into the cache; a cache that cannot be written is no reason to fail."""
    folder = cache_folder()
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{sha256}.{os.getpid()}.{threading.get_ident()}.partial"
        partial.write_bytes(data)
        partial.replace(folder / f"{sha256}{SUFFIX}")
