"""SIGTERM as an exception: what a program has finished is written before it ends, as with Ctrl-C."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Terminated(BaseException):
    """The process received SIGTERM."""


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Raise `Terminated` in the main thread at the first SIGTERM; later ones are ignored, as the work is being saved.

    A process that was forked inside ends at once, as it would without this.
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
