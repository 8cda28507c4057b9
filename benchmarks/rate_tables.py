"""Tables of what codecs take beside others: Bjøntegaard's delta for each anchor, bits at each bound."""

import math
from collections.abc import Mapping, Sequence

from benchmarks.archive_peers import Point, lossy_peers
from benchmarks.bd_rate import DeltaRate, bd_rate
from benchmarks.bounded_peers import BOUNDS, bounded_peers
from benchmarks.common import Table
from harmonium.errors import UsageError

LOW, HIGH = 38.0, 56.0
"""In dB: what the delta is taken over, where both curves cover it."""

LOSSY = {peer.name: peer for peer in lossy_peers()}
BOUNDED = {peer.name: peer for peer in bounded_peers()}

OURS = "harmonium transform"
"""This library's codec, which is measured by steps."""

OURS_BOUNDED = "harmonium within a bound"
"""The same codec where every pixel is promised."""

ANCHORS = tuple(LOSSY)[:3]
"""The peers that deltas refer to, a table each."""

ANCHOR = ANCHORS[0]

RIVALS = ("LERC", "SZ3", "JPEG XL lossless")
"""The peers that what takes a bound is compared with."""

Curves = Mapping[str, Mapping[str, Sequence[Point]]]
"""By scene and peer."""


def is_lossy(peer: str) -> bool:
    """Whether a codec has a curve, and not a point for each bound."""
    return peer in LOSSY or peer == OURS


# --- deltas --------------------------------------------------------------------------------------------------------


def deltas(curves: Curves, anchor: str = ANCHOR) -> dict[str, dict[str, DeltaRate]]:
    """By peer and scene, beside an anchor; scenes whose curves have no common range are left out."""
    found: dict[str, dict[str, DeltaRate]] = {}
    for scene, by_peer in curves.items():
        for peer in by_peer:
            if peer == anchor or not is_lossy(peer) or anchor not in by_peer:
                continue
            try:
                delta = bd_rate(rates(by_peer[anchor]), rates(by_peer[peer]), LOW, HIGH)
            except UsageError:
                continue
            found.setdefault(peer, {})[scene] = delta
    return found


def rates(points: Sequence[Point]) -> list[tuple[float, float]]:
    """Bits and PSNR of the points that are not exact."""
    return [(found.bits, found.psnr) for found in points if math.isfinite(found.psnr)]


def delta_table(curves: Curves, anchor: str = ANCHOR) -> Table:
    """Every scene, and the mean."""
    by_peer = deltas(curves, anchor)
    rows = [(scene, *(_delta(found.get(scene)) for found in by_peer.values())) for scene in curves]
    means = []
    for found in by_peer.values():
        percents = [delta.percent for delta in found.values()]
        means.append(f"{sum(percents) / len(percents):+.1f} % of {len(percents)}")
    rows.append(("mean of scenes", *means))
    title = f"Bits beside {anchor}, {LOW:g} to {HIGH:g} dB or what both curves cover of it"
    return Table(title=title, columns=("scene", *by_peer), rows=tuple(rows))


def _delta(delta: DeltaRate | None) -> str:
    if delta is None:
        return "no common range"
    whole = (delta.low, delta.high) == (LOW, HIGH)
    return f"{delta.percent:+.1f} %" + ("" if whole else f" ({delta.low:.1f} to {delta.high:.1f} dB)")


# --- bounds --------------------------------------------------------------------------------------------------------


def bounded_table(curves: Curves) -> Table:
    """Bits at each bound."""
    rows = [
        (scene, peer, *(f"{found.bits:.3f}" for found in points))
        for scene, by_peer in curves.items()
        for peer, points in by_peer.items()
        if not is_lossy(peer)
    ]
    title = "Bits per pixel and band at a largest error, verified"
    return Table(title=title, columns=("scene", "codec", *_heads()), rows=tuple(rows))


def shares(curves: Curves) -> dict[str, list[float]]:
    """By scene, bytes at each bound beside the smallest of `RIVALS`; scenes without one of them are left out."""
    found = {}
    for scene, by_peer in curves.items():
        if OURS_BOUNDED in by_peer and all(rival in by_peer for rival in RIVALS):
            best = (min(by_peer[rival][place].nbytes for rival in RIVALS) for place in range(len(BOUNDS)))
            found[scene] = [ours.nbytes / least for ours, least in zip(by_peer[OURS_BOUNDED], best, strict=True)]
    return found


def shares_table(curves: Curves) -> Table:
    """How many more bytes a bound takes than with the best rival, of every scene, and the mean."""
    by_scene = shares(curves)
    rows = [(scene, *(_percent(share) for share in found)) for scene, found in by_scene.items()]
    columns = zip(*by_scene.values(), strict=True)
    rows.append((f"mean of {len(by_scene)}", *(_percent(sum(column) / len(column)) for column in columns)))
    title = f"Bytes of {OURS_BOUNDED} beside the smallest of {', '.join(RIVALS)}"
    return Table(title=title, columns=("scene", *_heads()), rows=tuple(rows))


def _percent(share: float) -> str:
    return f"{100 * (share - 1):+.1f} %"


def _heads() -> tuple[str, ...]:
    return tuple(f"{bound} DN" if bound else "exact" for bound in BOUNDS)
