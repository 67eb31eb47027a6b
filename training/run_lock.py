"""Lock a run's folder, because two runs in one folder would mix their checkpoints.

The operating system holds the lock (`flock`) and releases it when the process ends, even after kill -9. It works
between containers of one machine and, on NFS, between machines.

The lock file names the process that holds it. On a file system without locks, that process is looked up instead.
"""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from gemma_lisa.safety.whole_files import check_writable

from .atomic_saves import remove_empty

LOCK = ".lock"
# Errors of a file system without locks
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
# Seconds: two readings of a process's start time differ by the clock's resolution
SAME_START = 2.0


@contextmanager
def run_locked(args: TrainingArguments) -> Iterator[None]:
    """Hold the lock of `output_dir` for all processes of a run; the first process takes it.

    Raises:
        ValueError: on all processes, if another run holds the lock or the folder cannot be written.
    """
    folder = Path(args.output_dir)
    lock = locked(folder)
    found: list[ValueError | None] = [None]
    is_first = args.process_index == 0
    if is_first:
        try:
            lock.__enter__()
        except ValueError as error:
            found = [error]
    if args.world_size > 1:
        torch.distributed.broadcast_object_list(found, device=args.device)
    if found[0] is not None:
        raise found[0]
    try:
        yield
    finally:
        if is_first:
            lock.__exit__(None, None, None)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder. The folder is created if needed, and deleted at the end if it is still empty.

    Raises:
        ValueError: another process holds the lock, or the folder or the lock file cannot be written.
    """
    check_writable(folder, "output_dir", is_folder=True)
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    path = folder / LOCK
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = _take(path)
        except OSError as error:
            raise ValueError(
                f"{path}: the run's lock file cannot be opened or written ({error.strerror or error}). If no other run "
                "uses this folder, delete the file. Otherwise give another output_dir."
            ) from error
        inherited = [descriptor]
        os.register_at_fork(after_in_child=lambda: _close_all(inherited))
        try:
            yield
        finally:
            inherited.clear()
            path.unlink(missing_ok=True)
            os.close(descriptor)
    finally:
        remove_empty(created)


def _take(path: Path) -> int:
    """Lock the file, write this process into it, and return its descriptor.

    Raises:
        ValueError: another process holds it.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if not _is_free(descriptor):
                raise ValueError(_refusal(path.parent, _read(descriptor)))
            # The previous holder can have deleted the file after it was opened here
            if _is_at(path, descriptor):
                os.truncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(this_process()).encode(), 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_free(descriptor: int) -> bool:
    """Lock an open file and return whether it worked. Without locks: whether the process in it has ended."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _NO_LOCKS and not is_alive(_read(descriptor))
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _read(descriptor: int) -> dict[str, Any]:
    """Return the process that the lock file names, {} before it is written."""
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) and {"pid", "host", "started"} <= holder.keys() else {}


def _close_all(descriptors: list[int]) -> None:
    """Close the lock file in a forked child, which would otherwise keep the lock after its parent ended."""
    while descriptors:
        os.close(descriptors.pop())


def _refusal(folder: Path, holder: dict[str, Any]) -> str:
    who = "another run"
    if holder:
        started = datetime.fromtimestamp(holder["started"]).astimezone().isoformat(sep=" ", timespec="seconds")
        who = f"the run of process {holder['pid']} on {holder['host']}, started {started},"
    return (
        f"output_dir {folder}: {who} is writing to this folder. Wait for it, stop it, or give another output_dir. If "
        f"that process has ended, delete {folder / LOCK}."
    )


# ---------------------------------------------------------------------------------------------------------------------
# Processes
# ---------------------------------------------------------------------------------------------------------------------
def this_process() -> dict[str, Any]:
    """Return this process for a lock file: id, machine, id of the boot, start in seconds since 1970."""
    return {"pid": os.getpid(), "host": socket.gethostname(), "boot": _boot(), "started": _start_of(os.getpid())}


def is_alive(holder: dict[str, Any]) -> bool:
    """Return whether the process in a lock file still runs; a process of another machine is assumed to.

    A process with the same id but another start time is a different process.
    """
    if not holder:
        return False
    if holder.get("host") != socket.gethostname():
        return True
    started = _start_of(holder.get("pid", 0)) if holder.get("boot") == _boot() else None
    return started is not None and abs(started - holder.get("started", 0)) <= SAME_START


def _start_of(pid: int) -> float | None:
    """Return the start of a process in seconds since 1970, or None if it does not run. Without /proc: now."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[19])  # field 22 of proc(5), the 20th after the name
        return _boot_time() + ticks / os.sysconf("SC_CLK_TCK")
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return time.time()
    return time.time()


def _boot_time() -> int:
    lines = Path("/proc/stat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("btime "))


def _boot() -> str:
    """Return the id of the machine's boot, or "" if the system has none."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.is_file() else ""
