"""Read the questions of a user's own folder: questions.csv or questions.jsonl.

image,question,mask,answer,explanation
1.jpg,What would you sit on?,masks/1_chair.png,It is {seg}.,It has a seat and a back.
1.jpg,the dog,,,
"""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gemma_lisa.datasets_builder.formats.coco_files import SPLIT_WORDS
from gemma_lisa.datasets_builder.rows import RESERVED, is_unicode
from gemma_lisa.safety.parsing import CSV_DELIMITERS, csv_delimiter, each_once, parse_json
from gemma_lisa.safety.short_text import count_of, show

QUESTION_FILES = ("questions.csv", "questions.jsonl")
CLASS_FILES = ("classes.json", "classes.txt", "classes.yaml", "classes.yml")
# These names, copies such as `questions (1).csv`, and names that users confuse with them, such as Question.tsv
TABLE_NAME = re.compile(
    r"(questions?|class(es)?)( ?\(\d+\))?(\.\w+)*\.(csv|tsv|txt|jsonl?|ndjson|ya?ml|xlsx?|ods)", re.IGNORECASE
)
COLUMNS = ("image", "question", "mask", "class", "answer", "split", "explanation")
DELIMITER_LINE = re.compile(f"sep=([{CSV_DELIMITERS}])", re.IGNORECASE)  # first line of some CSV files of Excel


@dataclass(frozen=True)
class Question:
    """A line of a table. Empty cells are ""."""

    where: str  # file and line
    image: str
    question: str
    mask: str
    label: str  # the column class
    answer: str
    split: str
    explanation: str
    points: bool  # the table has a column mask or class: if both are empty, the object is not in the photo


def is_table(name: str) -> bool:
    """Return whether a file name is that of a table of questions or classes, or similar to it."""
    return TABLE_NAME.fullmatch(name) is not None


def find_one(folders: list[Path], names: tuple[str, ...]) -> Path | None:
    """Return the table in the first folder that has one, or None.

    Args:
        folders: to search.
        names: QUESTION_FILES or CLASS_FILES; upper and lower case are the same.

    Raises:
        ValueError: a folder has several, or one with a similar name that is not supported, such as questions.tsv.
    """
    for folder in folders:
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
        tables = [path for path in paths if is_table(path.name) and path.is_file()]
        of_kind = [path for path in tables if path.name[0].lower() == names[0][0]]  # q or c
        found = [path for path in of_kind if path.name.lower() in names]
        if others := [path for path in of_kind if path not in found]:
            raise ValueError(
                f"{others[0]}: this file name is not supported; save the file as {' or '.join(names)}, or remove it."
            )
        if len(found) > 1:
            raise ValueError(f"{found[0]} and {found[1].name} both exist; keep one.")
        if found:
            return found[0]
    return None


def read_questions(file: Path, default_split: str = "") -> tuple[list[Question], list[ValueError]]:
    """Return the questions of a table, and the errors of its bad lines.

    Args:
        file: CSV or JSONL.
        default_split: split of lines that name none.

    Raises:
        ValueError: the whole table cannot be read; the message names the file and the line.
    """
    records = list((_csv_records if file.suffix.lower() == ".csv" else _jsonl_records)(file))
    if not records:
        raise ValueError(f"{file}: the file contains no questions; add some, or remove the file.")
    columns = {column for _, record in records if isinstance(record, dict) for column in record}
    questions, errors = [], []
    for where, record in records:
        try:
            questions.append(_question(record, where, default_split, points=bool(columns & {"mask", "class"})))
        except ValueError as error:
            errors.append(error)
    return questions, errors


