"""How errors end a command: one line on stderr, and an exit code."""

import errno
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from harmonium.errors import ClusterError, HarmoniumError, PayloadError

FAILED, WRONG, INTERRUPTED = 1, 2, 130


class Commands(TyperGroup):
    """The group of all commands; what one raises on purpose, or the system refuses, is told without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was chosen."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.stderr.write("interrupted; run the same command again to go on\n")
            raise typer.Exit(INTERRUPTED) from None
        except (ClusterError, PayloadError) as error:
            raise _ended(error, FAILED) from error
        except HarmoniumError as error:
            raise _ended(error, WRONG) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # `harmonium ls | head`
                raise
            # A full disk, a missing right: the system's own words say it best.
            raise _ended(error, FAILED) from error


def _ended(error: Exception, code: int) -> typer.Exit:
    sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
    return typer.Exit(code)
