"""Write answers of predict.py as a data set for labelling tools, so that people can correct them (--dataset_out)."""

import csv
import io
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import UnidentifiedImageError
from tqdm import tqdm

from gemma_lisa.datasets_builder.rows import encode_mask, is_unicode
from gemma_lisa.datasets_builder.writers.coco import COCO
from gemma_lisa.datasets_builder.writers.exported import ExportedObject, ExportedPhoto
from gemma_lisa.datasets_builder.writers.labelme import LABELME
from gemma_lisa.datasets_builder.writers.photo_copies import copy_photo, unique_stems
from gemma_lisa.datasets_builder.writers.voc import VOC
from gemma_lisa.datasets_builder.writers.yolo import YOLO
from gemma_lisa.safety.errors import UsageError, one_line_errors
from gemma_lisa.safety.short_text import count_of, listed, reason_of, show

from .answer_text import status_of

WRITERS = {"coco": COCO, "yolo": YOLO, "voc": VOC, "labelme": LABELME}
OPTION = "--dataset_out"
SCORES = "scores.csv"
# Lists the files of a written data set. Only a folder with this file, and no file that it does not list, is replaced
FILES = ".gemma-lisa-files.txt"
COLUMNS = ("photo", "object", "class", "score", "status", "question", "answer", "source")
SCORE_DIGITS = 4
# Singular and plural of what is skipped
EMPTY = ("empty mask", "empty masks")
EQUAL = ("object with the class and mask of another one", "objects with the class and mask of another one")
GONE = ("photo that can no longer be read", "photos that can no longer be read")
# Words before a noun phrase that do not name the class
_ARTICLES = re.compile(r"^(all( of)? )?(the|an?) (?=\S)|^all (?=\S)", re.IGNORECASE)
_ENDS = " .,;:!。、！"
_QUESTION_MARKS = ("?", "？")


def class_name(question: str) -> str:
    """Return the class of a question: its noun phrase, or all of its text if it ends in a question mark."""
    text = " ".join(question.split())
    if text.endswith(_QUESTION_MARKS):
        return text
    return _ARTICLES.sub("", text.rstrip(_ENDS)) or text


@dataclass(slots=True)
class _Answered:
    """The answer to one question about a photo."""

    question: str
    text: str
    status: str
    objects: list[ExportedObject]


