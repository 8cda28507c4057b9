"""Seconds to open an archived group and to read windows of it, as a process that knows only xarray sees them.

Prints JSON. `benchmarks.large_scene` starts it: imports and first read count only in a process that is new.
"""

import argparse
import json
import time


def main() -> None:
    """Read random windows that are not aligned to chunks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("group", help="path of a resolution group: ARCHIVE/scenes/ID/GROUP")
    parser.add_argument("--windows", type=int, default=20, help="how many to read after the first")
    parser.add_argument("--side", type=int, default=512, help="rows and columns of a window")
    parser.add_argument("--seed", type=int, default=0, help="of their places")
    options = parser.parse_args()
    started = time.perf_counter()
    import numpy as np
    import xarray as xr

    imported = time.perf_counter()
    image = xr.open_zarr(options.group)["image"]
    opened = time.perf_counter()
    _, height, width = image.shape
    side = options.side
    generator = np.random.default_rng(options.seed)
    seconds = []
    for _ in range(1 + options.windows):
        row, column = (_unaligned(int(generator.integers(length - side + 1))) for length in (height, width))
        begun = time.perf_counter()
        image[:, row : row + side, column : column + side].load()
        seconds.append(time.perf_counter() - begun)
    document = {"import": imported - started, "open": opened - imported, "first": seconds[0], "warm": seconds[1:]}
    print(json.dumps(document))


def _unaligned(offset: int) -> int:
    """The offset, or one beside it where a cell of 8 pixels, and so perhaps a chunk, begins there."""
    return max(1, offset - 1) if offset % 8 == 0 else offset


if __name__ == "__main__":
    main()
