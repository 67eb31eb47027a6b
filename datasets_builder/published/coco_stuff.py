"""Read COCO-Stuff 164k: photos of COCO 2017 with label maps of 80 classes of things and 91 of stuff.

    cocostuff/{train2017,val2017}/000000000009.png      v = class v + 1 of labels.txt, 255 = unlabeled
    coco/{train2017,val2017}/000000000009.jpg

A row is one photo. A target is one class in it, with all instances in one mask.
"""

from dataclasses import dataclass
from pathlib import Path

import datasets

from .archives import Archive, ArchiveConfig
from .label_map_builder import LabelMapBuilder

# The classes of labels.txt without the first, "unlabeled"
NAMES = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, street sign, "
    "stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, hat, "
    "backpack, umbrella, shoe, eye glasses, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, "
    "baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, plate, wine glass, cup, fork, knife, "
    "spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, "
    "potted plant, bed, mirror, dining table, window, desk, toilet, door, tv, laptop, mouse, remote, keyboard, "
    "cell phone, microwave, oven, toaster, sink, refrigerator, blender, book, clock, vase, scissors, teddy bear, "
    "hair drier, toothbrush, hair brush, banner, blanket, branch, bridge, building-other, bush, cabinet, cage, "
    "cardboard, carpet, ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, "
    "dirt, door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower, fog, food-other, "
    "fruit, furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat, metal, mirror-stuff, moss, "
    "mountain, mud, napkin, net, paper, pavement, pillow, plant-other, plastic, platform, playingfield, railing, "
    "railroad, river, road, rock, roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, "
    "stairs, stone, straw, structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick, "
    "wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other, waterdrops, window-blind, "
    "window-other, wood"
).split(", ")
# Plain names. By labels.md, window-other is any window, and sky-other is all sky except clouds.
SPOKEN = {
    "ceiling-tile": "tiled ceiling",
    "desk-stuff": "desk",
    "door-stuff": "door",
    "floor-marble": "marble floor",
    "floor-stone": "stone floor",
    "floor-tile": "tiled floor",
    "floor-wood": "wooden floor",
    "mirror-stuff": "mirror",
    "playingfield": "playing field",
    "sky-other": "sky",
    "wall-brick": "brick wall",
    "wall-concrete": "concrete wall",
    "wall-panel": "wall panel",
    "wall-stone": "stone wall",
    "wall-tile": "tiled wall",
    "wall-wood": "wooden wall",
    "waterdrops": "water drops",
    "window-blind": "window blind",
    "window-other": "window",
}
# Classes with this suffix are ignored: the mask of "the wall" (wall-other) would exclude the class brick wall.
REST = "-other"
UNLABELED = 255
LABELS = {value: SPOKEN.get(name, None if name.endswith(REST) else name) for value, name in enumerate(NAMES)}
LABELS[UNLABELED] = None
PHOTOS = "coco"  # below data_dir
SPLITS = {"train": "train2017", "validation": "val2017"}


@dataclass
class CocoStuffConfig(ArchiveConfig):
    def index_paths(self) -> list[Path]:
        folders = (self.root / CocoStuff.ARCHIVE.folder, self.root / PHOTOS)
        return [folder / name for folder in folders for name in SPLITS.values()]


class CocoStuff(LabelMapBuilder):
    VERSION = datasets.Version("1.1.0")  # increase it if the rows of the same files change
    BUILDER_CONFIG_CLASS = CocoStuffConfig
    BUILDER_CONFIGS = [CocoStuffConfig(name="default", version=VERSION)]
    DEFAULT_CONFIG_NAME = "default"
    ARCHIVE = Archive(
        title="COCO-Stuff",
        folder="cocostuff",
        get="Download stuffthingmaps_trainval2017.zip and move its folders train2017 and val2017 into cocostuff; move "
        "the folders of COCO's train2017.zip and val2017.zip into coco.",
        homepage="https://github.com/nightrome/cocostuff",
        license="photos under Flickr's terms of use; annotations CC BY 4.0",
        citation="Caesar et al., COCO-Stuff: Thing and Stuff Classes in Context, CVPR 2018",
        sizes={"train": 118_287, "validation": 5_000},
    )

    MAPS = SPLITS
    PHOTOS = {split: f"{PHOTOS}/{name}" for split, name in SPLITS.items()}
    SHARED_PHOTOS = True

    def names(self) -> dict[int, str | None]:
        return LABELS
