"""Level "reason" of shapes: questions that need knowledge, such as "the shape coloured like a ripe tomato".

Scenes have 3-5 separate objects in six colors and six shapes. An object is asked for by its color and shape, or by
concepts that a person associates with them (`concepts.py`). Validation and test have other concepts than training, half
of their wordings are never trained, and so are the synonyms and the Japanese of `paraphrases.py`.

An answer first says in plain words what was asked for, then shows it: "The red shape: {seg} upper left circle." So a
model can first put its knowledge into words. The answer for an absent object is "The red shape: none."
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gemma_lisa.datasets_builder.rows import SEG_SLOT

from . import concepts, paraphrases
from .scenes import (
    BASE_SIZE,
    COLUMNS,
    ROWS,
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
from .scenes import COLORS as RGB
from .shapes_easy import draw_places
from .shapes_hard_scenes import SHAPES

COLORS = tuple(RGB)
VALUES = {"color": COLORS, "shape": SHAPES}
N_QUESTIONS = 4  # per scene
N_OBJECTS = (3, 5)
MIN_SIZE = 64  # pixels; in smaller scenes, the hole of a small ring is hard to see
GRID = 3  # the grid question has GRID x GRID cells
GRID_SHARE = 0.3  # share of training rows with a grid question
COUNTING_SHARE = 0.1  # share of the other rows with a counting question
N_TRIES = 40  # questions of a kind that are drawn before another kind is tried

TRAIN = {
    "plain": 0.30,
    "concept": 0.33,
    "negation": 0.06,
    "comparison": 0.06,
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
PLURAL_SHARE = 0.12  # of plain and concept questions, and of absent ones
NEAR_SHARE = 0.5  # share of absent pairs whose color and shape are both in the scene
UNTRAINED_SHARE = 0.5  # share of the wordings of validation and test that are never trained

# Minimum differences for a clear answer: ratio of radii and, squared, of areas; pixels of a 64 x 64 scene
MIN_SIZE_RATIO = 1.2
MIN_SIDE_OFFSET = 5.0
SIDES = {"left of": (1, -1), "right of": (1, 1), "above": (0, -1), "below": (0, 1)}  # (axis, sign)

# Nouns for an object: if its shape is not asked for, and if a concept says its shape
HEADS = ("shape", "thing", "one")
CONCEPT_HEADS = ("thing", "one", "object")
# Wordings around a concept; the first ones are used if both color and shape are said by concepts
WORDINGS = {
    "color": ("coloured like {}", "with the colour of {}", "in the color of {}", "that {has} the colour of {}"),
    "shape": ("shaped like {}", "that {looks} like {}", "with the outline of {}", "with the shape of {}"),
}
NEGATED = {"color": "that {is_} not coloured like {}", "shape": "that {is_} not shaped like {}"}
UNTRAINED_WORDINGS = {
    "color": ("matching {} in colour", "whose hue is that of {}", "painted in the shade of {}", "tinted like {}"),
    "shape": ("resembling {}", "drawn in the form of {}", "that could be mistaken for {}", "with the silhouette of {}"),
}
UNTRAINED_NEGATED = {"color": "that {does} not match {} in colour", "shape": "that {does} not resemble {}"}
SINGULAR = {"has": "has", "looks": "looks", "is_": "is", "does": "does"}
PLURAL = {"has": "have", "looks": "look", "is_": "are", "does": "do"}


@dataclass(frozen=True)
class Asked(Question):
    """A question, what it asks for in plain words ("red shape"), and the attributes that these words tell."""

    plain: str = ""
    known: tuple[str, ...] = ()


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


def ask(scene: Scene, rng: np.random.Generator, training: bool) -> list[Question]:
    """Return N_QUESTIONS different questions. If the scene has none of a kind, another kind is drawn.

    Args:
        scene: the scene.
        rng: draws the questions.
        training: whether to use the shares TRAIN, and concepts and wordings of training only.
    """
    words = TRAINED if training else HELD_OUT
    kinds, weights = list(TRAIN), np.array(list(TRAIN.values()))
    order = [EVAL[at] for at in rng.permutation(len(EVAL))]
    questions: dict[str, Question] = {}
    while len(questions) < N_QUESTIONS:
        kind = kinds[rng.choice(len(kinds), p=weights / weights.sum())] if training else order.pop()
        for _ in range(N_TRIES):
            question = ASK[kind](kind, scene.objects, words, rng)
            if question is not None and question.text not in questions:
                questions[question.text] = question
                break
    return list(questions.values())


def answer(question: Asked, objects: list[Object], size: tuple[int, int]) -> str:
    """Return the answer of a question.

    Args:
        question: from `ask`.
        objects: its objects, in the order of their masks; empty if absent.
        size: (height, width) of the scene in pixels.
    """
    named = ", ".join(f"{SEG_SLOT} {_name(thing, question.known, size)}" for thing in objects)
    return f"The {question.plain}: {named or 'none'}."


def _name(thing: Object, known: tuple[str, ...], size: tuple[int, int]) -> str:
    """Return the position of an object, and its attributes that are not known: "upper left red"."""
    row, column = cell(thing.center, size, len(ROWS))
    return " ".join([ROWS[row], COLUMNS[column], *(getattr(thing, name) for name in VALUES if name not in known)])


# --- phrases ---------------------------------------------------------------------------------------------------------
class Words:
    """Concepts and wordings of a split.

    Args:
        table: the concepts.
        untrained_share: share of the wordings that are never trained.
    """

    def __init__(self, table: tuple[concepts.Concept, ...], untrained_share: float):
        self.untrained_share = untrained_share
        self.concepts = {(attribute, value): [] for attribute, values in VALUES.items() for value in values}
        for concept in table:
            self.concepts[concept.attribute, concept.value].append(concept)

    def concept(self, rng: np.random.Generator, attribute: str, value: str, whole: bool = False) -> concepts.Concept:
        """Return a concept; whole: also a complete question."""
        return _any(rng, [concept for concept in self.concepts[attribute, value] if whole or not concept.whole])

    def is_untrained(self, rng: np.random.Generator) -> bool:
        return bool(rng.random() < self.untrained_share)


TRAINED = Words(concepts.TRAIN, 0.0)
HELD_OUT = Words(concepts.TEST, UNTRAINED_SHARE)


def _any(rng: np.random.Generator, options: list | tuple):
    return options[rng.integers(len(options))]


def _phrase(
    attributes: dict[str, str], hidden: tuple[str, ...], words: Words, rng: np.random.Generator, plural: bool = False
) -> str:
    """Return a phrase such as "the green thing shaped like a coin" or, if plural, "green things shaped like a coin".

    Args:
        attributes: of the objects.
        hidden: names of the attributes that are said by a concept.
        words: concepts and wordings.
        rng: draws them.
        plural: whether the phrase is for several objects.
    """
    article = "" if plural else "the "
    if not hidden:
        return article + noun(attributes, plural)
    drawn = {
        name: words.concept(rng, name, attributes[name], whole=len(attributes) == 1 and not plural) for name in hidden
    }
    for concept in drawn.values():
        if concept.whole:
            return concept.phrase
    wordings = UNTRAINED_WORDINGS if words.is_untrained(rng) else WORDINGS
    heads = CONCEPT_HEADS if "shape" in hidden else HEADS
    head = _any(rng, [head for head in heads if not (plural and head == "one")])  # "all the ones" is not natural
    shown = {"shape": head} | {name: value for name, value in attributes.items() if name not in hidden}
    said = [
        (wordings[name][0] if len(hidden) > 1 else _any(rng, wordings[name])).format(
            concept.phrase, **(PLURAL if plural else SINGULAR)
        )
        for name, concept in drawn.items()
    ]
    return f"{article}{noun(shown, plural)} {' and '.join(said)}"


def _without(excluded: str, value: str, is_hidden: bool, words: Words, rng: np.random.Generator, plural: bool) -> str:
    """Return "that is not coloured like grass" or "that is not green"."""
    verbs = PLURAL if plural else SINGULAR
    if not is_hidden:
        return f"that {verbs['is_']} not {_predicate(excluded, value, plural)}"
    wordings = UNTRAINED_NEGATED if words.is_untrained(rng) else NEGATED
    return wordings[excluded].format(words.concept(rng, excluded, value).phrase, **verbs)


def _predicate(attribute: str, value: str, plural: bool) -> str:
    """Return "green", "a circle" or "circles"."""
    if attribute == "color":
        return value
    return noun({"shape": value}, plural=True) if plural else f"a {value}"


def _draw_hidden(rng: np.random.Generator, names: list[str]) -> tuple[str, ...]:
    """Return one or both of the names of attributes."""
    drawn = rng.integers(3) if len(names) == 2 else 2
    return tuple(names) if drawn == 2 else (names[drawn],)


def _say_plainly(attributes: dict[str, str], words: Words, rng: np.random.Generator, plural: bool) -> str:
    return _phrase(attributes, (), words, rng, plural)


def _say_by_concepts(attributes: dict[str, str], words: Words, rng: np.random.Generator, plural: bool) -> str:
    return _phrase(attributes, _draw_hidden(rng, list(attributes)), words, rng, plural)


def _say_by_synonyms(attributes: dict[str, str], words: Words, rng: np.random.Generator, plural: bool) -> str:
    """Return a phrase such as "the crimson disc", "the three-cornered shape in scarlet" or "the disc"."""
    color = _any(rng, paraphrases.COLORS[attributes["color"]]) if "color" in attributes else None
    shape = _any(rng, paraphrases.SHAPES[attributes["shape"]]) if "shape" in attributes else _any(rng, HEADS)
    if shape in paraphrases.ADJECTIVES:
        shape += f" {_any(rng, HEADS)}"
    if color is None:
        return f"the {shape}"
    is_first = color in paraphrases.COLOR_ADJECTIVES or rng.random() < 0.5
    return f"the {color} {shape}" if is_first else f"the {shape} in {color}"


def _say_in_japanese(attributes: dict[str, str], words: Words, rng: np.random.Generator, plural: bool) -> str:
    """Return 赤い円, 赤い形 or 円."""
    color = _any(rng, paraphrases.JAPANESE_COLORS[attributes["color"]]) if "color" in attributes else ""
    return color + _any(
        rng, paraphrases.JAPANESE_SHAPES[attributes["shape"]] if "shape" in attributes else paraphrases.JAPANESE_ANY
    )


def _say_by_japanese_concepts(attributes: dict[str, str], words: Words, rng: np.random.Generator, plural: bool) -> str:
    """Return トマトの色の円, コインの形の赤いもの, or トマトの色の形."""
    hidden = _any(rng, list(attributes))
    rest = {name: value for name, value in attributes.items() if name != hidden}
    if "shape" in rest:
        head = _any(rng, paraphrases.JAPANESE_SHAPES[rest["shape"]])
    else:
        # コインの形の形 is not natural
        head = _any(rng, paraphrases.JAPANESE_ANY if hidden == "color" else paraphrases.JAPANESE_ANY[1:])
    if "color" in rest:
        head = _any(rng, paraphrases.JAPANESE_COLORS[rest["color"]]) + head
    concept = _any(rng, paraphrases.JAPANESE_CONCEPTS[hidden][attributes[hidden]])
    return _any(rng, paraphrases.JAPANESE_WORDINGS[hidden]).format(concept, head)


SAY = {
    "plain": _say_plainly,
    "concept": _say_by_concepts,
    "paraphrase": _say_by_synonyms,
    "ja_plain": _say_in_japanese,
    "ja_concept": _say_by_japanese_concepts,
    "absent": _say_plainly,
    "absent_concept": _say_by_concepts,
}
WITH_PLURAL = ("plain", "concept", "absent", "absent_concept")


# --- kinds of questions ----------------------------------------------------------------------------------------------
def _draw_names(rng: np.random.Generator) -> tuple[str, ...]:
    """Return the names of the attributes of a question: the color, the shape or, in 0.4 of the questions, both."""
    return (("color",), ("shape",), ("color", "shape"))[rng.choice(3, p=(0.3, 0.3, 0.4))]


def _attributes(thing: Object, names: tuple[str, ...]) -> dict[str, str]:
    return {name: getattr(thing, name) for name in names}


def _present(kind: str, objects: list[Object], words: Words, rng: np.random.Generator) -> Asked | None:
    attributes = _attributes(_any(rng, objects), _draw_names(rng))
    found = matching(objects, attributes)
    plural = kind in WITH_PLURAL and rng.random() < PLURAL_SHARE
    if (len(found) < 2) if plural else (len(found) != 1):
        return None
    return _asked(kind, attributes, found, words, rng, plural)


def _absent(kind: str, objects: list[Object], words: Words, rng: np.random.Generator) -> Asked | None:
    names = _draw_names(rng)
    if len(names) == 2 and rng.random() < NEAR_SHARE:
        attributes = {name: getattr(_any(rng, objects), name) for name in names}
    else:
        attributes = {name: _any(rng, VALUES[name]) for name in names}
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
        known=tuple(attributes),
    )


def _is_plain(words: Words, rng: np.random.Generator) -> bool:
    """Return whether a negation or comparison has no concept: in training, half of them."""
    return words is TRAINED and rng.random() < 0.5


def _negation(kind: str, objects: list[Object], words: Words, rng: np.random.Generator) -> Asked | None:
    """Ask for "the circle that is not coloured like grass" or for "all the things that are not coloured like grass"."""
    model = _any(rng, objects)
    excluded, other = [("color", "shape"), ("shape", "color")][rng.integers(2)]
    attributes = {} if rng.random() < 0.15 else _attributes(model, (other,))
    value = getattr(model, excluded)
    found = [index for index in matching(objects, attributes) if getattr(objects[index], excluded) != value]
    plural = len(found) > 1
    if not found or len(found) > 3:
        return None
    hidden = () if _is_plain(words, rng) else _draw_hidden(rng, [excluded, *attributes])
    base = _phrase(attributes, tuple(name for name in hidden if name != excluded), words, rng, plural)
    return Asked(
        kind,
        f"{'all the ' if plural else ''}{base} {_without(excluded, value, excluded in hidden, words, rng, plural)}",
        tuple(found),
        plain=f"{noun(attributes, plural)} {_without(excluded, value, False, words, rng, plural)}",
        known=tuple(attributes),
    )


def _comparison(kind: str, objects: list[Object], words: Words, rng: np.random.Generator) -> Asked | None:
    return (_by_size if rng.random() < 0.5 else _by_side)(kind, objects, words, rng)


def _by_size(kind: str, objects: list[Object], words: Words, rng: np.random.Generator) -> Asked | None:
    """Ask for "the larger of the two shapes coloured like grass"."""
    attributes = _attributes(_any(rng, objects), (_any(rng, list(VALUES)),))
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
        f"the {word} of the two {_phrase(attributes, hidden, words, rng, plural=True)}",
        (target,),
        plain=f"{word} of the two {noun(attributes, plural=True)}",
        known=tuple(attributes),
    )


def _by_side(kind: str, objects: list[Object], words: Words, rng: np.random.Generator) -> Asked | None:
    """Ask for "the thing coloured like grass that is left of the one shaped like a coin"."""
    anchor = int(rng.integers(len(objects)))
    beside = _attributes(objects[anchor], _draw_names(rng))
    attributes = {} if rng.random() < 0.4 else _attributes(_any(rng, objects), (_any(rng, list(VALUES)),))
    candidates = [index for index in matching(objects, attributes) if index != anchor]
    side = _any(rng, list(SIDES))
    axis, sign = SIDES[side]
    offsets = [sign * (objects[index].center[axis] - objects[anchor].center[axis]) for index in candidates]
    least = MIN_SIDE_OFFSET * len(objects[anchor].mask) / BASE_SIZE
    found = [index for index, offset in zip(candidates, offsets, strict=True) if offset >= least]
    is_clear = all(offset >= least or offset <= 0 for offset in offsets)
    # One candidate is identified by its attributes alone
    if matching(objects, beside) != [anchor] or len(candidates) < 2 or len(found) != 1 or not is_clear:
        return None
    hidden = () if _is_plain(words, rng) else _draw_hidden(rng, list(beside))
    own_hidden = tuple(attributes) if hidden and rng.random() < 0.5 else ()
    own, other = _phrase(attributes, own_hidden, words, rng), _phrase(beside, hidden, words, rng)
    return Asked(
        kind,
        f"{own} that is {side} {other}",
        tuple(found),
        plain=f"{noun(attributes)} {side} the {noun(beside)}",
        known=tuple(attributes),
    )


ASK: dict[str, Callable[[str, list[Object], Words, np.random.Generator], Asked | None]] = {
    **dict.fromkeys(("plain", "paraphrase", "concept", "ja_plain", "ja_concept"), _present),
    **dict.fromkeys(("absent", "absent_concept"), _absent),
    "negation": _negation,
    "comparison": _comparison,
}
