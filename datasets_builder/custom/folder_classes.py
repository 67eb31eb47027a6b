"""Read the class names of a user's own folder: classes.txt, .json or .yaml, or the option classes."""

import re
from pathlib import Path
from typing import Any

from gemma_lisa.datasets_builder.class_names import clean
from gemma_lisa.datasets_builder.formats.annotated import IGNORED
from gemma_lisa.safety.parsing import each_once, parse_json, parse_yaml
from gemma_lisa.safety.short_text import shorten, show

from .folder_tables import check_characters, read_text

BACKGROUND = ("background", "unlabeled", "unlabelled", "void", "none")  # names that number 0 can have

# A line of classes.txt: `1: cat`, also with another separator; `cat: 1`; or `cat`. `3 wheeler` could be the first or
# the last of these. `7up` is a name.
NUMBER_FIRST = re.compile(
    r"(?P<number>\d{1,9})(?P<separator>\s*[:=,;)]\s*|\.\s*(?=\D)|\s+-\s+|\s+)(?P<name>[^\s:=,;\"].*)"
)
NUMBER_LAST = re.compile(r"(?P<name>.*\S)\s*[:=,;\t]\s*(?P<number>\d{1,9})")
COLORS = re.compile(r"\d[\s,;]+\d+[\s,;]+\d+[\s,;:]*$")  # `mug,255,0,0`: a table with colors
LONGEST_LINE = 1_000  # characters: the time of the patterns is quadratic
NAME_ALONE = re.compile(r".*")
NUMBER_BEGINS = re.compile(r"\d+([\s:=,;.)-]|$)")
NO_NAME = '#%/{}[]<>*|,;:=-"'  # characters that start comments, lists and other formats, but not names
HEADINGS = {"id", "ids", "index", "number", "value", "name", "names", "class", "classes", "label", "labels"}
HEADINGS |= {"category", "categories"}


class CountedNames(dict[int, str]):
    """Class names of a list without numbers, counted from 1. Only the masks show whether it counts from 0."""

    where: str  # the file or option

    def from_zero(self) -> dict[int, str]:
        return {number - 1: name for number, name in self.items()}

    def ambiguous(self) -> ValueError:
        """Return the error of masks that allow both."""
        one, other = ([f"`{at}: {name}`" for at, name in list(each.items())[:2]] for each in (self.from_zero(), self))
        return ValueError(
            f"{self.where}: the list has no numbers, and no mask contains the number {len(self)}, so it is not clear "
            f"whether {show(self[1])} is number 0 or 1. Write a number on each line: {', '.join(one)}, ... if 0 is the "
            f"first class, or {', '.join(other)}, ... if 0 is the background."
        )


def read_classes(file: Path) -> dict[int, str]:
    """Return the class names by number.

    Raises:
        ValueError: the file cannot be read or is ambiguous; the message names the file and the line.
    """
    text = read_text(file)
    if file.suffix.lower() == ".txt":
        return class_names(_class_lines(text, file), str(file))
    try:
        if file.suffix.lower() == ".json":
            content = parse_json(text, object_pairs_hook=each_once)
        else:
            content = parse_yaml(text)
    except ValueError as error:
        raise ValueError(
            f"{file} cannot be read ({shorten(str(error))}); write one line `1: cat` for each class."
        ) from error
    return class_names(content, str(file))


