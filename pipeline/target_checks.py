"""Whether a codec can be asked for a target: refused before anything is written."""

from harmonium.errors import UsageError
from harmonium.models.chunk_codec import ChunkCodec
from harmonium.models.targets import Target


def check_target(codec: ChunkCodec, target: Target | None, where: str = "This model") -> None:
    """Refuse a target that a codec does not take, or the lack of one that it needs.

    Raises
    ------
    UsageError
        Then, and if there are values for another number of bands than the codec's.
    """
    if target is None:
        if codec.targets:
            raise UsageError(
                f"{where} needs a target: one of Step, Psnr, Ratio, MaxError, Lossless, such as target=Psnr(45) "
                "(--psnr 45)"
            )
        return
    if not codec.targets:
        raise UsageError(
            f"{where} was fitted for one rate and takes no target, found {target}; leave it out, or use the packaged "
            "model (without --model)"
        )
    try:
        target.check(codec.radiometry.bands)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error
