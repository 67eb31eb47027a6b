"""The folder for what Gradio would write. Nothing of a visitor's lies there; one that a dead server left is deleted."""

import fcntl
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

PREFIX = "gemma-lisa-page-"
LOCK = "lock"


@contextmanager
def server_folder() -> Iterator[Path]:
    """A new folder of this server; it is deleted at the end, and by the next server's start if this one is killed.

    The operating system releases a lock with the process that holds it, so a lock that is free means a dead server.
    """
    remove_leftovers()
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    # Locked before it has its name: another server that starts now never sees it free
    with (folder / f"{LOCK}.new").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (folder / f"{LOCK}.new").rename(folder / LOCK)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers() -> None:
    """Delete the folders of servers that no longer live; nothing else, and nothing of another user's."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if re.fullmatch(rf"{PREFIX}\d+-\w+", folder.name) and not folder.is_symlink() and _is_dead(folder):
            logger.warning("Deleting %s, which a server that was killed left.", folder)
            shutil.rmtree(folder, ignore_errors=True)


def _is_dead(folder: Path) -> bool:
    lock = folder / LOCK
    try:
        if lock.is_symlink() or folder.stat().st_uid != os.geteuid():
            return False
        with lock.open("r") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError, PermissionError):  # alive; being made, or deleted by another
        return False
    return True
