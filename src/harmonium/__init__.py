"""Compress archives of satellite scenes with stacked Boltzmann machines, into Zarr that xarray opens as pixels."""

from importlib.metadata import version

__version__ = version("harmonium")
