"""Read the JSON files of data sets with one-line errors."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gemma_lisa.safety.parsing import parse_json


def read_json(file: Path, advice: str = "download it again", object_hook: Callable[[dict], Any] | None = None) -> Any:
    """Return the content of a JSON file in any UTF encoding.

    Args:
        file: to read.
        advice: what the user can do if the file is damaged, for the error.
        object_hook: as in `json.loads`.

    Raises:
        ValueError: the file does not exist or is not valid JSON.
    """
    collected = gc.isenabled()
    gc.disable()  # JSON has no cycles, and each collection would scan millions of lists
    try:
        return parse_json(file.read_bytes(), object_hook=object_hook)  # json detects the encoding of bytes
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as JSON ({error}); {advice}.") from error
    finally:
        if collected:
            gc.enable()


def read_records(file: Path) -> list:
    """Return the list in a JSON file; errors as in `read_json`."""
    records = read_json(file)
    if not isinstance(records, list):
        raise ValueError(f"{file}: the top level must be a list of records; download the file again.")
    return records


def refuse(error: ValueError) -> None:
    """Raise the error of a bad record: the default of readers that can skip records."""
    raise error
