"""What a user writes beside own pictures: questions.csv or questions.jsonl, and how classes are called.

image,question,mask,answer,explanation
1.jpg,What would you sit on?,masks/1_chair.png,It is {seg}.,It has a seat and a back.
1.jpg,the dog,,,
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .coco_files import SPLIT_WORDS
from .rows import RESERVED

QUESTION_FILES = ("questions.csv", "questions.jsonl")
CLASS_FILES = ("classes.json", "classes.txt", "classes.yaml", "classes.yml")
# Of a table by its name: these, a copy `questions (1).csv`, and what is easily taken for them, as Question.tsv
TABLE_NAME = re.compile(
    r"(questions?|class(es)?)( ?\(\d+\))?(\.\w+)*\.(csv|tsv|txt|jsonl?|ndjson|ya?ml|xlsx?|ods)", re.IGNORECASE
)
COLUMNS = ("image", "question", "mask", "class", "answer", "split", "explanation")
DELIMITERS = ",;\t"  # spreadsheets of half of Europe write semicolons
BACKGROUND = ("background", "unlabeled", "unlabelled", "void", "none")  # what number 0 may be called
IGNORED = "__ignore__"  # LabelMe's word for what is not counted

# A line of classes.txt: `1: cat`, or with another sign between; `cat: 1`; or `cat`. `3 wheeler` may be the first or the
# last of these, `7up` is a name.
NUMBER_FIRST = re.compile(
    r"(?P<number>\d{1,9})(?P<separator>\s*[:=,;)]\s*|\.\s*(?=\D)|\s+-\s+|\s+)(?P<name>[^\s:=,;\"].*)"
)
NUMBER_LAST = re.compile(r"(?P<name>.*\S)\s*[:=,;\t]\s*(?P<number>\d{1,9})")
NAME_ALONE = re.compile(r".*")
NUMBER_BEGINS = re.compile(r"\d+([\s:=,;.)-]|$)")
NO_NAME = '#%/{}[]<>*|,;:=-"'  # begins no name, but comments, lists and other formats
HEADINGS = {"id", "ids", "index", "number", "value", "name", "names", "class", "classes", "label", "labels"}
HEADINGS |= {"category", "categories"}


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
        raise ValueError(f"{where}: its split is {split!r}; take train, validation or test, or leave it empty.")
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
    text = _text(file)
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
    for number, line in enumerate(_text(file).split("\n"), start=1):
        if line.strip():
            where = f"{file} line {number}"
            try:
                record = _json_record(line, where)
            except ValueError as error:
                record = error
            yield where, record


def _json_record(line: str, where: str) -> dict[str, str]:
    try:
        record = json.loads(line, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: is no JSON ({error}); write one object a line.") from error
    if not isinstance(record, dict) or not all(isinstance(cell, str | None) for cell in record.values()):
        raise ValueError(f'{where}: is no object of texts; write {{"image": "1.jpg", "question": "the cat"}}.')
    columns = _columns(list(record), where)
    return {column: (cell or "").strip() for column, cell in zip(columns, record.values(), strict=True)}


def _columns(names: list[str], where: str) -> list[str]:
    """The columns as COLUMNS has them; a misspelt one would say of everything that it is not there."""
    columns = ["class" if name.strip().lower() == "label" else name.strip().lower() for name in names]
    if unknown := [name for name in columns if name not in COLUMNS]:
        raise ValueError(f"{where}: no column is called {unknown[0]!r}; there are: {', '.join(COLUMNS)} (or label).")
    if len(set(columns)) < len(columns):
        raise ValueError(f"{where}: a column is there twice (class and label are the same); keep one.")
    if missing := [name for name in ("image", "question") if name not in columns]:
        raise ValueError(f"{where}: the column {missing[0]} is missing; the first line names the columns.")
    return columns


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f'{file} is not UTF-8; save it as "CSV UTF-8" or as text in UTF-8.') from error


def read_classes(file: Path) -> dict[int, str]:
    """How the numbers of label maps are called.

    Raises:
        ValueError: what is wrong, with the file, and the line of a text.
    """
    text = _text(file)
    if file.suffix.lower() == ".txt":
        return class_names(_class_lines(text, file), str(file))
    try:
        if file.suffix.lower() == ".json":
            content = json.loads(text, object_pairs_hook=_each_once)
        else:
            node = yaml.compose(text, yaml.SafeLoader)
            if isinstance(node, yaml.MappingNode):
                _each_once([(str(key.value), None) for key, _ in node.value])
            content = yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file} cannot be read ({reason}); write a line `1: cat` for each class.") from error
    return class_names(content, str(file))


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping, of which JSON and YAML would silently keep the last of two."""
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"{twice!r} is there twice")
    return content


