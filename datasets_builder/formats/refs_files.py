"""Read the files of the referring data sets: the referring expressions (refs) and the COCO annotations they refer to.

    refs(unc).p         a Python 2 pickle, or refs(unc).json of the same content; gRefCOCO's is called grefs(unc).json
    instances.json      images and annotations in COCO format

A pickle can run code when it is loaded. These contain lists, dicts, strings and numbers, and anything else is refused.
Numbers of NumPy are read as plain numbers.
The pickle is not needed after this conversion:

    python -m gemma_lisa.datasets_builder.formats.refs_files convert "data/refer_seg/refcoco/refs(unc).p"
"""

import argparse
import json
import logging
import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemma_lisa.safety.short_text import name_of, show

from .coco_records import as_id
from .json_files import read_json, refuse
from .plain_pickle import unpickle

logger = logging.getLogger(__name__)

INSTANCES = "instances.json"
SUFFIXES = (".json", ".p")  # a converted file has precedence
KEYS = ("ref_id", "image_id", "ann_id", "split", "sentences")
NO_OBJECT = [-1]  # ann_id of an expression without an object in the photo
SPLITS = {"train": "train", "validation": "val", "test": "test"}
LETTERS = {"testA": "A", "testB": "B", "testC": "C"}  # RefCLEF's label "testAB" is in two splits


@dataclass(frozen=True)
class Ref:
    """Referring expressions for the same objects of one photo: one object, or in gRefCOCO several or none."""

    where: str  # names it in errors
    image: int | str  # ids of instances.json
    annotations: tuple[int | str, ...]
    label: str  # of its split or splits
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Instances:
    """The records of instances.json by id. Each is checked when a ref names it: the file has many others."""

    file: Path
    images: dict[int | str, dict]
    annotations: dict[int | str, dict]

    def image(self, ref: Ref) -> dict:
        """Return the record of a ref's photo.

        Raises:
            ValueError: there is no such record, or it is incomplete.
        """
        where = f"{ref.where}: {self.file}"
        if ref.image not in self.images:
            raise ValueError(f"{where} has no image {show(ref.image)}.")
        return _whole(self.images[ref.image], ("file_name", "height", "width"), f"{where}: image {name_of(ref.image)}")

    def annotation(self, number: int | str, ref: Ref) -> dict:
        """Return the record of a ref's object; errors as in `image`, or if the object is in another photo."""
        where = f"{ref.where}: {self.file}"
        annotation = self.annotations.get(number)
        if annotation is None or annotation.get("image_id") not in (None, ref.image):
            raise ValueError(f"{where} has no annotation {show(number)} in image {show(ref.image)}.")
        return _whole(annotation, ("image_id", "segmentation"), f"{where}: annotation {name_of(number)}")


def find_refs(folder: Path, stem: str) -> Path | None:
    """Return the path of the file with this stem, such as "refs(unc)", in the format that exists; None if none does."""
    return next((path for path in refs_paths(folder, stem) if path.is_file()), None)


def refs_paths(folder: Path, stem: str) -> list[Path]:
    return [folder / f"{stem}{suffix}" for suffix in SUFFIXES]


# ---------------------------------------------------------------------------------------------------------------------
# Refs
# ---------------------------------------------------------------------------------------------------------------------
def read_refs(file: Path, tolerate: Callable[[ValueError], None] = refuse) -> list[Ref]:
    """Return the refs of a pickle or a JSON file, in its order.

    Args:
        file: to read.
        tolerate: called with the error of each bad record. The record is skipped if it returns.

    Raises:
        ValueError: the file cannot be read or contains more than plain data; errors raised by `tolerate`.
    """
    return _refs(read_json(file) if file.suffix == ".json" else unpickle(file), file, tolerate)


def refs_by_split(
    refs: list[Ref], file: Path, remark: Callable[[str], None] = logger.warning
) -> dict[str, dict[int | str, list[Ref]]]:
    """Return the refs of each split by image id, divided as in the refer API.

    Args:
        refs: of all splits.
        file: named in warnings.
        remark: called with a warning about refs without a split, which are skipped.
    """
    found, without_split = defaultdict(lambda: defaultdict(list)), []
    for ref in refs:
        splits = splits_of(ref.label)
        for split in splits:
            found[split][ref.image].append(ref)
        if not splits:
            without_split.append(ref)
    if without_split:
        first = f"{without_split[0].where} with the label {show(without_split[0].label)}"
        remark(f"{file}: skipped refs without a split ({len(without_split):,}), first: {first}")
    return {split: dict(found[split]) for split in ("train", "validation", *LETTERS, "test") if split in found}


def splits_of(label: str) -> list[str]:
    """Return the splits of a label: validation for "val", testA and testB for "testAB"."""
    named = [split for split, official in SPLITS.items() if label == official]
    if re.fullmatch("test[ABC]+", label):
        named += [split for split, letter in LETTERS.items() if letter in label]
    return named


