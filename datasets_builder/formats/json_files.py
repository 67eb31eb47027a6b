"""JSON files of data sets, read with errors of one line."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gemma_lisa.safety.parsing import parse_json


def read_json(file: Path, advice: str = "get it again", object_hook: Callable[[dict], Any] | None = None) -> Any:
    """What a JSON file in any of the UTFs holds.

    object_hook: what becomes of each object as soon as it is read, as in `json.loads`.

    Raises:
        ValueError: no such file, or no JSON; with what to do.
    """
    collected = gc.isenabled()
    gc.disable()  # nothing in JSON is a cycle, and millions of lists would be looked through again and again
    try:
        return parse_json(file.read_bytes(), object_hook=object_hook)  # bytes: json finds out which UTF it is
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as JSON ({error}); {advice}.") from error
    finally:
        if collected:
            gc.enable()


def read_records(file: Path) -> list:
    """The list that a JSON file holds at its top; errors as in `read_json`."""
    records = read_json(file)
    if not isinstance(records, list):
        raise ValueError(f"{file}: is no list of records at its top; get it again.")
    return records


def refuse(error: ValueError) -> None:
    """What a reader does with a bad record where it is told of nothing else: it stops."""
    raise error