def _class_lines(text: str, file: Path) -> list[str] | dict[int, str]:
    """The names, or the names by their numbers; all lines must be written in one way.

    Raises:
        ValueError: a line that may mean something else, with its number.
    """
    lines = {number: line.strip() for number, line in enumerate(text.splitlines(), start=1) if line.strip()}
    kinds = {number: _kind(line) for number, line in lines.items()}
    first = next(iter(lines), 0)
    for number, line in lines.items():
        words = set(re.findall(r"[^\W\d_]+", line.lower()))
        if line[0] in NO_NAME or (number == first and words and words <= HEADINGS and not re.search(r"\d", line)):
            raise ValueError(
                f"{file} line {number}: {line!r} looks like a comment, a heading or another format; take it out, or "
                "write a number and a name on every line, as in `1: cat`."
            )
        if kinds[number] is None or kinds[number] is not kinds[first]:
            raise ValueError(
                f"{file} line {number}: it is not clear whether {line!r} has a number; write a number and a name on "
                "every line, as in `1: cat`, or names alone, none of which begins with a number."
            )
    if not lines or kinds[first] is NAME_ALONE:
        return list(lines.values())
    names, places = {}, {}
    for place, line in lines.items():
        match = kinds[first].fullmatch(line)
        number = int(match["number"])
        if number in names:
            raise ValueError(
                f"{file} line {place}: the number {number} is there twice, also in line {places[number]}; each class "
                "needs one of its own."
            )
        names[number], places[number] = match["name"], place
    return names


def _kind(line: str) -> re.Pattern | None:
    """How a class is written; none where it cannot be told."""
    match = NUMBER_FIRST.fullmatch(line)
    if match is None:
        if NUMBER_BEGINS.match(line):
            return None
        return NUMBER_LAST if NUMBER_LAST.fullmatch(line) else NAME_ALONE
    separator = match["separator"].strip(" ")
    if separator in (":", "="):
        return NUMBER_FIRST
    # `0 1 cat`, `1,cat,255,0,0`: a table of more than numbers and names
    if NUMBER_BEGINS.match(match["name"]) or (separator and separator in match["name"]):
        return None
    return NUMBER_FIRST


def class_names(content: Any, where: str) -> dict[int, str]:
    """What each number is called, from a list, {number: name} or {name: number}; names have blanks for underscores.

    A list counts from 1 on, or from 0 on where its first name is the background's.

    Raises:
        ValueError: what is wrong, with where.
    """
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        if numbered := [name for name in content if NUMBER_BEGINS.match(name.strip())]:
            raise ValueError(
                f"{where}: the name {numbered[0]!r} begins with a number; if it is the name, number all of them, as in "
                '{"1": "cat"}.'
            )
        names = [name for name in content if name != IGNORED]  # LabelMe's lists begin with it, at -1
        content = dict(enumerate(names, start=0 if names and _is_background(names[0]) else 1))
    pairs = list(content.items()) if isinstance(content, dict) else []
    if pairs and all(type(number) is int for _, number in pairs):
        pairs = [(number, name) for name, number in pairs]
    names = {}
    for number, name in pairs:
        if not isinstance(name, str) or not re.fullmatch(r"-?\d{1,9}", str(number).strip()):
            raise ValueError(f"{where}: {number!r} and {name!r} are no number and name; write `1: cat` for each.")
        if int(number) in names:
            raise ValueError(f"{where}: the number {int(number)} is there twice; each class needs one of its own.")
        check_characters(name, where)
        names[int(number)] = clean(name)
    if 0 in names and not _is_background(names[0]):
        raise ValueError(f"{where}: calls 0 {names[0]!r}, but 0 is the background; number the classes from 1 on.")
    names.pop(0, None)
    if not names or not all(names.values()):
        raise ValueError(f"{where}: names no classes, or one has no name; write a line `1: cat` for each.")
    return names


def clean(name: str) -> str:
    """A class's name as people write it."""
    return " ".join(name.replace("_", " ").split())


def check_characters(text: str, where: str) -> None:
    """Refuse half a character (a lone surrogate), which JSON can write, as "\\ud83d", but UTF-8 cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: {ascii(text)} holds half a character; write it again.") from error


def _is_background(name: str) -> bool:
    return clean(name).lower() in BACKGROUND
