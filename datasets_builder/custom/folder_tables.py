"""What a user asks of own pictures: questions.csv or questions.jsonl.

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
from gemma_lisa.safety.parsing import each_once, parse_json
from gemma_lisa.safety.short_text import show

QUESTION_FILES = ("questions.csv", "questions.jsonl")
CLASS_FILES = ("classes.json", "classes.txt", "classes.yaml", "classes.yml")
# Of a table by its name: these, a copy `questions (1).csv`, and what is easily taken for them, as Question.tsv
TABLE_NAME = re.compile(
    r"(questions?|class(es)?)( ?\(\d+\))?(\.\w+)*\.(csv|tsv|txt|jsonl?|ndjson|ya?ml|xlsx?|ods)", re.IGNORECASE
)
COLUMNS = ("image", "question", "mask", "class", "answer", "split", "explanation")
DELIMITERS = ",;\t"  # spreadsheets of half of Europe write semicolons


@dataclass(frozen=True)
class Question:
    """A line of a table. What is empty is ""."""

    where: str  # file and line
    image: str
    question: str
    mask: str
    label: str  # the column class
    answer: str
    split: str
    explanation: str
    points: bool  # whether its table has a column mask or class, and can say by leaving it empty: it is not there


def is_table(name: str) -> bool:
    """Whether a file is a table of questions or classes by its name, or would be under the right one."""
    return TABLE_NAME.fullmatch(name) is not None


def find_one(folders: list[Path], names: tuple[str, ...]) -> Path | None:
    """The file of one of these names, in upper or lower case, in the first folder that has any.

    names: QUESTION_FILES or CLASS_FILES.

    Raises:
        ValueError: it has several, or one under another name, as questions.tsv.
    """
    for folder in folders:
        listed = sorted(folder.iterdir()) if folder.is_dir() else []
        tables = [path for path in listed if is_table(path.name) and path.is_file()]
        of_kind = [path for path in tables if path.name[0].lower() == names[0][0]]  # q or c
        found = [path for path in of_kind if path.name.lower() in names]
        if others := [path for path in of_kind if path not in found]:
            raise ValueError(
                f"{others[0]}: is not read under this name; save it as {' or '.join(names)}, or remove it."
            )
        if len(found) > 1:
            raise ValueError(f"{found[0]} and {found[1].name} are both there; keep one.")
        if found:
            return found[0]
    return None


def read_questions(file: Path, default_split: str = "") -> tuple[list[Question], list[ValueError]]:
    """The lines of a table, which belong to `default_split` where they name none; and what is wrong with the others.

    Raises:
        ValueError: it cannot be read as a whole, with the file and the line.
    """
    records = list((_csv_records if file.suffix.lower() == ".csv" else _jsonl_records)(file))
    if not records:
        raise ValueError(f"{file}: holds no question; write some, or take the file out.")
    columns = {column for _, record in records if isinstance(record, dict) for column in record}
    questions, complaints = [], []
    for where, record in records:
        try:
            questions.append(_question(record, where, default_split, points=bool(columns & {"mask", "class"})))
        except ValueError as error:
            complaints.append(error)
    return questions, complaints


def _question(record: dict[str, str] | ValueError, where: str, default_split: str, points: bool) -> Question:
    if isinstance(record, ValueError):
        raise record
    for column in ("image", "question"):
        if not record.get(column):
            raise ValueError(f"{where}: its {column} is empty; every line needs one.")
    for column, cell in record.items():
        check_characters(cell, f"{where}: its {column}")
    split, explanation = record.get("split", "").lower(), record.get("explanation", "")
    if split and split not in SPLIT_WORDS:
        raise ValueError(f"{where}: its split is {show(split)}; take train, validation or test, or leave it empty.")
    if reserved := [word for word in RESERVED if word in explanation]:
        raise ValueError(
            f"{where}: its explanation has a {reserved[0]}, but masks stand in answers only; say it in words."
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
    """(where, cells by column) of every line, or (where, what is wrong with it)."""
    text = read_text(file)
    first = text.split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(DELIMITERS, key=first.count), strict=True)
    columns = None
    while True:
        number = reader.line_num + 1
        where = f"{file} line {number}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            complaint = ValueError(f"{where}: is no CSV ({error}); save it again.")
            # A quote that is not closed swallows lines, and nobody knows how many
            if columns is None or reader.line_num > number:
                raise complaint from error
            yield where, complaint
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
            words = f"has {len(cells)} cells, but the first line has {len(columns)}"
            yield where, ValueError(f'{where}: {words}; put cells that hold commas into "quotes".')


def _jsonl_records(file: Path) -> Iterator[tuple[str, dict[str, str] | ValueError]]:
    """As `_csv_records`."""
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
        raise ValueError(f"{where}: is no JSON ({error}); write one object a line.") from error
    if not isinstance(record, dict) or not all(isinstance(cell, str | None) for cell in record.values()):
        raise ValueError(f'{where}: is no object of texts; write {{"image": "1.jpg", "question": "the cat"}}.')
    columns = _columns(list(record), where)
    return {column: (cell or "").strip() for column, cell in zip(columns, record.values(), strict=True)}


def _columns(names: list[str], where: str) -> list[str]:
    """The columns as COLUMNS has them; a misspelt one would say of everything that it is not there."""
    columns = ["class" if name.strip().lower() == "label" else name.strip().lower() for name in names]
    if unknown := [name for name in columns if name not in COLUMNS]:
        raise ValueError(
            f"{where}: no column is called {show(unknown[0])}; there are: {', '.join(COLUMNS)} (or label)."
        )
    if len(set(columns)) < len(columns):
        raise ValueError(f"{where}: a column is there twice (class and label are the same); keep one.")
    if missing := [name for name in ("image", "question") if name not in columns]:
        raise ValueError(f"{where}: the column {missing[0]} is missing; the first line names the columns.")
    return columns


def read_text(file: Path) -> str:
    """What a user wrote.

    Raises:
        ValueError: it is not UTF-8.
    """
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f'{file} is not UTF-8; save it as "CSV UTF-8" or as text in UTF-8.') from error


def check_characters(text: str, where: str) -> None:
    """Refuse half a character (a lone surrogate), which JSON can write, as "\\ud83d", but UTF-8 cannot."""
    if not is_unicode(text):
        raise ValueError(f"{where}: {show(text)} holds half a character; write it again.")
