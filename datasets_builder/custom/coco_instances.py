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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from pycocotools import mask as coco_mask

from gemma_lisa.datasets_builder.formats.coco_files import (
    find_annotations,
    find_folder,
    fingerprint,
    name_folders,
    path_inside,
    read_coco,
)
from gemma_lisa.datasets_builder.formats.coco_segmentation import segmentation_runs, turn, turn_of, unite
from gemma_lisa.datasets_builder.leakage import coco_photo
from gemma_lisa.datasets_builder.rows import new_row, new_target, sort_by_centroid
from gemma_lisa.datasets_builder.tolerant_builder import TolerantBuilder, TolerantConfig
from gemma_lisa.safety.short_text import VALUE_LENGTH, count_of, name_of, shorten, show

CATEGORY = "category"  # field of `text` for the category's name; other names are fields of the annotation


@dataclass
class CocoInstancesConfig(TolerantConfig):
    """Options of the files and the questions. Paths are relative to data_dir."""

    annotations: str | dict[str, str] | None = None  # JSON file, or one for each split; None: find it by name
    images: str | dict[str, str] | None = None  # folder of file_name, or one for each split; None: find it
    instances: str = "united"  # one mask per question; "separate": one per object, ordered by centroid
    text: str = f"the {{{CATEGORY}}}"  # "{caption}" asks the text in the annotation's field caption
    # Questions per image about categories without annotations in it. 0 by default: COCO files do not state whether
    # every object was annotated, and an object labelled as absent trains the model to refuse.
    absent: int = 0
    seed: int = 0  # for choosing absent categories

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
    VERSION = datasets.Version("1.1.0")  # increase it whenever the rows of the same files change
    BUILDER_CONFIG_CLASS = CocoInstancesConfig
    BUILDER_CONFIGS = [CocoInstancesConfig(name="default", version=VERSION)]
    DEFAULT_CONFIG_NAME = "default"

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        config = self.config
        if config.instances not in ("united", "separate"):
            raise ValueError(f"coco_instances: instances must be united or separate, got {show(config.instances)}.")
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
        num_bad = len(self.bad)
        images, annotations, names = read_coco(file, self.tolerate)
        root = self.config.root
        if images and folder is None:
            folder = find_folder(file, root, (image["file_name"] for image in images))
        # Without categories that never occur: Roboflow writes the name of the data set as one
        used = sorted({names[annotation["category_id"]] for group in annotations.values() for annotation in group})
        skipped, n_rows = defaultdict(list), 0

        def row_of(named: tuple[str, dict]) -> dict | None:
            where, image = named
            path = path_inside(folder, image["file_name"], (root, folder), where)
            marked = annotations.get(image["id"], [])
            masks = _masks(marked, (image["height"], image["width"]), path, where, skipped)
            targets = _present(self.config, image, marked, masks, names, where, skipped)
            if self.config.absent:
                targets += _absent(self.config, image, marked, names, used)
            if not targets:
                return None
            return new_row(path, f"coco_instances/{split}/{_name(image)}", targets)

        named = ((f"{file}: image {name_of(image['id'])} ({name_of(image['file_name'])})", image) for image in images)
        for where, row in self.rows(((where, (where, image)) for where, image in named), row_of):
            n_rows += 1
            yield where, row
        self.remark_cases(file, skipped)
        if not n_rows and len(self.bad) == num_bad:
            raise ValueError(f"{file}: no annotation with a mask in {count_of(len(images), 'image')}; add some.")


def _name(image: dict) -> str:
    """Return the name of an image, followed by the COCO file name if only `coco_url` shows that it is from COCO."""
    url = image.get("coco_url")
    if isinstance(url, str) and coco_photo(image["file_name"]) is None and coco_photo(url) is not None:
        return f"{image['file_name']}/{url.rpartition('/')[2]}"
    return image["file_name"]


