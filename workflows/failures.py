"""How errors end a command: one line on stderr, and an exit code."""

import errno
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from harmonium.errors import ClusterError, HarmoniumError, PayloadError

FAILED, WRONG, INTERRUPTED = 1, 2, 130


class Commands(TyperGroup):
    """The group of all commands; what one raises on purpose, or the system refuses, is told without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was chosen."""
        with _interrupts() as interrupts:
            try:
                return super().invoke(ctx)
            except (ClusterError, PayloadError) as error:
                raise _ended(f"error: {error}", FAILED) from error
            except HarmoniumError as error:
                raise _ended(f"error: {error}", WRONG) from error
            except (Exception, KeyboardInterrupt) as error:
                # An import that is interrupted may end with any error.
                if isinstance(error, KeyboardInterrupt) or interrupts:
                    raise _ended("interrupted; run the same command again", INTERRUPTED) from error
                # A full disk, a missing right: the system's own words say it best. EPIPE is `harmonium ls | head`.
                if isinstance(error, OSError) and error.errno != errno.EPIPE:
                    raise _ended(f"error: {error}", FAILED) from error
                raise


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Signals by which the user, with Ctrl-C, has interrupted what runs in the context."""
    caught: list[int] = []

    def interrupt(number: int, _frame: object) -> None:
        caught.append(number)
        raise KeyboardInterrupt

    # Who started the process may have it ignore the signal, as shells do with jobs in the background.
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield caught
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield caught
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _ended(message: str, code: int) -> typer.Exit:
    sys.stderr.write(f"{' '.join(message.split())}\n")
    return typer.Exit(code)
