"""Read PACO-LVIS v1: 75 things and 456 of their parts in photos of COCO 2017.

    vlpart/paco/annotations/paco_lvis_v1_{train,val,test}.json      category "car_(automobile):wheel"
    coco/{train2017,val2017}/000000000009.jpg

A row is one photo. A target is one category in it, with all instances in one mask.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from gemma_lisa.datasets_builder.rows import new_target
from gemma_lisa.safety.short_text import show

from .archives import Archive, ArchiveConfig
from .coco_parts import Category, PartsBuilder, listed


@dataclass
class PacoLvisConfig(ArchiveConfig):
    # number of absent targets per photo: categories that the photo does not show, by LVIS's neg_category_ids
    absent: int = 0
    seed: int = 0  # seed that chooses the absent categories

    def index_paths(self) -> list[Path]:
        files = [self.root / PacoLvis.ARCHIVE.folder / name for name in PacoLvis.FILES.values()]
        return [*files, *(self.root / PacoLvis.PHOTOS / name for name in ("train2017", "val2017"))]


class PacoLvis(PartsBuilder):
    VERSION = datasets.Version("1.1.0")  # increase it if the rows of the same files change
    BUILDER_CONFIG_CLASS = PacoLvisConfig
    BUILDER_CONFIGS = [PacoLvisConfig(name="default", version=VERSION)]
    DEFAULT_CONFIG_NAME = "default"
    ARCHIVE = Archive(
        title="PACO-LVIS",
        folder="vlpart/paco",
        get="Download paco_lvis_v1.zip and move its JSON files into vlpart/paco/annotations; move the folders of "
        "COCO's train2017.zip and val2017.zip into coco.",
        homepage="https://github.com/facebookresearch/paco",
        license="photos under Flickr's terms of use; annotations under Meta's terms, see its homepage",
        citation="Ramanathan et al., PACO: Parts and Attributes of Common Objects, CVPR 2023",
        sizes={"train": 45_790, "validation": 2_410, "test": 9_443},
    )
    FILES = {
        "train": "annotations/paco_lvis_v1_train.json",
        "validation": "annotations/paco_lvis_v1_val.json",
        "test": "annotations/paco_lvis_v1_test.json",
    }
    PHOTOS = "coco"
    CORRECTED = {
        "colied tube": "coiled tube",
        "runningboard": "running board",
        "steeringwheel": "steering wheel",
        "turnsignal": "turn signal",
    }

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        if type(self.config.absent) is not int or self.config.absent < 0:
            raise ValueError(f"paco_lvis: absent must be an integer, 0 or more, got {show(self.config.absent)}.")
        return super()._split_generators(dl_manager)

    def absent_targets(
        self, image: dict, marked: list[dict], categories: dict[Any, Category], where: str
    ) -> list[dict]:
        """Return targets without masks for `absent` categories that are not in the photo, drawn per photo."""
        there = {categories[annotation["category_id"]] for annotation in marked}
        there |= listed(image, "not_exhaustive_category_ids", categories, where)
        missing = listed(image, "neg_category_ids", categories, where) - there
        missing = sorted(missing, key=lambda category: category.texts)
        rng = np.random.default_rng((self.config.seed, zlib.crc32(str(image["id"]).encode())))
        chosen = sorted(rng.permutation(len(missing))[: self.config.absent])
        return [new_target(missing[at].texts, []) for at in chosen]
