"""Level "hard" of shapes: questions for the scenes of `shapes_hard_scenes.py`.

They ask for objects by attributes, position, comparison and exclusion.

Each question has one correct answer. Unclear cases (almost above, about as large) are not asked.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from .scenes import ATTRIBUTES, BASE_SIZE, COLORS, TEXTURES, Object, Question, Scene, matching, noun
from .shapes_hard_scenes import SHAPES, SIZES
from .shapes_hard_scenes import draw_scene as draw_scene

N_QUESTIONS = 6  # per scene
N_TRIES = 40  # questions of a kind that are drawn before another kind is tried
MIN_SIZE = 96  # pixels; in smaller scenes, textures of small objects cannot be distinguished
GRID = 6  # the grid question has GRID x GRID cells

SHARES = {"attributes": 0.28, "relation": 0.22, "superlative": 0.14, "exclusion": 0.10, "plural": 0.11, "absent": 0.15}

# Minimum differences for a clear answer, in pixels of a 64 x 64 scene
MIN_SIDE_OFFSET = 5.0  # between the centers of two objects: left of, right of, above, below
MIN_CENTER_LEAD = 3.0  # between the centers of the first and second object: leftmost, ...
MIN_EDGE_LEAD = 1.5  # between their visible edges on this side
MIN_SIZE_RATIO = 1.15  # ratio of radii; its square is that of full and of visible areas


def ask(scene: Scene, rng: np.random.Generator, training: bool) -> list[Question]:
    """Return N_QUESTIONS different questions. If the scene has none of a kind, another kind is drawn.

    training is ignored: all splits have the same shares of questions.
    """
    kinds, weights = list(SHARES), np.array(list(SHARES.values()))
    questions: dict[str, Question] = {}
    while len(questions) < N_QUESTIONS:
        kind = kinds[rng.choice(len(kinds), p=weights / weights.sum())]
        for _ in range(N_TRIES):
            question = ASK[kind](scene.objects, rng)
            if question is not None and question.text not in questions:
                questions[question.text] = question
                break
    return list(questions.values())


def _some_attributes(rng: np.random.Generator, thing: Object, n: int | None = None) -> dict[str, str]:
    """Return n of the object's attributes, or 1-4 if n is None."""
    names = rng.permutation(ATTRIBUTES)[: n or rng.integers(1, len(ATTRIBUTES) + 1)]
    return {name: getattr(thing, name) for name in names}


def _any(rng: np.random.Generator, objects: list[Object]) -> Object:
    return objects[rng.integers(len(objects))]


def _by_attributes(objects: list[Object], rng: np.random.Generator) -> Question | None:
    attributes = _some_attributes(rng, _any(rng, objects))
    found = matching(objects, attributes)
    return Question("attributes", f"the {noun(attributes)}", tuple(found)) if len(found) == 1 else None


# --- relations -------------------------------------------------------------------------------------------------------
def _on_side(axis: int, sign: int) -> Callable[[list[Object], int, int, float], bool | None]:
    """Return a function that tells whether an object is on one side of another: True, False, or None if unclear."""

    def judge(objects: list[Object], index: int, anchor: int, scale: float) -> bool | None:
        difference = sign * (objects[index].center[axis] - objects[anchor].center[axis])
        return True if difference >= MIN_SIDE_OFFSET * scale else False if difference <= 0 else None

    return judge


RELATIONS = {  # relation: (judge, explanation from the point of view of the other object)
    "left of": (_on_side(1, -1), "lies right of it"),
    "right of": (_on_side(1, 1), "lies left of it"),
    "above": (_on_side(0, -1), "lies below it"),
    "below": (_on_side(0, 1), "lies above it"),
    "inside": (lambda objects, index, anchor, scale: objects[index].inside == anchor, "surrounds it"),
    "touching": (lambda objects, index, anchor, scale: anchor in objects[index].touches, "touches it"),
}


