"""Read Mapillary Vistas v2.0: photos of streets with label maps of 124 classes.

    mapillary/config_v2.0.json                                          "labels": class name of each number
    mapillary/{training,validation}/images/0035fkbjWljhaftpVM37-g.jpg
    mapillary/{training,validation}/v2.0/labels/0035fkbjWljhaftpVM37-g.png      v = index in "labels"

A row is one photo. A target is one class in it, with all instances in one mask. The photos of testing/ have no labels.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import datasets

from gemma_lisa.datasets_builder.formats.json_files import read_json

from .archives import Archive, ArchiveConfig, require_file
from .label_map_builder import LabelMapBuilder

CONFIG = "config_v2.0.json"
# Ignored: the camera's own car, and unclear or unlabeled regions.
VOID = ("Car Mount", "Dynamic", "Ego Vehicle", "Ground", "Static", "Unlabeled")
# Names for which the word order of _spoken is not natural.
SPOKEN = {
    "Lane Marking (only) - Test": "text lane marking",  # "Test" is a typo of the file
    "Lane Marking - Give Way (Row)": "row of give-way triangles",
    "Lane Marking - Give Way (Single)": "single give-way triangle",
    "Lane Marking - Stop Line": "stop line",
    "On Rails": "rail vehicle",
    "Parking": "parking area",
    "Person Group": "group of people",
    "Pole Group": "group of poles",
    "Road Side": "roadside",
    "Signage - Back": "back of a sign",
    "Traffic Light - Cyclists": "traffic light for cyclists",
    "Traffic Light - General (Horizontal)": "horizontal traffic light",
    "Traffic Light - General (Single)": "single traffic light",
    "Traffic Light - General (Upright)": "upright traffic light",
    "Traffic Light - Pedestrians": "traffic light for pedestrians",
    "Traffic Sign (Back)": "back of a traffic sign",
    "Traffic Sign (Front)": "front of a traffic sign",
    "Traffic Sign - Direction (Back)": "back of a direction sign",
    "Traffic Sign - Direction (Front)": "front of a direction sign",
    "Traffic Sign - Parking": "parking sign",
    "Traffic Sign - Temporary (Back)": "back of a temporary traffic sign",
    "Traffic Sign - Temporary (Front)": "front of a temporary traffic sign",
    "Vehicle Group": "group of vehicles",
    "Wheeled Slow": "slow wheeled vehicle",
}
FOLDERS = ("training", "validation")
LONGEST_NAME = 200  # characters; splitting a name takes cubic time


@dataclass
class MapillaryConfig(ArchiveConfig):
    def index_paths(self) -> list[Path]:
        folder = self.root / Mapillary.ARCHIVE.folder
        parts = (folder / name / part for name in FOLDERS for part in ("v2.0/labels", "images"))
        return [folder / CONFIG, *parts]


class Mapillary(LabelMapBuilder):
    VERSION = datasets.Version("1.1.0")  # increase it if the rows of the same files change
    BUILDER_CONFIG_CLASS = MapillaryConfig
    BUILDER_CONFIGS = [MapillaryConfig(name="default", version=VERSION)]
    DEFAULT_CONFIG_NAME = "default"
    ARCHIVE = Archive(
        title="Mapillary Vistas v2.0",
        folder="mapillary",
        get="Request the archive and unpack it into mapillary.",
        homepage="https://www.mapillary.com/dataset/vistas",
        license="Mapillary's own, for research; see its homepage",
        citation="Neuhold et al., The Mapillary Vistas Dataset for Semantic Understanding of Street Scenes, ICCV 2017",
        sizes={"train": 18_000, "validation": 2_000},
    )

    MAPS = {"train": "training/v2.0/labels", "validation": "validation/v2.0/labels"}
    PHOTOS = {"train": "mapillary/training/images", "validation": "mapillary/validation/images"}

    def names(self) -> dict[int, str | None]:
        return read_names(require_file(self.folder() / CONFIG, self.ARCHIVE))


def read_names(file: Path) -> dict[int, str | None]:
    """Return the class name of each number of the label maps; None for numbers whose pixels are ignored."""
    content = read_json(file, "unpack it again")
    labels = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(labels, list) or not labels:
        raise ValueError(f'{file}: must contain a list "labels"; unpack the file of Mapillary Vistas v2.0 again.')
    names = {}
    for number, label in enumerate(labels):
        readable = label.get("readable") if isinstance(label, dict) else None
        if not isinstance(readable, str) or not readable.strip():
            raise ValueError(
                f'{file}: label {number} (counted from 0) has no name in the field "readable"; unpack the file again.'
            )
        if len(readable) > LONGEST_NAME:
            raise ValueError(
                f"{file}: the name of label {number} (counted from 0) has {len(readable):,} characters, more than the "
                f"maximum of {LONGEST_NAME}."
            )
        readable = " ".join(readable.split())
        names[number] = None if readable in VOID else _spoken(readable)
    return names


def _spoken(readable: str) -> str:
    """Return the name of a label in plain words: "left arrow lane marking" for "Lane Marking - Arrow (Left)"."""
    if readable in SPOKEN:
        return SPOKEN[readable]
    # "Lane Marking (only)" is not visually different from "Lane Marking"
    sort, special, most_special = re.fullmatch(r"(.+?)(?: \(only\))?(?: - (.+?))?(?: \((.+)\))?", readable).groups()
    words = " ".join(filter(None, (most_special, special, sort))).split()
    return " ".join(word if word.isupper() else word.lower() for word in words)  # keep "CCTV"
