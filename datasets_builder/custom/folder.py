"""Data set of a user's own folder: photos with masks or LabelMe files, and optionally questions.

    images/1.jpg                            photo in any image format
    masks/1.png                             label map: class numbers, 0 = background
    masks/1_cat.png or masks/1/cat.png      or one mask for each class
    images/1.json or labels/1.json          or LabelMe's polygons, rectangles, circles and masks
    classes.txt, .json or .yaml             names of the class numbers: a line `1: cat` for each
    questions.csv or .jsonl                 image, question; optionally mask or class, answer, split, explanation

These files can also be in train/, val/ and test/; questions and classes also next to these folders. A row is one photo.
Its targets are its questions, or without questions its classes, with all instances of a class in one mask. docs/data.md
describes the format.

    rows = load_rows("folder", "train", "my_photos", {"text": "the mug"})
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets

from gemma_lisa.datasets_builder.class_names import SENTENCE_ENDS, question_of
from gemma_lisa.datasets_builder.formats.annotated import AnnotationFormat, Notes
from gemma_lisa.datasets_builder.formats.coco_files import fingerprint
from gemma_lisa.datasets_builder.formats.coco_segmentation import photo_size
from gemma_lisa.datasets_builder.formats.frames import AUTO, OPTIONS
from gemma_lisa.datasets_builder.formats.object_masks import CROWDS
from gemma_lisa.datasets_builder.rows import RESERVED, SEG_SLOT, is_unicode, new_row, new_target
from gemma_lisa.datasets_builder.tolerant_builder import TolerantBuilder, TolerantConfig, check_choice
from gemma_lisa.safety.short_text import count_of, listed, name_of, show

from .annotated_photos import REPEATED, SEPARATE, annotated_areas, find_frames, note_shared, photos_of, read_labels
from .folder_classes import class_names, read_classes
from .folder_exports import unmatched_mask, unread_export
from .folder_files import (
    LABELS,
    LAYOUT,
    MASKS,
    Photo,
    annotation_files,
    find_folders,
    find_mask,
    pair_up,
    share_out,
)
from .folder_masks import Area, MaskReader, pick
from .folder_names import name_masks
from .folder_numbers import decide_numbers
from .folder_places import find_place, place_remarks
from .folder_splits import split_up
from .folder_tables import CLASS_FILES, QUESTION_FILES, Question, check_characters, find_one, read_questions
from .recognition import own_layout, read_format, recognize


@dataclass
class FolderConfig(TolerantConfig):
    """Options of the masks and the questions."""

    classes: dict | list | None = None  # {1: "cat"} or ["cat", ...] from 1; None: read classes.* if it exists
    text: str | None = None  # question of masks without a class name: "the mug"
    # Pixels with this number are ignored; 0: none. In a mask of one object with no other number, it is the object
    ignore_value: int = 255
    validation_share: float = 0.0  # part of train that becomes validation, see folder_splits.split_up
    format: str | None = None  # masks for the layout above, or a key of recognition.FORMATS; None: recognize it
    exif: str = AUTO  # frame of photos with an EXIF rotation: upright, stored, or auto to find it, see frames.py
    crowds: str = "ignore"  # what iscrowd: 1 marks: ignore regions, or "things" for objects as others
    repeated: str = SEPARATE  # a photo that is listed twice is two rows, or "unite": one row with all objects

    @property
    def root(self) -> Path:
        if self.data_dir is None:
            raise ValueError("folder: data_dir is missing; set it to the folder that contains images/ and masks/.")
        root = Path(os.path.abspath(self.data_dir))
        if not is_unicode(str(root)):
            raise ValueError(f"{ascii(str(root))}: the name of the folder is not in UTF-8; rename it.")
        return root

    def state_of_files(self) -> list[str]:
        if not self.root.is_dir():
            raise ValueError(f"{self.root}: no such folder.")
        return [fingerprint(annotation_files(self.root), [self.root])]


class Folder(TolerantBuilder):
    VERSION = datasets.Version("1.4.0")  # increase it whenever the rows of the same files change
    BUILDER_CONFIG_CLASS = FolderConfig
    BUILDER_CONFIGS = [FolderConfig(name="default", version=VERSION)]
    DEFAULT_CONFIG_NAME = "default"

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        config, root = self.config, self.config.root
        _check_options(config)
        notes = self.notes = Notes()  # readers keep it, and add to it when rows are made
        tool = None if config.format == MASKS else recognize(root, config.format)
        if tool and config.format is None and (own := own_layout(root)):
            if tool[0] != "labelme":  # its files are part of this layout
                self.remark(f"{root}: read {own} and ignored the {tool[1].title} (option format)")
            tool = None
        if tool:
            self.remark(f"{root}: recognized as {tool[1].title}")
            folders, splits, questions, errors = _tool_photos(config, tool[1], notes)
        else:
            folders = find_folders(root, unread_export(root))
            for remark in place_remarks(folders):
                self.remark(remark)
            questions, bad_lines = _read_questions(root, folders)
            splits, errors, skipped = _find_photos(config, folders, questions or [])
            errors = bad_lines + errors
            self.remark_cases(root, skipped)
        if not splits and not errors:
            raise ValueError(f"{root}: images/ contains no photo; {LAYOUT}.")
        photos = [photo for of_split in splits.values() for photo in of_split]
        if not tool and questions is None and photos and not any(photo.masks or photo.labels for photo in photos):
            stem, folder = photos[0].stem, photos[0].folder
            raise ValueError(
                f"{root}: none of the {len(photos):,} photos has a mask or a LabelMe file, such as "
                f"{MASKS}/{stem}.png or {LABELS}/{stem}.json; "
                f"{unread_export(root) or unmatched_mask(folder, stem) or LAYOUT}."
            )
        splits = splits or {next(iter(folders)): []}  # verify lists the errors
        typed = not tool or tool[1].free_names
        by_folder = {split: _names(config, folder) if typed else {} for split, folder in folders.items()}
        names = {split: by_folder.get(split, by_folder.get("train", {})) for split in splits}  # validation_share
        names = decide_numbers(names, splits, config.ignore_value, root)
        name_masks(splits, names, config.text if questions is None else None, notes)
        if not tool:
            read_labels(photos, has_classes=any(names.values()), notes=notes)
        find_frames(photos, config.exif, str(root), notes)
        self.remark_notes(root, notes)
        first = next(iter(splits))
        return [
            datasets.SplitGenerator(
                split,
                gen_kwargs={
                    "split": split,
                    "photos": photos,
                    "errors": errors if split == first else [],
                    "names": names[split],
                    "with_questions": questions is not None,
                },
            )
            for split, photos in splits.items()
        ]

    def _generate_examples(
        self,
        split: str,
        photos: list[Photo],
        errors: list[ValueError],
        names: dict[int, str],
        with_questions: bool,
    ) -> Iterator[tuple[str, dict]]:
        notes = self.notes
        text = None if with_questions else self.config.text
        reader = MaskReader(names, self.config.ignore_value, text, notes, self.config.exif)
        skipped = defaultdict(list)
        if with_questions:
            skipped["photos without a question"] = [photo.path for photo in photos if not photo.questions]
            photos = [photo for photo in photos if photo.questions]

        def areas_of(photo: Photo) -> dict[str | None, Area]:
            if photo.annotated:
                return annotated_areas(photo, self.config.crowds, reader.class_of, notes, self.tolerate)
            return reader.areas(photo)

        def row_of(record: Photo | ValueError) -> dict | None:
            if isinstance(record, ValueError):
                raise record
            if with_questions:
                photo_size(record.path, "folder")  # one error for a damaged photo, not one for each question
                targets, turns = _asked(record, reader, areas_of, self.config.root, self.tolerate)
            else:
                targets, turns = _class_targets(record, areas_of(record), self.config.text, skipped), []
            if not targets and not turns:
                return None
            return new_row(record.path, f"folder/{split}/{record.stem}", targets, turns)

        records = [(str(error), error) for error in errors]
        records += [(str(photo.path), photo) for photo in photos]
        yield from self.rows(records, row_of)
        reader.check_agreement()
        self.remark_cases(self.config.root, skipped)
        self.remark_notes(self.config.root, notes)


def _tool_photos(
    config: FolderConfig, known: AnnotationFormat, notes: Notes
) -> tuple[dict[str, Path], dict[str, list[Photo]], list[Question] | None, list[ValueError]]:
    """Return the folders, photos of each split, questions and errors of a folder with the export of a tool."""
    root = config.root
    given = {"text": config.text, "classes": None if known.free_names else config.classes}
    for option, value in given.items():
        if value is not None:
            raise ValueError(f"{root}: the option {option} is not supported for {known.title}; remove it.")
    images = read_format(known, root, known.free_names and bool(_names(config, root)), notes)
    split_of = {}
    for split, of_split in images.items():
        note_shared(split, of_split, split_of, notes)
    photos = {split: photos_of(of_split, root, config.repeated, notes) for split, of_split in images.items()}
    questions, errors = _read_questions(root, {})
    errors = errors + share_out(questions or [], photos, root)
    splits, conflicts = _splits(config, photos)
    return dict.fromkeys(splits, root), splits, questions, errors + conflicts


def _read_questions(root: Path, folders: dict[str, Path]) -> tuple[list[Question] | None, list[ValueError]]:
    """Return the questions of the data folder and of the split folders, and the errors of bad lines.

    The questions are None if there is no table.
    """
    questions, errors = None, []
    for place, split in ({folder: split for split, folder in folders.items()} | {root: ""}).items():
        if table := find_one([place], QUESTION_FILES):
            of_table, bad_lines = read_questions(table, split)
            questions = (questions or []) + of_table
            errors += bad_lines
    return questions, errors


def _find_photos(
    config: FolderConfig, folders: dict[str, Path], questions: list[Question]
) -> tuple[dict[str, list[Photo]], list[ValueError], dict[str, list[Path]]]:
    """Return the photos of each split, an error for each unmatched file or question, and skipped files by reason."""
    root, asked, inside, errors = config.root, set(), [], []
    for question in questions:
        try:
            if question.mask:
                asked |= {find_mask(question.mask, folder, root, question.where) for folder in folders.values()}
        except ValueError as error:
            errors.append(error)
        else:
            inside.append(question)
    pairs = {split: pair_up(folder, asked) for split, folder in folders.items()}
    errors += share_out(inside, {split: found.photos for split, found in pairs.items()}, root)
    errors += [error for found in pairs.values() for error in found.errors]
    splits, conflicts = _splits(config, {split: found.photos for split, found in pairs.items()})
    skipped = {
        "files that are not images": [path for found in pairs.values() for path in found.others],
        "images in labels/, because masks/ contains the masks": [path for one in pairs.values() for path in one.unused],
    }
    return splits, errors + conflicts, skipped


def _splits(
    config: FolderConfig, photos: dict[str, dict[str, Photo]]
) -> tuple[dict[str, list[Photo]], list[ValueError]]:
    """Return the photos of each split that has some after `validation_share`, and an error for each conflict."""
    root, errors = config.root, []
    splits = {split: list(of_split.values()) for split, of_split in photos.items()}
    if "validation" not in photos and "train" in photos:
        train, errors = split_up(photos["train"], config.validation_share)
        splits = {**splits, "train": [], **train}
    splits = {split: of_split for split, of_split in splits.items() if of_split}
    if config.validation_share and "validation" in photos:
        raise ValueError(
            f"{root}: validation_share is {config.validation_share}, but the data already has validation photos; "
            "remove validation_share."
        )
    if config.validation_share and not {"train", "validation"} <= set(splits):
        num_photos = sum(map(len, splits.values()))
        raise ValueError(
            f"{root}: validation_share {config.validation_share} needs at least 2 different photos in images/, "
            f"found {num_photos}; add photos or remove validation_share."
        )
    return splits, errors


def _class_targets(photo: Photo, areas: dict[str | None, Area], text: str | None, skipped: dict) -> list[dict]:
    """Return a target for every class with a mask."""
    targets = []
    for name, area in areas.items():
        if area.mask is None:
            skipped["empty masks"].append(f"{name_of(name or text)} in {photo.path}")
            continue
        if name is None and text is None:
            raise ValueError(
                f"{photo.path}: its masks have no class name; set the option text, such as --dataset_options "
                '\'{"text": "the mug"}\', or name the numbers in classes.txt with one line `1: mug` for each.'
            )
        targets.append(_target(text if name is None else question_of(name), area))
    return targets


def _asked(
    photo: Photo,
    reader: MaskReader,
    areas_of: Callable[[Photo], dict[str | None, Area]],
    root: Path,
    tolerate: Callable[[ValueError], None],
) -> tuple[list[dict], list[dict]]:
    """Return the targets, and the turns of questions that have an answer but no mask.

    areas_of: returns the area of each class in a photo.
    tolerate: called with the error of a bad question, which is skipped.
    """
    targets, turns, asked = [], [], {}
    # Outside of the loop: a bad mask is an error of the photo, not of each question
    needed = any(not question.mask and (question.label or not question.points) for question in photo.questions)
    areas = areas_of(photo) if needed else {}
    for question in photo.questions:
        try:
            if asked.setdefault(question.question, question.where) != question.where:
                raise ValueError(
                    f"{question.where}: {show(question.question)} is already asked about {photo.path.name} in "
                    f"{asked[question.question]}; merge the two masks into one."
                )
            area = _area(question, photo, reader, root, areas)
            _check_answer(question, num_masks=int(area.mask is not None))
        except ValueError as error:
            tolerate(error)
            continue
        if area.mask is None and question.answer:
            turns.append({"question": question.question, "answer": question.answer})
        else:
            targets.append(_target(question.question, area, question.answer, question.explanation))
    return targets, turns


def _check_answer(question: Question, num_masks: int) -> None:
    """Raise an error if the number of {seg} in an answer is not its number of masks."""
    num_slots, words = question.answer.count(SEG_SLOT), question.answer.replace(SEG_SLOT, "")
    if question.answer and num_slots != num_masks or any(reserved in words for reserved in RESERVED):
        raise ValueError(
            f"{question.where}: the answer {show(question.answer)} has {num_slots} {SEG_SLOT}, but the question has "
            f"{count_of(num_masks, 'mask')}; write {SEG_SLOT} once for each mask."
        )
    if question.answer and question.explanation and not num_masks:
        raise ValueError(
            f"{question.where}: the question has an explanation but no mask; move the explanation into the answer."
        )


def _area(question: Question, photo: Photo, reader: MaskReader, root: Path, areas: dict[str | None, Area]) -> Area:
    """Return the mask of a question. areas: the classes marked in its photo."""
    where = question.where
    if question.mask:
        path = find_mask(question.mask, photo.folder, root, where)
        if path is None:
            raise ValueError(
                f"{where}: there is no mask {show(question.mask)}; write its path relative to {photo.folder}."
            )
        return reader.of_class(path, photo, question.label, where) if question.label else reader.thing(path, photo)
    if question.label:
        advice = "leave mask and class empty if the object is not in the photo"
        return pick(areas, question.label, f"{where}: {photo.path.name}", advice)
    if question.points:
        return Area(None, None)
    if len(areas) > 1:
        raise ValueError(
            f"{where}: {photo.path.name} has masks of {listed(areas)}; add a column class to choose one of them."
        )
    return next(iter(areas.values()), Area(None, None))


def _target(text: str, area: Area, answer: str = "", explanation: str = "") -> dict:
    return new_target(
        [text],
        [] if area.mask is None else [area.mask],
        is_sentence=text.endswith(SENTENCE_ENDS),
        answer=answer or None,
        ignore=area.ignore,
        explanation=explanation or None,
    )


def _names(config: FolderConfig, folder: Path) -> dict[int, str]:
    """Return the class names of a split's masks by number; {} without classes."""
    if config.classes is not None:
        return class_names(config.classes, "folder: the option classes")
    file = find_one([find_place(folder, MASKS), folder, config.root], CLASS_FILES)
    return read_classes(file) if file else {}


def _check_options(config: FolderConfig) -> None:
    check_choice("folder", "exif", config.exif, OPTIONS)
    check_choice("folder", "crowds", config.crowds, CROWDS)
    check_choice("folder", "repeated", config.repeated, REPEATED)
    share, ignore_value, text = config.validation_share, config.ignore_value, config.text
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
        raise ValueError(
            f"folder: validation_share must be at least 0 and less than 1, such as 0.2, got {show(share)}."
        )
    if type(ignore_value) is not int or ignore_value < 0:
        raise ValueError(
            f"folder: ignore_value must be an integer of at least 1, or 0 for none, got {show(ignore_value)}."
        )
    if text is not None and (not isinstance(text, str) or not text.strip()):
        raise ValueError(f'folder: text must be a phrase such as "the mug", got {show(text)}.')
    if text:
        check_characters(text, "folder: the option text")
