"""RefCOCO, RefCOCO+, RefCOCOg and RefCLEF as the refer API has them: objects in photos, and what people call them.

    refer_seg/{refcoco,refcoco+,refcocog,refclef}/instances.json, refs(unc).p         or refs(unc).json, see refs_files
    refer_seg/images/mscoco/images/train2014/COCO_train2014_000000581857.jpg          RefCOCO, RefCOCO+, RefCOCOg
    refer_seg/images/saiapr_tc-12/                                                    RefCLEF

A row is one photo; a target is one object in it, with all that it was called; but to evaluate on, every sentence is a
target, as published numbers count them. The configurations are those who split the set: "refcocog/umd". Where mscoco
is not there, COCO's photos are taken from coco/train2014 or coco/train2017.
Berkeley's split of RefCLEF misses two photos of train and one of test, says the refer API: max_bad = 3 does without.
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

# Where photos lie below data_dir: first the folder that file_name counts from. Where that is not there, the others are
# looked into, which have COCO's photos under other names, made of their numbers.
COCO_PHOTOS = {
    "refer_seg/images/mscoco/images/train2014": None,
    "coco/train2014": "COCO_train2014_{:012d}.jpg",
    "coco/train2017": "{:012d}.jpg",
}


class ReferBuilder(ArchiveBuilder):
    """A builder of a set of refs; a subclass names it, its archive and where its photos are."""

    SET: ClassVar[str]  # its name in sources, for datasets names a builder by its file
    REFS: ClassVar[str] = "refs"  # what a file of refs is called before "(unc)"
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
            raise ValueError(f"{folder}: neither {names} is there. {self.ARCHIVE.title}: {self.ARCHIVE.get}")
        instances = read_instances(require_file(folder / INSTANCES, self.ARCHIVE), self.tolerate)
        places = self._places()
        splits = refs_by_split(read_refs(file, self.tolerate), file, self.remark)
        if not splits:
            raise ValueError(f"{file}: none of its refs is of a split; get it again.")
        return [
            datasets.SplitGenerator(
                split, gen_kwargs={"split": split, "refs": refs, "instances": instances, "places": places}
            )
            for split, refs in splits.items()
        ]

    def _places(self) -> dict[Path, str | None]:
        """The folders of `PHOTOS` that are used."""
        (official, _), *others = [(self.config.root / name, called) for name, called in self.PHOTOS.items()]
        if official.is_dir():
            return {official: None}
        places = {folder: called for folder, called in others if folder.is_dir()}
        if not places:
            raise ValueError(f"{official}: no such folder. {self.ARCHIVE.title}: {self.ARCHIVE.get}")
        logger.info("%s is not there; photos are taken from %s", official, " and ".join(map(str, places)))
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
                # Published numbers count every sentence
                targets = [{**target, "texts": [text]} for target in targets for text in target["texts"]]
            if not targets:
                return None
            return new_row(path, f"{self.SET}/{split}/{stem}", targets)

        yield from self.rows(((of_image[0].where, of_image) for of_image in refs.values()), row_of)
        self.remark_cases(f"{self.title} {split}", skipped)

    def _photo(self, image: dict, places: dict[Path, str | None], where: str) -> tuple[Path, str]:
        """The path of a photo, and its stem as instances.json has it, wherever the photo lies."""
        name = image["file_name"]
        if not isinstance(name, str) or not all(
            isinstance(image[side], int) and image[side] > 0 for side in ("height", "width")
        ):
            raise ValueError(
                f"{where}: file_name {show(name)}, height {show(image['height'])} and width {show(image['width'])} are "
                "not a name and two numbers of pixels."
            )
        folder = self.config.root / next(iter(self.PHOTOS))
        official = path_inside(folder, name, (folder,), where)
        if folder in places:
            paths = [official]
        else:
            number = coco_id(name)
            if number is None:
                raise ValueError(f"{where}: file_name {show(name)} holds no number, by which its photo could be found.")
            paths = [place / called.format(number) for place, called in places.items()]
        found = next((path for path in paths if path.is_file()), None)
        if found is None:
            raise ValueError(f"{where}: {' and '.join(map(str, paths))}: no such file. {self.ARCHIVE.get}")
        return found, official.stem


def _masks(
    refs: list[Ref], instances: Instances, image: dict, path: Path, where: str, skipped: dict[str, list[str]]
) -> dict[int | str, dict | None]:
    """The mask on the upright photo of each annotation that the refs name, as rows hold it; none without a pixel."""
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
    """A target for each ref, in the order of the file."""
    seen = {number: mask for number, mask in masks.items() if mask is not None}
    # Decoded once for all refs of the photo, and only what is meant together with others
    together = dict.fromkeys(number for ref in refs if len(ref.annotations) > 1 for number in ref.annotations)
    together = [number for number in together if number in seen]
    order = sort_by_centroid([coco_mask.decode(seen[number]) for number in together])
    places = {together[at]: place for place, at in enumerate(order)}
    targets = []
    for ref in refs:
        texts = [text for sentence in ref.sentences if (text := sentence.strip().lower())]
        meant = [number for number in ref.annotations if number in seen]
        if len(meant) > 1:
            meant.sort(key=places.__getitem__)
        wanted = [seen[number] for number in meant]
        if not texts:
            skipped["refs without a word"].append(ref.where)
        elif ref.annotations and not wanted:
            skipped["refs to what covers no pixel"].append(ref.where)
        else:
            targets.append(new_target(texts, wanted))
    return targets


# ---------------------------------------------------------------------------------------------------------------------
# The four sets
# ---------------------------------------------------------------------------------------------------------------------
VERSION = datasets.Version("1.1.0")  # raise it whenever the rows of the same files change
HOMEPAGE = "https://github.com/lichengunc/refer"
COCO_TERMS = "photos under Flickr's terms of use"
GET_PHOTOS = "the folder of COCO's train2014.zip into refer_seg/images/mscoco/images (or into coco)."


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
        get=f"Get refcoco.zip from its homepage and put its folder refcoco into refer_seg, and {GET_PHOTOS}",
        homepage=HOMEPAGE,
        license=f"{COCO_TERMS}; none is stated for the refs",
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
        get=f"Get refcoco+.zip from its homepage and put its folder refcoco+ into refer_seg, and {GET_PHOTOS}",
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
        get=f"Get refcocog.zip from its homepage and put its folder refcocog into refer_seg, and {GET_PHOTOS}",
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
        get="Get refclef.zip and saiapr_tc-12.zip from its homepage and put their folders into refer_seg and into "
        "refer_seg/images.",
        homepage=HOMEPAGE,
        license="photos under the terms of IAPR TC-12; none is stated for the refs",
        citation="Kazemzadeh et al., ReferItGame: Referring to Objects in Photographs of Natural Scenes, EMNLP 2014",
    )
    PHOTOS = {"refer_seg/images/saiapr_tc-12": None}