def _class_lines(text: str, file: Path) -> list[str] | dict[int, str]:
    """Return the names, or the names by number. All lines must have the same format.

    Raises:
        ValueError: a line is ambiguous; the message has its number.
    """
    lines = {number: line.strip() for number, line in enumerate(text.splitlines(), start=1) if line.strip()}
    if long := [number for number, line in lines.items() if len(line) > LONGEST_LINE]:
        raise ValueError(f"{file} line {long[0]}: the line has {len(lines[long[0]]):,} characters; write `1: cat`.")
    kinds = {number: _kind(line) for number, line in lines.items()}
    first = next(iter(lines), 0)
    for number, line in lines.items():
        words = set(re.findall(r"[^\W\d_]+", line.lower()))
        if line[0] in NO_NAME or (number == first and words and words <= HEADINGS and not re.search(r"\d", line)):
            raise ValueError(
                f"{file} line {number}: {show(line)} looks like a comment, a heading or another format; remove it, or "
                "write a number and a name on every line, such as `1: cat`."
            )
        if kinds[number] is None or kinds[number] is not kinds[first]:
            raise ValueError(
                f"{file} line {number}: it is not clear whether {show(line)} starts or ends with a class number; write "
                "a number and a name on every line, such as `1: cat`, or only names that do not start with a number."
            )
    if not lines or kinds[first] is NAME_ALONE:
        return list(lines.values())
    names, places = {}, {}
    for place, line in lines.items():
        match = kinds[first].fullmatch(line)
        number = int(match["number"])
        if number in names:
            raise ValueError(
                f"{file} line {place}: the number {number} is also in line {places[number]}; each class needs a "
                "different number."
            )
        names[number], places[number] = match["name"], place
    return names


def _kind(line: str) -> re.Pattern | None:
    """Return the pattern of a line, or None if it is ambiguous."""
    match = NUMBER_FIRST.fullmatch(line)
    if match is None:
        if NUMBER_BEGINS.match(line) or COLORS.search(line):
            return None
        return NUMBER_LAST if NUMBER_LAST.fullmatch(line) else NAME_ALONE
    separator = match["separator"].strip(" ")
    if separator in (":", "="):
        return NUMBER_FIRST
    # `0 1 cat`, `1,cat,255,0,0`: a table with more columns than number and name
    if NUMBER_BEGINS.match(match["name"]) or (separator in (",", ";", "\t") and separator in match["name"]):
        return None
    return NUMBER_FIRST


def class_names(content: Any, where: str) -> dict[int, str]:
    """Return the class names by number, with spaces instead of underscores.

    Args:
        content: a list of names, {number: name} or {name: number}. A list counts from 0 if its first name is that of
            the background; otherwise the result is `CountedNames`.
        where: names the file or option in errors.

    Raises:
        ValueError: the content has another format, or a number or name is not valid.
    """
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        if numbered := [name for name in content if NUMBER_BEGINS.match(name.strip())]:
            raise ValueError(
                f"{where}: the name {show(numbered[0])} starts with a number; if that is part of the name, number all "
                'classes, such as {"1": "cat"}.'
            )
        listed_names = [name for name in content if name != IGNORED]  # LabelMe's lists start with it, as number -1
        is_counted = not listed_names or not is_background(listed_names[0])
        content = dict(enumerate(listed_names, start=int(is_counted)))
    elif isinstance(content, list):
        other = next(name for name in content if not isinstance(name, str))
        raise ValueError(f'{where}: a list must contain only names, got {show(other, 60)}; write ["cat", "dog"].')
    else:
        is_counted = False
    pairs = list(content.items()) if isinstance(content, dict) else []
    if pairs and all(type(number) is int for _, number in pairs):
        pairs = [(number, name) for name, number in pairs]
    names = CountedNames() if is_counted else {}
    for number, name in pairs:
        if not isinstance(name, str) or not re.fullmatch(r"-?\d{1,9}", str(number).strip()):
            raise ValueError(
                f"{where}: {show(number)}: {show(name)} is not a number and a name; write `1: cat` for each class."
            )
        if int(number) in names:
            raise ValueError(
                f"{where}: two classes have the number {int(number)}; each class needs a different number."
            )
        check_characters(name, where)
        names[int(number)] = clean(name)
    if is_counted:
        names.where = where
    if 0 in names and is_background(names[0]):
        del names[0]
    if not names or not all(names.values()):
        raise ValueError(f"{where}: there are no classes, or one has no name; write one line `1: cat` for each class.")
    return names


def is_background(name: str) -> bool:
    """Return whether a class name means the background."""
    return clean(name).lower() in BACKGROUND
