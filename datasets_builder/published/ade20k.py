"""Read ADE20K in the release of the scene parsing benchmark (ADEChallengeData2016): label maps of 150 classes.

    ade20k/images/{training,validation}/ADE_train_00000001.jpg, ...
    ade20k/annotations/{training,validation}/ADE_train_00000001.png      0 = other, k = class k of objectInfo150.txt

A row is one photo. A target is one class in it, with all instances in one mask.
"""

from dataclasses import dataclass
from pathlib import Path

import datasets

from .archives import Archive, ArchiveConfig
from .label_map_builder import LabelMapBuilder

# The first name of each class in objectInfo150.txt, starting with class 1
NAMES = (
    "wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door, "
    "table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, "
    "armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, "
    "chest of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, "
    "case, pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, "
    "book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, "
    "hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, television, airplane, "
    "dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, "
    "fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag, "
    "minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, "
    "screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate, "
    "monitor, bulletin board, shower, radiator, glass, clock, flag"
).split(", ")
LABELS = dict(enumerate((None, *NAMES)))
FOLDERS = ("training", "validation")


@dataclass
class Ade20kConfig(ArchiveConfig):
    def index_paths(self) -> list[Path]:
        folder = self.root / Ade20k.ARCHIVE.folder
        return [folder / kind / name for kind in ("annotations", "images") for name in FOLDERS]


class Ade20k(LabelMapBuilder):
    VERSION = datasets.Version("1.1.0")  # increase it if the rows of the same files change
    BUILDER_CONFIG_CLASS = Ade20kConfig
    BUILDER_CONFIGS = [Ade20kConfig(name="default", version=VERSION)]
    DEFAULT_CONFIG_NAME = "default"
    ARCHIVE = Archive(
        title="ADE20K",
        folder="ade20k",
        get="Download ADEChallengeData2016.zip and move its folders images and annotations into ade20k.",
        homepage="http://sceneparsing.csail.mit.edu",
        license="images for non-commercial research and education; annotations BSD-3-Clause",
        citation="Zhou et al., Scene Parsing through ADE20K Dataset, CVPR 2017",
        sizes={"train": 20_210, "validation": 2_000},
    )

    MAPS = {"train": "annotations/training", "validation": "annotations/validation"}
    PHOTOS = {"train": "ade20k/images/training", "validation": "ade20k/images/validation"}

    def names(self) -> dict[int, str | None]:
        return LABELS