def _question(record: dict[str, str] | ValueError, where: str, default_split: str, points: bool) -> Question:
    if isinstance(record, ValueError):
        raise record
    for column in ("image", "question"):
        if not record.get(column):
            raise ValueError(f"{where}: the column {column} is empty; every line needs it.")
    for column, cell in record.items():
        check_characters(cell, f"{where}: the column {column}")
    split, explanation = record.get("split", "").lower(), record.get("explanation", "")
    if split and split not in SPLIT_WORDS:
        raise ValueError(f"{where}: split must be train, validation, test or empty, got {show(split)}.")
    if reserved := [word for word in RESERVED if word in explanation]:
        raise ValueError(
            f"{where}: explanation contains {reserved[0]}, which is only allowed in the column answer; remove it."
        )
    return Question(
        where,
        record["image"],
        record["question"],
        record.get("mask", ""),
        record.get("class", ""),
        record.get("answer", ""),
        SPLIT_WORDS.get(split, default_split),
        explanation,
        points,
    )


def _csv_records(file: Path) -> Iterator[tuple[str, dict[str, str] | ValueError]]:
    """Yield (where, cells by column) for every line, or (where, error) for a bad line."""
    text = read_text(file)
    first = text.split("\n", 1)[0].removesuffix("\r")
    named = DELIMITER_LINE.fullmatch(first)
    delimiter = named[1] if named else csv_delimiter(first)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    if named:
        next(reader)
    columns = None
    while True:
        number = reader.line_num + 1
        where = f"{file} line {number}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            invalid = ValueError(f"{where}: not valid CSV ({error}); save the file again.")
            # An open quote swallows an unknown number of lines
            if columns is None or reader.line_num > number:
                raise invalid from error
            yield where, invalid
            continue
        if cells is None:
            return
        if not any(cell.strip() for cell in cells):
            continue
        if columns is None:
            columns = _columns(cells, where)
        elif len(cells) == len(columns):
            yield where, {column: cell.strip() for column, cell in zip(columns, cells, strict=True)}
        else:
            text = f"{count_of(len(cells), 'cell')}, but the first line has {len(columns)}"
            yield where, ValueError(f'{where}: {text}; put cells that contain {show(delimiter)} into "quotes".')


def _jsonl_records(file: Path) -> Iterator[tuple[str, dict[str, str] | ValueError]]:
    """Yield the same as `_csv_records`."""
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if line.strip():
            where = f"{file} line {number}"
            try:
                record = _json_record(line, where)
            except ValueError as error:
                record = error
            yield where, record


def _json_record(line: str, where: str) -> dict[str, str]:
    try:
        record = parse_json(line, object_pairs_hook=each_once)
    except ValueError as error:
        raise ValueError(f"{where}: not valid JSON ({error}); write one object per line.") from error
    if not isinstance(record, dict) or not all(isinstance(cell, str | None) for cell in record.values()):
        raise ValueError(
            f'{where}: the line must be an object of strings, such as {{"image": "1.jpg", "question": "the cat"}}.'
        )
    columns = _columns(list(record), where)
    return {column: (cell or "").strip() for column, cell in zip(columns, record.values(), strict=True)}


def _columns(names: list[str], where: str) -> list[str]:
    """Return the column names as in COLUMNS. Unknown names are an error: a misspelt "mask" would empty all answers."""
    columns = ["class" if name.strip().lower() == "label" else name.strip().lower() for name in names]
    if unknown := [name for name in columns if name not in COLUMNS]:
        raise ValueError(
            f"{where}: unknown column {show(unknown[0])}; columns can be {', '.join(COLUMNS)} (or label), separated "
            "by commas, semicolons or tabs."
        )
    if len(set(columns)) < len(columns):
        raise ValueError(f"{where}: a column exists twice (class and label are the same); keep one.")
    if missing := [name for name in ("image", "question") if name not in columns]:
        raise ValueError(f"{where}: the column {missing[0]} is missing; the first line must name the columns.")
    return columns


def read_text(file: Path) -> str:
    """Return the text of a file, without a byte order mark.

    Raises:
        ValueError: the file is not UTF-8.
    """
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f'{file} is not UTF-8; save it as "CSV UTF-8" or as text in UTF-8.') from error


def check_characters(text: str, where: str) -> None:
    """Raise an error for a lone surrogate ("\\ud83d"), which JSON can contain but UTF-8 cannot."""
    if not is_unicode(text):
        raise ValueError(f"{where}: {show(text)} contains half of a character (a lone surrogate); write it again.")
