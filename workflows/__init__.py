"""One short file per user verb: the order of the calls, nothing else."""
