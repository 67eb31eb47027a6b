"""JSON files of data sets, read with errors of one line."""

import json
from pathlib import Path
from typing import Any


def read_json(file: Path, advice: str = "get it again") -> Any:
    """What a JSON file in any of the UTFs holds.

    Raises:
        ValueError: no such file, or no JSON; with what to do.
    """
    try:
        return json.loads(file.read_bytes())  # bytes: json finds out which UTF it is
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read as JSON ({error}); {advice}.") from error


def read_records(file: Path) -> list:
    """The list that a JSON file holds at its top; errors as in `read_json`."""
    records = read_json(file)
    if not isinstance(records, list):
        raise ValueError(f"{file}: is no list of records at its top; get it again.")
    return records
