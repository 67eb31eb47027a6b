"""Level "reason" of shapes: questions that need knowledge, such as "the shape coloured like a ripe tomato".

Scenes have 3-5 separate objects in six colors and six shapes. An object is asked for by its color and shape, or by
concepts that a person associates with them (`concepts.py`). Validation and test have other concepts than training. Half
of their wordings (`shapes_reason_phrases.py`), and the synonyms and Japanese of `paraphrases.py`, are never trained.

An answer first says in plain words what was asked for, then names and shows each object: "The red shape: red circle
{seg}." So a model can put its knowledge into words first.

The words determine the mask, because no two objects of a scene look the same. The answer for an absent object is "The
red shape: none."
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gemma_lisa.datasets_builder.rows import SEG_SLOT

from .scenes import (
    BASE_SIZE,
    Object,
    Question,
    Scene,
    add_noise,
    draw_background,
    matching,
    noun,
    paint,
    shape_mask,
)
from .shapes_easy import draw_places
from .shapes_hard_scenes import SHAPES
from .shapes_reason_phrases import HELD_OUT, SAY, TRAINED, VALUES, Words, draw_hidden, draw_one, phrase, without

COLORS = VALUES["color"]
N_QUESTIONS = 4  # per scene
N_OBJECTS = (3, 5)
MIN_SIZE = 64  # pixels; in smaller scenes, the hole of a small ring is hard to see
GRID = 4  # the grid question has GRID x GRID cells
GRID_SHARE = 1.0  # share of training rows with a grid question, which teaches a new language model to read the image
COUNTING_SHARE = 0.0  # share of the other rows with a counting question
N_TRIES = 80  # questions of a kind that are drawn before another kind is tried

# Shares of the kinds in training. Some scenes have no negation or comparison, so the resulting shares are 0.30, 0.33,
# 0.06, 0.06, 0.125 and 0.125.
TRAIN = {
    "plain": 0.295,
    "concept": 0.325,
    "negation": 0.062,
    "comparison": 0.068,
    "absent": 0.125,
    "absent_concept": 0.125,
}
# Validation and test have about as many questions of each of these kinds
EVAL = (
    "plain",
    "paraphrase",
    "concept",
    "negation",
    "comparison",
    "ja_plain",
    "ja_concept",
    "absent",
    "absent_concept",
)
WITH_PLURAL = ("plain", "concept", "absent", "absent_concept")
PLURAL_SHARE = 0.12  # of the questions of these kinds
NEAR_SHARE = 0.5  # share of absent pairs whose color and shape are both in the scene

# Minimum differences for a clear answer: ratio of radii and, squared, of areas; pixels of a 64 x 64 scene
MIN_SIZE_RATIO = 1.2
MIN_SIDE_OFFSET = 5.0
SIDES = {"left of": (1, -1), "right of": (1, 1), "above": (0, -1), "below": (0, 1)}  # (axis, sign)


@dataclass(frozen=True)
class Asked(Question):
    """A question, and what it asks for in plain words ("red shape")."""

    plain: str = ""


def draw_scene(rng: np.random.Generator, image_size: int) -> Scene:
    """Return a scene of 3-5 objects on a canvas of image_size x image_size pixels. No two look the same."""
    canvas = draw_background(rng, image_size)
    n_objects = int(rng.integers(N_OBJECTS[0], N_OBJECTS[1] + 1))
    looks = rng.permutation(len(COLORS) * len(SHAPES))[:n_objects].tolist()
    objects = []
    places = draw_places(rng, n_objects, image_size, GRID)
    for look, (center, radius) in zip(looks, places, strict=True):
        color, shape = COLORS[look // len(SHAPES)], SHAPES[look % len(SHAPES)]
        mask = shape_mask(shape, center, radius, (image_size, image_size))
        paint(canvas, mask, color, "", center, rng)
        objects.append(Object(color, shape, mask, center, radius))
    return Scene(add_noise(canvas, rng), objects)


def ask(
    scene: Scene, rng: np.random.Generator, training: bool, shares: dict[str, float] | None = None
) -> list[Question]:
    """Return N_QUESTIONS different questions. If the scene has none of a kind, another kind is drawn.

    Args:
        scene: the scene.
        rng: draws the questions.
        training: whether to use the shares TRAIN, and concepts and wordings of training only.
        shares: shares of the kinds, in place of those of the split.
    """
    words = TRAINED if training else HELD_OUT
    drawn = shares or (TRAIN if training else {})
    kinds, weights = list(drawn), np.array(list(drawn.values()))
    order = [EVAL[at] for at in rng.permutation(len(EVAL))]
    questions: dict[str, Question] = {}
    while len(questions) < N_QUESTIONS:
        kind = kinds[rng.choice(len(kinds), p=weights / weights.sum())] if drawn else order.pop()
        for _ in range(N_TRIES):
            question = ASK[kind](kind, scene.objects, words, rng)
            if question is not None and question.text not in questions:
                questions[question.text] = question
                break
    return list(questions.values())


def answer(question: Asked, objects: list[Object]) -> str:
    """Return the answer of a question.

    Args:
        question: from `ask`.
        objects: its objects, in the order of their masks; empty if absent.
    """
    named = ", ".join(f"{thing.color} {thing.shape} {SEG_SLOT}" for thing in objects)
    return f"The {question.plain}: {named or 'none'}."


# --- kinds of questions ----------------------------------------------------------------------------------------------
def _draw_names(rng: np.random.Generator) -> tuple[str, ...]:
    """Return the names of the attributes of a question: the color, the shape or, in 0.4 of the questions, both."""
    return (("color",), ("shape",), ("color", "shape"))[rng.choice(3, p=(0.3, 0.3, 0.4))]


def _attributes(thing: Object, names: tuple[str, ...]) -> dict[str, str]:
    return {name: getattr(thing, name) for name in names}


def _present(kind: str, objects: list[Object], words: Words, rng: np.random.Generator) -> Asked | None:
    attributes = _attributes(draw_one(rng, objects), _draw_names(rng))
    found = matching(objects, attributes)
    plural = kind in WITH_PLURAL and rng.random() < PLURAL_SHARE
    if (len(found) < 2) if plural else (len(found) != 1):
        return None
    return _asked(kind, attributes, found, words, rng, plural)


def _absent(kind: str, objects: list[Object], words: Words, rng: np.random.Generator) -> Asked | None:
    names = _draw_names(rng)
    if len(names) == 2 and rng.random() < NEAR_SHARE:
        attributes = {name: getattr(draw_one(rng, objects), name) for name in names}
    else:
        attributes = {name: draw_one(rng, VALUES[name]) for name in names}
    if matching(objects, attributes):
        return None
    return _asked(kind, attributes, [], words, rng, rng.random() < PLURAL_SHARE)


def _asked(
    kind: str, attributes: dict[str, str], found: list[int], words: Words, rng: np.random.Generator, plural: bool
) -> Asked:
    said = SAY[kind](attributes, words, rng, plural)
    return Asked(
        kind,
        f"all the {said}" if plural else said,
        tuple(found),
        plain=noun(attributes, plural),
    )


def _is_plain(words: Words, rng: np.random.Generator) -> bool:
    """Return whether a negation or comparison has no concept: in training, half of them."""
    return words is TRAINED and rng.random() < 0.5


def _negation(kind: str, objects: list[Object], words: Words, rng: np.random.Generator) -> Asked | None:
    """Ask for "the circle that is not coloured like grass" or for "all the things that are not coloured like grass"."""
    model = draw_one(rng, objects)
    excluded, other = [("color", "shape"), ("shape", "color")][rng.integers(2)]
    attributes = {} if rng.random() < 0.15 else _attributes(model, (other,))
    value = getattr(model, excluded)
    found = [index for index in matching(objects, attributes) if getattr(objects[index], excluded) != value]
    plural = len(found) > 1
    if not found or len(found) > 3:
        return None
    hidden = () if _is_plain(words, rng) else draw_hidden(rng, [excluded, *attributes])
    base = phrase(attributes, tuple(name for name in hidden if name != excluded), words, rng, plural)
    return Asked(
        kind,
        f"{'all the ' if plural else ''}{base} {without(excluded, value, excluded in hidden, words, rng, plural)}",
        tuple(found),
        plain=f"{noun(attributes, plural)} {without(excluded, value, False, words, rng, plural)}",
    )


def _comparison(kind: str, objects: list[Object], words: Words, rng: np.random.Generator) -> Asked | None:
    return (_by_size if rng.random() < 0.5 else _by_side)(kind, objects, words, rng)


def _by_size(kind: str, objects: list[Object], words: Words, rng: np.random.Generator) -> Asked | None:
    """Ask for "the larger of the two shapes coloured like grass"."""
    attributes = _attributes(draw_one(rng, objects), (draw_one(rng, list(VALUES)),))
    found = sorted(matching(objects, attributes), key=lambda index: objects[index].radius)
    if len(found) != 2:
        return None
    small, large = (objects[index] for index in found)
    if large.radius < MIN_SIZE_RATIO * small.radius or large.mask.sum() < MIN_SIZE_RATIO**2 * small.mask.sum():
        return None
    word, target = [("larger", found[1]), ("smaller", found[0])][rng.integers(2)]
    hidden = () if _is_plain(words, rng) else tuple(attributes)
    return Asked(
        kind,
        f"the {word} of the two {phrase(attributes, hidden, words, rng, plural=True)}",
        (target,),
        plain=f"{word} of the two {noun(attributes, plural=True)}",
    )


def _by_side(kind: str, objects: list[Object], words: Words, rng: np.random.Generator) -> Asked | None:
    """Ask for "the thing coloured like grass that is left of the one shaped like a coin"."""
    anchor = int(rng.integers(len(objects)))
    beside = _attributes(objects[anchor], _draw_names(rng))
    attributes = {} if rng.random() < 0.4 else _attributes(draw_one(rng, objects), (draw_one(rng, list(VALUES)),))
    candidates = [index for index in matching(objects, attributes) if index != anchor]
    side = draw_one(rng, list(SIDES))
    axis, sign = SIDES[side]
    offsets = [sign * (objects[index].center[axis] - objects[anchor].center[axis]) for index in candidates]
    least = MIN_SIDE_OFFSET * len(objects[anchor].mask) / BASE_SIZE
    found = [index for index, offset in zip(candidates, offsets, strict=True) if offset >= least]
    is_clear = all(offset >= least or offset <= 0 for offset in offsets)
    # One candidate is identified by its attributes alone
    if matching(objects, beside) != [anchor] or len(candidates) < 2 or len(found) != 1 or not is_clear:
        return None
    hidden = () if _is_plain(words, rng) else draw_hidden(rng, list(beside))
    own_hidden = tuple(attributes) if hidden and rng.random() < 0.5 else ()
    own, other = phrase(attributes, own_hidden, words, rng), phrase(beside, hidden, words, rng)
    return Asked(
        kind,
        f"{own} that is {side} {other}",
        tuple(found),
        plain=f"{noun(attributes)} {side} the {noun(beside)}",
    )


ASK: dict[str, Callable[[str, list[Object], Words, np.random.Generator], Asked | None]] = {
    **dict.fromkeys(("plain", "paraphrase", "concept", "ja_plain", "ja_concept"), _present),
    **dict.fromkeys(("absent", "absent_concept"), _absent),
    "negation": _negation,
    "comparison": _comparison,
}
