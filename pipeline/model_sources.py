"""Where a process finds the model that a chunk was coded with, by the SHA-256 of its file.

In this order: models that this process has loaded; sources that it was told of (archives that it opened, model files),
the latest first; the files, folders and archives in `HARMONIUM_MODELS`, separated as in PATH; the user's cache; the
hint that the codec's JSON carries. Whatever is found is read only if its bytes have the digest that was asked for.

What a process knows is kept in this module, because zarr makes codecs from JSON alone, without a place to hand anything
in. It only ever saves a search: a digest names the same bytes wherever they are found.
"""

import hashlib
import os
import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from harmonium.errors import ModelError, ModelNotFound
from harmonium.models import model_file
from harmonium.models.model_file import MAX_BYTES, ModelFile

SUFFIX = ".harmonium"

_HINT = re.compile(r"(https?|s3|gs|gcs|az|abfss?)://")
"""URLs that a foreign archive may send its readers to; fsspec knows others that unpack, chain and template."""

_knowledge = threading.Lock()
_models: dict[str, ModelFile] = {}
_sources: dict[str, list[str]] = {}

_search = threading.Lock()
"""Held while a model is searched, so that many threads that need it read it once."""


def register(model: ModelFile, source: str | None = None) -> None:
    """Make a model known to this process, and where other processes can find it: a model file's path or an archive."""
    with _knowledge:
        _models[model.sha256] = model
    if source is not None:
        register_source(model.sha256, source)


def register_source(sha256: str, source: str) -> None:
    """Remember where a model can be found, without reading it."""
    with _knowledge:
        known = _sources.setdefault(sha256, [])
        _sources[sha256] = [source, *(other for other in known if other != source)]


def known_source(sha256: str) -> str | None:
    """Where this process would look for the model first, if anyone told it."""
    with _knowledge:
        return next(iter(_sources.get(sha256, ())), None)


def loaded(sha256: str) -> ModelFile | None:
    """The model, if this process has read it; searches nowhere, so that it may be asked in an event loop."""
    return _models.get(sha256)


def forget() -> None:
    """Forget all models and sources that this process knows."""
    with _knowledge:
        _models.clear()
        _sources.clear()


def load(sha256: str, hint: str | None = None) -> ModelFile:
    """The model with this digest. Not for the threads of an event loop: it reads, and waits for others that do.

    Raises
    ------
    ModelNotFound
        If no source has it; the message names all that were searched.
    ModelError
        If the source that has it holds a file that this harmonium cannot read.
    """
    if (model := loaded(sha256)) is not None:
        return model
    with _search:
        return loaded(sha256) or _find(sha256, hint)


def _find(sha256: str, hint: str | None) -> ModelFile:
    searched = []
    for source in _candidates(sha256, hint):
        try:
            data = read(source, sha256)
        except ModelError as error:
            # A whole copy elsewhere is as good; without one, the message at the end tells of the damage.
            searched.append(str(error))
            continue
        if data is None:
            searched.append(source)
            continue
        model = model_file.from_bytes(data)
        register(model, source)
        if source == hint:
            _keep(sha256, data)
        return model
    raise ModelNotFound(
        f"No source has the model {sha256}; searched: {', '.join(searched)}. Open the archive with "
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


def read(source: str, sha256: str) -> bytes | None:
    """The model's bytes from a file, a folder of files, or an archive; None where they are not.

    Raises
    ------
    ModelError
        If an archive has a model of this name with other bytes.
    """
    path = Path(source)
    try:
        if path.is_file():
            return _checked(path, sha256)
        if path.is_dir() and not (path / "zarr.json").exists():
            named = path / f"{sha256}{SUFFIX}"
            others = sorted(path.glob(f"*{SUFFIX}"))
            return next((data for file in [named, *others] if (data := _checked(file, sha256)) is not None), None)
    except OSError:
        return None
    return _from_archive(source, sha256)


def _candidates(sha256: str, hint: str | None) -> Iterator[str]:
    with _knowledge:
        known = tuple(_sources.get(sha256, ()))
    yield from known
    yield from filter(None, os.environ.get("HARMONIUM_MODELS", "").split(os.pathsep))
    yield str(cache_folder())
    if hint is not None and "::" not in hint and ("://" not in hint or _HINT.match(hint)):
        yield hint


def _from_archive(source: str, sha256: str) -> bytes | None:
    damaged = f"{source} (its models/{sha256} is damaged: compress into it again with --model to mend it)"
    # Stores raise what they like; the error at the end of the search names the source.
    try:
        array = zarr.open_array(source, path=f"models/{sha256}", mode="r")
    except Exception:  # noqa: BLE001
        return None
    try:
        data = _plain_bytes(array)
    except Exception as error:
        raise ModelError(damaged) from error
    if data is None or hashlib.sha256(data).hexdigest() != sha256:
        raise ModelError(damaged)
    return data


def _plain_bytes(array: zarr.Array[Any]) -> bytes | None:
    """All bytes of an array, or None if it is not stored plainly: compressed, a few bytes may ask for any memory."""
    plain = array.dtype == np.uint8 and array.ndim == 1 and array.chunks == array.shape and array.shards is None
    if not plain or array.nbytes > MAX_BYTES or array.compressors or array.filters:
        return None
    return np.asarray(array[:]).tobytes()


def _checked(file: Path, sha256: str) -> bytes | None:
    """The bytes of a file that has this digest."""
    if not file.is_file() or file.stat().st_size > MAX_BYTES:
        return None
    data = file.read_bytes()
    return data if hashlib.sha256(data).hexdigest() == sha256 else None


def _keep(sha256: str, data: bytes) -> None:
    """Copy into the cache; a cache that cannot be written is no reason to fail."""
    folder = cache_folder()
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{sha256}.{os.getpid()}.{threading.get_ident()}.partial"
        partial.write_bytes(data)
        partial.replace(folder / f"{sha256}{SUFFIX}")
