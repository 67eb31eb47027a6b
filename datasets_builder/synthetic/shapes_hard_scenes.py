"""Scenes of the hard level of shapes: 4-9 textured objects that touch, hide and enclose each other."""

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
SIZES = {"small": (4.0, 5.5), "large": (7.5, 10.0)}  # radius; nothing lies between
LARGE_SHARE = 0.45
N_OBJECTS = (4, 9)
MARGIN = 1.5  # between things that do not touch, and half of it to the border
ENCLOSED_MARGIN = 0.7  # between a ring and what it encloses
N_TRIES = 40  # places tried for one object before the scene is laid out again

DISTRACTOR_SHARE = 0.5  # objects that differ from an earlier one in one attribute only
ENCLOSED_SHARE = 0.6  # of the objects that come while there is an empty large ring
TOUCHING_SHARE = 0.3
TOUCHING_DISTANCE = (0.55, 0.85)  # between centers, as a share of the sum of the radii
MIN_VISIBLE = 0.5  # share of its area that is seen of every object
MIN_OVERLAP = 4.0  # area that one of two touching objects hides of the other

HAZE_SHARE = 0.25  # of the scenes: a grey patch whose pixels are not counted
HAZE_RADIUS = (5.0, 9.0)
HAZE_GREY = (110, 190)
HAZE_OPACITY = 0.75


@dataclass(frozen=True)
class _Plan:
    """An object before it is painted; lengths in pixels. touches, inside: indices of earlier ones."""

    size: str
    texture: str
    color: str
    shape: str
    center: tuple[float, float]
    radius: float
    area: np.ndarray  # (H, W) bool, all of it
    touches: int | None
    inside: int | None


def draw_scene(rng: np.random.Generator, image_size: int) -> Scene:
    """4-9 objects on an image_size x image_size canvas (pixels), the later before the earlier."""
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
    """The next object where it fits among the others, or none if it was not found to fit."""
    scale = image_size / BASE_SIZE
    look = _draw_look(rng, plans)
    rings = _free_rings(plans, scale)
    if rings and rng.random() < ENCLOSED_SHARE:
        return _place_inside(rng, look, plans, rings[0], image_size)
    radius = rng.uniform(*SIZES[look["size"]]) * scale
    alone = _alone(plans)
    touched = int(rng.choice(alone)) if alone and rng.random() < TOUCHING_SHARE else None
    for _ in range(N_TRIES):
        center = _draw_center(rng, radius, None if touched is None else plans[touched], image_size)
        if center is None or not _keeps_apart(center, radius, plans, touched, image_size):
            continue
        area = shape_mask(look["shape"], center, radius, (image_size, image_size))
        if touched is None or _hides_a_part(area, plans[touched].area, image_size):
            return _Plan(**look, center=center, radius=radius, area=area, touches=touched, inside=None)
    return None


def _free_rings(plans: list[_Plan], scale: float) -> list[int]:
    """Indices of the large rings that can enclose a small object, and neither hold nor touch one yet."""
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
    """A small object inside the ring of that index."""
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


def _alone(plans: list[_Plan]) -> list[int]:
    """Indices of the objects that neither touch, enclose nor are enclosed by another."""
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
    """A center (y, x) in pixels: anywhere, or where the object touches `near`; none outside the canvas."""
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
    """Whether a circle keeps its margin to all objects but `touched`."""
    margin = MARGIN * (image_size / BASE_SIZE)
    return not any(
        np.hypot(center[0] - plan.center[0], center[1] - plan.center[1]) < radius + plan.radius + margin
        for index, plan in enumerate(plans)
        if index != touched
    )


def _hides_a_part(area: np.ndarray, lower: np.ndarray, image_size: int) -> bool:
    """Whether an object hides enough of the one below it to touch it, and leaves enough of it visible."""
    overlap = (area & lower).sum()
    least = MIN_OVERLAP * (image_size / BASE_SIZE) ** 2
    return bool(least <= overlap <= (1 - MIN_VISIBLE) * lower.sum())


def _draw_look(rng: np.random.Generator, plans: list[_Plan]) -> dict[str, str]:
    """Attributes of a new object: any, or those of an earlier one but for one."""
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
        look["texture"] = "plain"  # a ring is too thin to show another
    return look


def _visible(plans: list[_Plan], hidden: np.ndarray | None) -> list[np.ndarray]:
    """What is seen of each (H, W) bool: without later objects before it, and without the haze."""
    masks = []
    covered = np.zeros_like(plans[0].area) if hidden is None else hidden.copy()
    for plan in reversed(plans):
        masks.append(plan.area & ~covered)
        covered |= plan.area
    return masks[::-1]


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """First and last pixels of a mask (H, W): (top, left, bottom, right)."""
    ys, xs = np.nonzero(mask)
    return int(ys.min()), int(xs.min()), int(ys.max()), int(xs.max())


def _haze(rng: np.random.Generator, plans: list[_Plan], image_size: int) -> np.ndarray | None:
    """An ellipse (H, W) bool that leaves enough of every object, or none if there was no place for one."""
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
