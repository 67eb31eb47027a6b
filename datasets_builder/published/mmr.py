"""Read MMR: questions by GPT-4V about several things and parts of things, with photos and masks of PACO-LVIS.

    MMR/MMR_{train,val,test_mixed,test_obj_only,test_part_only}.json
    coco/{train2017,val2017}/000000391895.jpg           "file_name" is relative to coco

The answers of test_obj_only refer to whole things, those of test_part_only to parts, those of test_mixed to both. Rows
are described in multi_target.py.
"""

from dataclasses import dataclass
from pathlib import Path

import datasets

from .archives import QUESTIONS, Archive, ArchiveConfig
from .multi_target import MultiTargetBuilder, index_of, text_of


@dataclass
class MmrConfig(ArchiveConfig):
    def index_paths(self) -> list[Path]:
        return index_of(self, Mmr.ARCHIVE.folder)


class Mmr(MultiTargetBuilder):
    VERSION = datasets.Version("1.1.0")  # increase it if the rows of the same files change
    BUILDER_CONFIG_CLASS = MmrConfig
    BUILDER_CONFIGS = [MmrConfig(name="default", version=VERSION)]
    DEFAULT_CONFIG_NAME = "default"
    ARCHIVE = Archive(
        title="MMR",
        folder="MMR",
        get="Download the JSON files into MMR; move the folders of COCO's train2017.zip and val2017.zip into coco.",
        homepage="https://github.com/jdg900/MMR",
        license="photos under Flickr's terms of use; no license is stated for the annotations",
        citation="Jang et al., MMR: A Large-scale Benchmark Dataset for Multi-target and Multi-granularity Reasoning "
        "Segmentation, ICLR 2025",
        sizes={"train": 154_127, "validation": 8_194},
        unit=QUESTIONS,
    )
    FILES = {
        "train": "MMR_train.json",
        "validation": "MMR_val.json",
        "test_mixed": "MMR_test_mixed.json",
        "test_obj_only": "MMR_test_obj_only.json",
        "test_part_only": "MMR_test_part_only.json",
    }

    def photo(self, record: dict, where: str) -> str:
        return text_of(record, "file_name", where)
