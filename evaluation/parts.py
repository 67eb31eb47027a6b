"""Keep the answers of an unfinished evaluation on disk, so that the same command resumes it.

    results.parts/settings.json   what the answers depend on
    results.parts/0.jsonl         finished batches of the first process, one line each, and so on

A line is on disk before the next batch begins. The last line of a killed process can be incomplete; it is ignored.
"""

import fcntl
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gemma_lisa.safety.errors import UsageError, one_line_errors
from gemma_lisa.safety.parsing import parse_json
from gemma_lisa.safety.short_text import VALUE_LENGTH, reason_of, shorten
from gemma_lisa.safety.whole_files import write_whole

from .records import Prediction

SETTINGS, ENDING = "settings.json", ".jsonl"
Answers = dict[int, list[Prediction]]  # number of a batch -> its predictions


def open_parts(folder: Path, settings: dict[str, Any], fresh: bool = False) -> Answers:
    """Return the answered batches of an earlier, interrupted command with these settings, or start a new folder.

    Args:
        folder: created if it does not exist.
        settings: what the answers depend on, as JSON values.
        fresh: delete answers that are there.

    Raises:
        UsageError: the folder is not that of an evaluation, or its settings are different.
        ValueError: a line of an answered batch cannot be read.
        WriteError: the folder cannot be written.
    """
    if fresh:
        delete_parts(folder)
    path = folder / SETTINGS
    if not path.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise UsageError(f"{folder}: this folder does not hold answers of eval.py. Rename it, or change --output.")
        write_whole(path, settings)
        return {}
    _check_same(folder, parse_json(path.read_bytes()), settings)
    answers: Answers = {}
    for part in sorted(folder.glob(f"*{ENDING}")):
        answers |= _read(part)
    return answers


def _check_same(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    now = parse_json(json.dumps(now))
    for name in [*now, *(name for name in before if name not in now)]:
        if before.get(name) != now.get(name):
            was, value = (shorten(json.dumps(of.get(name)), VALUE_LENGTH) for of in (before, now))
            raise UsageError(
                f"{folder}: it holds answers of a command with another {name} ({was}, now {value}). Repeat that "
                "command to finish it, or add --fresh to delete these answers."
            )


def _read(part: Path) -> Answers:
    """Return the batches of a part file. An incomplete last line is ignored with a message."""
    *lines, rest = part.read_bytes().split(b"\n")
    if rest:
        print(f"{part}: the last batch is incomplete and is answered again", file=sys.stderr)
    answers: Answers = {}
    for number, line in enumerate(lines, start=1):
        try:
            content = parse_json(line)
            answers[content["batch"]] = [Prediction(**prediction) for prediction in content["predictions"]]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{part}, line {number}: cannot be read ({reason_of(error, VALUE_LENGTH)}). Add --fresh to answer all "
                "questions again."
            ) from error
    return answers


class PartWriter:
    """Appends finished batches of one process to its part file.

    Args:
        folder: as in `open_parts`.
        rank: number of the process.
    """

    def __init__(self, folder: Path, rank: int):
        self.path = folder / f"{rank}{ENDING}"
        with one_line_errors(self.path, "cannot be written"):
            folder.mkdir(parents=True, exist_ok=True)  # on another machine without a shared disk
            self._file = open(self.path, "ab+")
            self._file.seek(0)
            whole = self._file.read().rfind(b"\n") + 1
            self._file.truncate(whole)  # an incomplete line of a killed process

    def append(self, batch: int, predictions: list[Prediction]) -> None:
        """Write a batch and wait until it is on disk.

        Raises:
            WriteError: for example because the disk is full.
        """
        content = {"batch": batch, "predictions": [asdict(prediction) for prediction in predictions]}
        with one_line_errors(self.path, "cannot be written"):
            self._file.write(json.dumps(content, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file. `append` has written everything, or has raised an error for what it could not write."""
        with suppress(OSError):  # closing writes again what a full disk did not take
            self._file.close()


def delete_parts(folder: Path) -> None:
    """Delete the answers of an evaluation, and the folder if nothing else is in it.

    Raises:
        UsageError: the folder is not that of an evaluation.
    """
    if not folder.is_dir():
        return
    if any(folder.iterdir()) and not (folder / SETTINGS).is_file():
        raise UsageError(f"{folder}: this folder does not hold answers of eval.py. Rename it, or change --output.")
    for path in [*folder.glob(f"*{ENDING}"), folder / SETTINGS]:  # the settings last: an interruption can be repeated
        path.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a lock, because two commands in one folder would mix their answers.

    Raises:
        UsageError: another process holds it.
    """
    with one_line_errors(folder, "cannot be opened"):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"{folder}: another eval.py is writing its answers there. Change --output.") from error
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)