def _relation(
    objects: list[Object], rng: np.random.Generator, names: tuple[str, ...] = ()
) -> tuple[str, dict[str, str], list[int], str] | None:
    """Draw a relation question, or return None if it is unclear.

    Args:
        objects: objects of the scene.
        rng: draws the question.
        names: relations to draw from. If empty, "touching" and "inside" are preferred where the scene has them.

    Returns:
        Text after the noun, attributes of the targets, indices of the targets, explanation.
    """
    anchor = int(rng.integers(len(objects)))
    anchor_attributes = _some_attributes(rng, objects[anchor], rng.integers(1, 4))
    if matching(objects, anchor_attributes) != [anchor]:
        return None
    if not names and objects[anchor].touches and rng.random() < 0.5:
        names = ("touching",)
    elif not names and any(thing.inside == anchor for thing in objects) and rng.random() < 0.7:
        names = ("inside",)
    names = names or tuple(RELATIONS)
    name = names[rng.integers(len(names))]
    if name == "inside" and objects[anchor].shape != "ring":
        return None
    judge, converse = RELATIONS[name]
    attributes = {} if rng.random() < 0.3 else _some_attributes(rng, _any(rng, objects), rng.integers(1, 3))
    candidates = [index for index in matching(objects, attributes) if index != anchor]
    if not candidates:
        return None
    scale = _scale(objects)
    judged = [judge(objects, index, anchor, scale) for index in candidates]
    if None in judged:
        return None
    found = [index for index, yes in zip(candidates, judged, strict=True) if yes]
    if len(candidates) == 1 and found:
        return None  # the attributes alone identify the object
    anchor_text = f"the {noun(anchor_attributes)}"
    return f"{name} {anchor_text}", attributes, found, f"{anchor_text.capitalize()} {converse}."


def _by_relation(objects: list[Object], rng: np.random.Generator) -> Question | None:
    asked = _relation(objects, rng)
    if asked is None or len(asked[2]) != 1:
        return None
    where, attributes, found, explanation = asked
    return Question("relation", f"the {noun(attributes)} {where}", tuple(found), explanation)


# --- superlatives ----------------------------------------------------------------------------------------------------
COMPARATIVES = {
    "largest": "larger",
    "smallest": "smaller",
    "leftmost": "further left",
    "rightmost": "further right",
    "topmost": "higher",
    "bottommost": "lower",
}
EDGES = {  # (axis of the center, index in the box, sign)
    "leftmost": (1, 1, -1),
    "rightmost": (1, 3, 1),
    "topmost": (0, 0, -1),
    "bottommost": (0, 2, 1),
}


def _by_superlative(objects: list[Object], rng: np.random.Generator) -> Question | None:
    word = _superlative(rng)
    attributes = {} if rng.random() < 0.25 else _some_attributes(rng, _any(rng, objects), 1)
    if "size" in attributes:
        return None  # "the largest small star" is not natural
    found = matching(objects, attributes)
    rank = 1 if word.startswith("second") else 0
    if len(found) < 2 + rank:
        return None
    targets = set()
    for measure, is_clear in _measures(word, _scale(objects)):
        values = {index: measure(objects[index]) for index in found}
        order = sorted(found, key=values.get, reverse=True)
        targets.add(order[rank])
        for more, less in pairwise(order[max(rank - 1, 0) : rank + 2]):
            if not is_clear(values[more], values[less]):
                return None
    if len(targets) != 1:
        return None
    one, than = noun(attributes), COMPARATIVES[word.removeprefix("second ")]
    explanation = f"No other {one} is {than}." if rank == 0 else f"Only one {one} is {than}."
    return Question("superlative", f"the {word} {one}", tuple(targets), explanation)


def _superlative(rng: np.random.Generator) -> str:
    word = list(COMPARATIVES)[rng.integers(len(COMPARATIVES))]
    return f"second {word}" if word in ("largest", "smallest") and rng.random() < 0.5 else word


def _measures(word: str, scale: float) -> list[tuple[Callable[[Object], float], Callable[[float, float], bool]]]:
    """Return each measure that the word can refer to, with a function that tells whether a value is clearly larger."""
    if word.endswith(("largest", "smallest")):
        sign = 1 if word.endswith("largest") else -1

        def ratio(least: float) -> Callable[[float, float], bool]:
            return lambda more, less: max(abs(more), abs(less)) >= least * min(abs(more), abs(less))

        return [
            (lambda thing: sign * thing.radius, ratio(MIN_SIZE_RATIO)),
            (lambda thing: sign * thing.full_area, ratio(MIN_SIZE_RATIO**2)),
            (lambda thing: sign * thing.visible_area, ratio(MIN_SIZE_RATIO**2)),
        ]
    axis, side, sign = EDGES[word]
    return [
        (lambda thing: sign * thing.center[axis], lambda more, less: more - less >= MIN_CENTER_LEAD * scale),
        (lambda thing: sign * thing.box[side], lambda more, less: more - less >= MIN_EDGE_LEAD * scale),
    ]


