"""Everything harmonium raises on purpose.

    HarmoniumError
    ├── SceneError          (ValueError)         a scene cannot be read, or does not fit what it is to be used with
    ├── ModelError          (ValueError)         a model file is missing, foreign, damaged, or of an unknown version
    │   └── ModelNotFound   (FileNotFoundError)  no source that was searched has the model
    ├── PayloadError        (ValueError)         the bytes of one chunk are damaged or of an unknown version
    ├── ArchiveError        (ValueError)         an archive, or a scene in it, is missing, damaged or half-written
    │   └── SceneNotFound   (KeyError)           no scene of that name in the archive
    ├── ClusterError        (RuntimeError)       a cluster cannot be reached or was lost
    └── UsageError          (ValueError)         options that do not go together

Each message says what was expected, what was found, and what to do.
"""


class HarmoniumError(Exception):
    """Base of every error that harmonium raises on purpose."""


class SceneError(HarmoniumError, ValueError):
    """A scene cannot be read, or does not fit what it is to be used with."""


class ModelError(HarmoniumError, ValueError):
    """A model file is foreign, damaged, malicious, or of an unknown version."""


class ModelNotFound(ModelError, FileNotFoundError):  # noqa: N818 - named like the built-in it refines
    """No source that was searched has the model."""


class PayloadError(HarmoniumError, ValueError):
    """The bytes of one chunk are damaged or of an unknown version."""


class ArchiveError(HarmoniumError, ValueError):
    """An archive, or a scene in it, is damaged, half-written, or of an unknown version."""


class SceneNotFound(ArchiveError, KeyError):  # noqa: N818
    """No scene of that name is in the archive."""

    def __str__(self) -> str:
        # KeyError prints the repr of its argument, quotes and all.
        return str(self.args[0]) if self.args else ""


class ClusterError(HarmoniumError, RuntimeError):
    """A cluster cannot be reached or was lost."""


class UsageError(HarmoniumError, ValueError):
    """Options that do not go together, or a value out of its range."""
