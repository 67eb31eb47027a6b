"""Data set of a user's own folder with COCO instances JSON, as exported by CVAT, Label Studio and Roboflow.

The JSON files found define the splits: train, validation, test. A row is one image. A target is one category in it (or
one question, see `text`), with one mask or one mask per object. Crowd regions (`iscrowd: 1`) are ignored.

    rows = load_rows("coco_instances", "train", "my_photos")

docs/data.md describes the folder layouts. Images are not copied: rows contain their paths.
"""

import functools
import os
import string
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from pycocotools import mask as coco_mask

from gemma_lisa.datasets_builder.class_names import SENTENCE_ENDS, question_of
from gemma_lisa.datasets_builder.formats.annotated import AnnotatedImage, AnnotatedObject, Notes
from gemma_lisa.datasets_builder.formats.coco_files import (
    find_annotations,
    fingerprint,
    name_folders,
    photo_finder,
    read_coco,
)
from gemma_lisa.datasets_builder.formats.coco_json import annotated_images
from gemma_lisa.datasets_builder.formats.coco_records import BROKEN
from gemma_lisa.datasets_builder.formats.coco_segmentation import unite
from gemma_lisa.datasets_builder.formats.frames import AUTO, OPTIONS, READ_AS, frames_of
from gemma_lisa.datasets_builder.formats.mask_checks import ObjectMask
from gemma_lisa.datasets_builder.formats.object_masks import CROWDS, is_background, object_masks
from gemma_lisa.datasets_builder.leakage import coco_photo
from gemma_lisa.datasets_builder.rows import new_row, new_target, sort_by_centroid
from gemma_lisa.datasets_builder.tolerant_builder import TolerantBuilder, TolerantConfig, check_choice
from gemma_lisa.safety.short_text import VALUE_LENGTH, count_of, shorten, show

from .annotated_photos import REPEATED, SEPARATE, group_repeated, note_shared

CATEGORY = "category"  # field of `text` for the category's name; other names are fields of the annotation
DEFAULT_TEXT = f"the {{{CATEGORY}}}"
SAME_MASK = "questions with objects of exactly the same mask, which are one object"


@dataclass
class CocoInstancesConfig(TolerantConfig):
    """Options of the files and the questions. Paths are relative to data_dir."""

    annotations: str | dict[str, str] | None = None  # JSON file, or one for each split; None: find it by name
    images: str | dict[str, str] | None = None  # folder of file_name, or one for each split; None: find it
    instances: str = "united"  # one mask per question; "separate": one per object, ordered by centroid
    text: str = DEFAULT_TEXT  # "{caption}" asks the text in the annotation's field caption
    # Questions per image about categories without annotations in it. 0 by default: COCO files do not state whether
    # every object was annotated, and an object labelled as absent trains the model to refuse.
    absent: int = 0
    seed: int = 0  # for choosing absent categories
    exif: str = AUTO  # frame of photos with an EXIF rotation: upright, stored, or auto to find it, see frames.py
    repeated: str = SEPARATE  # a photo that is listed twice is two rows, or "unite": one row with all annotations
    crowds: str = "ignore"  # what iscrowd: 1 marks: ignore regions, or "things" for objects as others

    @property
    def root(self) -> Path:
        if self.data_dir is None:
            raise ValueError(
                "coco_instances: data_dir is missing; set it to the folder of the images and their COCO JSON."
            )
        return Path(os.path.abspath(self.data_dir))

    def state_of_files(self) -> list[str]:
        files, folders = self.files()
        return [fingerprint(files, sorted(set(folders.values())) or [self.root])]

    def files(self) -> tuple[dict[str, Path], dict[str, Path]]:
        """Return the JSON file of each split, and the image folder of each split if the options name it."""
        files = find_annotations(self.root, self.annotations)
        return files, name_folders(self.root, self.images, files)


