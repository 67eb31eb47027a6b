"""Phrases of level "reason" of shapes: color and shape said plainly, by a concept, by a synonym, or in Japanese."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from . import concepts, paraphrases
from .scenes import COLORS, noun
from .shapes_hard_scenes import SHAPES

T = TypeVar("T")

VALUES = {"color": tuple(COLORS), "shape": SHAPES}
UNTRAINED_SHARE = 0.5  # share of the wordings of validation and test that are never trained

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
        return draw_one(rng, [concept for concept in self.concepts[attribute, value] if whole or not concept.whole])

    def is_untrained(self, rng: np.random.Generator) -> bool:
        return bool(rng.random() < self.untrained_share)


TRAINED = Words(concepts.TRAIN, 0.0)
HELD_OUT = Words(concepts.TEST, UNTRAINED_SHARE)


def draw_one(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[rng.integers(len(options))]


def phrase(
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
    head = draw_one(rng, [head for head in heads if not (plural and head == "one")])  # "all the ones" is not natural
    shown = {"shape": head} | {name: value for name, value in attributes.items() if name not in hidden}
    said = [
        (wordings[name][0] if len(hidden) > 1 else draw_one(rng, wordings[name])).format(
            concept.phrase, **(PLURAL if plural else SINGULAR)
        )
        for name, concept in drawn.items()
    ]
    return f"{article}{noun(shown, plural)} {' and '.join(said)}"


def without(excluded: str, value: str, is_hidden: bool, words: Words, rng: np.random.Generator, plural: bool) -> str:
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


def draw_hidden(rng: np.random.Generator, names: list[str]) -> tuple[str, ...]:
    """Return one or both of the names of attributes."""
    drawn = rng.integers(3) if len(names) == 2 else 2
    return tuple(names) if drawn == 2 else (names[drawn],)


def _say_plainly(attributes: dict[str, str], words: Words, rng: np.random.Generator, plural: bool) -> str:
    return phrase(attributes, (), words, rng, plural)


def _say_by_concepts(attributes: dict[str, str], words: Words, rng: np.random.Generator, plural: bool) -> str:
    return phrase(attributes, draw_hidden(rng, list(attributes)), words, rng, plural)


def _say_by_synonyms(attributes: dict[str, str], words: Words, rng: np.random.Generator, plural: bool) -> str:
    """Return a phrase such as "the crimson disc", "the three-cornered shape in scarlet" or "the disc"."""
    color = draw_one(rng, paraphrases.COLORS[attributes["color"]]) if "color" in attributes else None
    shape = draw_one(rng, paraphrases.SHAPES[attributes["shape"]]) if "shape" in attributes else draw_one(rng, HEADS)
    if shape in paraphrases.ADJECTIVES:
        shape += f" {draw_one(rng, HEADS)}"
    if color is None:
        return f"the {shape}"
    is_first = color in paraphrases.COLOR_ADJECTIVES or rng.random() < 0.5
    return f"the {color} {shape}" if is_first else f"the {shape} in {color}"


def _say_in_japanese(attributes: dict[str, str], words: Words, rng: np.random.Generator, plural: bool) -> str:
    """Return 赤い円, 赤い形 or 円."""
    color = draw_one(rng, paraphrases.JAPANESE_COLORS[attributes["color"]]) if "color" in attributes else ""
    return color + draw_one(
        rng, paraphrases.JAPANESE_SHAPES[attributes["shape"]] if "shape" in attributes else paraphrases.JAPANESE_ANY
    )


def _say_by_japanese_concepts(attributes: dict[str, str], words: Words, rng: np.random.Generator, plural: bool) -> str:
    """Return トマトの色の円, コインの形の赤いもの, or トマトの色の形."""
    hidden = draw_one(rng, list(attributes))
    rest = {name: value for name, value in attributes.items() if name != hidden}
    if "shape" in rest:
        head = draw_one(rng, paraphrases.JAPANESE_SHAPES[rest["shape"]])
    else:
        # コインの形の形 is not natural
        head = draw_one(rng, paraphrases.JAPANESE_ANY if hidden == "color" else paraphrases.JAPANESE_ANY[1:])
    if "color" in rest:
        head = draw_one(rng, paraphrases.JAPANESE_COLORS[rest["color"]]) + head
    concept = draw_one(rng, paraphrases.JAPANESE_CONCEPTS[hidden][attributes[hidden]])
    return draw_one(rng, paraphrases.JAPANESE_WORDINGS[hidden]).format(concept, head)


SAY = {
    "plain": _say_plainly,
    "concept": _say_by_concepts,
    "paraphrase": _say_by_synonyms,
    "ja_plain": _say_in_japanese,
    "ja_concept": _say_by_japanese_concepts,
    "absent": _say_plainly,
    "absent_concept": _say_by_concepts,
}
