"""Signals that tell a command to end: who hears them, and what comes of them."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
"""Exit codes of a command that Ctrl-C or SIGTERM ended, as shells have them."""


def code_of_signal(error: BaseException | None) -> int | None:
    """Exit code for an exception that a signal has led to, if only by what failed while it was reported; None for any other."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return INTERRUPTED
        # Within a flow, Prefect has an exception of its own.
        if type(error).__name__ == "TerminationSignal" or (isinstance(error, SystemExit) and error.code == TERMINATED):
            return TERMINATED
        error = error.__context__
    return None


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Here SIGTERM ends the program as Ctrl-C does; the system's own way would leave the processes that were started for it."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def deaf_children(*numbers: signal.Signals) -> Iterator[None]:
    """Programs that are started within, or by a thread that is, never hear these signals.

    A terminal interrupts all that a command has started; what the command has to stop in order must be left to it. Unlike a handler, what is
    blocked stays so in a new thread or program. Here the signals are heard at the end.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
