"""Read PASCAL-Part as converted by VLPart's tools/pascal_part_mat2json.py: 93 parts of 14 things in PASCAL VOC 2010.

    vlpart/pascal_part/train.json, val.json                                     category "bus:license plate"
    vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages/2008_000002.jpg

A row is one photo. A target is one category of parts in it, with all instances in one mask. VLPart merges some parts of
PASCAL-Part: the left and the right wing are both "wing".
"""

from dataclasses import dataclass
from pathlib import Path

import datasets

from .archives import Archive, ArchiveConfig
from .coco_parts import PartsBuilder


@dataclass
class PascalPartConfig(ArchiveConfig):
    def index_paths(self) -> list[Path]:
        files = [self.root / PascalPart.ARCHIVE.folder / name for name in PascalPart.FILES.values()]
        return [*files, self.root / PascalPart.PHOTOS]


class PascalPart(PartsBuilder):
    VERSION = datasets.Version("1.1.0")  # increase it if the rows of the same files change
    BUILDER_CONFIG_CLASS = PascalPartConfig
    BUILDER_CONFIGS = [PascalPartConfig(name="default", version=VERSION)]
    DEFAULT_CONFIG_NAME = "default"
    ARCHIVE = Archive(
        title="PASCAL-Part",
        folder="vlpart/pascal_part",
        get="Download trainval.tar.gz of PASCAL-Part and VOCtrainval_03-May-2010.tar and unpack both into "
        "vlpart/pascal_part; create train.json and val.json there with VLPart's tools/pascal_part_mat2json.py, as "
        "described in its datasets/README.md.",
        homepage="https://github.com/facebookresearch/VLPart",
        license="photos under Flickr's terms of use; no license is stated for the annotations",
        citation="Chen et al., Detect What You Can: Detecting and Representing Objects using Holistic Models and Body "
        "Parts, CVPR 2014; Sun et al., Going Denser with Open-Vocabulary Part Segmentation, ICCV 2023",
    )
    FILES = {"train": "train.json", "validation": "val.json"}
    PHOTOS = "vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages"
