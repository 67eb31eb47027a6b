"""Shapes: small scenes of colored shapes, the built-in data set that a small model learns in minutes.

Drawn by this project, Apache-2.0; nothing is downloaded. Splits: train, validation, test, of scenes that differ.
A row is one scene of 2-5 circles, squares and triangles in red, green and blue on an uneven, noisy background, with
four targets (one thing, several, or one that is not there) and a round of counting, or in training of the grid.

    builder = Shapes(config_name="easy", cache_dir="outputs/data", image_size=128)
    builder.download_and_prepare()
    rows = builder.as_dataset(split="validation")
"""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

import datasets
import numpy as np
from PIL import Image

from .rows import ROW_FEATURES, SEG_SLOT, encode_mask, sort_by_centroid

COLORS = {"red": (215, 50, 50), "green": (50, 180, 60), "blue": (55, 75, 220)}  # RGB before jitter
SHAPES = ("circle", "square", "triangle")
SIDES = {"square": 4, "triangle": 3}

N_QUESTIONS = 4  # a scene; every scene has that many distinct ones: of its nine color-shape pairs four are absent
# How the kinds of questions are drawn. A kind that the scene cannot give is drawn again, which favors the absent, that
# every scene has: what comes out is 0.40, 0.15, 0.15, 0.10 and 0.20.
EVAL = {"color_shape": 0.42, "color": 0.20, "shape": 0.18, "plural": 0.07, "absent": 0.13}
# Saying that a thing is not there takes more practice than it takes testing: 0.34, 0.13, 0.12, 0.11 and 0.30.
TRAIN = {"color_shape": 0.35, "color": 0.16, "shape": 0.15, "plural": 0.10, "absent": 0.24}
# Among the absent: a pair whose color and shape are both in the scene, on different things (near) or are not (far).
ABSENT = {"near_pair": 0.35, "far_pair": 0.35, "absent_color": 0.10, "absent_shape": 0.10, "absent_plural": 0.10}

# Lengths in pixels of a 64 x 64 scene; others are scaled.
BASE_SIZE = 64
MIN_SIZE = 32  # below, a triangle may cover no pixel center
RADIUS = (7.0, 11.0)  # of the circle around the object
MARGIN = 2.0  # between objects, and half of it to the border
N_TRIES = 30  # places tried for one object before the whole scene is laid out again

COLOR_JITTER = 25  # of an object's color and of the background's blobs, in 0-255 units, as below
DULL = (70, 170)  # grey level of the background
DULL_TINT = 20
N_BLOBS = 3
NOISE = 6.0  # standard deviation in every pixel and channel

GRID = 4  # cells a side of the grid question
GRID_SHARE = 0.85  # of the training rows; the others count
GRID_SHAPE_SHARE = 0.8  # of the grid questions; the others ask for colors, which are learned sooner
LOCATIONS = (
    ("at the top left", "at the top", "at the top right"),
    ("on the left", "in the middle", "on the right"),
    ("at the bottom left", "at the bottom", "at the bottom right"),
)


@dataclass(frozen=True)
class Object:
    """One thing in a scene. center: (y, x) in pixels, (0, 0) = the canvas's corner; radius in pixels."""

    color: str
    shape: str
    mask: np.ndarray  # (H, W) bool
    center: tuple[float, float]
    radius: float


@dataclass(frozen=True)
class Scene:
    image: np.ndarray  # (H, W, 3) uint8, RGB
    objects: list[Object]


def draw_scene(rng: np.random.Generator, image_size: int) -> Scene:
    """2-5 objects, apart from each other and inside an image_size x image_size canvas (pixels)."""
    canvas = _draw_background(rng, image_size)
    objects = []
    for center, radius in _draw_places(rng, rng.integers(2, 6), image_size):
        color = list(COLORS)[rng.integers(len(COLORS))]
        shape = SHAPES[rng.integers(len(SHAPES))]
        mask = _shape_mask(shape, center, radius, image_size)
        canvas[mask] = COLORS[color] + rng.uniform(-COLOR_JITTER, COLOR_JITTER, 3)
        objects.append(Object(color, shape, mask, center, radius))
    canvas += NOISE * rng.standard_normal(canvas.shape, dtype=np.float32)
    return Scene(canvas.clip(0, 255).astype(np.uint8), objects)