# --- exclusions ------------------------------------------------------------------------------------------------------
def _exclusion(objects: list[Object], rng: np.random.Generator) -> tuple[dict[str, str], str, list[int], int]:
    """Return (attributes of the candidates, excluded value, indices of the targets, number of excluded objects)."""
    model = _any(rng, objects)
    attributes = {} if rng.random() < 0.3 else {"shape": model.shape}
    # All rings are plain, so texture does not exclude any
    excluded = ("color", "size", "texture")[rng.integers(2 if attributes.get("shape") == "ring" else 3)]
    value = getattr(model, excluded)
    candidates = matching(objects, attributes)
    left = [index for index in candidates if getattr(objects[index], excluded) != value]
    return attributes, value, left, len(candidates) - len(left)


def _by_exclusion(objects: list[Object], rng: np.random.Generator) -> Question | None:
    attributes, value, left, n_excluded = _exclusion(objects, rng)
    if not left:
        return None
    several = len(left) > 1
    text = f"the {noun(attributes, several)} that {'are' if several else 'is'} not {value}"
    others = "The other one is" if n_excluded == 1 else f"The other {n_excluded} are"
    return Question("exclusion", f"all {text}" if several else text, tuple(left), f"{others} {value}.")


# --- several or no objects -------------------------------------------------------------------------------------------
def _by_plural(objects: list[Object], rng: np.random.Generator) -> Question | None:
    if rng.random() < 0.3:
        asked = _relation(objects, rng)
        if asked is None or len(asked[2]) < 2:
            return None
        where, attributes, found, _ = asked
        return Question("plural", f"all the {noun(attributes, plural=True)} {where}", tuple(found))
    attributes = _some_attributes(rng, _any(rng, objects), rng.integers(1, 4))
    found = matching(objects, attributes)
    if len(found) < 2 or len(found) == len(objects):
        return None
    return Question("plural", f"all the {noun(attributes, plural=True)}", tuple(found))


def _absent(objects: list[Object], rng: np.random.Generator) -> Question | None:
    """Ask for an absent object that is almost there: by a relation, an exclusion, or one changed attribute."""
    way = rng.random()
    if way < 0.3:
        asked = _relation(objects, rng, ("inside", "touching") if way < 0.15 else tuple(RELATIONS))
        if asked is None or asked[2]:
            return None
        where, attributes, _, _ = asked
        return Question("absent", f"the {noun(attributes)} {where}", ())
    if way < 0.36:
        attributes, value, left, _ = _exclusion(objects, rng)
        if left or "shape" not in attributes:
            return None
        return Question("absent", f"the {noun(attributes)} that is not {value}", ())
    model = _any(rng, objects)
    attributes = _some_attributes(rng, model, rng.integers(2, 4))
    changed = list(attributes)[rng.integers(len(attributes))]
    values = VALUES[changed]
    attributes[changed] = values[rng.integers(len(values))]
    if matching(objects, attributes) or (attributes.get("shape") == "ring" and "texture" in attributes):
        return None
    if rng.random() < 0.2 and "size" not in attributes:
        return Question("absent", f"the {_superlative(rng).removeprefix('second ')} {noun(attributes)}", ())
    if rng.random() < 0.15:
        return Question("absent", f"all the {noun(attributes, plural=True)}", ())
    return Question("absent", f"the {noun(attributes)}", ())


def _scale(objects: list[Object]) -> float:
    return len(objects[0].mask) / BASE_SIZE


VALUES = {"size": tuple(SIZES), "texture": TEXTURES, "color": tuple(COLORS), "shape": SHAPES}
ASK = {
    "attributes": _by_attributes,
    "relation": _by_relation,
    "superlative": _by_superlative,
    "exclusion": _by_exclusion,
    "plural": _by_plural,
    "absent": _absent,
}
