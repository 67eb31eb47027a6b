"""Own pictures: a folder of images with masks, or with shapes drawn in LabelMe, and questions if there are any.

    images/1.jpg                            any kind of picture
    masks/1.png                             a picture of numbers: 0 = background
    masks/1_cat.png or masks/1/cat.png      instead, one for each class
    images/1.json or labels/1.json          instead, LabelMe's: polygons, rectangles, circles, masks
    classes.txt, .json or .yaml             what the numbers are called: a line `1: cat` for each
    questions.csv or .jsonl                 image, question; mask or class, answer, split, explanation as needed

All of it may lie below train/, val/ and test/ instead; tables and classes also beside these. A row is one picture. With
questions, each is a target of its picture; without, each class is, all its instances united. docs/data.md says more.

    rows = load_rows("folder", "train", "my_photos", {"text": "the mug"})
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets

from gemma_lisa.datasets_builder.formats.coco_files import fingerprint
from gemma_lisa.datasets_builder.formats.coco_segmentation import photo_size
from gemma_lisa.datasets_builder.rows import RESERVED, SEG_SLOT, is_unicode, new_row, new_target
from gemma_lisa.datasets_builder.tolerant_builder import TolerantBuilder, TolerantConfig
from gemma_lisa.safety.short_text import show

from .folder_classes import class_names, read_classes
from .folder_files import MASKS, Photo, find_folders, find_mask, pair_up, share_out, split_up, text_files
from .folder_masks import Area, MaskReader, pick
from .folder_tables import CLASS_FILES, QUESTION_FILES, Question, check_characters, find_one, read_questions

SENTENCE_ENDS = (".", "?", "!", "。", "？", "！")


@dataclass
class FolderConfig(TolerantConfig):
    """How masks are read, and what is asked."""

    classes: dict | list | None = None  # {1: "cat"} or ["cat", ...] from 1 on; none: a file classes.* if there is one
    text: str | None = None  # what is asked for by masks that have no name: "the mug"
    # Pixels of this number are not counted; 0: all are. But where a mask of one thing holds no other, it is the thing.
    ignore_value: int = 255
    validation_share: float = 0.0  # so much of train becomes validation: by the names, so always the same pictures

    @property
    def root(self) -> Path:
        if self.data_dir is None:
            raise ValueError("folder: data_dir is missing; name the folder that images/ and masks/ are in.")
        root = Path(os.path.abspath(self.data_dir))
        if not is_unicode(str(root)):
            raise ValueError(f"{ascii(str(root))}: a folder's name is not in UTF-8; rename it.")
        return root

    def state_of_files(self) -> list[str]:
        return [fingerprint(text_files(self.root, find_folders(self.root)), [self.root])]


class Folder(TolerantBuilder):
    VERSION = datasets.Version("1.1.0")  # raise it whenever the rows of the same files change
    BUILDER_CONFIG_CLASS = FolderConfig
    BUILDER_CONFIGS = [FolderConfig(name="default", version=VERSION)]
    DEFAULT_CONFIG_NAME = "default"

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        config, root = self.config, self.config.root
        _check_options(config)
        folders = find_folders(root)
        questions, bad_lines = _read_questions(root, folders)
        splits, complaints, others = _find_photos(config, folders, questions or [])
        complaints = bad_lines + complaints
        self.remark_cases(root, {"files that are no pictures": others})
        if not splits and not complaints:
            raise ValueError(f"{root}: images/ holds no picture; put some there.")
        splits = splits or {next(iter(folders)): []}  # for verify to list the complaints
        names = {split: _names(config, folder) for split, folder in folders.items()}
        first = next(iter(splits))
        return [
            datasets.SplitGenerator(
                split,
                gen_kwargs={
                    "split": split,
                    "photos": photos,
                    "complaints": complaints if split == first else [],
                    "names": names[split if split in names else "train"],  # which it was split off
                    "with_questions": questions is not None,
                },
            )
            for split, photos in splits.items()
        ]

    def _generate_examples(
        self,
        split: str,
        photos: list[Photo],
        complaints: list[ValueError],
        names: dict[int, str],
        with_questions: bool,
    ) -> Iterator[tuple[str, dict]]:
        reader = MaskReader(names, self.config.ignore_value)
        skipped = defaultdict(list)
        if with_questions:
            skipped["pictures of which nothing is asked"] = [photo.path for photo in photos if not photo.questions]
            photos = [photo for photo in photos if photo.questions]

        def row_of(record: Photo | ValueError) -> dict | None:
            if isinstance(record, ValueError):
                raise record
            if with_questions:
                photo_size(record.path, "folder")  # or each of its questions would complain of a damaged one
                targets, turns = _asked(record, reader, self.config.root, self.tolerate)
            else:
                targets, turns = _class_targets(record, reader, self.config.text, skipped), []
            if not targets and not turns:
                return None
            return new_row(record.path, f"folder/{split}/{record.stem}", targets, turns)

        records = [(str(complaint), complaint) for complaint in complaints]
        records += [(str(photo.path), photo) for photo in photos]
        yield from self.rows(records, row_of)
        reader.check_agreement()
        self.remark_cases(self.config.root, skipped)


def _read_questions(root: Path, folders: dict[str, Path]) -> tuple[list[Question] | None, list[ValueError]]:
    """The questions beside the splits, and those in the folder of one, or none where there is no table; what is wrong
    with the other lines."""
    questions, complaints = None, []
    for place, split in ({folder: split for split, folder in folders.items()} | {root: ""}).items():
        if table := find_one([place], QUESTION_FILES):
            of_table, bad_lines = read_questions(table, split)
            questions = (questions or []) + of_table
            complaints += bad_lines
    return questions, complaints


def _find_photos(
    config: FolderConfig, folders: dict[str, Path], questions: list[Question]
) -> tuple[dict[str, list[Photo]], list[ValueError], list[Path]]:
    """The pictures of each split with what belongs to them, a line for each file or question that fits nowhere, and
    the files that are no pictures."""
    root, asked, inside, complaints = config.root, set(), [], []
    for question in questions:
        try:
            if question.mask:
                asked |= {find_mask(question.mask, folder, root, question.where) for folder in folders.values()}
        except ValueError as error:
            complaints.append(error)
        else:
            inside.append(question)
    pairs = {split: pair_up(folder, asked) for split, folder in folders.items()}
    complaints += share_out(inside, {split: found.photos for split, found in pairs.items()}, root)
    complaints += [complaint for found in pairs.values() for complaint in found.complaints]
    splits = {split: list(found.photos.values()) for split, found in pairs.items()}
    if "validation" not in folders and "train" in folders:
        train, doubtful = split_up(pairs["train"].photos, config.validation_share)
        splits, complaints = {**splits, "train": [], **train}, complaints + doubtful
    splits = {split: photos for split, photos in splits.items() if photos}
    if config.validation_share and ("validation" in folders or not {"train", "validation"} <= set(splits)):
        raise ValueError(
            f"{root}: validation_share {config.validation_share} finds a folder of validation there already, or leaves "
            "it or train without a picture; change the share, or set it to 0."
        )
    return splits, complaints, [path for found in pairs.values() for path in found.others]


def _class_targets(photo: Photo, reader: MaskReader, text: str | None, skipped: dict) -> list[dict]:
    """Every class that is marked."""
    targets = []
    for name, area in reader.areas(photo).items():
        if area.mask is None:
            skipped["masks of nothing"].append(f"{name or text} in {photo.path}")
            continue
        if name is None and text is None:
            raise ValueError(
                f"{photo.path}: what do its masks mark? Say it by the option text, as in --dataset_options "
                '\'{"text": "the mug"}\'; or name its numbers in classes.txt, a line `1: mug` for each.'
            )
        targets.append(_target(text if name is None else f"the {name}", area))
    return targets


def _asked(
    photo: Photo, reader: MaskReader, root: Path, tolerate: Callable[[ValueError], None]
) -> tuple[list[dict], list[dict]]:
    """The targets, and the turns of questions that are answered in words alone.

    tolerate: takes what is wrong with a question, which is left out.
    """
    targets, turns, asked = [], [], {}
    # Before the questions, for it is the picture that is wrong then
    needed = any(not question.mask and (question.label or not question.points) for question in photo.questions)
    areas = reader.areas(photo) if needed else {}
    for question in photo.questions:
        try:
            if asked.setdefault(question.question, question.where) != question.where:
                raise ValueError(
                    f"{question.where}: asks {show(question.question)} of {photo.path.name} as "
                    f"{asked[question.question]} does; unite what answers it in one mask."
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
    """Refuse an answer with a place too many or too few for its masks."""
    num_slots, words = question.answer.count(SEG_SLOT), question.answer.replace(SEG_SLOT, "")
    if question.answer and num_slots != num_masks or any(reserved in words for reserved in RESERVED):
        raise ValueError(
            f"{question.where}: its answer {show(question.answer)} has {num_slots} {SEG_SLOT} for {num_masks} masks; "
            f"write {SEG_SLOT} where the mask stands, once for each."
        )
    if question.answer and question.explanation and not num_masks:
        raise ValueError(f"{question.where}: has an explanation but no mask; put it into the answer.")


def _area(question: Question, photo: Photo, reader: MaskReader, root: Path, areas: dict[str | None, Area]) -> Area:
    """What a question asks for. areas: what is marked in its picture."""
    where = question.where
    if question.mask:
        path = find_mask(question.mask, photo.folder, root, where)
        if path is None:
            raise ValueError(
                f"{where}: there is no mask {show(question.mask)}; write its path as seen from {photo.folder}."
            )
        return reader.of_class(path, photo, question.label, where) if question.label else reader.thing(path, photo)
    if question.label:
        advice = "leave mask and class empty to say that it is not there"
        return pick(areas, question.label, f"{where}: {photo.path.name}", advice)
    if question.points:
        return Area(None, None)
    if len(areas) > 1:
        names = ", ".join(str(name) for name in areas)
        raise ValueError(f"{where}: {photo.path.name} shows {names}; say in a column class which is asked for.")
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
    """What the numbers of a split's masks are called; {} where nobody says it."""
    if config.classes is not None:
        return class_names(config.classes, "folder: the option classes")
    file = find_one([folder / MASKS, folder, config.root], CLASS_FILES)
    return read_classes(file) if file else {}


def _check_options(config: FolderConfig) -> None:
    share, ignore_value, text = config.validation_share, config.ignore_value, config.text
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
        raise ValueError(f"folder: validation_share is {show(share)}; take a part of 1, as 0.2.")
    if type(ignore_value) is not int or ignore_value < 0:
        raise ValueError(f"folder: ignore_value is {show(ignore_value)}; take a number from 1 on, or 0 for none.")
    if text is not None and (not isinstance(text, str) or not text.strip()):
        raise ValueError(f'folder: text is {show(text)}; take words, as in "the mug".')
    if text:
        check_characters(text, "folder: the option text")
