"""Read RefCOCO, RefCOCO+, RefCOCOg and RefCLEF in the format of the refer API: descriptions of objects in photos.

    refer_seg/{refcoco,refcoco+,refcocog,refclef}/instances.json, refs(unc).p       or refs(unc).json, see refs_files.py
    refer_seg/images/mscoco/images/train2014/COCO_train2014_000000581857.jpg        RefCOCO, RefCOCO+, RefCOCOg
    refer_seg/images/saiapr_tc-12/                                                  RefCLEF

A row is one photo. In training splits, a target is one object with all its descriptions. In evaluation splits, each
description is a target, because published results count them so.

A configuration is named after the authors of the split: "refcocog/umd". If the folder mscoco does not exist, COCO's
photos are read from coco/train2014 or coco/train2017.

By the refer API, Berkeley's split of RefCLEF lacks two photos of train and one of test. Set max_bad to 3 to skip them.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import datasets
from pycocotools import mask as coco_mask

from gemma_lisa.datasets_builder.formats.coco_files import path_inside
from gemma_lisa.datasets_builder.formats.coco_segmentation import turn, turn_of, visible_runs
from gemma_lisa.datasets_builder.formats.refs_files import (
    INSTANCES,
    Instances,
    Ref,
    find_refs,
    read_instances,
    read_refs,
    refs_by_split,
    refs_paths,
)
from gemma_lisa.datasets_builder.leakage import TRAIN, coco_id
from gemma_lisa.datasets_builder.rows import new_row, new_target, sort_by_centroid
from gemma_lisa.safety.short_text import name_of, show

from .archives import Archive, ArchiveBuilder, ArchiveConfig, require_file

logger = logging.getLogger(__name__)

# Folders of photos, relative to data_dir. file_name is relative to the first. If that does not exist, photos are looked
# up in the others by their COCO id, with these file names.
COCO_PHOTOS = {
    "refer_seg/images/mscoco/images/train2014": None,
    "coco/train2014": "COCO_train2014_{:012d}.jpg",
    "coco/train2017": "{:012d}.jpg",
}


class ReferBuilder(ArchiveBuilder):
    """Builder of a data set in the format of the refer API. Subclasses define SET, ARCHIVE and, if needed, PHOTOS."""

    SET: ClassVar[str]  # name in `source`; the name that 🤗 Datasets gives comes from the Python file
    REFS: ClassVar[str] = "refs"  # name of a refs file before "(unc)"
    PHOTOS: ClassVar[dict[str, str | None]] = COCO_PHOTOS

    @classmethod
    def index_paths(cls, config: ArchiveConfig) -> list[Path]:
        folder = config.root / cls.ARCHIVE.folder
        photos = [config.root / name for name in cls.PHOTOS]
        return [*refs_paths(folder, f"{cls.REFS}({config.name})"), folder / INSTANCES, *photos]

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        folder, stem = self.folder(), f"{self.REFS}({self.config.name})"
        file = find_refs(folder, stem)
        if file is None:
            names = " nor ".join(path.name for path in refs_paths(folder, stem))
            raise ValueError(f"{folder}: neither {names} exists. {self.ARCHIVE.instructions}")
        instances = read_instances(require_file(folder / INSTANCES, self.ARCHIVE), self.tolerate)
        places = self._places()
        splits = refs_by_split(read_refs(file, self.tolerate), file, self.remark)
        if not splits:
            raise ValueError(f"{file}: none of its refs belongs to a split; download the file again.")
        return [
            datasets.SplitGenerator(
                split, gen_kwargs={"split": split, "refs": refs, "instances": instances, "places": places}
            )
            for split, refs in splits.items()
        ]

    def _places(self) -> dict[Path, str | None]:
        """Return the folders of `PHOTOS` to read from, each with its pattern of file names."""
        (official, _), *others = [(self.config.root / name, pattern) for name, pattern in self.PHOTOS.items()]
        if official.is_dir():
            return {official: None}
        places = {folder: pattern for folder, pattern in others if folder.is_dir()}
        if not places:
            raise ValueError(f"{official}: no such folder. {self.ARCHIVE.instructions}")
        logger.info("%s does not exist; reading photos from %s", official, " and ".join(map(str, places)))
        return places

    def _generate_examples(
        self,
        split: str,
        refs: dict[int | str, list[Ref]],
        instances: Instances,
        places: dict[Path, str | None],
    ) -> Iterator[tuple[str, dict]]:
        skipped = defaultdict(list)

        def row_of(of_image: list[Ref]) -> dict | None:
            image = instances.image(of_image[0])
            where = f"{of_image[0].where}: {instances.file}: image {name_of(of_image[0].image)}"
            path, stem = self._photo(image, places, where)
            masks = _masks(of_image, instances, image, path, where, skipped)
            targets = _targets(of_image, masks, skipped)
            if split != TRAIN:
                # Published results count each description
                targets = [{**target, "texts": [text]} for target in targets for text in target["texts"]]
            if not targets:
                return None
            return new_row(path, f"{self.SET}/{split}/{stem}", targets)

        yield from self.rows(((of_image[0].where, of_image) for of_image in refs.values()), row_of)
        self.remark_cases(f"{self.title} {split}", skipped)

    def _photo(self, image: dict, places: dict[Path, str | None], where: str) -> tuple[Path, str]:
        """Return the path of a photo, and the stem of its name in instances.json."""
        name = image["file_name"]
        if not isinstance(name, str) or not all(
            isinstance(image[side], int) and image[side] > 0 for side in ("height", "width")
        ):
            raise ValueError(
                f"{where}: file_name must be a text, height and width integers above 0 (pixels), got {show(name)}, "
                f"{show(image['height'])} and {show(image['width'])}."
            )
        folder = self.config.root / next(iter(self.PHOTOS))
        official = path_inside(folder, name, (folder,), where)
        if folder in places:
            paths = [official]
        else:
            number = coco_id(name)
            if number is None:
                raise ValueError(f"{where}: file_name {show(name)} contains no COCO image id to find the photo by.")
            paths = [place / pattern.format(number) for place, pattern in places.items()]
        found = next((path for path in paths if path.is_file()), None)
        if found is None:
            raise ValueError(f"{where}: {' or '.join(map(str, paths))}: no such file. {self.ARCHIVE.instructions}")
        return found, official.stem


def _masks(
    refs: list[Ref], instances: Instances, image: dict, path: Path, where: str, skipped: dict[str, list[str]]
) -> dict[int | str, dict | None]:
    """Return the mask (RLE) on the upright photo of each annotation of the refs by id; None if it is empty."""
    size = (image["height"], image["width"])
    method = turn_of(path, size, where)
    masks = {}
    for ref in refs:
        for number in ref.annotations:
            if number in masks:
                continue
            segmentation = instances.annotation(number, ref)["segmentation"]
            named = f"{ref.where}: {instances.file}: annotation {number}"
            mask = visible_runs(segmentation, size, named, skipped)
            masks[number] = None if mask is None else turn(mask, method)
    return masks


def _targets(refs: list[Ref], masks: dict[int | str, dict | None], skipped: dict[str, list[str]]) -> list[dict]:
    """Return a target for each ref, in the order of the file."""
    visible = {number: mask for number, mask in masks.items() if mask is not None}
    # Order the masks of all refs to several objects at once, to decode each mask only once
    grouped = dict.fromkeys(number for ref in refs if len(ref.annotations) > 1 for number in ref.annotations)
    grouped = [number for number in grouped if number in visible]
    order = sort_by_centroid([coco_mask.decode(visible[number]) for number in grouped])
    positions = {grouped[index]: position for position, index in enumerate(order)}
    targets = []
    for ref in refs:
        texts = [text for sentence in ref.sentences if (text := sentence.strip().lower())]
        numbers = [number for number in ref.annotations if number in visible]
        if len(numbers) > 1:
            numbers.sort(key=positions.__getitem__)
        if not texts:
            skipped["refs without text"].append(ref.where)
        elif ref.annotations and not numbers:
            skipped["refs to objects with empty masks"].append(ref.where)
        else:
            targets.append(new_target(texts, [visible[number] for number in numbers]))
    return targets


# ---------------------------------------------------------------------------------------------------------------------
# The four data sets
# ---------------------------------------------------------------------------------------------------------------------
VERSION = datasets.Version("1.1.0")  # increase it if the rows of the same files change
HOMEPAGE = "https://github.com/lichengunc/refer"
COCO_TERMS = "photos under Flickr's terms of use"
GET_PHOTOS = "move the folder of COCO's train2014.zip into refer_seg/images/mscoco/images or into coco."


@dataclass
class RefcocoConfig(ArchiveConfig):
    def index_paths(self) -> list[Path]:
        return Refcoco.index_paths(self)


class Refcoco(ReferBuilder):
    SET = "refcoco"
    VERSION = VERSION
    BUILDER_CONFIG_CLASS = RefcocoConfig
    BUILDER_CONFIGS = [RefcocoConfig(name=name, version=VERSION) for name in ("unc", "google")]
    DEFAULT_CONFIG_NAME = "unc"
    SIZES = {"unc": {"train": 16_994, "validation": 1_500, "testA": 750, "testB": 750}}
    ARCHIVE = Archive(
        title="RefCOCO",
        folder="refer_seg/refcoco",
        get=f"Download refcoco.zip and move its folder refcoco into refer_seg; {GET_PHOTOS}",
        homepage=HOMEPAGE,
        license=f"{COCO_TERMS}; no license is stated for the refs",
        citation="Kazemzadeh et al., ReferItGame: Referring to Objects in Photographs of Natural Scenes, EMNLP 2014; "
        "Yu et al., Modeling Context in Referring Expressions, ECCV 2016",
    )


@dataclass
class RefcocoPlusConfig(ArchiveConfig):
    def index_paths(self) -> list[Path]:
        return RefcocoPlus.index_paths(self)


class RefcocoPlus(ReferBuilder):
    SET = "refcoco_plus"
    VERSION = VERSION
    BUILDER_CONFIG_CLASS = RefcocoPlusConfig
    BUILDER_CONFIGS = [RefcocoPlusConfig(name="unc", version=VERSION)]
    DEFAULT_CONFIG_NAME = "unc"
    ARCHIVE = Archive(
        title="RefCOCO+",
        folder="refer_seg/refcoco+",
        get=f"Download refcoco+.zip and move its folder refcoco+ into refer_seg; {GET_PHOTOS}",
        homepage=HOMEPAGE,
        license=Refcoco.ARCHIVE.license,
        citation=Refcoco.ARCHIVE.citation,
        sizes={"train": 16_992, "validation": 1_500, "testA": 750, "testB": 750},
    )


@dataclass
class RefcocogConfig(ArchiveConfig):
    def index_paths(self) -> list[Path]:
        return Refcocog.index_paths(self)


class Refcocog(ReferBuilder):
    SET = "refcocog"
    VERSION = VERSION
    BUILDER_CONFIG_CLASS = RefcocogConfig
    BUILDER_CONFIGS = [RefcocogConfig(name=name, version=VERSION) for name in ("umd", "google")]
    DEFAULT_CONFIG_NAME = "umd"
    SIZES = {"umd": {"train": 21_899, "validation": 1_300, "test": 2_600}}
    ARCHIVE = Archive(
        title="RefCOCOg",
        folder="refer_seg/refcocog",
        get=f"Download refcocog.zip and move its folder refcocog into refer_seg; {GET_PHOTOS}",
        homepage=HOMEPAGE,
        license=f"{COCO_TERMS}; refs (Google RefExp) CC BY 4.0",
        citation="Mao et al., Generation and Comprehension of Unambiguous Object Descriptions, CVPR 2016; Nagaraja et "
        "al., Modeling Context Between Objects for Referring Expression Understanding, ECCV 2016",
    )


@dataclass
class RefclefConfig(ArchiveConfig):
    def index_paths(self) -> list[Path]:
        return Refclef.index_paths(self)


class Refclef(ReferBuilder):
    SET = "refclef"
    VERSION = VERSION
    BUILDER_CONFIG_CLASS = RefclefConfig
    BUILDER_CONFIGS = [RefclefConfig(name=name, version=VERSION) for name in ("unc", "berkeley")]
    DEFAULT_CONFIG_NAME = "unc"
    ARCHIVE = Archive(
        title="RefCLEF",
        folder="refer_seg/refclef",
        get="Download refclef.zip and saiapr_tc-12.zip; move the folder of the first into refer_seg, and that of the "
        "second into refer_seg/images.",
        homepage=HOMEPAGE,
        license="photos under the terms of IAPR TC-12; no license is stated for the refs",
        citation="Kazemzadeh et al., ReferItGame: Referring to Objects in Photographs of Natural Scenes, EMNLP 2014",
    )
    PHOTOS = {"refer_seg/images/saiapr_tc-12": None}
