"""Shapes: drawn scenes of colored shapes, the built-in data set that a small model learns in minutes.

The scenes are drawn by this project (Apache-2.0), so nothing is downloaded. The splits train, validation and test have
different scenes.

A row is one scene. It has several targets (one object, several objects, or an absent one), and one question without a
mask: how many objects there are or, in training, which object is in each cell of a grid.

- Level "easy": `shapes_easy.py`.
- Level "hard": `shapes_hard.py`.
- Level "both": easy and hard rows in turn.
- Level "drawings": `shapes_drawings.py`.
- Level "reason": `shapes_reason.py`.
- Level "reason_plain": `shapes_reason_plain.py`.

    builder = Shapes(config_name="easy", cache_dir="outputs/data", image_size=128)
    builder.download_and_prepare()
    rows = builder.as_dataset(split="validation")
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from types import ModuleType

import datasets
import numpy as np
from PIL import Image

from gemma_lisa.datasets_builder.rows import ROW_FEATURES, SEG_SLOT, encode_mask, new_row, new_target, sort_by_centroid
from gemma_lisa.datasets_builder.rows_builder import RowsBuilder

from . import shapes_drawings, shapes_easy, shapes_hard, shapes_reason, shapes_reason_plain
from .scenes import ATTRIBUTES, COLUMNS, ROWS, Object, Question, Scene, cell, matching, noun

GRID_SHARE = 0.85  # share of training rows with a grid question; the others have a counting question
GRID_SHAPE_SHARE = 0.8  # share of grid questions for shapes; the others ask for colors, which are learned sooner

# An answer names each object after its slot, in one of N_NAMES ways. [SEG] does not see these words, but its hidden
# state must predict the first of them. So training makes the state contain color, shape and position of the object.
N_NAMES = 4


def row_of_scene(
    scene: Scene, rng: np.random.Generator, training: bool, source: str, level: ModuleType = shapes_easy
) -> dict:
    """Return a scene as a row of ROW_FEATURES.

    Args:
        scene: the scene.
        rng: draws the questions.
        training: whether to use the question shares of training, and grid questions.
        source: source of the row.
        level: module of the level, which defines `ask`, COLORS, SHAPES and GRID. It can also define GRID_SHARE,
            COUNTING_SHARE (share of the rows without a grid question that have a counting question) and `answer`.
    """
    targets = [_target(question, scene, rng, level) for question in level.ask(scene, rng, training)]
    counting_share = getattr(level, "COUNTING_SHARE", 1.0)
    conversation = []
    if training and rng.random() < getattr(level, "GRID_SHARE", GRID_SHARE):
        conversation = [_grid_turn(scene, rng, level.GRID)]
    elif counting_share == 1 or rng.random() < counting_share:
        conversation = [_counting_turn(scene, rng, level)]
    png = BytesIO()
    Image.fromarray(scene.image).save(png, format="PNG", compress_level=1)
    return new_row(png.getvalue(), source, targets, conversation)


def _target(question: Question, scene: Scene, rng: np.random.Generator, level: ModuleType) -> dict:
    objects = [scene.objects[index] for index in question.indices]
    objects = [objects[index] for index in sort_by_centroid([thing.mask for thing in objects])]
    size = scene.image.shape[:2]
    answer = None
    if hasattr(level, "answer"):
        answer = level.answer(question, objects)
    elif objects:
        way = rng.integers(N_NAMES)
        named = ", ".join(f"{SEG_SLOT} {_name(thing, way, size)}" for thing in objects)
        answer = f"It is {named}." if len(objects) == 1 else f"They are {named}."
    return new_target(
        [question.text],
        [encode_mask(thing.mask) for thing in objects],
        kind=question.kind,
        answer=answer,
        ignore=None if scene.hidden is None else encode_mask(scene.hidden),
        explanation=question.explanation,
    )


def _name(thing: Object, way: int, size: tuple[int, int]) -> str:
    """Return a name such as "small striped red star", "star in red", "upper left" or "left upper"."""
    if way == 0:
        return noun({name: getattr(thing, name) for name in ATTRIBUTES})
    if way == 1:
        return f"{thing.shape} in {thing.color}"
    row_at, column_at = cell(thing.center, size, len(ROWS))
    row, column = ROWS[row_at], COLUMNS[column_at]
    return f"{row} {column}" if way == 2 else f"{column} {row}"


def _counting_turn(scene: Scene, rng: np.random.Generator, level: ModuleType) -> dict:
    """Return a question for the number of objects of a color and shape, a color, a shape, or of all (equal shares)."""
    attributes = {"color": str(rng.choice(list(level.COLORS))), "shape": str(rng.choice(level.SHAPES))}
    for name in ((), ("shape",), ("color",), ("color", "shape"))[rng.integers(4)]:
        del attributes[name]
    count = len(matching(scene.objects, attributes))
    return {"question": f"How many {noun(attributes, plural=True)} are there?", "answer": f"{count}."}


def _grid_turn(scene: Scene, rng: np.random.Generator, n_cells: int) -> dict:
    """Return a question for the shape or color in each cell, in raster order. The object drawn last wins.

    An object belongs to the cell of its center. In training, the language tower learns colors early and shapes late.
    Grid questions teach it shapes, which it cannot learn from questions for absent objects only.
    """
    attribute = "shape" if rng.random() < GRID_SHAPE_SHARE else "color"
    words = ["none"] * n_cells**2
    for thing in scene.objects:
        row, column = cell(thing.center, scene.image.shape[:2], n_cells)
        words[row * n_cells + column] = getattr(thing, attribute)
    question = f"Which {attribute} is in each of {n_cells} x {n_cells} cells?"
    return {"question": question, "answer": " ".join(words)}


@dataclass
class ShapesConfig(datasets.BuilderConfig):
    """Size, seed and number of the scenes."""

    image_size: int = 64  # side of the canvas in pixels; for drawings, the longer side
    seed: int = 0  # seed of the scenes
    train_rows: int = 24_000
    validation_rows: int = 100
    test_rows: int = 1_000


class Shapes(RowsBuilder):
    VERSION = datasets.Version("2.0.0")
    BUILDER_CONFIG_CLASS = ShapesConfig
    BUILDER_CONFIGS = [
        ShapesConfig(name="easy", version=VERSION),
        ShapesConfig(name="hard", version=VERSION, image_size=128),
        ShapesConfig(name="both", version=VERSION, image_size=128),
        ShapesConfig(name="drawings", version=VERSION, image_size=128),
        ShapesConfig(name="reason", version=VERSION, image_size=128),
        ShapesConfig(name="reason_plain", version=VERSION, image_size=128),
    ]
    DEFAULT_CONFIG_NAME = "easy"

    def __init__(self, *args, **kwargs):
        # 🤗 Datasets has this hash in the path of its cache. So rows of other code are drawn again
        super().__init__(*args, **{"hash": code_hash(), **kwargs})

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=ROW_FEATURES, license="Apache-2.0")

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        least = max(level.MIN_SIZE for level in LEVELS[self.config.name])
        if self.config.image_size < least:
            raise ValueError(f"shapes: image_size must be at least {least} pixels, got {self.config.image_size}.")
        n_rows = {
            "train": self.config.train_rows,
            "validation": self.config.validation_rows,
            "test": self.config.test_rows,
        }
        return [
            datasets.SplitGenerator(name, gen_kwargs={"split": name, "split_number": number, "n_rows": n_rows[name]})
            for number, name in enumerate(n_rows)
        ]

    def _generate_examples(self, split: str, split_number: int, n_rows: int) -> Iterator[tuple[int, dict]]:
        levels = LEVELS[self.config.name]
        for index in range(n_rows):
            level = levels[index % len(levels)]
            rng = np.random.default_rng((self.config.seed, split_number, index))
            scene = level.draw_scene(rng, self.config.image_size)
            source = f"shapes-{self.config.name}/{split}/{index:06d}"
            yield index, row_of_scene(scene, rng, split == "train", source, level)


@lru_cache(maxsize=1)
def code_hash() -> str:
    """Return a hash of the files of this folder, which draw the scenes and the questions."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]


LEVELS = {
    "easy": (shapes_easy,),
    "hard": (shapes_hard,),
    "both": (shapes_easy, shapes_hard),
    "drawings": (shapes_drawings,),
    "reason": (shapes_reason,),
    "reason_plain": (shapes_reason_plain,),
}
