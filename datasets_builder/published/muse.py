"""Read MUSE of PixelLM: questions by GPT-4V about several things in photos of COCO, with masks of LVIS.

    muse/muse_{train,val,test_less,test_many}.json
    coco/{train2017,val2017}/000000391895.jpg           for records with "coco_url"
    coco/train2014/COCO_train2014_000000581857.jpg      for records with "file_name"

The answers of test_less refer to few things, those of test_many to more. Rows are described in multi_target.py.
"""

from dataclasses import dataclass
from pathlib import Path

import datasets

from .archives import Archive, ArchiveConfig
from .multi_target import MultiTargetBuilder, index_of, text_of

OF_FILE_NAME = "train2014"  # folder of photos of records with file_name


@dataclass
class MuseConfig(ArchiveConfig):
    def index_paths(self) -> list[Path]:
        return index_of(self, Muse.ARCHIVE.folder)


class Muse(MultiTargetBuilder):
    VERSION = datasets.Version("1.1.0")  # increase it if the rows of the same files change
    BUILDER_CONFIG_CLASS = MuseConfig
    BUILDER_CONFIGS = [MuseConfig(name="default", version=VERSION)]
    DEFAULT_CONFIG_NAME = "default"
    ARCHIVE = Archive(
        title="MUSE",
        folder="muse",
        get="Download the JSON files into muse; move the folders of COCO's train2017.zip, val2017.zip and "
        "train2014.zip into coco.",
        homepage="https://github.com/MaverickRen/PixelLM",
        license="photos under Flickr's terms of use; no license is stated for the annotations",
        citation="Ren et al., PixelLM: Pixel Reasoning with Large Multimodal Model, CVPR 2024",
    )
    FILES = {
        "train": "muse_train.json",
        "validation": "muse_val.json",
        "test_less": "muse_test_less.json",
        "test_many": "muse_test_many.json",
    }

    def photo(self, record: dict, where: str) -> str:
        if "file_name" in record:
            return f"{OF_FILE_NAME}/{text_of(record, 'file_name', where)}"
        return "/".join(text_of(record, "coco_url", where).split("/")[-2:])
