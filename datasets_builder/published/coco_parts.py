"""Base class for data sets of parts: COCO JSON files with the categories of things ("cup") and parts ("cup:handle").

A row is one photo. A target is one category in it, with all instances in one mask. A part has two texts: "the handle of
the cup" and "the cup handle".

In LVIS, only some instances of the categories in an image's `not_exhaustive_category_ids` are annotated. These
categories and their parts are not asked for.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import datasets

from gemma_lisa.datasets_builder.formats.coco_files import path_inside, read_coco
from gemma_lisa.datasets_builder.formats.coco_segmentation import turn, turn_of, unite, visible_runs
from gemma_lisa.datasets_builder.rows import new_row, new_target
from gemma_lisa.safety.short_text import name_of, show

from .archives import ArchiveBuilder


@dataclass(frozen=True)
class Category:
    """A thing or a part of a thing, with its name in plain words."""

    thing: str
    part: str | None = None

    @property
    def texts(self) -> list[str]:
        """Return the texts that ask for it, the simplest one first."""
        if self.part is None:
            return [f"the {self.thing}"]
        texts = [f"the {self.part} of the {self.thing}"]
        if self.part.startswith(f"{self.thing} "):  # "fan box" of "fan"
            texts.append(f"the {self.part}")
        elif not self.thing.endswith(self.part):  # not "the potted plant plant"
            texts.append(f"the {self.thing} {self.part}")
        return texts


class PartsBuilder(ArchiveBuilder):
    """Builder whose splits are COCO JSON files of things and parts. Subclasses define FILES and PHOTOS."""

    FILES: ClassVar[dict[str, str]]  # JSON file of each split, relative to the data set's folder
    PHOTOS: ClassVar[str]  # folder of the photos, relative to data_dir; file_name is relative to it
    CORRECTED: ClassVar[dict[str, str]] = {}  # corrected spelling of things and parts

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        folder = self.folder()
        files = {split: folder / name for split, name in self.FILES.items() if (folder / name).is_file()}
        if not files:
            raise ValueError(f"{folder}: none of {', '.join(self.FILES.values())} exists. {self.ARCHIVE.instructions}")
        return [
            datasets.SplitGenerator(split, gen_kwargs={"split": split, "file": file}) for split, file in files.items()
        ]

    def _generate_examples(self, split: str, file: Path) -> Iterator[tuple[str, dict]]:
        images, annotations, names, _ = read_coco(file, self.tolerate)
        categories = read_categories(file, names, self.CORRECTED)
        folder = self.config.root / self.PHOTOS
        skipped = defaultdict(list)

        def row_of(named: tuple[str, dict]) -> dict | None:
            where, image = named
            path = path_inside(folder, image["file_name"], (folder,), where)
            if not path.is_file():
                raise ValueError(f"{where}: {path}: no such file. {self.ARCHIVE.instructions}")
            marked = annotations.get(image["id"], [])
            targets = present_targets(image, marked, categories, path, where, skipped)
            targets += self.absent_targets(image, marked, categories, where)
            if not targets:
                return None
            return new_row(path, f"{self.name}/{split}/{path.stem}", targets)

        named = ((f"{file}: image {name_of(image['id'])} ({name_of(image['file_name'])})", image) for image in images)
        yield from self.rows(((where, (where, image)) for where, image in named), row_of)
        self.remark_cases(file, skipped)

    def absent_targets(
        self, image: dict, marked: list[dict], categories: dict[Any, Category], where: str
    ) -> list[dict]:
        """Return targets without masks. Override it if the data set lists what a photo does not show."""
        return []


def read_categories(file: Path, names: dict[Any, str], corrected: dict[str, str]) -> dict[Any, Category]:
    """Return the categories of a file by id.

    Args:
        file: for errors.
        names: names by id, as `coco_files.read_coco` returns them: "car (automobile):wheel".
        corrected: corrected spelling of things and parts.

    Raises:
        ValueError: a name is neither a thing nor a part of a thing.
    """
    categories = {}
    for number, name in names.items():
        words = [" ".join(re.sub(r"\(.*?\)", " ", word).split()) for word in name.split(":")]
        if len(words) > 2 or not all(words):
            raise ValueError(
                f'{file}: name of category {name_of(number)} must be "thing" or "thing:part", got {show(name)}.'
            )
        categories[number] = Category(*(corrected.get(word, word) for word in words))
    return categories


def present_targets(
    image: dict,
    marked: list[dict],
    categories: dict[Any, Category],
    path: Path,
    where: str,
    skipped: dict[str, list[str]],
) -> list[dict]:
    """Return the targets for the categories that are in a photo, in the order of its annotations.

    Args:
        image: the photo's COCO record.
        marked: the photo's COCO annotations.
        categories: categories by id.
        path: path of the photo.
        where: names the image in errors.
        skipped: lists of skipped annotations by reason; this function adds to it.
    """
    size = (image["height"], image["width"])
    method = turn_of(path, size, where)
    partly = listed(image, "not_exhaustive_category_ids", categories, where)
    owners = {str(annotation.get("obj_ann_id")) for annotation in marked if categories[annotation["category_id"]].part}
    # Ignored pixels: crowds of the category, and for parts the instances of the thing without annotated parts. It is
    # unknown whether such an instance has no visible part, or whether its parts were not annotated.
    masks, crowds, undivided = defaultdict(list), defaultdict(list), defaultdict(list)
    for annotation in marked:
        name = f"{where}: annotation {name_of(annotation['id'])}"
        category = categories[annotation["category_id"]]
        if category in partly or Category(category.thing) in partly:
            skipped["annotations of categories that are not exhaustively annotated"].append(name)
            continue
        mask = visible_runs(annotation.get("segmentation"), size, name, skipped)
        if mask is None:
            continue
        (crowds if annotation.get("iscrowd") else masks)[category].append(mask)
        if category.part is None and str(annotation["id"]) not in owners:
            undivided[category.thing].append(mask)

    def united(parts: list[dict]) -> dict | None:
        return turn(unite(parts), method) if parts else None

    return [
        new_target(
            category.texts,
            [united(found)],
            ignore=united(crowds[category] + (undivided[category.thing] if category.part else [])),
        )
        for category, found in masks.items()
    ]


def listed(image: dict, key: str, categories: dict[Any, Category], where: str) -> set[Category]:
    """Return the categories of a list of ids in a photo's record, without ids that the data set does not have."""
    numbers = image.get(key) or []
    if not isinstance(numbers, list) or not all(isinstance(number, int) for number in numbers):
        raise ValueError(f"{where}: {key} must be a list of category ids, got {show(numbers)}.")
    return {categories[number] for number in numbers if number in categories}
