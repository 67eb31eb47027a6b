"""The temporary folder of a server. No user data is written to it. Folders of servers that were killed are deleted."""

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
    """Yield a new folder for this server and delete it at the end.

    If this server is killed, the next server deletes the folder when it starts. The operating system releases a lock
    when its process ends, so a free lock means that the server has ended.
    """
    remove_leftovers()
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    # Lock the file before it gets its final name, so that no other server ever sees it unlocked
    with (folder / f"{LOCK}.new").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (folder / f"{LOCK}.new").rename(folder / LOCK)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers() -> None:
    """Delete the folders of servers that have ended. Folders of other users are not deleted."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if re.fullmatch(rf"{PREFIX}\d+-\w+", folder.name) and not folder.is_symlink() and _is_abandoned(folder):
            logger.warning("Deleting %s, the folder of a server that was killed.", folder)
            shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    lock = folder / LOCK
    try:
        if lock.is_symlink() or folder.stat().st_uid != os.geteuid():
            return False
        with lock.open("r") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError, PermissionError):  # in use; being created, or already deleted
        return False
    return True
