"""Turn SIGTERM into an exception, so that a program can save its work before it ends, as with Ctrl-C."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Terminated(BaseException):
    """The process received SIGTERM."""


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Raise `Terminated` in the main thread at the first SIGTERM. Later ones are ignored while the work is saved.

    A child process that was forked in this context ends immediately, as it would without it.
    """
    owner = os.getpid()

    def on_signal(number: int, frame) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        signal.signal(number, signal.SIG_IGN)
        raise Terminated

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        if os.getpid() == owner:
            signal.signal(signal.SIGTERM, before)