def _draw_background(rng: np.random.Generator, image_size: int) -> np.ndarray:
    """A gradient between two dull colors with soft blobs on it: (H, W, 3) float32 in 0-255."""
    position = (np.arange(image_size, dtype=np.float32) + 0.5) / image_size  # (H,), also (W,)
    start, end = rng.uniform(*DULL, (2, 1)) + rng.uniform(-DULL_TINT, DULL_TINT, (2, 3))
    angle = rng.uniform(0, 2 * np.pi)
    down, right = np.sin(angle), np.cos(angle)
    along = down * (position[:, None] - 0.5) + right * (position[None, :] - 0.5)
    along = along / (abs(down) + abs(right)) + 0.5  # 0 in one corner, 1 in the opposite one
    canvas = start + along[:, :, None] * (end - start)

    centers = rng.uniform(0, 1, (2, N_BLOBS, 1))
    widths = rng.uniform(0.1, 0.3, (N_BLOBS, 1))
    heights = rng.uniform(-COLOR_JITTER, COLOR_JITTER, (N_BLOBS, 3))
    rows, columns = np.exp(-(((position - centers) / widths) ** 2))  # (N_BLOBS, H), (N_BLOBS, W)
    canvas += np.tensordot(rows[:, :, None] * columns[:, None, :], heights, axes=(0, 0))
    return canvas.astype(np.float32)


def _draw_places(rng: np.random.Generator, n_objects: int, image_size: int) -> list[tuple[tuple[float, float], float]]:
    """(center (y, x), radius) in pixels of each object: circles that keep their margin, no two in one grid cell."""
    scale = image_size / BASE_SIZE
    margin = MARGIN * scale
    places = []
    while len(places) < n_objects:
        places.clear()
        for _ in range(n_objects):
            radius = rng.uniform(*RADIUS) * scale
            inset = radius + margin / 2
            for _ in range(N_TRIES):
                y, x = rng.uniform(inset, image_size - inset, 2).tolist()
                # The grid question has one answer only if a cell holds one center at most.
                if all(
                    np.hypot(y - other_y, x - other_x) >= radius + other_radius + margin
                    and _cell((y, x), image_size, GRID) != _cell((other_y, other_x), image_size, GRID)
                    for (other_y, other_x), other_radius in places
                ):
                    places.append(((y, x), radius))
                    break
    return places


def _shape_mask(shape: str, center: tuple[float, float], radius: float, image_size: int) -> np.ndarray:
    """Pixels (H, W) bool whose center lies in the shape, which is inscribed in the circle of that radius."""
    pixel_centers = np.arange(image_size) + 0.5
    dy, dx = pixel_centers[:, None] - center[0], pixel_centers[None, :] - center[1]
    if shape == "circle":
        return dy**2 + dx**2 <= radius**2
    n_sides = SIDES[shape]
    inside = np.ones((image_size, image_size), dtype=bool)
    for side in range(n_sides):
        outward = np.pi / 2 + 2 * np.pi * side / n_sides  # the first side is the bottom
        inside &= np.sin(outward) * dy + np.cos(outward) * dx <= radius * np.cos(np.pi / n_sides)
    return inside


def _cell(center: tuple[float, float], image_size: int, n_cells: int) -> tuple[int, int]:
    """(row, column) of the cell that holds center when the canvas is cut into n_cells x n_cells."""
    return int(center[0] * n_cells / image_size), int(center[1] * n_cells / image_size)


def row_of_scene(scene: Scene, rng: np.random.Generator, training: bool, source: str) -> dict:
    """The scene as a row of ROW_FEATURES; training chooses the shares of questions, and the grid beside counting."""
    options = _question_options(scene.objects)
    questions = [_draw_question(rng, options, TRAIN if training else EVAL) for _ in range(N_QUESTIONS)]
    asks_grid = training and rng.random() < GRID_SHARE
    conversation = [_grid_round(scene, rng) if asks_grid else _counting_round(scene, rng)]
    png = BytesIO()
    Image.fromarray(scene.image).save(png, format="PNG", compress_level=1)
    return {
        "image": {"bytes": png.getvalue(), "path": None},
        "source": source,
        "targets": [_target(text, objects, len(scene.image)) for text, objects in questions],
        "conversation": conversation,
    }


def _phrase(color: str | None, shape: str | None) -> str:
    """As in "red circle", "red shape", "circle", "shape"."""
    noun = shape or "shape"
    return f"{color} {noun}" if color else noun


def _matches(objects: list[Object], color: str | None, shape: str | None) -> list[Object]:
    return [thing for thing in objects if color in (None, thing.color) and shape in (None, thing.shape)]


def _question_options(objects: list[Object]) -> dict[str, list[tuple[str, list[Object]]]]:
    """Every text with one right answer in the scene, by kind: (text, the objects that it means)."""
    options = {kind: [] for kind in (*EVAL, *ABSENT)}
    for color in (*COLORS, None):
        for shape in (*SHAPES, None):
            if color is None and shape is None:
                continue
            kind = "color_shape" if color and shape else "color" if color else "shape"
            singular, plural = f"the {_phrase(color, shape)}", f"all the {_phrase(color, shape)}s"
            found = _matches(objects, color, shape)
            if len(found) > 1:
                options["plural"].append((plural, found))
            elif found:
                options[kind].append((singular, found))
            else:
                if kind == "color_shape":
                    near = _matches(objects, color, None) and _matches(objects, None, shape)
                    options["near_pair" if near else "far_pair"].append((singular, []))
                else:
                    options[f"absent_{kind}"].append((singular, []))
                options["absent_plural"].append((plural, []))
    return options


