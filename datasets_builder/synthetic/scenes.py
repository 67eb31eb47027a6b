"""Building blocks of drawn scenes: objects with masks and descriptions, shapes, textures and backgrounds.

Lengths in constants are pixels of a 64 x 64 canvas. For canvases of other sizes, they are scaled.
"""

from dataclasses import dataclass

import numpy as np

BASE_SIZE = 64

COLORS = {  # RGB before jitter
    "red": (215, 50, 50),
    "green": (50, 180, 60),
    "blue": (55, 75, 220),
    "yellow": (225, 205, 45),
    "purple": (150, 55, 190),
    "white": (235, 235, 235),
}
# Maximum change of an object's color, and of the background in a blob (0-255, like the values below)
COLOR_JITTER = 25
DULL = (70, 170)  # range of the background's grey level
DULL_TINT = 20  # maximum difference of a background's channel from its grey level
# Names of the quarters of the canvas
ROWS = ("top", "upper", "lower", "bottom")
COLUMNS = ("leftmost", "left", "right", "rightmost")
N_BLOBS = 3
NOISE = 6.0  # standard deviation, per pixel and channel

# As shares of the radius
CROSS_ARM = 0.34  # half the width of an arm
STAR_NOTCH = 0.5  # distance of the inner corners from the center
RING_HOLE = 0.6  # radius of the hole
TEXTURES = ("plain", "striped", "dotted")
TEXTURE_PITCH = 3.5  # distance between stripes or dots
TEXTURE_DARK = 0.4  # factor of the color in a stripe or dot


@dataclass(frozen=True)
class Object:
    """An object of a scene: its mask, and the description that questions and answers are made from.

    Args:
        color: name of the color.
        shape: name of the shape.
        mask: (H, W) bool, visible pixels.
        center: (y, x) in pixels; (0, 0) is the top left corner of the canvas.
        radius: radius in pixels of the circle around the object.
        texture: name of the texture; empty if the level has no textures.
        size: "small" or "large"; empty if the level has no sizes.
        full_area: area in pixels, including hidden parts.
        visible_area: area in pixels of the visible part.
        box: first and last visible pixels, (top, left, bottom, right).
        touches: indices of the objects that it overlaps.
        inside: index of the ring around it.
    """

    color: str
    shape: str
    mask: np.ndarray
    center: tuple[float, float]
    radius: float
    texture: str = ""
    size: str = ""
    full_area: int = 0
    visible_area: int = 0
    box: tuple[int, int, int, int] = (0, 0, 0, 0)
    touches: frozenset[int] = frozenset()
    inside: int | None = None


@dataclass(frozen=True)
class Scene:
    image: np.ndarray  # (H, W, 3) uint8, RGB
    objects: list[Object]
    hidden: np.ndarray | None = None  # (H, W) bool: ignored pixels, whose content cannot be recognized


@dataclass(frozen=True)
class Question:
    """A question for the objects with these indices, which can be empty, and an explanation of the answer."""

    kind: str
    text: str
    indices: tuple[int, ...]
    explanation: str | None = None


ATTRIBUTES = ("size", "texture", "color", "shape")  # in their order in a phrase


def noun(attributes: dict[str, str], plural: bool = False) -> str:
    """Return a phrase such as "small striped red star" or "red shapes". Empty attributes are omitted."""
    shape = attributes.get("shape", "shape")
    if plural:
        shape += "es" if shape.endswith("s") else "s"
    words = (attributes.get(name) for name in ATTRIBUTES[:-1])
    return " ".join([*(word for word in words if word), shape])


def matching(objects: list[Object], attributes: dict[str, str]) -> list[int]:
    """Return the indices of the objects with all these attributes."""
    return [
        index
        for index, thing in enumerate(objects)
        if all(getattr(thing, name) == value for name, value in attributes.items())
    ]


def draw_background(rng: np.random.Generator, image_size: int) -> np.ndarray:
    """Return a gradient between two dull colors with soft blobs, (H, W, 3) float32 in 0-255."""
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


