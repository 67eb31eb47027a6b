"""Level "drawings" of shapes: the objects of the easy level, as people draw them in a paint program.

Backgrounds and colors are flat and without noise. Shapes are rotated, stretched and of many sizes, and some have an
outline. Canvases have different aspect ratios.
"""

import colorsys

import numpy as np

from .scenes import BASE_SIZE, Object, Scene, shape_mask
from .shapes_easy import COLORS, GRID, MARGIN, MIN_SIZE, N_QUESTIONS, N_TRIES, SHAPES, ask

__all__ = ["COLORS", "GRID", "MIN_SIZE", "N_QUESTIONS", "SHAPES", "ask", "draw_scene"]

# Ranges of hue in degrees, and of saturation and value in 0-1
HUES = {"red": (-12.0, 10.0), "green": (95.0, 150.0), "blue": (208.0, 248.0)}
SATURATION = (0.65, 1.0)
VALUE = (0.6, 1.0)
WHITE_SHARE, BLACK_SHARE = 0.5, 0.1  # share of backgrounds; the others are grey with a tint
GREY = (60, 250)
TINT = 12  # maximum difference of a channel from the grey level (0-255)

N_OBJECTS = (1, 5)
RADIUS = (5.0, 15.0)  # in pixels of a 64 x 64 scene, before stretching
STRETCH = (0.8, 1.25)  # ratio of height to width
UPRIGHT_SHARE = 0.5  # share of objects; the others are rotated by a random angle
OUTLINE_SHARE = 0.3  # share of scenes whose objects have an outline
OUTLINE_WIDTH = (0.06, 0.14)  # as a share of the radius
OUTLINE_GREYS = (0, 40)
SHRINK = 0.9  # factor of the largest radius after each layout that did not fit
SQUARE_SHARE = 0.5  # share of square canvases
PROPORTION = (0.55, 1.0)  # ratio of the short to the long side
SUPERSAMPLING = 3  # each pixel has 3 x 3 samples, for smooth edges as in a paint program


def draw_scene(rng: np.random.Generator, image_size: int) -> Scene:
    """Return a scene of 1-5 separate objects on a canvas whose long side is image_size pixels."""
    height, width = _draw_size(rng, image_size)
    canvas = np.empty((height, width, 3), dtype=np.float32)
    canvas[:] = _draw_background_color(rng)
    outline = rng.uniform(*OUTLINE_WIDTH) if rng.random() < OUTLINE_SHARE else 0.0
    objects = []
    for center, radius in _draw_places(rng, (height, width), image_size):
        color, shape = COLORS[rng.integers(len(COLORS))], SHAPES[rng.integers(len(SHAPES))]
        turn = 0.0 if rng.random() < UPRIGHT_SHARE else rng.uniform(0, 360)
        form = {"shape": shape, "center": center, "turn": turn, "stretch": rng.uniform(*STRETCH)}
        coverage = _coverage(**form, radius=radius, size=(height, width))
        if outline:
            _blend(canvas, coverage, np.full(3, rng.uniform(*OUTLINE_GREYS)))
            inner = _coverage(**form, radius=radius * (1 - outline), size=(height, width))
        else:
            inner = coverage
        _blend(canvas, inner, _draw_color(rng, color))
        objects.append(Object(color, shape, coverage >= 0.5, center, radius))
    return Scene(canvas.round().clip(0, 255).astype(np.uint8), objects)


def _draw_size(rng: np.random.Generator, image_size: int) -> tuple[int, int]:
    """Return (height, width) in pixels; the larger one is image_size."""
    if rng.random() < SQUARE_SHARE:
        return image_size, image_size
    short = round(image_size * rng.uniform(*PROPORTION))
    return (short, image_size) if rng.random() < 0.5 else (image_size, short)


def _draw_background_color(rng: np.random.Generator) -> np.ndarray:
    kind = rng.random()
    if kind < WHITE_SHARE:
        return np.full(3, 255.0)
    if kind < WHITE_SHARE + BLACK_SHARE:
        return np.zeros(3)
    return (rng.uniform(*GREY) + rng.uniform(-TINT, TINT, 3)).clip(0, 255)


def _draw_color(rng: np.random.Generator, name: str) -> np.ndarray:
    hue = rng.uniform(*HUES[name]) % 360 / 360
    return 255 * np.array(colorsys.hsv_to_rgb(hue, rng.uniform(*SATURATION), rng.uniform(*VALUE)))


def _draw_places(
    rng: np.random.Generator, size: tuple[int, int], image_size: int
) -> list[tuple[tuple[float, float], float]]:
    """Return (center (y, x), radius) in pixels of each object, with a margin to other objects and to the border."""
    scale = image_size / BASE_SIZE
    margin = MARGIN * scale
    n_objects = int(rng.integers(N_OBJECTS[0], N_OBJECTS[1] + 1))
    places, largest = [], RADIUS[1]
    while len(places) < n_objects:
        places.clear()
        for _ in range(n_objects):
            radius = rng.uniform(RADIUS[0], largest) * scale
            # Largest radius after stretching, with half the margin
            reach = radius * max(STRETCH) ** 0.5 + margin / 2
            for _ in range(N_TRIES):
                y, x = (float(rng.uniform(reach, side - reach)) if side > 2 * reach else -1.0 for side in size)
                if min(y, x) < 0:
                    break
                if all(
                    np.hypot(y - other_y, x - other_x) >= reach + other_radius * max(STRETCH) ** 0.5 + margin / 2
                    for (other_y, other_x), other_radius in places
                ):
                    places.append(((y, x), radius))
                    break
        # Otherwise five large objects on a narrow canvas would never fit
        largest = max(RADIUS[0], SHRINK * largest)
    return places


def _coverage(
    shape: str, center: tuple[float, float], radius: float, turn: float, stretch: float, size: tuple[int, int]
) -> np.ndarray:
    """Return the share of each pixel that the shape covers, (H, W) float32 in 0-1."""
    reach = radius * max(STRETCH) ** 0.5 + 1
    top, left = (max(0, int(at - reach)) for at in center)
    bottom, right = (min(side, int(at + reach) + 1) for at, side in zip(center, size, strict=True))
    fine = shape_mask(
        shape,
        ((center[0] - top) * SUPERSAMPLING, (center[1] - left) * SUPERSAMPLING),
        radius * SUPERSAMPLING,
        ((bottom - top) * SUPERSAMPLING, (right - left) * SUPERSAMPLING),
        turn,
        stretch,
    )
    coverage = np.zeros(size, dtype=np.float32)
    coverage[top:bottom, left:right] = fine.reshape(bottom - top, SUPERSAMPLING, right - left, SUPERSAMPLING).mean(
        (1, 3)
    )
    return coverage


def _blend(canvas: np.ndarray, coverage: np.ndarray, rgb: np.ndarray) -> None:
    """Blend rgb (3,) in 0-255 into the canvas (H, W, 3) with weights coverage (H, W)."""
    canvas += coverage[:, :, None] * (rgb.astype(np.float32) - canvas)