def _draw_question(
    rng: np.random.Generator, options: dict[str, list[tuple[str, list[Object]]]], shares: dict[str, float]
) -> tuple[str, list[Object]]:
    """Take one question out of options, so that no text of a row comes twice."""
    kind = _draw_kind(rng, {kind: share for kind, share in shares.items() if kind == "absent" or options[kind]})
    if kind == "absent":
        kind = _draw_kind(rng, {kind: share for kind, share in ABSENT.items() if options[kind]})
    return options[kind].pop(rng.integers(len(options[kind])))


def _draw_kind(rng: np.random.Generator, shares: dict[str, float]) -> str:
    weights = np.array(list(shares.values()))
    return list(shares)[rng.choice(len(shares), p=weights / weights.sum())]


def _target(text: str, objects: list[Object], image_size: int) -> dict:
    """What text asks for, with an answer that names each thing after its slot.

    The words after [SEG] cannot leak into its mask, but learning to write them puts color and shape into its state.
    """
    objects = [objects[index] for index in sort_by_centroid([thing.mask for thing in objects])]
    answer = None
    if len(objects) == 1:
        answer = f"It is {SEG_SLOT}, a {_phrase(objects[0].color, objects[0].shape)}."
    elif objects:  # what is alike but for its place is told apart by it
        named = (f"{SEG_SLOT}, a {_phrase(o.color, o.shape)} {_location(o.center, image_size)}" for o in objects)
        answer = f"They are {', '.join(named)}."
    return {
        "texts": [text],
        "is_sentence": False,
        "masks": [encode_mask(thing.mask) for thing in objects],
        "answer": answer,
        "ignore": None,
        "explanation": None,
    }


def _location(center: tuple[float, float], image_size: int) -> str:
    row, column = _cell(center, image_size, len(LOCATIONS))
    return LOCATIONS[row][column]


def _counting_round(scene: Scene, rng: np.random.Generator) -> dict:
    """How many of a color and shape, a color, a shape, or at all (equal shares); may be none."""
    color, shape = list(COLORS)[rng.integers(len(COLORS))], SHAPES[rng.integers(len(SHAPES))]
    color, shape = ((color, shape), (color, None), (None, shape), (None, None))[rng.integers(4)]
    count = len(_matches(scene.objects, color, shape))
    return {"question": f"How many {_phrase(color, shape)}s are there?", "answer": f"{count}."}


def _grid_round(scene: Scene, rng: np.random.Generator) -> dict:
    """The shape, or the color, at each place, in raster order.

    Colors reach the language tower early, shapes do not; naming them all makes it see them before it is asked whether
    one is absent, which it cannot learn from that question alone.
    """
    attribute = "shape" if rng.random() < GRID_SHAPE_SHARE else "color"
    words = ["none"] * GRID**2
    for thing in scene.objects:
        row, column = _cell(thing.center, len(scene.image), GRID)
        words[row * GRID + column] = getattr(thing, attribute)
    return {"question": f"Which {attribute} is in each cell?", "answer": " ".join(words)}


@dataclass
class ShapesConfig(datasets.BuilderConfig):
    """How large the scenes are, which ones, and how many."""

    image_size: int = 64  # pixels a side
    seed: int = 0  # another seed, other scenes
    train_rows: int = 24_000
    validation_rows: int = 100
    test_rows: int = 1_000


class Shapes(datasets.GeneratorBasedBuilder):
    VERSION = datasets.Version("1.7.0")  # raise it whenever scenes or questions change: the cache does not notice
    BUILDER_CONFIG_CLASS = ShapesConfig
    BUILDER_CONFIGS = [ShapesConfig(name="easy", version=VERSION)]
    DEFAULT_CONFIG_NAME = "easy"

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=ROW_FEATURES, license="Apache-2.0")

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        if self.config.image_size < MIN_SIZE:
            raise ValueError(f"shapes: image_size is {self.config.image_size} pixels; take at least {MIN_SIZE}.")
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
        for index in range(n_rows):
            rng = np.random.default_rng((self.config.seed, split_number, index))
            scene = draw_scene(rng, self.config.image_size)
            source = f"shapes-{self.config.name}/{split}/{index:06d}"
            yield index, row_of_scene(scene, rng, split == "train", source)