def _refs(content: Any, file: Path, tolerate: Callable[[ValueError], None] = refuse) -> list[Ref]:
    if not isinstance(content, list) or not content:
        raise ValueError(f"{file}: the top level must be a list of refs; download the file again.")
    refs = []
    for place, record in enumerate(content):
        try:
            refs.append(_ref(record, f"{file}: record {place} (counted from 0)"))
        except ValueError as error:
            tolerate(error)
    return refs


def _ref(record: Any, where: str) -> Ref:
    if not isinstance(record, dict):
        raise ValueError(f"{where}: a ref must be an object with {', '.join(KEYS)}; download the file again.")
    if missing := [key for key in KEYS if record.get(key) is None]:
        raise ValueError(f"{where}: {', '.join(missing)} missing; download the file again.")
    where += f", ref {name_of(record['ref_id'])}"
    marked = record["ann_id"] if isinstance(record["ann_id"], list) else [record["ann_id"]]
    image, numbers = as_id(record["image_id"]), [as_id(number) for number in marked]
    if not numbers or None in (*numbers, image):
        raise ValueError(
            f"{where}: image_id {show(record['image_id'])} or ann_id {show(record['ann_id'])} is not a valid id."
        )
    if not isinstance(record["split"], str):
        raise ValueError(f"{where}: split must be a string, got {show(record['split'])}.")
    sentences = record["sentences"]
    if not isinstance(sentences, list) or not all(
        isinstance(sentence, dict) and isinstance(sentence.get("sent"), str) for sentence in sentences
    ):
        raise ValueError(f"{where}: sentences must be a list of objects with a string sent, got {show(sentences)}.")
    return Ref(
        where=where,
        image=image,
        annotations=() if numbers == NO_OBJECT and marked is record["ann_id"] else tuple(dict.fromkeys(numbers)),
        label=record["split"],
        sentences=tuple(sentence["sent"] for sentence in sentences),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Images and annotations
# ---------------------------------------------------------------------------------------------------------------------
def read_instances(file: Path, tolerate: Callable[[ValueError], None] = refuse) -> Instances:
    """Return the images and annotations of instances.json. Its categories are not needed.

    Args:
        file: to read.
        tolerate: called with the error of a record without an id, and of two different records with the same id. They
            are skipped if it returns.

    Raises:
        ValueError: the file cannot be read; errors raised by `tolerate`.
    """
    content = read_json(file)
    if not isinstance(content, dict) or not all(
        isinstance(content.get(part), list) for part in ("images", "annotations")
    ):
        raise ValueError(
            f"{file}: the lists images and annotations are missing at the top level; download the file again."
        )
    return Instances(
        file,
        _by_id(file, "image", content["images"], tolerate),
        _by_id(file, "annotation", content["annotations"], tolerate),
    )


def _by_id(file: Path, kind: str, records: list, tolerate: Callable[[ValueError], None]) -> dict[int | str, dict]:
    found, twice = {}, set()
    for place, record in enumerate(records):
        if not isinstance(record, dict) or as_id(record.get("id")) is None:
            tolerate(ValueError(f"{file}: the {kind} at index {place} of its list has no id."))
        elif found.setdefault(record["id"], record) != record:
            text = f"two different records have the id of {kind} {name_of(record['id'])}"
            tolerate(ValueError(f"{file}: {text}; download the file again."))
            twice.add(record["id"])
    return {number: record for number, record in found.items() if number not in twice}


def _whole(record: dict, keys: tuple[str, ...], where: str) -> dict:
    if missing := [key for key in keys if record.get(key) is None]:
        raise ValueError(f"{where} has no {', '.join(missing)}; download the file again.")
    return record


# ---------------------------------------------------------------------------------------------------------------------
# Reading and converting
# ---------------------------------------------------------------------------------------------------------------------
def convert(file: Path) -> Path:
    """Write the content of a pickle of refs as JSON next to it. Return the path of the JSON file.

    Raises:
        ValueError: the file is not a pickle of refs, or the JSON file exists.
    """
    path = file.with_suffix(".json")
    if path.exists():
        raise ValueError(f"{path} already exists; delete it to convert the pickle again.")
    content = unpickle(file)
    _refs(content, file)
    try:
        text = json.dumps(content)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{file}: the content cannot be written as JSON ({error}); download the file again."
        ) from error
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m gemma_lisa.datasets_builder.formats.refs_files")
    commands = parser.add_subparsers(dest="command", required=True)
    sub = commands.add_parser("convert", help="convert pickles of refs to JSON files next to them")
    sub.add_argument("files", type=Path, nargs="+", metavar="FILE.p", help="pickles to convert, such as refs(unc).p")
    for file in parser.parse_args(arguments).files:
        print(f"wrote {convert(file)}")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