def paint(
    canvas: np.ndarray,
    mask: np.ndarray,
    color: str,
    texture: str,
    center: tuple[float, float],
    rng: np.random.Generator,
) -> None:
    """Paint a mask (H, W) on the canvas (H, W, 3) with a jittered color and, in a darker tone, its texture."""
    rgb = COLORS[color] + rng.uniform(-COLOR_JITTER, COLOR_JITTER, 3)
    canvas[mask] = rgb
    if texture in ("", "plain"):
        return
    ys, xs = np.nonzero(mask)
    pitch = TEXTURE_PITCH * len(canvas) / BASE_SIZE
    across = (xs + 0.5 - center[1]) / pitch
    down = (ys + 0.5 - center[0]) / pitch
    if texture == "striped":
        dark = (down + 0.25) % 1 < 0.5
    else:
        dark = np.hypot((across + 0.5) % 1 - 0.5, (down + 0.5) % 1 - 0.5) < 0.32
    canvas[ys[dark], xs[dark]] = TEXTURE_DARK * rgb


def add_noise(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the canvas with noise, (H, W, 3) uint8."""
    canvas = canvas + NOISE * rng.standard_normal(canvas.shape, dtype=np.float32)
    return canvas.clip(0, 255).astype(np.uint8)


def shape_mask(
    shape: str,
    center: tuple[float, float],
    radius: float,
    size: tuple[int, int],
    turn: float = 0.0,
    stretch: float = 1.0,
) -> np.ndarray:
    """Return the mask of a shape, (H, W) bool: the pixels whose center is in the shape.

    Args:
        shape: name of the shape.
        center: (y, x) in pixels of the circle around the shape.
        radius: radius in pixels of this circle.
        size: (height, width) of the canvas in pixels.
        turn: rotation in degrees, clockwise.
        stretch: ratio of height to width, applied before the rotation.
    """
    height, width = size
    dy = (np.arange(height)[:, None] + 0.5 - center[0]) / radius
    dx = (np.arange(width)[None, :] + 0.5 - center[1]) / radius
    if turn:
        sine, cosine = np.sin(np.deg2rad(turn)), np.cos(np.deg2rad(turn))
        dy, dx = cosine * dy - sine * dx, sine * dy + cosine * dx
    if stretch != 1:
        dy, dx = dy / stretch**0.5, dx * stretch**0.5
    if shape in ("circle", "ring"):
        distance = np.hypot(dy, dx)
        return (distance <= 1) & (distance >= (RING_HOLE if shape == "ring" else 0))
    inside = np.zeros(size, dtype=bool)
    corners = CORNERS[shape]
    for (y0, x0), (y1, x1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        # A ray to the right crosses this side
        crosses = ((y0 > dy) != (y1 > dy)) & (dx < x0 + (dy - y0) * (x1 - x0) / (y1 - y0))
        inside ^= crosses
    return inside


def _corners(angles: np.ndarray, radii: np.ndarray | float = 1.0) -> np.ndarray:
    """Return (y, x) of corners at angles in degrees, clockwise from the top, (N, 2)."""
    angles = np.deg2rad(angles)
    return np.stack([-np.cos(angles), np.sin(angles)], axis=1) * np.reshape(radii, (-1, 1))


def _cross() -> np.ndarray:
    end = np.sqrt(1 - CROSS_ARM**2)
    arm = np.array([(-CROSS_ARM, -CROSS_ARM), (-end, -CROSS_ARM), (-end, CROSS_ARM)])
    quarter = np.array([[0, -1], [1, 0]])  # rotates (y, x) by 90 degrees
    return np.concatenate([arm @ np.linalg.matrix_power(quarter, turn) for turn in range(4)])


CORNERS = {  # (y, x) in the unit circle
    "square": _corners(np.array([-45, 45, 135, 225])),
    "triangle": _corners(np.array([0, 120, 240])),
    "star": _corners(np.arange(10) * 36, np.tile([1, STAR_NOTCH], 5)),
    "cross": _cross(),
}


def cell(center: tuple[float, float], size: tuple[int, int], n_cells: int) -> tuple[int, int]:
    """Return the (row, column) of the cell that contains center (y, x), for n_cells x n_cells cells on size (H, W)."""
    return int(center[0] * n_cells / size[0]), int(center[1] * n_cells / size[1])
