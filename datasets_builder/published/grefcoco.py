"""gRefCOCO: phrases for one, several or no objects in COCO's photos.

    refer_seg/grefcoco/instances.json, grefs(unc).json                  or grefs(unc).p, see refs_files
    refer_seg/images/mscoco/images/train2014/COCO_train2014_000000581857.jpg

A row is one photo; a target is what one phrase, or several of the same objects, asks for. Several objects are as many
masks, in the order of their centroids; what is not there (ann_id [-1]) has none. An object that COCO marked as a crowd
is one mask, as people count it in. Where mscoco is not there, photos are taken from coco/train2014 or coco/train2017.
"""

from dataclasses import dataclass
from pathlib import Path

import datasets

from .archives import Archive, ArchiveConfig
from .refer import COCO_TERMS, GET_PHOTOS, ReferBuilder


@dataclass
class GrefcocoConfig(ArchiveConfig):
    def index_paths(self) -> list[Path]:
        return Grefcoco.index_paths(self)


class Grefcoco(ReferBuilder):
    SET = "grefcoco"
    VERSION = datasets.Version("1.1.0")  # raise it whenever the rows of the same files change
    BUILDER_CONFIG_CLASS = GrefcocoConfig
    BUILDER_CONFIGS = [GrefcocoConfig(name="unc", version=VERSION)]
    DEFAULT_CONFIG_NAME = "unc"
    ARCHIVE = Archive(
        title="gRefCOCO",
        folder="refer_seg/grefcoco",
        get="Get grefs(unc).json and instances.json by the links on its homepage into refer_seg/grefcoco, and "
        f"{GET_PHOTOS}",
        homepage="https://github.com/henghuiding/gRefCOCO",
        license=f"{COCO_TERMS}; none is stated for the refs",
        citation="Liu et al., GRES: Generalized Referring Expression Segmentation, CVPR 2023",
    )
    REFS = "grefs"
