"""Read the class names and splits of YOLO data sets: data.yaml, or classes.txt with one name per line."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gemma_lisa.datasets_builder.rows import is_unicode
from gemma_lisa.safety.parsing import parse_yaml
from gemma_lisa.safety.short_text import count_of, listed, reason_of, show

from .annotated import Notes
from .coco_files import SPLIT_WORDS
from .coco_records import LONGEST_NAME
from .folder_listing import first_text, read_text

YAML_SUFFIXES = (".yaml", ".yml")
YAML_START = 100_000  # bytes in which the key `names` must be
NAMES_KEY = re.compile(r"^[\"']?names[\"']?\s*:", re.MULTILINE)
OTHER_KEYS = re.compile(r"^[\"']?(train|val|valid|test|path|nc|kpt_shape)[\"']?\s*:", re.MULTILINE)
CLASS_FILES = ("classes.txt", "obj.names", "labels/classes.txt", "images/classes.txt")  # relative to the data folder
NUMBERED = re.compile(r"(\d{1,6})\s*(?:[:=]\s*|\s)(.*\S)")  # "0: mug", "0 mug"
MAX_KEYPOINT_NUMBERS = 10_000


@dataclass
class YoloConfig:
    """Content of data.yaml or classes.txt."""

    file: Path
    names: dict[int, str]
    folder: str = ""  # `path`: the folder that the paths of splits are relative to, as written
    splits: dict[str, list[str]] = field(default_factory=dict)  # folders and .txt files of each split, as written
    num_pose: int = 0  # numbers of keypoints that follow each box; 0 for none


def find_yaml(root: Path) -> list[Path]:
    """Return the YAML files in a data folder that have the keys of YOLO data sets."""
    found = []
    for name in sorted(os.listdir(root)) if root.is_dir() else []:
        path = root / name if os.path.splitext(name)[1].lower() in YAML_SUFFIXES else None
        if path is not None and not name.startswith(".") and path.is_file():
            text = first_text(path, YAML_START)
            if NAMES_KEY.search(text) and OTHER_KEYS.search(text):
                found.append(path)
    return found


def find_config(root: Path, notes: Notes) -> YoloConfig:
    """Return the names and splits of a data folder.

    Raises:
        ValueError: there is no file with the class names, there are several, or it is not valid.
    """
    files = find_yaml(root)
    if len(files) > 1:
        preferred = [file for file in files if file.stem.lower() in ("data", "dataset")]
        if len(preferred) != 1:
            names = listed(file.name for file in files)
            raise ValueError(f"{root}: {names} all have class names of a YOLO data set; keep one of these files.")
        for file in files:
            if file not in preferred:
                notes.add(f"skipped YAML files, because {preferred[0].name} describes the data set", str(file))
        files = preferred
    if files:
        return _read_yaml(files[0], notes)
    for name in CLASS_FILES:
        if (root / name).is_file():
            return YoloConfig(root / name, _class_lines(root / name, notes))
    raise ValueError(
        f"{root}: the YOLO labels have class numbers, but there is no data.yaml or classes.txt with their names; write "
        "classes.txt with one name per line, in the order of the numbers from 0."
    )


def _read_yaml(file: Path, notes: Notes) -> YoloConfig:
    try:
        content = parse_yaml(read_text(file))
    except ValueError as error:
        raise ValueError(f"{file} cannot be read as YAML ({reason_of(error)}); correct it.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: it must have the keys names, train and val; export the data set again.")
    names = _names(content.get("names"), file)
    count = content.get("nc")
    if type(count) is int and count != len(names):
        notes.add("data sets whose number of classes `nc` is not their number of names", f"{file}: nc is {count}")
    _note_same_names(names, file, notes)
    folder = content.get("path")
    if folder is not None and not isinstance(folder, str):
        raise ValueError(f"{file}: path must be the path of a folder, got {show(folder)}.")
    return YoloConfig(file, names, folder or "", _splits(content, file), _num_pose(content.get("kpt_shape"), file))


def _names(content: Any, file: Path) -> dict[int, str]:
    """Return the names by number from a list or {number: name}."""
    if isinstance(content, list):
        content = dict(enumerate(content))
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{file}: names must be a list such as [mug, plate], or 0: mug for each, got {show(content)}.")
    names = {}
    for key, name in content.items():
        number = int(key) if isinstance(key, str) and re.fullmatch(r"\d{1,9}", key.strip()) else key
        if type(number) is not int or number < 0 or number in names:
            raise ValueError(f"{file}: {show(key)} in names is not a class number, or exists twice; write 0: mug.")
        names[number] = _checked_name(name, f"{file}: class {number}")
    return names


def _checked_name(name: Any, where: str) -> str:
    if type(name) not in (str, int):  # YAML reads yes, 1.5 and 2020-01-01 as other types
        raise ValueError(f"{where}: the name must be text, got {show(name)}; write it in quotes.")
    name = str(name).strip()
    if not name or len(name) > LONGEST_NAME or not is_unicode(name):
        raise ValueError(f"{where}: the name must have 1 to {LONGEST_NAME:,} characters of UTF-8, got {show(name)}.")
    return name


def _splits(content: dict, file: Path) -> dict[str, list[str]]:
    splits = {}
    for key, value in content.items():
        split = SPLIT_WORDS.get(str(key).lower())
        if split is None or value in (None, ""):
            continue
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(path, str) for path in values):
            raise ValueError(f"{file}: {key} must be a folder, a .txt file or a list of these, got {show(value)}.")
        splits[split] = splits.get(split, []) + values
    return splits


def _num_pose(shape: Any, file: Path) -> int:
    """Return the number of keypoint numbers per object from `kpt_shape`: [keypoints, 2 or 3]."""
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(side) is int and side > 0 for side in shape):
        raise ValueError(f"{file}: kpt_shape must be [number of keypoints, 2 or 3], got {show(shape)}.")
    return min(shape[0] * shape[1], MAX_KEYPOINT_NUMBERS)


def _class_lines(file: Path, notes: Notes) -> dict[int, str]:
    """Return the names in a text file: one per line, numbered from 0 unless all lines start with a number."""
    lines = [line.strip() for line in read_text(file).splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if not lines or not all(lines):
        place = lines.index("") + 1 if lines else 1
        raise ValueError(f"{file} line {place}: the line is empty; write one class name per line, in the order from 0.")
    numbered = [NUMBERED.fullmatch(line) for line in lines]
    numbers = [int(match[1]) for match in numbered if match]
    if len(numbers) == len(lines) and numbers == list(range(len(lines))):
        notes.add("files of class names whose lines start with their numbers", str(file))
        lines = [match[2] for match in numbered]
    elif len(numbers) == len(lines) and len(set(numbers)) == len(numbers):
        raise ValueError(
            f"{file}: its {count_of(len(lines), 'line')} start with numbers, but not with 0, 1, 2, ...; write only the "
            "names, one per line, in the order of the class numbers from 0."
        )
    names = {number: _checked_name(line, f"{file} line {number + 1}") for number, line in enumerate(lines)}
    _note_same_names(names, file, notes)
    return names


def _note_same_names(names: dict[int, str], file: Path, notes: Notes) -> None:
    first = {}
    for number, name in names.items():
        if first.setdefault(name, number) != number:
            notes.add(
                "class numbers with the name of another number", f"{file}: {first[name]} and {number} are {show(name)}"
            )
