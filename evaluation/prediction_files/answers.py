"""Answers as JSON: one object per question, in a list, as JSON Lines, or as values of an object whose keys are the ids.

    {"id": "shapes/test/0#1", "masks": [{"size": [4, 4], "counts": "04L"}], "scores": [0.9], "text": "It is [SEG]."}

| key | meaning |
|---|---|
| id, question_id | id of the question, or its number (`index` in the file of --write_questions) |
| masks | one entry per mask: RLE (counts as text or list) or polygons [[x, y, …], …]; []: nothing is in the image |
| scores | confidence of each mask between 0 and 1, optional |
| boxes | one per mask, as lmms-eval's contract has them; not used, because masks are compared |
| text, phrases | answer in words, and the words that name each mask, optional |
| complete, tokens, seconds, likelihood | as in `records.Prediction`, optional |

The keys of the file of --write_questions are allowed, so that its lines can be extended. Other keys are an error.

lmms-eval's log of samples has `doc_id` (the number of the question in the task's data set) and, in `filtered_resps` or
`resps`, the answer as JSON with the keys masks, boxes and scores.
"""

import sys
from pathlib import Path
from typing import Any

from gemma_lisa.datasets_builder.rows import is_unicode
from gemma_lisa.safety.parsing import each_once, parse_json
from gemma_lisa.safety.short_text import VALUE_LENGTH, count_of, reason_of, show

from .entries import FIRST_ID_KEYS, Entry, check_boxes, check_scores, id_of, list_of, place_of

DOCUMENT = "doc_id"
RESPONSES = ("filtered_resps", "resps")
# Fields of `Prediction` -> types of their values
FACTS = {"text": str, "complete": bool, "tokens": int, "seconds": float, "likelihood": float}
# Smallest and largest value of the numbers. The questions file has integers of 64 bits.
_LIMITS = {
    "tokens": (0, 2**63 - 1, "from 0 to 2^63 - 1"),
    "seconds": (0, sys.float_info.max, "from 0"),
    "likelihood": (-sys.float_info.max, 0, "up to 0"),
}
_OF_QUESTIONS = {"index", "question", "source", "image", "size", "asks", "kind", "history"}
_KNOWN = {*FIRST_ID_KEYS, "masks", "scores", "boxes", "phrases", *FACTS, *_OF_QUESTIONS}


def read_answers(records: list[Any], path: Path, places: list[str]) -> list[Entry]:
    """Return an entry per record.

    Args:
        records: objects of the file.
        path: of the file, for errors.
        places: place of each record in the file, such as "line 3".

    Raises:
        ValueError: a record is not valid.
    """
    return [_read(record, f"{path}: {place}", path) for record, place in zip(records, places, strict=True)]


def read_mapping(content: dict[str, Any], path: Path) -> list[Entry]:
    """Return an entry per key of an object {id: answer}. Errors as in `read_answers`."""
    entries = []
    for name, record in content.items():
        where = place_of(path, name)
        if not isinstance(record, dict):
            raise ValueError(f"{where}: the answer must be an object with the key masks, got {show(record)}.")
        entries.append(_read(_named(record, name, where), where, path))
    return entries


def _read(record: Any, where: str, path: Path) -> Entry:
    if not isinstance(record, dict):
        raise ValueError(f"{where}: an answer must be an object with the keys id and masks, got {show(record)}.")
    if DOCUMENT in record:
        record = _of_log(record, where)
    name = id_of(record, where)
    where = place_of(path, name)
    if unknown := [key for key in record if key not in _KNOWN]:
        raise ValueError(f"{where}: the key {show(unknown[0])} is unknown; correct or remove it.")
    if "masks" not in record and "text" not in record:
        raise ValueError(f"{where}: the key masks is missing; write [] if there is nothing in the image.")
    masks = list_of(record, "masks", where) if "masks" in record else None
    num_masks = len(masks or [])
    if record.get("boxes") != []:
        check_boxes(record.get("boxes"), num_masks, where)
    scores = list_of(record, "scores", where) if record.get("scores") is not None else []
    facts = {key: _checked_fact(key, record[key], where) for key in FACTS if record.get(key) is not None}
    if record.get("phrases") is not None:
        facts["phrases"] = list_of(record, "phrases", where)
        if len(facts["phrases"]) != num_masks or not all(
            isinstance(phrase, str) and is_unicode(phrase) for phrase in facts["phrases"]
        ):
            raise ValueError(
                f"{where}: phrases must be one text per mask, got {count_of(len(facts['phrases']), 'value')} for "
                f"{count_of(num_masks, 'mask')}."
            )
    return Entry(where, name, masks, check_scores(scores, num_masks, where), facts=facts)


def _checked_fact(key: str, value: Any, where: str) -> Any:
    kind = FACTS[key]
    is_right = isinstance(value, int | float if kind is float else kind)
    if kind is not bool and isinstance(value, bool):
        is_right = False
    if not is_right:
        raise ValueError(f"{where}: {key} must be of the type {kind.__name__}, got {show(value)}.")
    low, high, limits = _LIMITS.get(key, (None, None, ""))
    if limits and not low <= value <= high:  # also NaN
        raise ValueError(f"{where}: {key} must be a finite number {limits}, got {show(value)}.")
    if kind is str and not is_unicode(value):
        raise ValueError(f"{where}: {key} contains characters that are not Unicode: {show(value)}; correct it.")
    return value


def _of_log(record: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the answer in a line of lmms-eval's log."""
    number = id_of(record, where, (DOCUMENT,))
    where = f"{where} ({DOCUMENT} {number})"
    answers = next((record[key] for key in RESPONSES if key in record), None)
    while isinstance(answers, list) and len(answers) == 1:
        answers = answers[0]
    if not isinstance(answers, str):
        raise ValueError(f"{where}: {RESPONSES[0]} must contain one answer, got {show(answers)}.")
    try:
        content = parse_json(answers, object_pairs_hook=each_once)
    except ValueError as error:
        raise ValueError(
            f"{where}: the answer is not JSON ({reason_of(error, VALUE_LENGTH)}): {show(answers)}; expected an object "
            "with the keys masks, boxes and scores."
        ) from error
    if not isinstance(content, dict) or "masks" not in content:
        raise ValueError(f"{where}: the answer must be an object with the key masks, got {show(content)}.")
    return _named(content, number, where)


def _named(record: dict[str, Any], name: str | int, where: str) -> dict[str, Any]:
    """Return a record with the id that the file gives outside of it."""
    for key in FIRST_ID_KEYS:
        if record.get(key, name) != name:
            raise ValueError(f"{where}: the answer has another {key}, {show(record[key])}; correct or remove it.")
    return {**{key: value for key, value in record.items() if key not in FIRST_ID_KEYS}, "id": name}
