"""Scenes of level "hard" of shapes: 4-9 textured objects that touch, hide and enclose each other."""

from dataclasses import dataclass

import numpy as np

from .scenes import (
    ATTRIBUTES,
    BASE_SIZE,
    COLORS,
    RING_HOLE,
    TEXTURES,
    Object,
    Scene,
    add_noise,
    draw_background,
    paint,
    shape_mask,
)

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
SIZES = {"small": (4.0, 5.5), "large": (7.5, 10.0)}  # range of the radius; there is nothing in between
LARGE_SHARE = 0.45
N_OBJECTS = (4, 9)
MARGIN = 1.5  # minimum distance of objects that do not touch, and twice the minimum distance to the border
ENCLOSED_MARGIN = 0.7  # minimum distance between a ring and an object in it
N_TRIES = 40  # positions tried for an object before the layout of the scene starts again

DISTRACTOR_SHARE = 0.5  # share of objects that differ from an earlier one in at most one attribute
ENCLOSED_SHARE = 0.6  # share of objects that are put into a large ring, if there is an empty one
TOUCHING_SHARE = 0.3
TOUCHING_DISTANCE = (0.55, 0.85)  # range of the distance between centers, as a share of the sum of the radii
MIN_VISIBLE = 0.5  # minimum visible share of each object's area
MIN_OVERLAP = 4.0  # minimum area that one of two touching objects hides of the other

HAZE_SHARE = 0.25  # share of scenes with haze: a grey ellipse whose pixels are ignored
HAZE_RADIUS = (5.0, 9.0)
HAZE_GREY = (110, 190)
HAZE_OPACITY = 0.75


@dataclass(frozen=True)
class _Plan:
    """An object before it is painted. Lengths are in pixels; touches and inside are indices of earlier objects."""

    size: str
    texture: str
    color: str
    shape: str
    center: tuple[float, float]
    radius: float
    area: np.ndarray  # (H, W) bool, including hidden pixels
    touches: int | None
    inside: int | None


def draw_scene(rng: np.random.Generator, image_size: int) -> Scene:
    """Return a scene of 4-9 objects on a canvas of image_size x image_size pixels. Later objects hide earlier ones."""
    n_objects = int(rng.integers(N_OBJECTS[0], N_OBJECTS[1] + 1))
    plans: list[_Plan] = []
    while len(plans) < n_objects:
        plan = _place(rng, plans, image_size)
        if plan is None:
            plans.clear()
        else:
            plans.append(plan)

    canvas = draw_background(rng, image_size)
    for plan in plans:
        paint(canvas, plan.area, plan.color, plan.texture, plan.center, rng)
    hidden = _haze(rng, plans, image_size) if rng.random() < HAZE_SHARE else None
    if hidden is not None:
        canvas[hidden] = (1 - HAZE_OPACITY) * canvas[hidden] + HAZE_OPACITY * rng.uniform(*HAZE_GREY)
    masks = _visible(plans, hidden)
    objects = [
        Object(
            color=plan.color,
            shape=plan.shape,
            mask=mask,
            center=plan.center,
            radius=plan.radius,
            texture=plan.texture,
            size=plan.size,
            full_area=int(plan.area.sum()),
            visible_area=int(mask.sum()),
            box=_box(mask),
            touches=frozenset(
                other for other in range(len(plans)) if plans[other].touches == index or plan.touches == other
            ),
            inside=plan.inside,
        )
        for index, (plan, mask) in enumerate(zip(plans, masks, strict=True))
    ]
    return Scene(add_noise(canvas, rng), objects, hidden)


def _place(rng: np.random.Generator, plans: list[_Plan], image_size: int) -> _Plan | None:
    """Return the next object, or None if no position was found for it."""
    scale = image_size / BASE_SIZE
    look = _draw_look(rng, plans)
    rings = _free_rings(plans, scale)
    if rings and rng.random() < ENCLOSED_SHARE:
        return _place_inside(rng, look, plans, rings[0], image_size)
    radius = rng.uniform(*SIZES[look["size"]]) * scale
    isolated = _isolated(plans)
    touched = int(rng.choice(isolated)) if isolated and rng.random() < TOUCHING_SHARE else None
    for _ in range(N_TRIES):
        center = _draw_center(rng, radius, None if touched is None else plans[touched], image_size)
        if center is None or not _keeps_apart(center, radius, plans, touched, image_size):
            continue
        area = shape_mask(look["shape"], center, radius, (image_size, image_size))
        if touched is None or _hides_a_part(area, plans[touched].area, image_size):
            return _Plan(**look, center=center, radius=radius, area=area, touches=touched, inside=None)
    return None


def _free_rings(plans: list[_Plan], scale: float) -> list[int]:
    """Return the indices of the large rings that can enclose a small object and do not enclose or touch one yet."""
    return [
        index
        for index, plan in enumerate(plans)
        if plan.shape == "ring"
        and plan.size == "large"
        and plan.touches is None
        and RING_HOLE * plan.radius - ENCLOSED_MARGIN * scale >= SIZES["small"][0] * scale
        and all(index not in (other.inside, other.touches) for other in plans)
    ]


