"""`harmonium verify`: is everything in the archive whole, and as good as it says."""

from collections.abc import Sequence

from harmonium.errors import UsageError
from harmonium.pipeline.archive import Archive
from harmonium.pipeline.cluster import connect
from harmonium.pipeline.scene import Scene
from harmonium.pipeline.verify import verify as pipeline_verify
from harmonium.workflows.session import Output, Stopwatch


def verify(
    archive: Archive,
    scene_ids: Sequence[str],
    originals: Sequence[Scene],
    output: Output,
    *,
    cluster: str,
    workers: int | None,
) -> bool:
    """Check and report; True if nothing is wrong.

    Raises
    ------
    UsageError
        If an original is of no scene in the archive.
    """
    watch = Stopwatch()
    by_id = {scene.id: scene for scene in originals}
    if unknown := sorted(set(by_id) - set(archive)):
        raise UsageError(f"--against: {archive.url} has no scene {', '.join(unknown)}; give --id")
    chunks = 0
    problems: list[str] = []
    with connect(cluster, workers) as executor, output.progress() as bars:
        for number, outcome in enumerate(pipeline_verify(archive, scene_ids, by_id, executor), start=1):
            chunks += outcome.chunks
            problems += outcome.problems
            bars.show("shards", number, number)
    document = {"archive": archive.url, "chunks": chunks, "problems": problems, "seconds": watch.seconds}
    verdict = "all whole" if not problems else f"{len(problems)} problem(s)"
    text = "\n".join([*problems, f"{archive.url}: {chunks} chunk(s) decoded, {verdict}, in {watch.seconds:.1f} s"])
    output.result(document, text)
    return not problems
