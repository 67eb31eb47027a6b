"""Level "easy" of shapes: 2-5 separate circles, squares and triangles in red, green and blue.

Questions ask for them by color and shape.
"""

import numpy as np

from .scenes import (
    BASE_SIZE,
    Object,
    Question,
    Scene,
    add_noise,
    cell,
    draw_background,
    matching,
    noun,
    paint,
    shape_mask,
)

COLORS = ("red", "green", "blue")
SHAPES = ("circle", "square", "triangle")
N_QUESTIONS = 4  # per scene; always possible: of the nine pairs of color and shape, at least four are absent
# Shares of the kinds of questions. If the scene has no question of a kind, another kind is drawn. All scenes have
# absent ones, so these become more frequent: the resulting shares are 0.40, 0.15, 0.15, 0.10 and 0.20.
EVAL = {"color_shape": 0.42, "color": 0.20, "shape": 0.18, "plural": 0.07, "absent": 0.13}
# Training needs more absent questions than evaluation. The resulting shares are 0.34, 0.13, 0.12, 0.11 and 0.30.
TRAIN = {"color_shape": 0.35, "color": 0.16, "shape": 0.15, "plural": 0.10, "absent": 0.24}
# Shares of absent questions. near: color and shape are both in the scene, but on different objects. far: they are not.
ABSENT = {"near_pair": 0.35, "far_pair": 0.35, "absent_color": 0.10, "absent_shape": 0.10, "absent_plural": 0.10}

MIN_SIZE = 32  # pixels; in smaller scenes, a triangle can have an empty mask
# Lengths in pixels of a 64 x 64 scene, scaled for other sizes
RADIUS = (7.0, 11.0)  # range of the radius of the circle around an object
MARGIN = 2.0  # minimum distance between objects, and twice the minimum distance to the border
N_TRIES = 30  # positions tried for an object before the layout of the scene starts again
GRID = 4  # the grid question has GRID x GRID cells


def draw_scene(rng: np.random.Generator, image_size: int) -> Scene:
    """Return a scene of 2-5 separate objects on a canvas of image_size x image_size pixels."""
    canvas = draw_background(rng, image_size)
    objects = []
    for center, radius in draw_places(rng, rng.integers(2, 6), image_size):
        color, shape = COLORS[rng.integers(len(COLORS))], SHAPES[rng.integers(len(SHAPES))]
        mask = shape_mask(shape, center, radius, (image_size, image_size))
        paint(canvas, mask, color, "", center, rng)
        objects.append(Object(color, shape, mask, center, radius))
    return Scene(add_noise(canvas, rng), objects)


def draw_places(
    rng: np.random.Generator, n_objects: int, image_size: int, n_cells: int = GRID
) -> list[tuple[tuple[float, float], float]]:
    """Return (center (y, x), radius) in pixels of each object, with a margin, and at most one center per grid cell.

    Args:
        rng: draws the places.
        n_objects: number of objects.
        image_size: side of the canvas in pixels.
        n_cells: the grid has n_cells x n_cells cells.
    """
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
                # With two centers in a cell, the grid question would have no unique answer
                if all(
                    np.hypot(y - other_y, x - other_x) >= radius + other_radius + margin
                    and cell((y, x), (image_size,) * 2, n_cells) != cell((other_y, other_x), (image_size,) * 2, n_cells)
                    for (other_y, other_x), other_radius in places
                ):
                    places.append(((y, x), radius))
                    break
    return places


def ask(scene: Scene, rng: np.random.Generator, training: bool) -> list[Question]:
    """Return N_QUESTIONS different questions. training: whether to draw kinds by TRAIN instead of EVAL."""
    options = _question_options(scene.objects)
    return [_draw_question(rng, options, TRAIN if training else EVAL) for _ in range(N_QUESTIONS)]


def _question_options(objects: list[Object]) -> dict[str, list[Question]]:
    """Return all questions with one correct answer in the scene, by kind."""
    options = {kind: [] for kind in (*EVAL, *ABSENT)}
    for color in (*COLORS, None):
        for shape in (*SHAPES, None):
            attributes = {name: value for name, value in (("color", color), ("shape", shape)) if value}
            if not attributes:
                continue
            kind = "color_shape" if color and shape else "color" if color else "shape"
            singular, plural = f"the {noun(attributes)}", f"all the {noun(attributes, plural=True)}"
            found = tuple(matching(objects, attributes))
            if len(found) > 1:
                options["plural"].append(Question("plural", plural, found))
            elif found:
                options[kind].append(Question(kind, singular, found))
            else:
                absent_kind = f"absent_{kind}"
                if kind == "color_shape":
                    near = matching(objects, {"color": color}) and matching(objects, {"shape": shape})
                    absent_kind = "near_pair" if near else "far_pair"
                options[absent_kind].append(Question("absent", singular, ()))
                options["absent_plural"].append(Question("absent", plural, ()))
    return options


def _draw_question(rng: np.random.Generator, options: dict[str, list[Question]], shares: dict[str, float]) -> Question:
    """Draw a question and remove it from options, so that the texts of a row are distinct."""
    kind = _draw_kind(rng, {kind: share for kind, share in shares.items() if kind == "absent" or options[kind]})
    if kind == "absent":
        kind = _draw_kind(rng, {kind: share for kind, share in ABSENT.items() if options[kind]})
    return options[kind].pop(rng.integers(len(options[kind])))


def _draw_kind(rng: np.random.Generator, shares: dict[str, float]) -> str:
    weights = np.array(list(shares.values()))
    return list(shares)[rng.choice(len(shares), p=weights / weights.sum())]
