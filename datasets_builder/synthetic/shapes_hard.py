"""The hard level of shapes: scenes of `shapes_hard_scenes.py`, asked for by what the objects are, where they are, how
they compare and what they are not.

Every question has one right answer by construction: what cannot be told clearly (almost above, about as large) is not
asked.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from .scenes import ATTRIBUTES, BASE_SIZE, COLORS, TEXTURES, Object, Question, Scene, matching, noun
from .shapes_hard_scenes import SHAPES, SIZES
from .shapes_hard_scenes import draw_scene as draw_scene

N_QUESTIONS = 6  # a scene
N_TRIES = 40  # wordings tried for one question
MIN_SIZE = 96  # below, small textures cannot be told
GRID = 6  # cells a side of the grid question

SHARES = {"attributes": 0.28, "relation": 0.22, "superlative": 0.14, "exclusion": 0.10, "plural": 0.11, "absent": 0.15}

CLEARLY_BESIDE = 5.0  # difference of centers from which on a thing is left of, right of, above or below another
CLEARLY_LARGER = 1.15  # ratio of radii, of full and of visible areas
CLEARLY_FURTHER = 3.0  # difference of centers for leftmost, ...
CLEARLY_OUTSIDE = 1.5  # and of what is seen furthest to that side


def ask(scene: Scene, rng: np.random.Generator, training: bool) -> list[Question]:
    """N_QUESTIONS different questions, training or not; a kind that the scene has not is drawn again."""
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
    """n of the object's attributes, 1-4 if not said."""
    names = rng.permutation(ATTRIBUTES)[: n or rng.integers(1, len(ATTRIBUTES) + 1)]
    return {name: getattr(thing, name) for name in names}


def _any(rng: np.random.Generator, objects: list[Object]) -> Object:
    return objects[rng.integers(len(objects))]


def _by_attributes(objects: list[Object], rng: np.random.Generator) -> Question | None:
    attributes = _some_attributes(rng, _any(rng, objects))
    found = matching(objects, attributes)
    return Question("attributes", f"the {noun(attributes)}", tuple(found)) if len(found) == 1 else None


# --- relations -------------------------------------------------------------------------------------------------------
def _beside(axis: int, sign: int) -> Callable[[list[Object], int, int, float], bool | None]:
    """Whether an object lies on one side of another: yes, no, or (None) not clearly either."""

    def judge(objects: list[Object], index: int, anchor: int, scale: float) -> bool | None:
        difference = sign * (objects[index].center[axis] - objects[anchor].center[axis])
        return True if difference >= CLEARLY_BESIDE * scale else False if difference <= 0 else None

    return judge


RELATIONS = {  # in words, with the words for the other way round
    "left of": (_beside(1, -1), "lies right of it"),
    "right of": (_beside(1, 1), "lies left of it"),
    "above": (_beside(0, -1), "lies below it"),
    "below": (_beside(0, 1), "lies above it"),
    "inside": (lambda objects, index, anchor, scale: objects[index].inside == anchor, "surrounds it"),
    "touching": (lambda objects, index, anchor, scale: anchor in objects[index].touches, "touches it"),
}