class CocoInstances(TolerantBuilder):
    VERSION = datasets.Version("1.2.0")  # increase it whenever the rows of the same files change
    BUILDER_CONFIG_CLASS = CocoInstancesConfig
    BUILDER_CONFIGS = [CocoInstancesConfig(name="default", version=VERSION)]
    DEFAULT_CONFIG_NAME = "default"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._split_of: dict[Path, str] = {}  # by photo, of the splits that were read

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        config = self.config
        check_choice("coco_instances", "instances", config.instances, ("united", "separate"))
        check_choice("coco_instances", "exif", config.exif, OPTIONS)
        check_choice("coco_instances", "repeated", config.repeated, REPEATED)
        check_choice("coco_instances", "crowds", config.crowds, CROWDS)
        fields = _fields(config.text)
        if type(config.absent) is not int or config.absent < 0 or (config.absent and fields - {CATEGORY}):
            raise ValueError(
                f"coco_instances: absent must be an integer of at least 0, and above 0 text can only contain the field "
                f"{{{CATEGORY}}}, got absent {show(config.absent)} and text {show(config.text)}."
            )
        files, folders = config.files()
        return [
            datasets.SplitGenerator(split, gen_kwargs={"split": split, "file": file, "folder": folders.get(split)})
            for split, file in files.items()
        ]

    def _generate_examples(self, split: str, file: Path, folder: Path | None) -> Iterator[tuple[str, dict]]:
        num_bad, notes = len(self.bad), Notes()
        content = read_coco(file, self.tolerate, notes)
        file_names = (record["file_name"] for record in content.images)
        finder = photo_finder(file, self.config.root, folder, file_names, notes)
        images = annotated_images(file, content, finder, notes)
        names, records = content.names, content.annotations.values()
        # Without categories that never occur: Roboflow writes the name of the data set as one
        used = sorted({names[record["category_id"]] for group in records for record in group})
        frames = frames_of(images, self.config.exif, str(file), notes)
        frame_of = {id(image): frame for image, frame in zip(images, frames, strict=True)}
        n_rows = 0

        def row_of(group: list[AnnotatedImage]) -> dict | None:
            objects = []
            for image in group:
                frame = frame_of[id(image)]
                if isinstance(frame, ValueError):
                    raise frame
                objects += object_masks(image, frame, self.config.crowds, notes, self.tolerate)
            records = [image.fields for image in group]
            targets = _present(self.config, group, objects, notes, self.tolerate)
            if self.config.absent:
                targets += _absent(self.config, records, objects, names, used)
            if not targets:
                return None
            return new_row(group[0].path, f"coco_instances/{split}/{_name(records[0])}", targets)

        note_shared(split, images, self._split_of, notes)
        groups = group_repeated(images, self.config.repeated, notes)
        for where, row in self.rows(((group[0].where, group) for group in groups), row_of):
            n_rows += 1
            yield where, row
        if not n_rows and len(self.bad) == num_bad:
            raise ValueError(_nothing_to_ask(file, images, notes))
        self.remark_notes(file, notes)


def _nothing_to_ask(file: Path, images: list[AnnotatedImage], notes: Notes) -> str:
    """Return the error of a file without rows, with the reasons."""
    reasons = [f"{kind} ({len(cases):,})" for kind, cases in notes.cases.items() if kind not in READ_AS.values()]
    found = f": {'; '.join(reasons)}" if reasons else "; add some"
    return f"{file}: no annotation with a mask in {count_of(len(images), 'image')}{found}."


def _name(image: dict) -> str:
    """Return the name of an image, followed by the COCO file name if only `coco_url` shows that it is from COCO."""
    url = image.get("coco_url")
    if isinstance(url, str) and coco_photo(image["file_name"]) is None and coco_photo(url) is not None:
        return f"{image['file_name']}/{url.rpartition('/')[2]}"
    return image["file_name"]


