"""What a user writes beside own pictures: questions.csv or questions.jsonl, and how classes are called.

image,question,mask,answer,explanation
1.jpg,What would you sit on?,masks/1_chair.png,It is {seg}.,It has a seat and a back.
1.jpg,the dog,,,
"""

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .coco_files import SPLIT_WORDS

QUESTION_FILES = ("questions.csv", "questions.jsonl")
CLASS_FILES = ("classes.json", "classes.txt", "classes.yaml", "classes.yml")
COLUMNS = ("image", "question", "mask", "class", "answer", "split", "explanation")
DELIMITERS = ",;\t"  # spreadsheets of half of Europe write semicolons
BACKGROUND = ("background", "unlabeled", "unlabelled", "void", "none")  # what number 0 may be called
IGNORED = "__ignore__"  # LabelMe's word for what is not counted


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


def find_one(folders: list[Path], names: tuple[str, ...]) -> Path | None:
    """The file of one of these names, in the first folder that has any.

    Raises:
        ValueError: it has several.
    """
    for folder in folders:
        found = [folder / name for name in names if (folder / name).is_file()]
        if len(found) > 1:
            raise ValueError(f"{found[0]} and {found[1].name} are both there; keep one.")
        if found:
            return found[0]
    return None


def read_questions(file: Path, default_split: str = "") -> list[Question]:
    """The lines of a table, which belong to `default_split` where they name none.

    Raises:
        ValueError: what is wrong, with the file and the line.
    """
    records = list(_csv_records(file) if file.suffix == ".csv" else _jsonl_records(file))
    columns = {column for _, record in records for column in record}
    if not records:
        raise ValueError(f"{file}: holds no question; write some, or take the file out.")
    questions = []
    for where, record in records:
        for column in ("image", "question"):
            if not record.get(column):
                raise ValueError(f"{where}: its {column} is empty; every line needs one.")
        split = record.get("split", "").lower()
        if split and split not in SPLIT_WORDS:
            raise ValueError(f"{where}: its split is {split!r}; take train, validation or test, or leave it empty.")
        questions.append(
            Question(
                where,
                record["image"],
                record["question"],
                record.get("mask", ""),
                record.get("class", ""),
                record.get("answer", ""),
                SPLIT_WORDS.get(split, default_split),
                record.get("explanation", ""),
                points=bool(columns & {"mask", "class"}),
            )
        )
    return questions


def _csv_records(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    text = _text(file)
    first = text.split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(DELIMITERS, key=first.count), strict=True)
    columns = None
    try:
        for cells in reader:
            where = f"{file} line {reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if columns is None:
                columns = _columns(cells, where)
                continue
            if len(cells) != len(columns):
                raise ValueError(
                    f"{where}: has {len(cells)} cells, but the first line has {len(columns)}; put cells that hold "
                    'commas into "quotes".'
                )
            yield where, {column: cell.strip() for column, cell in zip(columns, cells, strict=True)}
    except csv.Error as error:
        raise ValueError(f"{file} line {reader.line_num}: is no CSV ({error}); save it again.") from error


def _jsonl_records(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    for number, line in enumerate(_text(file).split("\n"), start=1):
        where = f"{file} line {number}"
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: is no JSON ({error}); write one object a line.") from error
        if not isinstance(record, dict) or not all(isinstance(cell, str | None) for cell in record.values()):
            raise ValueError(f'{where}: is no object of texts; write {{"image": "1.jpg", "question": "the cat"}}.')
        columns = _columns(list(record), where)
        yield where, {column: (cell or "").strip() for column, cell in zip(columns, record.values(), strict=True)}


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
        ValueError: what is wrong, with the file.
    """
    text = _text(file)
    if file.suffix == ".txt":
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        numbered = [re.fullmatch(r"(\d+)\s*[:=\t]\s*(.+)", line) for line in lines]
        if any(numbered) and not all(numbered):
            odd = lines[numbered.index(None)]
            raise ValueError(f"{file}: {odd!r} has no number or no name, but other lines have; write `1: cat`.")
        content = lines
        if lines and all(numbered):
            content = {int(match[1]): match[2] for match in numbered}
            if len(content) < len(lines):
                raise ValueError(f"{file}: a number is there twice; each class needs one of its own.")
    else:
        try:
            content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
        except (ValueError, RecursionError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{file} cannot be read ({reason}); write a line `1: cat` for each class.") from error
    return class_names(content, str(file))


def class_names(content: Any, where: str) -> dict[int, str]:
    """What each number is called, from a list, {number: name} or {name: number}; names have blanks for underscores.

    A list counts from 1 on, or from 0 on where its first name is the background's.
    """
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        names = [name for name in content if name != IGNORED]  # LabelMe's lists begin with it, at -1
        content = dict(enumerate(names, start=0 if names and _is_background(names[0]) else 1))
    if isinstance(content, dict) and content and all(isinstance(number, int) for number in content.values()):
        if len(set(content.values())) < len(content):
            raise ValueError(f"{where}: a number is there twice; each class needs one of its own.")
        content = {number: name for name, number in content.items()}
    try:
        names = {int(number): clean(name) for number, name in content.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: names no classes; write a line `1: cat` for each.") from error
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