def _place_inside(
    rng: np.random.Generator, look: dict[str, str], plans: list[_Plan], index: int, image_size: int
) -> _Plan:
    """Return a small object in the ring with this index."""
    ring, scale = plans[index], image_size / BASE_SIZE
    room = RING_HOLE * ring.radius - ENCLOSED_MARGIN * scale
    look["size"] = "small"
    if look["shape"] == "ring":
        look["shape"] = "circle"
    radius = min(room, rng.uniform(*SIZES["small"]) * scale)
    slack = (room - radius) / np.sqrt(2)
    center = tuple(float(c + rng.uniform(-slack, slack)) for c in ring.center)
    area = shape_mask(look["shape"], center, radius, (image_size, image_size))
    return _Plan(**look, center=center, radius=radius, area=area, touches=None, inside=index)


def _isolated(plans: list[_Plan]) -> list[int]:
    """Return the indices of the objects that do not touch, enclose or lie in another one."""
    enclosing = {plan.inside for plan in plans}
    return [
        index
        for index, plan in enumerate(plans)
        if plan.inside is None
        and plan.touches is None
        and index not in enclosing
        and all(other.touches != index for other in plans)
    ]


def _draw_center(
    rng: np.random.Generator, radius: float, near: _Plan | None, image_size: int
) -> tuple[float, float] | None:
    """Return a center (y, x) in pixels, anywhere or close enough to touch `near`. None if it is at the border."""
    inset = radius + MARGIN * (image_size / BASE_SIZE) / 2
    if near is None:
        y, x = rng.uniform(inset, image_size - inset, 2).tolist()
        return y, x
    distance = rng.uniform(*TOUCHING_DISTANCE) * (radius + near.radius)
    angle = rng.uniform(0, 2 * np.pi)
    y = float(near.center[0] + distance * np.sin(angle))
    x = float(near.center[1] + distance * np.cos(angle))
    is_inside = inset <= y <= image_size - inset and inset <= x <= image_size - inset
    return (y, x) if is_inside else None


def _keeps_apart(
    center: tuple[float, float], radius: float, plans: list[_Plan], touched: int | None, image_size: int
) -> bool:
    """Return whether a circle has the required distance from all objects except `touched`."""
    margin = MARGIN * (image_size / BASE_SIZE)
    return not any(
        np.hypot(center[0] - plan.center[0], center[1] - plan.center[1]) < radius + plan.radius + margin
        for index, plan in enumerate(plans)
        if index != touched
    )


def _hides_a_part(area: np.ndarray, lower: np.ndarray, image_size: int) -> bool:
    """Return whether an object hides enough of `lower` to touch it and leaves enough of it visible."""
    overlap = (area & lower).sum()
    least = MIN_OVERLAP * (image_size / BASE_SIZE) ** 2
    return bool(least <= overlap <= (1 - MIN_VISIBLE) * lower.sum())


def _draw_look(rng: np.random.Generator, plans: list[_Plan]) -> dict[str, str]:
    """Return the attributes of a new object: random, or those of an earlier object with one of them drawn again."""
    look = {
        "size": "large" if rng.random() < LARGE_SHARE else "small",
        "texture": TEXTURES[rng.integers(len(TEXTURES))],
        "color": list(COLORS)[rng.integers(len(COLORS))],
        "shape": SHAPES[rng.integers(len(SHAPES))],
    }
    if plans and rng.random() < DISTRACTOR_SHARE:
        model = plans[rng.integers(len(plans))]
        kept = {name: getattr(model, name) for name in ATTRIBUTES}
        changed = ATTRIBUTES[rng.integers(len(ATTRIBUTES))]
        look = kept | {changed: look[changed]}
    if look["shape"] == "ring":
        look["texture"] = "plain"  # a ring is too thin for other textures
    return look


def _visible(plans: list[_Plan], hidden: np.ndarray | None) -> list[np.ndarray]:
    """Return the visible mask (H, W) bool of each object, without pixels of later objects and of haze."""
    masks = []
    covered = np.zeros_like(plans[0].area) if hidden is None else hidden.copy()
    for plan in reversed(plans):
        masks.append(plan.area & ~covered)
        covered |= plan.area
    return masks[::-1]


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return the first and last pixels of a mask (H, W): (top, left, bottom, right)."""
    ys, xs = np.nonzero(mask)
    return int(ys.min()), int(xs.min()), int(ys.max()), int(xs.max())


def _haze(rng: np.random.Generator, plans: list[_Plan], image_size: int) -> np.ndarray | None:
    """Return an ellipse (H, W) bool that leaves enough of each object visible, or None if none was found."""
    scale = image_size / BASE_SIZE
    pixel_centers = np.arange(image_size) + 0.5
    for _ in range(N_TRIES):
        center, radii = rng.uniform(0, image_size, 2), rng.uniform(*HAZE_RADIUS, 2) * scale
        hidden = (
            ((pixel_centers[:, None] - center[0]) / radii[0]) ** 2
            + ((pixel_centers[None, :] - center[1]) / radii[1]) ** 2
        ) <= 1
        if all(
            mask.sum() >= MIN_VISIBLE * plan.area.sum()
            for plan, mask in zip(plans, _visible(plans, hidden), strict=True)
        ):
            return hidden
    return None