def _present(
    config: CocoInstancesConfig,
    images: list[AnnotatedImage],
    objects: list[ObjectMask],
    notes: Notes,
    tolerate: Callable[[ValueError], None],
) -> list[dict]:
    """Return one target for each question about the image, in the order of the file.

    Args:
        config: with the options of questions.
        images: one, or all of a photo that is listed twice.
        objects: with their masks.
        notes: counts the objects that are skipped.
        tolerate: called with the error of each object without the text of its question.
    """
    fields = _fields(config.text)
    photo = images[0].path
    partly = _numbers(
        (image.fields for image in images), "not_exhaustive_category_ids"
    )  # LVIS annotated only some of these objects
    unclear, things = defaultdict(list), defaultdict(list)
    bad = {one.annotated.name for one in objects if one.is_bad}
    for one in objects:
        name, where = one.annotated.name, one.annotated.where
        if one.ignore:
            unclear[name].append(one.ignore)
        if not one.mask:
            continue
        if name in bad:
            notes.add("skipped objects of a class with an error in the same image", where, photo)
        elif one.annotated.fields["category_id"] in partly and fields <= {CATEGORY}:
            notes.add("skipped annotations of categories that are not exhaustively annotated", where, photo)
        else:
            try:
                text = _filled(config.text, fields, one.annotated)
            except ValueError as error:
                tolerate(error)
                continue
            things[text].append((name, one.mask))

    targets = []
    for text, found in things.items():
        wanted = [mask for _, mask in found]
        if config.instances == "united":
            wanted = [unite(wanted)]
        elif len(wanted) > 1:
            if len(different := {mask["counts"]: mask for mask in wanted}) < len(wanted):
                notes.add(SAME_MASK, f"{images[0].where}: {text}", photo)
                wanted = list(different.values())
            wanted = [wanted[at] for at in sort_by_centroid([coco_mask.decode(mask) for mask in wanted])]
        ignored = [mask for name in dict.fromkeys(name for name, _ in found) for mask in unclear[name]]
        targets.append(_target(text, wanted, unite(ignored) if ignored else None))
    return targets


def _absent(
    config: CocoInstancesConfig,
    records: list[dict],
    objects: list[ObjectMask],
    names: dict[Any, str],
    used: list[str],
) -> list[dict]:
    """Return targets without masks: categories that are not in the image.

    These are `neg_category_ids` in files of LVIS, and all categories without annotations in other files.
    """
    if any(BROKEN in record for record in records):  # any category can be that of its bad annotation
        return []
    candidates = used
    if any(record.get("neg_category_ids") is not None for record in records):
        candidates = sorted({names[number] for number in _numbers(records, "neg_category_ids") if number in names})
    there = {one.annotated.name for one in objects}  # including crowds and objects without a mask
    there |= {names.get(number) for number in _numbers(records, "not_exhaustive_category_ids")}
    texts = dict.fromkeys(_of_category(config.text, name) for name in candidates if not is_background(name))
    present = {_of_category(config.text, name) for name in there - {None}}
    texts = [text for text in texts if text not in present]
    rng = np.random.default_rng((config.seed, zlib.crc32(str(records[0]["id"]).encode("utf-8", "surrogatepass"))))
    return [_target(texts[at], [], None) for at in sorted(rng.permutation(len(texts))[: config.absent])]


def _numbers(records: Iterable[dict], field: str) -> set:
    """Return the ids of categories in a field of LVIS. Other values are skipped."""
    lists = (record.get(field) for record in records)
    return {one for found in lists if isinstance(found, list) for one in found if isinstance(one, int | str)}


def _target(text: str, masks: list[dict], ignore: dict | None) -> dict:
    return new_target([text], masks, is_sentence=text.endswith(SENTENCE_ENDS), ignore=ignore)


@functools.cache
def _fields(text: str) -> frozenset[str]:
    """Return the field names in braces."""
    try:
        parsed = list(string.Formatter().parse(text))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"coco_instances: text {show(text)} is not a valid format string ({shorten(str(error), VALUE_LENGTH)})."
        ) from error
    fields = frozenset(field for _, field, _, _ in parsed if field is not None)
    if not text.strip() or any(form or how for _, _, form, how in parsed) or not all(map(str.isidentifier, fields)):
        raise ValueError(f"coco_instances: text must contain words or field names in braces, got {show(text)}.")
    return fields


def _filled(text: str, fields: set[str], annotated: AnnotatedObject) -> str:
    """Return the question for one annotation. CVAT writes custom fields under `attributes`."""
    annotation, name = annotated.fields, annotated.name
    if fields <= {CATEGORY}:
        return _of_category(text, name)
    attributes = annotation.get("attributes")
    given = {**(attributes if isinstance(attributes, dict) else {}), **annotation, CATEGORY: name}
    for field in fields:
        if not isinstance(given.get(field), str | int | float) or not str(given[field]).strip():
            raise ValueError(f"{annotated.where} has no text in its field {show(field)}, which the option text uses.")
    return _words(text, given)


@functools.cache
def _of_category(text: str, name: str) -> str:
    if text == DEFAULT_TEXT:
        return question_of(name)
    return _words(text, {CATEGORY: name})


def _words(text: str, values: dict[str, Any]) -> str:
    return " ".join(text.format_map(values).split())
