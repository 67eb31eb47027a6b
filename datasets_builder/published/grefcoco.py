"""Read gRefCOCO: phrases for one, several or no objects in photos of COCO.

    refer_seg/grefcoco/instances.json, grefs(unc).json                  or grefs(unc).p, see refs_files.py
    refer_seg/images/mscoco/images/train2014/COCO_train2014_000000581857.jpg

A row is one photo. A target is what one phrase, or several phrases for the same objects, asks for. Each object has one
mask, and masks are in the order of their centroids. A target without objects (ann_id [-1]) has no mask. A crowd
(`iscrowd`) is an object with one mask.

If the folder mscoco does not exist, photos are read from coco/train2014 or coco/train2017.
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
    VERSION = datasets.Version("1.1.0")  # increase it if the rows of the same files change
    BUILDER_CONFIG_CLASS = GrefcocoConfig
    BUILDER_CONFIGS = [GrefcocoConfig(name="unc", version=VERSION)]
    DEFAULT_CONFIG_NAME = "unc"
    ARCHIVE = Archive(
        title="gRefCOCO",
        folder="refer_seg/grefcoco",
        get=f"Download grefs(unc).json and instances.json into refer_seg/grefcoco; {GET_PHOTOS}",
        homepage="https://github.com/henghuiding/gRefCOCO",
        license=f"{COCO_TERMS}; no license is stated for the refs",
        citation="Liu et al., GRES: Generalized Referring Expression Segmentation, CVPR 2023",
    )
    REFS = "grefs"
