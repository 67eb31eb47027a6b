"""Read a prediction file or folder; the format is chosen by the content.

| content | format |
|---|---|
| JSON list of records with `segmentation` | COCO results (`coco_results.py`) |
| JSON Lines, JSON list or object of answers with `masks`; lmms-eval's log with `doc_id` | answers (`answers.py`) |
| JSON with `pred_masks`, or a folder of such files | SAM 3's agent (`sam3_agent.py`) |
| folder of PNG files | masks (`mask_folder.py`) |
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemma_lisa.evaluation.benchmark import Benchmark
from gemma_lisa.safety.errors import one_line_errors
from gemma_lisa.safety.parsing import each_once, parse_json
from gemma_lisa.safety.short_text import VALUE_LENGTH, reason_of, show

from .answers import DOCUMENT, read_answers, read_mapping
from .coco_results import read_coco_results
from .entries import Entry
from .mask_folder import SUFFIX, read_mask_folder
from .sam3_agent import FILES, MASKS, read_sam3_agent

COCO, ANSWERS, AGENT, PNGS = "COCO results", "answers", "SAM 3 agent", "PNG masks"
KEYS = ("masks", "text", "segmentation", DOCUMENT)  # of a record
_COMPRESSED = (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")  # gz, zip, bz2, xz, zst
EXPECTED = (
    "expected COCO results, JSON Lines with id and masks, the JSON of SAM 3's agent or of lmms-eval, or a folder of "
    "PNG masks"
)


@dataclass(frozen=True)
class PredictionFile:
    """An opened prediction file or folder.

    Args:
        path: of the file or folder.
        format: name of the format.
        entries: predictions; None for a folder of PNG masks, whose names are understood with the questions only.
    """

    path: Path
    format: str
    entries: list[Entry] | None

    @property
    def has_words(self) -> bool:
        """Whether a prediction contains words, so that questions without masks can be judged."""
        return any("text" in entry.facts for entry in self.entries or [])

    def entries_for(self, benchmark: Benchmark) -> list[Entry]:
        """Return the predictions. Errors as in `mask_folder.read_mask_folder`."""
        return read_mask_folder(self.path, benchmark.knows) if self.entries is None else self.entries


def open_predictions(path: str | Path) -> PredictionFile:
    """Open predictions.

    Raises:
        ValueError: the file does not exist, cannot be read, is empty, or has no supported format. The message names
            it.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder; give the predictions of a system.")
    if path.is_dir():
        return _open_folder(path)
    content = _read_bytes(path)
    if not content.strip():
        raise ValueError(f"{path}: the file is empty; {EXPECTED}.")
    if content.startswith(_COMPRESSED):
        raise ValueError(f"{path}: the file is compressed; unpack it; {EXPECTED}.")
    try:
        text = content.decode(json.detect_encoding(content))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: the text cannot be decoded (byte {error.start:,} is not {error.encoding}); save it as UTF-8."
        ) from error
    return PredictionFile(path, *_entries_of(text, path))


def _open_folder(path: Path) -> PredictionFile:
    if files := sorted(path.glob(FILES)):
        return PredictionFile(path, AGENT, [read_sam3_agent(_parse(_read_bytes(file), file), file) for file in files])
    if next(path.rglob(f"*{SUFFIX}"), None) or next(path.rglob(f"*{SUFFIX.upper()}"), None):
        return PredictionFile(path, PNGS, None)
    raise ValueError(f"{path}: the folder has no PNG masks and no files {FILES} of SAM 3's agent.")


def _entries_of(text: str, path: Path) -> tuple[str, list[Entry]]:
    """Return the format and the entries of a text."""
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if len(lines) > 1 and _is_object(lines[0][1]):
        records = [_parse(line, f"{path}: line {number}") for number, line in lines]
        return _of_records(records, path, [f"line {number}" for number, _ in lines])
    content = _parse(text, path)
    if isinstance(content, list):
        if not content:
            raise ValueError(f"{path}: the list is empty; {EXPECTED}.")
        return _of_records(content, path, [f"record {number}" for number in range(len(content))])
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path}: the content is {show(content)}; {EXPECTED}.")
    if set(content) & {MASKS, *KEYS}:
        return _of_records([content], path, ["its object"])
    if "images" in content or "annotations" in content:
        raise ValueError(f"{path}: this is a COCO annotation file; give COCO results, a list of records.")
    first = next(iter(content.values()))
    if isinstance(first, dict) and MASKS in first:
        return AGENT, [read_sam3_agent({**_object(one, path, name), "id": name}, path) for name, one in content.items()]
    return ANSWERS, read_mapping(content, path)


def _of_records(records: list[Any], path: Path, places: list[str]) -> tuple[str, list[Entry]]:
    first = records[0] if isinstance(records[0], dict) else {}
    if "segmentation" in first:
        return COCO, read_coco_results(records, path)
    if MASKS in first:
        return AGENT, [read_sam3_agent(record, path) for record in records]
    if set(first) & set(KEYS):
        return ANSWERS, read_answers(records, path, places)
    raise ValueError(f"{path}: {places[0]} is {show(records[0])}; {EXPECTED}.")


def _object(value: Any, path: Path, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{path}: {name}: expected an object with the key {MASKS}, got {show(value)}.")
    return value


def _is_object(line: str) -> bool:
    """Return whether a line is a whole JSON object."""
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False


def _parse(text: str | bytes, where: str | Path) -> Any:
    try:
        return parse_json(text, object_pairs_hook=each_once)
    except ValueError as error:
        raise ValueError(f"{where}: not valid JSON ({reason_of(error, VALUE_LENGTH)}); {EXPECTED}.") from error


def _read_bytes(path: Path) -> bytes:
    with one_line_errors(path, "cannot be read"):
        return path.read_bytes()