@dataclass
class DatasetExport:
    """Answers of one run, which are written at its end.

    Args:
        folder: of the data set.
        form: key of WRITERS.
        pairs: (photo, question) of each answer that is expected.
        names: class of a question, if it is not `class_name`.
        tolerance: of `outlines`, in pixels; None: exact polygons.
    """

    folder: Path
    form: str
    pairs: list[tuple[Path, str]]
    names: dict[str, str] = field(default_factory=dict)
    tolerance: float | None = None

    def __post_init__(self):
        self.writer = WRITERS[self.form]
        self.asked: dict[Path, dict[str, None]] = {}
        for path, question in self.pairs:
            self.asked.setdefault(path, {})[question] = None
        questions = dict.fromkeys(question for _, question in self.pairs)
        if unknown := [name for name in self.names if name not in questions]:
            raise UsageError(f"--class_names: {show(unknown[0])} is not one of the questions; write it as in --query.")
        for question, name in self.names.items():
            if not isinstance(name, str) or not name.strip():
                raise UsageError(f"--class_names: the class of {show(question)} must be a text, got {show(name)}.")
        given = {question: " ".join(name.split()) for question, name in self.names.items()}
        self.classes = {question: given.get(question) or class_name(question) for question in questions}
        if bad := [name for name in self.classes.values() if not is_unicode(name)]:
            raise UsageError(f"{OPTION}: the class {ascii(bad[0])} is not valid Unicode; correct the question.")
        if self.tolerance is not None and not self.writer.has_polygons:
            raise UsageError(f"--polygon_tolerance has no effect with --format {self.form}, which has no polygons.")
        if reason := self.writer.refusal(list(dict.fromkeys(self.classes.values()))):
            raise UsageError(f"--format {self.form}: {reason}; name the classes with --class_names.")
        self.answers: dict[Path, dict[str, _Answered]] = {}
        self.sizes: dict[Path, tuple[int, int]] = {}
        self.skipped: dict[tuple[str, str], int] = {}  # singular and plural of what was skipped
        self.remarks: list[str] = []

    def add(self, path: Path, size: tuple[int, int], question: str, found: dict[str, Any]) -> None:
        """Keep an answer. Its masks are kept as RLE.

        Args:
            path: of the photo.
            size: (height, width) in pixels of the upright photo.
            question: that was asked.
            found: as returned by the processor's `post_process_segmentation`.
        """
        masks, scores = found["masks"].numpy(), found["scores"].tolist()
        kept = [
            ExportedObject(self.classes[question], encode_mask(mask), score)
            for mask, score in zip(masks, scores, strict=True)
            if mask.any()
        ]
        self._count(EMPTY, len(masks) - len(kept))
        self.sizes[path] = size
        answered = _Answered(question, found["text"], status_of(found), kept)
        self.answers.setdefault(path, {})[question] = answered

    def skip(self, paths: Iterable[Path]) -> None:
        """Expect no answers about these photos."""
        for path in paths:
            self.asked.pop(path, None)

    def write(self) -> str | None:
        """Write the photos whose questions are all answered, and return a summary; None without such a photo.

        The folder appears when it is complete.

        Raises:
            WriteError: a file cannot be written.
        """
        complete = [path for path, asked in self.asked.items() if self.answers.get(path, {}).keys() == asked.keys()]
        if not complete:
            return None
        target = Path(os.path.realpath(self.folder))
        new, old = (target.with_name(f".{target.name}.{os.getpid()}.{kind}") for kind in ("new", "old"))
        with one_line_errors(self.folder, "cannot be written"):
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                new.mkdir()
                counts = self._write_files(new, complete)
                if target.is_dir():
                    target.rename(old)
                new.rename(target)
            finally:
                if old.is_dir() and not target.exists():
                    old.rename(target)
                for folder in (new, old):
                    shutil.rmtree(folder, ignore_errors=True)
        return self._summary(*counts)

    def _write_files(self, folder: Path, paths: list[Path]) -> tuple[int, int]:
        """Write all files of the data set and return its numbers of photos and objects."""
        classes, stems = list(dict.fromkeys(self.classes.values())), unique_stems(paths, self.form == "voc")
        place = folder / self.writer.photos
        place.mkdir(parents=True)
        table = io.StringIO()
        rows, num_photos, num_objects = csv.writer(table), 0, 0
        rows.writerow(COLUMNS)

        def photos() -> Iterator[ExportedPhoto]:
            nonlocal num_photos, num_objects
            for path in tqdm(paths, desc="writing", unit="photo", disable=None):
                try:
                    name = copy_photo(path, place, stems[path], self.writer.is_upright)
                except (ValueError, FileNotFoundError, UnidentifiedImageError) as error:  # changed after its answer
                    self._count(GONE)
                    tqdm.write(f"skipped: {path}: {reason_of(error)}", file=sys.stderr)
                    continue
                photo = ExportedPhoto(name, self.sizes[path])
                rows.writerows([name, *row, str(path)] for row in self._objects(path, photo))
                num_photos, num_objects = num_photos + 1, num_objects + len(photo.objects)
                yield photo

        self.remarks = self.writer.write(folder, photos(), classes, self.tolerance or 0.0)
        (folder / SCORES).write_text(table.getvalue(), encoding="utf-8", errors="replace", newline="")
        files = sorted(_files_in(folder))
        lines = [f"Files of a data set that predict.py {OPTION} wrote", *files, ""]
        (folder / FILES).write_text("\n".join(lines), encoding="utf-8", errors="surrogateescape")
        return num_photos, num_objects

    def _objects(self, path: Path, photo: ExportedPhoto) -> Iterable[tuple]:
        """Add the objects of a photo, and yield columns of `scores.csv` from `object` to `answer`.

        An answer without an object has one line with an empty number. Equal masks of a class are one object.
        """
        seen = set()
        for answered in self.answers[path].values():
            facts = (answered.status, answered.question, answered.text)
            if not answered.objects:
                yield "", self.classes[answered.question], "", *facts
            for thing in answered.objects:
                if (thing.name, thing.rle["counts"]) in seen:
                    self._count(EQUAL)
                    continue
                seen.add((thing.name, thing.rle["counts"]))
                photo.objects.append(thing)
                yield len(photo.objects), thing.name, round(thing.score, SCORE_DIGITS), *facts

    def _count(self, kind: tuple[str, str], number: int = 1) -> None:
        if number:
            self.skipped[kind] = self.skipped.get(kind, 0) + number

    def _summary(self, num_photos: int, num_objects: int) -> str:
        counts = f"{count_of(num_photos, 'photo')}, {count_of(num_objects, 'object')}"
        lines = []
        if num_photos < len(self.asked):
            lines.append(f"{self.folder} holds {num_photos:,} of {len(self.asked):,} photos")
        lines += [f"wrote {self.folder} ({self.writer.title}): {counts}; scores in {SCORES}"]
        lines += [f"skipped {count_of(number, *kind)}" for kind, number in self.skipped.items()] + self.remarks
        return "\n".join([*lines, f"Next: {self.writer.next_step.format(folder=self.folder)}"])


def check_folder(
    folder: Path, overwrite: bool, inputs: Iterable[str | Path | None], outputs: Iterable[tuple[str, Path | None]]
) -> None:
    """Refuse a folder that contains an input or another output, or files that `DatasetExport` did not write.

    Args:
        folder: of the data set.
        overwrite: replace an earlier data set, also if it was corrected.
        inputs: files and folders that the program reads.
        outputs: (option, path) of what else it writes.

    Raises:
        UsageError: what the folder contains, and what to do.
    """
    real = Path(os.path.realpath(folder))
    for path in inputs:
        if path is not None and os.path.exists(path) and Path(os.path.realpath(path)).is_relative_to(real):
            raise UsageError(f"{OPTION} {folder}: it contains the input {path}; choose another folder.")
    for option, path in outputs:
        if path is not None and Path(os.path.realpath(path)).is_relative_to(real):
            raise UsageError(f"{OPTION} {folder}: {option} {path} is in this folder; choose different folders.")
    if os.path.ismount(real):
        raise UsageError(f"{OPTION} {folder}: a mount point cannot be replaced at the end; choose a folder in it.")
    if not real.is_dir() or not any(real.iterdir()):
        return
    listing = real / FILES
    if not listing.is_file():
        raise UsageError(f"{OPTION} {folder}: the folder is not empty and was not written by {OPTION}; choose another.")
    known = listing.read_text(encoding="utf-8", errors="surrogateescape").splitlines()[1:]
    if others := sorted(set(_files_in(real)) - {*known, FILES}):
        raise UsageError(
            f"{OPTION} {folder}: {OPTION} did not write {listed(others)}; move these files, or choose another folder."
        )
    if not overwrite:
        raise UsageError(
            f"{OPTION} {folder}: a data set is already there; choose another folder, or add --overwrite to replace it, "
            "with all corrections."
        )


def _files_in(folder: Path) -> list[str]:
    """Return the paths of all files below a folder, relative to it."""
    return [Path(here, name).relative_to(folder).as_posix() for here, _, names in os.walk(folder) for name in names]
