"""Compress archives of satellite scenes with stacked Boltzmann machines, into Zarr that xarray opens as pixels.

Names are imported when they are first used: `import harmonium` alone takes no time, and Zarr, which finds the codec by
its entry point, loads the codec only.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harmonium.api import compress, fit, verify
    from harmonium.errors import HarmoniumError
    from harmonium.models.model_file import ModelFile
    from harmonium.models.targets import Lossless, MaxError, Psnr, Ratio, Step
    from harmonium.pipeline.archive import Archive, open_archive
    from harmonium.pipeline.decompress import decompress
    from harmonium.pipeline.model_sources import load_file as load_model
    from harmonium.pipeline.query import query
    from harmonium.pipeline.scene import Scene, open_scene
    from harmonium.pipeline.zarr_codec import HarmoniumCodec

__all__ = [
    "Archive",
    "HarmoniumCodec",
    "HarmoniumError",
    "Lossless",
    "MaxError",
    "ModelFile",
    "Psnr",
    "Ratio",
    "Scene",
    "Step",
    "__version__",
    "compress",
    "decompress",
    "fit",
    "load_model",
    "open_archive",
    "open_scene",
    "query",
    "verify",
]

__version__ = version("harmonium")

_HOMES = {
    "Archive": "harmonium.pipeline.archive:Archive",
    "HarmoniumCodec": "harmonium.pipeline.zarr_codec:HarmoniumCodec",
    "HarmoniumError": "harmonium.errors:HarmoniumError",
    "Lossless": "harmonium.models.targets:Lossless",
    "MaxError": "harmonium.models.targets:MaxError",
    "ModelFile": "harmonium.models.model_file:ModelFile",
    "Psnr": "harmonium.models.targets:Psnr",
    "Ratio": "harmonium.models.targets:Ratio",
    "Scene": "harmonium.pipeline.scene:Scene",
    "Step": "harmonium.models.targets:Step",
    "compress": "harmonium.api:compress",
    "decompress": "harmonium.pipeline.decompress:decompress",
    "fit": "harmonium.api:fit",
    "load_model": "harmonium.pipeline.model_sources:load_file",
    "open_archive": "harmonium.pipeline.archive:open_archive",
    "open_scene": "harmonium.pipeline.scene:open_scene",
    "query": "harmonium.pipeline.query:query",
    "verify": "harmonium.api:verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
