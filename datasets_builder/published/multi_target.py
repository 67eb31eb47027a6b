"""What the sets of questions with several targets share: JSON lists of photos, each with questions and their answers.

A record holds "questions", "answers" (for each question its objects, with their segmentation) and "text_answers" (for
each the sentence that answers it, with {seg} behind every object; or none). The three lists go by the same index.

A row is one record; a target is one question, with one mask for each object in the order of its answer.
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

PHOTOS = "coco"  # below data_dir, what the names of photos count from
PHOTO_FOLDERS = ("train2014", "train2017", "val2017")


class MultiTargetBuilder(ArchiveBuilder):
    """A builder whose splits are such JSON lists; a subclass says where they lie and which photo a record is about."""

    FILES: ClassVar[dict[str, str]]  # each split's JSON file, in the set's own folder

    def photo(self, record: dict, where: str) -> str:
        """The photo's path below PHOTOS, as the record says it.

        Raises:
            ValueError: it does not.
        """
        raise NotImplementedError

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        folder = self.folder()
        # The same files go round as MUSE_train.json and muse_train.json
        found = sorted(folder.glob("*.json"))
        there = {path.name.lower(): path for path in found}
        if len(there) < len(found):
            raise ValueError(
                f"{folder}: of {', '.join(path.name for path in found)} two differ in case alone; keep one."
            )
        files = {split: there[name.lower()] for split, name in self.FILES.items() if name.lower() in there}
        if not files:
            raise ValueError(f"{folder}: none of {', '.join(self.FILES.values())} is there. {self.ARCHIVE.get}")
        return [
            datasets.SplitGenerator(split, gen_kwargs={"split": split, "file": file}) for split, file in files.items()
        ]

    def _generate_examples(self, split: str, file: Path) -> Iterator[tuple[str, dict]]:
        photos = self.config.root / PHOTOS

        def row_of(numbered: tuple[str, int, Any]) -> dict | None:
            where, place, record = numbered
            if not isinstance(record, dict):
                raise ValueError(f"{where}: is {show(record)}, no record.")
            path = path_inside(photos, self.photo(record, where), (photos,), where)
            where += f", {path.name}"
            if not path.is_file():
                raise ValueError(f"{where}: {path}: no such file. {self.ARCHIVE.get}")
            targets = _targets(record, path, where, self.tolerate)
            if not targets:
                return None
            # A photo may be there several times
            return new_row(path, f"{self.name}/{split}/{path.stem}-{place}", targets)

        records = enumerate(read_records(file))
        named = ((f"{file}: record {place} (from 0 on)", place, record) for place, record in records)
        yield from self.rows(((numbered[0], numbered) for numbered in named), row_of)


def index_of(config: ArchiveConfig, folder: str) -> list[Path]:
    """What the rows of a set are made from. folder: its own, below data_dir."""
    return [*sorted((config.root / folder).glob("*.json")), *(config.root / PHOTOS / name for name in PHOTO_FOLDERS)]


def text_of(record: dict, key: str, where: str) -> str:
    """A field of a record that must say something."""
    if not isinstance(record.get(key), str) or not record[key].strip():
        raise ValueError(f"{where}: its {key} is {show(record.get(key))}, which says nothing.")
    return record[key].strip()


def _targets(record: dict, path: Path, where: str, tolerate: Callable[[ValueError], None]) -> list[dict]:
    """One target for each question of a photo; none where nothing is asked. tolerate: is told what is wrong."""
    questions = record.get("questions") or []
    if not isinstance(questions, list):
        raise ValueError(f"{where}: its questions are {show(questions)}, which is no list.")
    answers = _as_many(record, "answers", len(questions), [], where)
    sentences = _as_many(record, "text_answers", len(questions), [None] * len(questions), where)
    if not questions:
        return []
    size = (record.get("height"), record.get("width"))
    if not all(type(side) is int and side > 0 for side in size):
        raise ValueError(f"{where}: its height and width are {size}, not two numbers of pixels.")
    method = turn_of(path, size, where)
    targets = []
    for place, (question, objects, sentence) in enumerate(zip(questions, answers, sentences, strict=True)):
        asked = f"{where}: question {place}"
        try:
            if not isinstance(question, str) or not question.strip():
                raise ValueError(f"{asked} is {show(question)}, which asks nothing.")
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
        found = len(values) if isinstance(values, list) else repr(values)[:80]
        raise ValueError(f"{where}: {count} questions, but its {key} are {found}; they need as many.")
    return values


def _masks(objects: Any, size: tuple[int, int], method: Image.Transpose | None, where: str) -> list[dict]:
    """The objects' masks as rows hold them. method: how they come onto the upright photo."""
    if not isinstance(objects, list) or not objects or not all(isinstance(one, dict) for one in objects):
        raise ValueError(f"{where}: its answer is {show(objects)}, which is no list of objects.")
    masks = []
    for place, one in enumerate(objects):
        name = f"{where}: object {place}"
        mask = segmentation_runs(one.get("segmentation"), size, name)
        if not coco_mask.area(mask):
            raise ValueError(f"{name} covers no pixel, though the answer points at it.")
        masks.append(turn(mask, method))
    return masks


def _answer(sentence: Any, num_masks: int, where: str) -> str | None:
    """A question's answer in words; none where the set has none."""
    if not isinstance(sentence, str | None):
        raise ValueError(f"{where}: its text answer is {show(sentence)}, which is no text.")
    if sentence is None or not sentence.strip():
        return None
    if SEG_WORD in sentence:
        raise ValueError(f"{where}: its text answer says {SEG_WORD}, for which {SEG_SLOT} stands.")
    if sentence.count(SEG_SLOT) != num_masks:
        raise ValueError(
            f"{where}: its text answer has {sentence.count(SEG_SLOT)} {SEG_SLOT} but there are {num_masks} masks; "
            f"every {SEG_SLOT} needs one. The option max_bad leaves so many questions out."
        )
    return sentence.strip()
