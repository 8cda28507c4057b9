"""Measurements that claims rest on; each module is a command: `python -m benchmarks.NAME --help`."""
