"""The files of the referring sets: who is meant in a photo and in which words, and the outlines of everything in it.

    refs(unc).p         a Python 2 pickle, or refs(unc).json of the same content; gRefCOCO's is called grefs(unc).json
    instances.json      images and annotations, as COCO has them

A pickle can run code while it is read. These hold lists, dicts, texts and numbers, and anything else in one is refused.
Once converted, the pickle is not needed any more:

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

from .json_files import read_json, refuse
from .plain_pickle import unpickle

logger = logging.getLogger(__name__)

INSTANCES = "instances.json"
SUFFIXES = (".json", ".p")  # whoever converted the pickle wants the other read
KEYS = ("ref_id", "image_id", "ann_id", "split", "sentences")
NOBODY = [-1]  # ann_id of what is not in the photo
SPLITS = {"train": "train", "validation": "val", "test": "test"}
LETTERS = {"testA": "A", "testB": "B", "testC": "C"}  # RefCLEF's label "testAB" is in two splits


@dataclass(frozen=True)
class Ref:
    """What objects of one photo are called together: one object, or in gRefCOCO several or none."""

    where: str  # names it in errors
    image: int | str  # ids of instances.json
    annotations: tuple[int | str, ...]
    label: str  # of its split, or of its splits
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Instances:
    """The records of instances.json by their ids. They are checked when a ref names them: many more are there."""

    file: Path
    images: dict[int | str, dict]
    annotations: dict[int | str, dict]

    def image(self, ref: Ref) -> dict:
        """The record of a ref's photo.

        Raises:
            ValueError: there is none, or what it lacks.
        """
        where = f"{ref.where}: {self.file}"
        if ref.image not in self.images:
            raise ValueError(f"{where} has no image {show(ref.image)}.")
        return _whole(self.images[ref.image], ("file_name", "height", "width"), f"{where}: image {name_of(ref.image)}")

    def annotation(self, number: int | str, ref: Ref) -> dict:
        """The record of an object that a ref means; errors as of `image`, or that it is in another photo."""
        where = f"{ref.where}: {self.file}"
        annotation = self.annotations.get(number)
        if annotation is None or annotation.get("image_id") not in (None, ref.image):
            raise ValueError(f"{where} has no annotation {show(number)} in image {show(ref.image)}.")
        return _whole(annotation, ("image_id", "segmentation"), f"{where}: annotation {name_of(number)}")


def find_refs(folder: Path, stem: str) -> Path | None:
    """The file of this stem, "refs(unc)", in the way of writing that is there."""
    return next((path for path in refs_paths(folder, stem) if path.is_file()), None)


def refs_paths(folder: Path, stem: str) -> list[Path]:
    return [folder / f"{stem}{suffix}" for suffix in SUFFIXES]


# ---------------------------------------------------------------------------------------------------------------------
# Who is meant
# ---------------------------------------------------------------------------------------------------------------------
def read_refs(file: Path, tolerate: Callable[[ValueError], None] = refuse) -> list[Ref]:
    """The refs of a pickle or a JSON file, in its order.

    tolerate: is told of a wrong record, which is left out where it lets it pass.

    Raises:
        ValueError: it cannot be read or holds what is no data; what tolerate raises.
    """
    return _refs(read_json(file) if file.suffix == ".json" else unpickle(file), file, tolerate)


def refs_by_split(
    refs: list[Ref], file: Path, remark: Callable[[str], None] = logger.warning
) -> dict[str, dict[int | str, list[Ref]]]:
    """The refs of each split that has any, by the ids of their photos, as the refer API divides them.

    remark: is told how many are of no split, and so left out.
    """
    found, strange = defaultdict(lambda: defaultdict(list)), []
    for ref in refs:
        splits = splits_of(ref.label)
        for split in splits:
            found[split][ref.image].append(ref)
        if not splits:
            strange.append(ref)
    if strange:
        first = f"{strange[0].where} is labelled {show(strange[0].label)}"
        remark(f"{file}: left out {len(strange)} refs of no split; the first: {first}")
    return {split: dict(found[split]) for split in ("train", "validation", *LETTERS, "test") if split in found}


def splits_of(label: str) -> list[str]:
    """The splits of which a ref with this label is: "val" is in validation, "testAB" in testA and testB."""
    named = [split for split, official in SPLITS.items() if label == official]
    if re.fullmatch("test[ABC]+", label):
        named += [split for split, letter in LETTERS.items() if letter in label]
    return named


def _refs(content: Any, file: Path, tolerate: Callable[[ValueError], None] = refuse) -> list[Ref]:
    if not isinstance(content, list) or not content:
        raise ValueError(f"{file}: is no list of refs; get it again.")
    refs = []
    for place, record in enumerate(content):
        try:
            refs.append(_ref(record, f"{file}: record {place} (from 0 on)"))
        except ValueError as error:
            tolerate(error)
    return refs


def _ref(record: Any, where: str) -> Ref:
    if not isinstance(record, dict):
        raise ValueError(f"{where}: is no ref, which has {', '.join(KEYS)}; get the file again.")
    if missing := [key for key in KEYS if record.get(key) is None]:
        raise ValueError(f"{where}: has no {', '.join(missing)}; get the file again.")
    where += f", ref {name_of(record['ref_id'])}"
    marked = record["ann_id"] if isinstance(record["ann_id"], list) else [record["ann_id"]]
    if not marked or not all(isinstance(number, int | str) for number in (*marked, record["image_id"])):
        raise ValueError(
            f"{where}: its image_id {show(record['image_id'])} or its ann_id {show(record['ann_id'])} is no id."
        )
    if not isinstance(record["split"], str):
        raise ValueError(f"{where}: its split is {show(record['split'])}, which is no name.")
    sentences = record["sentences"]
    if not isinstance(sentences, list) or not all(
        isinstance(sentence, dict) and isinstance(sentence.get("sent"), str) for sentence in sentences
    ):
        raise ValueError(f"{where}: its sentences are {show(sentences)}, not a list of texts called sent.")
    return Ref(
        where=where,
        image=record["image_id"],
        annotations=() if record["ann_id"] == NOBODY else tuple(dict.fromkeys(marked)),
        label=record["split"],
        sentences=tuple(sentence["sent"] for sentence in sentences),
    )


# ---------------------------------------------------------------------------------------------------------------------
# What they look like
# ---------------------------------------------------------------------------------------------------------------------
def read_instances(file: Path, tolerate: Callable[[ValueError], None] = refuse) -> Instances:
    """The images and annotations of instances.json; its categories are not needed, for the refs have words.

    tolerate: is told of a record without an id, and of two that are not the same but have one; these are left out where
    it lets them pass.

    Raises:
        ValueError: it cannot be read; what tolerate raises.
    """
    content = read_json(file)
    if not isinstance(content, dict) or not all(
        isinstance(content.get(part), list) for part in ("images", "annotations")
    ):
        raise ValueError(f"{file}: needs the lists images and annotations at its top; get it again.")
    return Instances(
        file,
        _by_id(file, "image", content["images"], tolerate),
        _by_id(file, "annotation", content["annotations"], tolerate),
    )


def _by_id(file: Path, kind: str, records: list, tolerate: Callable[[ValueError], None]) -> dict[int | str, dict]:
    found, twice = {}, set()
    for place, record in enumerate(records):
        if not isinstance(record, dict) or not isinstance(record.get("id"), int | str):
            tolerate(ValueError(f"{file}: the {kind} at place {place} of its list (from 0 on) has no id."))
        elif found.setdefault(record["id"], record) != record:
            tolerate(
                ValueError(f"{file}: {kind} {name_of(record['id'])} is there twice, and not the same; get it again.")
            )
            twice.add(record["id"])
    return {number: record for number, record in found.items() if number not in twice}


def _whole(record: dict, keys: tuple[str, ...], where: str) -> dict:
    if missing := [key for key in keys if record.get(key) is None]:
        raise ValueError(f"{where} has no {', '.join(missing)}.")
    return record


# ---------------------------------------------------------------------------------------------------------------------
# Reading and converting
# ---------------------------------------------------------------------------------------------------------------------
def convert(file: Path) -> Path:
    """Write what a pickle of refs holds as JSON beside it, and give the path of that.

    Raises:
        ValueError: it is no pickle of refs, or the JSON file is there already.
    """
    path = file.with_suffix(".json")
    if path.exists():
        raise ValueError(f"{path} is there already; take it away to have it written again.")
    content = unpickle(file)
    _refs(content, file)
    try:
        text = json.dumps(content)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: holds what JSON cannot say ({error}); get it again.") from error
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
    sub = commands.add_parser("convert", help="write a pickle of refs as JSON beside it")
    sub.add_argument("files", type=Path, nargs="+", metavar="FILE.p")
    for file in parser.parse_args(arguments).files:
        print(f"wrote {convert(file)}")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
