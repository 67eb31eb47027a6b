"""What the sets of parts share: COCO JSON files whose categories are things ("cup") and parts of them ("cup:handle").

A row is one photo; a target is one category in it, all its instances united. A part is asked for in two wordings, "the
handle of the cup" and "the cup handle". LVIS's lists in a photo's record are respected: of the categories in
`not_exhaustive_category_ids` only some instances are marked, so these are not asked for, nor are their parts.
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
    """A thing, or a part of it, in people's words."""

    thing: str
    part: str | None = None

    @property
    def texts(self) -> list[str]:
        """Its wordings, the plainest first."""
        if self.part is None:
            return [f"the {self.thing}"]
        texts = [f"the {self.part} of the {self.thing}"]
        if self.part.startswith(f"{self.thing} "):  # the fan box
            texts.append(f"the {self.part}")
        elif not self.thing.endswith(self.part):  # nobody says: the potted plant plant
            texts.append(f"the {self.thing} {self.part}")
        return texts


class PartsBuilder(ArchiveBuilder):
    """A builder whose splits are COCO JSON files of things and parts; a subclass says where they lie."""

    FILES: ClassVar[dict[str, str]]  # each split's JSON file, below the set's own folder
    PHOTOS: ClassVar[str]  # the folder that file_name counts from, below data_dir
    CORRECTED: ClassVar[dict[str, str]] = {}  # names of things or parts that the set spells otherwise than people

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        folder = self.folder()
        files = {split: folder / name for split, name in self.FILES.items() if (folder / name).is_file()}
        if not files:
            raise ValueError(f"{folder}: none of {', '.join(self.FILES.values())} is there. {self.ARCHIVE.get}")
        return [
            datasets.SplitGenerator(split, gen_kwargs={"split": split, "file": file}) for split, file in files.items()
        ]

    def _generate_examples(self, split: str, file: Path) -> Iterator[tuple[str, dict]]:
        images, annotations, names = read_coco(file, self.tolerate)
        categories = read_categories(file, names, self.CORRECTED)
        folder = self.config.root / self.PHOTOS
        skipped = defaultdict(list)

        def row_of(named: tuple[str, dict]) -> dict | None:
            where, image = named
            path = path_inside(folder, image["file_name"], (folder,), where)
            if not path.is_file():
                raise ValueError(f"{where}: {path}: no such file. {self.ARCHIVE.get}")
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
        """Targets without masks, for a set that knows what a photo does not show."""
        return []


def read_categories(file: Path, names: dict[Any, str], corrected: dict[str, str]) -> dict[Any, Category]:
    """The categories of a file by their ids; names as `coco_files.read_coco` gives them, "car (automobile):wheel".

    Raises:
        ValueError: a name that is neither a thing nor a part of one.
    """
    categories = {}
    for number, name in names.items():
        halves = [" ".join(re.sub(r"\(.*?\)", " ", half).split()) for half in name.split(":")]
        if len(halves) > 2 or not all(halves):
            raise ValueError(
                f"{file}: category {name_of(number)}: its name {show(name)} is neither a thing nor thing:part."
            )
        categories[number] = Category(*(corrected.get(half, half) for half in halves))
    return categories


def present_targets(
    image: dict,
    marked: list[dict],
    categories: dict[Any, Category],
    path: Path,
    where: str,
    skipped: dict[str, list[str]],
) -> list[dict]:
    """What is in a photo, in the order of its annotations (`marked`); those that are not asked for go to skipped."""
    size = (image["height"], image["width"])
    method = turn_of(path, size, where)
    partly = listed(image, "not_exhaustive_category_ids", categories, where)
    owners = {str(annotation.get("obj_ann_id")) for annotation in marked if categories[annotation["category_id"]].part}
    # Pixels not counted: by category its crowds, by thing the instances of which no part is marked. Perhaps they show
    # none, perhaps nobody looked; no file says it.
    masks, crowds, undivided = defaultdict(list), defaultdict(list), defaultdict(list)
    for annotation in marked:
        name = f"{where}: annotation {name_of(annotation['id'])}"
        category = categories[annotation["category_id"]]
        if category in partly or Category(category.thing) in partly:
            skipped["annotations of categories that are not marked throughout"].append(name)
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
    """The categories that a list in a photo's record names; LVIS's lists name some that these sets do not have."""
    numbers = image.get(key) or []
    if not isinstance(numbers, list) or not all(isinstance(number, int) for number in numbers):
        raise ValueError(f"{where}: {key} is {show(numbers)}, which is no list of ids.")
    return {categories[number] for number in numbers if number in categories}