def _masks(annotations: list[dict], size: tuple[int, int], path: Path, where: str, skipped: dict) -> list[dict | None]:
    """Return the mask of each annotation on the upright image, in the format of rows; None for an empty mask."""
    method = turn_of(path, size, where)
    masks = []
    for annotation in annotations:
        name = f"{where}: annotation {name_of(annotation['id'])}"
        mask = segmentation_runs(annotation.get("segmentation"), size, name)
        if not coco_mask.area(mask):
            skipped["annotations with an empty mask"].append(name)
            masks.append(None)
        else:
            masks.append(turn(mask, method))
    return masks


def _present(
    config: CocoInstancesConfig,
    image: dict,
    annotations: list[dict],
    masks: list[dict | None],
    names: dict[Any, str],
    where: str,
    skipped: dict,
) -> list[dict]:
    """Return one target for each question about the image, in the order of the file."""
    fields = _fields(config.text)
    # LVIS annotated only some objects of these categories
    partly = {names.get(number) for number in image.get("not_exhaustive_category_ids") or []}
    crowds, things = defaultdict(list), defaultdict(list)
    for annotation, mask in zip(annotations, masks, strict=True):
        name = names[annotation["category_id"]]
        if mask is None:
            continue
        if annotation.get("iscrowd"):
            crowds[name].append(mask)
        elif name in partly and fields <= {CATEGORY}:
            skipped["annotations of categories that are not exhaustively annotated"].append(
                f"{where}: annotation {name_of(annotation['id'])}"
            )
        else:
            things[_filled(config.text, fields, annotation, name, where)].append((name, mask))

    targets = []
    for text, found in things.items():
        wanted = [mask for _, mask in found]
        if config.instances == "united":
            wanted = [unite(wanted)]
        elif len(wanted) > 1:
            wanted = [wanted[at] for at in sort_by_centroid([coco_mask.decode(mask) for mask in wanted])]
        unclear = [mask for name in dict.fromkeys(name for name, _ in found) for mask in crowds[name]]
        targets.append(_target(text, wanted, unite(unclear) if unclear else None))
    return targets


def _absent(
    config: CocoInstancesConfig, image: dict, annotations: list[dict], names: dict[Any, str], used: list[str]
) -> list[dict]:
    """Return targets without masks: categories that are not in the image.

    These are `neg_category_ids` in files of LVIS, and all categories without annotations in other files.
    """
    negative = image.get("neg_category_ids")
    candidates = used if negative is None else sorted({names[number] for number in negative if number in names})
    there = {names[annotation["category_id"]] for annotation in annotations}  # including crowds and empty masks
    there |= {names.get(number) for number in image.get("not_exhaustive_category_ids") or []}
    texts = dict.fromkeys(_of_category(config.text, name) for name in candidates)
    present = {_of_category(config.text, name) for name in there - {None}}
    texts = [text for text in texts if text not in present]
    rng = np.random.default_rng((config.seed, zlib.crc32(str(image["id"]).encode())))
    return [_target(texts[at], [], None) for at in sorted(rng.permutation(len(texts))[: config.absent])]


def _target(text: str, masks: list[dict], ignore: dict | None) -> dict:
    return new_target([text], masks, is_sentence=text.endswith((".", "?", "!")), ignore=ignore)


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


def _filled(text: str, fields: set[str], annotation: dict, name: str, where: str) -> str:
    """Return the question for one annotation. CVAT writes custom fields under `attributes`."""
    if fields <= {CATEGORY}:
        return _of_category(text, name)
    attributes = annotation.get("attributes")
    given = {**(attributes if isinstance(attributes, dict) else {}), **annotation, CATEGORY: name}
    for field in fields:
        if not isinstance(given.get(field), str | int | float) or not str(given[field]).strip():
            raise ValueError(
                f"{where}: annotation {name_of(annotation['id'])} has no text in its field {show(field)}, which the "
                "option text uses."
            )
    return _words(text, given)


@functools.cache
def _of_category(text: str, name: str) -> str:
    return _words(text, {CATEGORY: name})


def _words(text: str, values: dict[str, Any]) -> str:
    return " ".join(text.format_map(values).split())
