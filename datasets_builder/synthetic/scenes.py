"""Scenes drawn from a generator: colored shapes on an uneven, noisy background, each with its mask and description.

Lengths in constants are pixels of a 64 x 64 canvas; canvases of other sizes scale them.
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
COLOR_JITTER = 25  # of an object's color and of the background's blobs, in 0-255 units, as below
DULL = (70, 170)  # grey level of the background
DULL_TINT = 20
N_BLOBS = 3
NOISE = 6.0  # standard deviation in every pixel and channel

CROSS_ARM = 0.34  # half the width of a cross's arm; these three as shares of the radius
STAR_NOTCH = 0.5  # of a star's inner corners
RING_HOLE = 0.6
TEXTURES = ("plain", "striped", "dotted")
TEXTURE_PITCH = 3.5  # from stripe to stripe, from dot to dot
TEXTURE_DARK = 0.4  # what is left of the color in a stripe or dot


@dataclass(frozen=True)
class Object:
    """One thing in a scene: a mask, and a description that questions are asked and answered from.

    center: (y, x) in pixels, (0, 0) = the canvas's corner. radius in pixels, of the circle around it. full_area and
    visible_area in pixels, without and with what hides it. box: first and last pixels seen, (top, left, bottom, right).
    touches: indices of the objects it overlaps. inside: index of the ring around it.
    """

    color: str
    shape: str
    mask: np.ndarray  # (H, W) bool, what is seen of it
    center: tuple[float, float]
    radius: float
    texture: str = ""  # this and size: empty where the level does not tell them apart
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
    hidden: np.ndarray | None = None  # (H, W) bool: pixels of which nobody can say what they show


@dataclass(frozen=True)
class Question:
    """text asks for the objects of those indices, or for none; explanation says why it is these."""

    kind: str
    text: str
    indices: tuple[int, ...]
    explanation: str | None = None


ATTRIBUTES = ("size", "texture", "color", "shape")  # in the order in which they are said


def noun(attributes: dict[str, str], plural: bool = False) -> str:
    """As in "small striped red star", "red shapes"; an empty attribute is not said."""
    shape = attributes.get("shape", "shape")
    if plural:
        shape += "es" if shape.endswith("s") else "s"
    words = (attributes.get(name) for name in ATTRIBUTES[:-1])
    return " ".join([*(word for word in words if word), shape])


def matching(objects: list[Object], attributes: dict[str, str]) -> list[int]:
    """Indices of the objects that have all these attributes."""
    return [
        index
        for index, thing in enumerate(objects)
        if all(getattr(thing, name) == value for name, value in attributes.items())
    ]


def draw_background(rng: np.random.Generator, image_size: int) -> np.ndarray:
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


def paint(
    canvas: np.ndarray,
    mask: np.ndarray,
    color: str,
    texture: str,
    center: tuple[float, float],
    rng: np.random.Generator,
) -> None:
    """Paint a mask (H, W) of the canvas (H, W, 3) in a color near its name's, textured in a darker one."""
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
    """The finished picture (H, W, 3) uint8."""
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
    """Return the pixels whose center lies in the shape, (H, W) bool.

    The shape is inscribed in the circle of that center (y, x) and radius in pixels. size: (height, width) of the canvas
    in pixels. stretch: ratio of height to width of the shape, applied first. turn: degrees clockwise.
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
    """(y, x) of corners at angles in degrees, clockwise from the top."""
    angles = np.deg2rad(angles)
    return np.stack([-np.cos(angles), np.sin(angles)], axis=1) * np.reshape(radii, (-1, 1))


def _cross() -> np.ndarray:
    end = np.sqrt(1 - CROSS_ARM**2)
    arm = np.array([(-CROSS_ARM, -CROSS_ARM), (-end, -CROSS_ARM), (-end, CROSS_ARM)])
    quarter = np.array([[0, -1], [1, 0]])  # turns (y, x) to the right
    return np.concatenate([arm @ np.linalg.matrix_power(quarter, turn) for turn in range(4)])


CORNERS = {  # (y, x) in the unit circle
    "square": _corners(np.array([-45, 45, 135, 225])),
    "triangle": _corners(np.array([0, 120, 240])),
    "star": _corners(np.arange(10) * 36, np.tile([1, STAR_NOTCH], 5)),
    "cross": _cross(),
}


def cell(center: tuple[float, float], size: tuple[int, int], n_cells: int) -> tuple[int, int]:
    """Return the (row, column) that holds center (y, x) when a canvas of size (H, W) is cut into n_cells x n_cells."""
    return int(center[0] * n_cells / size[0]), int(center[1] * n_cells / size[1])
