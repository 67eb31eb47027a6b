"""Base class for data sets whose questions ask for several objects: JSON lists of photos with questions and answers.

A record has three lists of the same length:

- "questions": texts.
- "answers": for each question, the objects it asks for, with their segmentation.
- "text_answers": for each question, a sentence with {seg} after each object, or null.

A row is one record. A target is one question, with one mask per object, in the order of the answer.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import datasets
from PIL import Image
from pycocotools import mask as coco_mask

from gemma_lisa.datasets_builder.formats.coco_files import path_inside
from gemma_lisa.datasets_builder.formats.coco_segmentation import segmentation_runs, turn, turn_of
from gemma_lisa.datasets_builder.formats.json_files import read_records
from gemma_lisa.datasets_builder.rows import SEG_SLOT, SEG_WORD, new_row, new_target
from gemma_lisa.safety.short_text import show

from .archives import ArchiveBuilder, ArchiveConfig

PHOTOS = "coco"  # relative to data_dir; names of photos are relative to it
PHOTO_FOLDERS = ("train2014", "train2017", "val2017")


class MultiTargetBuilder(ArchiveBuilder):
    """Builder whose splits are such JSON lists. Subclasses define FILES and `photo`."""

    FILES: ClassVar[dict[str, str]]  # JSON file of each split, relative to the data set's folder

    def photo(self, record: dict, where: str) -> str:
        """Return the path of a record's photo, relative to PHOTOS.

        Raises:
            ValueError: the record does not name a photo.
        """
        raise NotImplementedError

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        folder = self.folder()
        # The same files are distributed as MUSE_train.json and as muse_train.json
        found = sorted(folder.glob("*.json"))
        there = {path.name.lower(): path for path in found}
        if len(there) < len(found):
            raise ValueError(
                f"{folder}: two of the files {', '.join(path.name for path in found)} have names that differ only in "
                "case; keep one of them."
            )
        files = {split: there[name.lower()] for split, name in self.FILES.items() if name.lower() in there}
        if not files:
            raise ValueError(f"{folder}: none of {', '.join(self.FILES.values())} exists. {self.ARCHIVE.instructions}")
        return [
            datasets.SplitGenerator(split, gen_kwargs={"split": split, "file": file}) for split, file in files.items()
        ]

    def _generate_examples(self, split: str, file: Path) -> Iterator[tuple[str, dict]]:
        photos = self.config.root / PHOTOS

        def row_of(numbered: tuple[str, int, Any]) -> dict | None:
            where, place, record = numbered
            if not isinstance(record, dict):
                raise ValueError(f"{where}: must be a JSON object, got {show(record)}.")
            path = path_inside(photos, self.photo(record, where), (photos,), where)
            where += f", {path.name}"
            if not path.is_file():
                raise ValueError(f"{where}: {path}: no such file. {self.ARCHIVE.instructions}")
            targets = _targets(record, path, where, self.tolerate)
            if not targets:
                return None
            # Several records can have the same photo
            return new_row(path, f"{self.name}/{split}/{path.stem}-{place}", targets)

        records = enumerate(read_records(file))
        named = ((f"{file}: record {place} (counted from 0)", place, record) for place, record in records)
        yield from self.rows(((numbered[0], numbered) for numbered in named), row_of)


def index_of(config: ArchiveConfig, folder: str) -> list[Path]:
    """Return the files and folders that the rows are made from. folder: the data set's, relative to data_dir."""
    return [*sorted((config.root / folder).glob("*.json")), *(config.root / PHOTOS / name for name in PHOTO_FOLDERS)]


def text_of(record: dict, key: str, where: str) -> str:
    """Return a field of a record, which must be a text that is not empty."""
    if not isinstance(record.get(key), str) or not record[key].strip():
        raise ValueError(f"{where}: {key} must be a text that is not empty, got {show(record.get(key))}.")
    return record[key].strip()


def _targets(record: dict, path: Path, where: str, tolerate: Callable[[ValueError], None]) -> list[dict]:
    """Return one target per question of a photo. Errors in a question are passed to `tolerate`."""
    questions = record.get("questions") or []
    if not isinstance(questions, list):
        raise ValueError(f"{where}: questions must be a list, got {show(questions)}.")
    answers = _as_many(record, "answers", len(questions), [], where)
    sentences = _as_many(record, "text_answers", len(questions), [None] * len(questions), where)
    if not questions:
        return []
    size = (record.get("height"), record.get("width"))
    if not all(type(side) is int and side > 0 for side in size):
        raise ValueError(
            f"{where}: height and width must be integers above 0 (pixels), got {show(size[0])} and {show(size[1])}."
        )
    method = turn_of(path, size, where)
    targets = []
    for place, (question, objects, sentence) in enumerate(zip(questions, answers, sentences, strict=True)):
        asked = f"{where}: question {place}"
        try:
            if not isinstance(question, str) or not question.strip():
                raise ValueError(f"{asked} must be a text that is not empty, got {show(question)}.")
            masks = _masks(objects, size, method, asked)
            answer = _answer(sentence, len(masks), asked)
        except ValueError as error:
            tolerate(error)
            continue
        targets.append(new_target([question.strip()], masks, is_sentence=True, answer=answer))
    return targets


def _as_many(record: dict, key: str, count: int, default: list, where: str) -> list:
    values = default if record.get(key) is None else record[key]
    if not isinstance(values, list) or len(values) != count:
        found = len(values) if isinstance(values, list) else show(values)
        raise ValueError(f"{where}: {key} must be a list of {count}, one per question, got {found}.")
    return values


def _masks(objects: Any, size: tuple[int, int], method: Image.Transpose | None, where: str) -> list[dict]:
    """Return the masks of the objects (RLE). method: rotates them onto the upright photo."""
    if not isinstance(objects, list) or not objects or not all(isinstance(one, dict) for one in objects):
        raise ValueError(f"{where}: its answer must be a list of objects with segmentation, got {show(objects)}.")
    masks = []
    for place, one in enumerate(objects):
        name = f"{where}: object {place}"
        mask = segmentation_runs(one.get("segmentation"), size, name)
        if not coco_mask.area(mask):
            raise ValueError(f"{name} has an empty mask, but the answer refers to it.")
        masks.append(turn(mask, method))
    return masks


def _answer(sentence: Any, num_masks: int, where: str) -> str | None:
    """Return the text answer of a question, or None if the data set has none."""
    if not isinstance(sentence, str | None):
        raise ValueError(f"{where}: its text answer must be a text or null, got {show(sentence)}.")
    if sentence is None or not sentence.strip():
        return None
    if SEG_WORD in sentence:
        raise ValueError(f"{where}: its text answer contains {SEG_WORD}; write {SEG_SLOT} instead.")
    if sentence.count(SEG_SLOT) != num_masks:
        raise ValueError(
            f"{where}: its text answer and masks do not match ({SEG_SLOT}: {sentence.count(SEG_SLOT)}, "
            f"masks: {num_masks}); each {SEG_SLOT} must have one mask."
        )
    return sentence.strip()
