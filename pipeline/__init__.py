"""Scenes, tile grids, the Zarr codec, the archive, and the distributed work between them."""