def _relation(
    objects: list[Object], rng: np.random.Generator, names: tuple[str, ...] = ()
) -> tuple[str, dict[str, str], list[int], str] | None:
    """(text after the noun, attributes of what is asked for, what it means, explanation), where all is clear.

    names: the relations to draw from; without, those that the scene is rich in come more often.
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
        return None  # the relation would say nothing
    anchor_text = f"the {noun(anchor_attributes)}"
    return f"{name} {anchor_text}", attributes, found, f"{anchor_text.capitalize()} {converse}."


def _by_relation(objects: list[Object], rng: np.random.Generator) -> Question | None:
    asked = _relation(objects, rng)
    if asked is None or len(asked[2]) != 1:
        return None
    where, attributes, found, explanation = asked
    return Question("relation", f"the {noun(attributes)} {where}", tuple(found), explanation)


# --- superlatives ----------------------------------------------------------------------------------------------------
THAN = {
    "largest": "larger",
    "smallest": "smaller",
    "leftmost": "further left",
    "rightmost": "further right",
    "topmost": "higher",
    "bottommost": "lower",
}
EDGES = {  # axis of the center, side of the box, and which way
    "leftmost": (1, 1, -1),
    "rightmost": (1, 3, 1),
    "topmost": (0, 0, -1),
    "bottommost": (0, 2, 1),
}


def _by_superlative(objects: list[Object], rng: np.random.Generator) -> Question | None:
    word = _superlative(rng)
    attributes = {} if rng.random() < 0.25 else _some_attributes(rng, _any(rng, objects), 1)
    if "size" in attributes:
        return None  # "the largest small star" is no question
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
    one, than = noun(attributes), THAN[word.removeprefix("second ")]
    explanation = f"No other {one} is {than}." if rank == 0 else f"Only one {one} is {than}."
    return Question("superlative", f"the {word} {one}", tuple(targets), explanation)


def _superlative(rng: np.random.Generator) -> str:
    word = list(THAN)[rng.integers(len(THAN))]
    return f"second {word}" if word in ("largest", "smallest") and rng.random() < 0.5 else word


def _measures(word: str, scale: float) -> list[tuple[Callable[[Object], float], Callable[[float, float], bool]]]:
    """All that a person may take for the word, the most of it first, with what is clearly more than another."""
    if word.endswith(("largest", "smallest")):
        sign = 1 if word.endswith("largest") else -1

        def ratio(least: float) -> Callable[[float, float], bool]:
            return lambda more, less: max(abs(more), abs(less)) >= least * min(abs(more), abs(less))

        return [
            (lambda thing: sign * thing.radius, ratio(CLEARLY_LARGER)),
            (lambda thing: sign * thing.full_area, ratio(CLEARLY_LARGER**2)),
            (lambda thing: sign * thing.visible_area, ratio(CLEARLY_LARGER**2)),
        ]
    axis, side, sign = EDGES[word]
    return [
        (lambda thing: sign * thing.center[axis], lambda more, less: more - less >= CLEARLY_FURTHER * scale),
        (lambda thing: sign * thing.box[side], lambda more, less: more - less >= CLEARLY_OUTSIDE * scale),
    ]


# --- exclusions ------------------------------------------------------------------------------------------------------
def _exclusion(objects: list[Object], rng: np.random.Generator) -> tuple[dict[str, str], str, list[int], int]:
    """(attributes that count, value that does not, what is left, how many are taken out)."""
    model = _any(rng, objects)
    attributes = {} if rng.random() < 0.3 else {"shape": model.shape}
    # all rings are plain: nothing is to be learned from asking for one that is not
    excluded = ("color", "size", "texture")[rng.integers(2 if attributes.get("shape") == "ring" else 3)]
    value = getattr(model, excluded)
    candidates = matching(objects, attributes)
    left = [index for index in candidates if getattr(objects[index], excluded) != value]
    return attributes, value, left, len(candidates) - len(left)


def _by_exclusion(objects: list[Object], rng: np.random.Generator) -> Question | None:
    attributes, value, left, n_taken = _exclusion(objects, rng)
    if not left:
        return None
    several = len(left) > 1
    text = f"the {noun(attributes, several)} that {'are' if several else 'is'} not {value}"
    others = "The other one is" if n_taken == 1 else f"The other {n_taken} are"
    return Question("exclusion", f"all {text}" if several else text, tuple(left), f"{others} {value}.")


# --- several, none ---------------------------------------------------------------------------------------------------
def _several(objects: list[Object], rng: np.random.Generator) -> Question | None:
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
    """What is nearly there: one attribute changed, the other side of something, nothing left."""
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
    "plural": _several,
    "absent": _absent,
}
