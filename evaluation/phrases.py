"""Judge whether the phrase beside each predicted mask is true of the thing that the mask covers.

A mask covers the annotated thing with the largest IoU, if it is at least 0.5. What a row calls a thing is known from
the texts and answers of its questions (`names_of`). A phrase that cannot be judged is neither right nor wrong.

- Data sets of class names (CLASS_NAMED): a phrase is right if the row calls the thing so. It is wrong if it is the name
  of other things of the row, or of an absent one. Other phrases are not judged.
- `shapes`: size, texture, color and shape are compared with those of the thing. "upper left" is a quarter of the canvas
  in each direction, which must contain the centroid of the predicted mask.

Phrases of other data sets are not judged: "the man" can be true of a thing that the row calls "the left guy".
"""

import re

import numpy as np
from pycocotools import mask as coco_mask

from gemma_lisa.answers_gemma_lisa import phrases_of
from gemma_lisa.datasets_builder.rows import SEG_SLOT, SEG_WORD
from gemma_lisa.datasets_builder.synthetic.scenes import COLORS, COLUMNS, ROWS, TEXTURES
from gemma_lisa.datasets_builder.synthetic.shapes_hard_scenes import SHAPES, SIZES

from . import mask_algebra
from .records import RLE, Prediction, Question

CLASS_NAMED = ("ade20k", "coco_instances", "coco_stuff", "folder", "mapillary", "paco_lvis", "pascal_part")
DRAWN = "shapes"
MIN_COVER = 0.5  # IoU of a mask with the thing that it covers
# Distance from the named quarter, in quarters, from which a position is wrong. Nearer ones are not judged: answers name
# the quarter of an object's center, and hidden parts move the centroid (by at most 0.11 in 1,726 answers).
MIN_DISTANCE = 0.125

_WORDS = re.compile(r"[^\W_]+")
_FILLERS = {"a", "an", "the", "in", "all", "shape", "shapes"}
_RELATIONS = {"left", "right", "above", "below", "inside", "touching", "that"}  # the words after them name other things
# Where the words about another thing begin: "star left of the ring". "upper left" is a position.
_OTHER_THING = re.compile(r"\b(?:(?:left|right) of|above|below|inside|touching|that)\b.*", re.DOTALL)
_ATTRIBUTES = {
    value: attribute
    for attribute, values in (("size", SIZES), ("texture", TEXTURES), ("color", COLORS), ("shape", SHAPES))
    for value in values
}


def names_of(targets: list[dict], index: int) -> list[list[str]]:
    """Return what a row calls each thing: one list per mask of its target `index`, then of its other targets in order.

    The last list, after those of all masks, has the names of its targets that are not in the image.

    Args:
        targets: of the row, as in `rows.ROW_FEATURES`.
        index: number of the target that is asked for.
    """
    ordered = [targets[index], *targets[:index], *targets[index + 1 :]]
    of_mask: dict[str, list[str]] = {}
    for target in ordered:
        answered = phrases_of((target["answer"] or "").split(SEG_SLOT))
        for number, mask in enumerate(target["masks"]):
            names = of_mask.setdefault(mask["counts"], [])
            names += [] if target["is_sentence"] else target["texts"]
            names += [phrase for phrase in answered[number : number + 1] if phrase]
    absent = [
        text for target in ordered if not target["masks"] and not target["is_sentence"] for text in target["texts"]
    ]
    return [of_mask[mask["counts"]] for target in ordered for mask in target["masks"]] + [absent]


def judge_phrases(question: Question, prediction: Prediction, masks: list[RLE], things: list[RLE]) -> tuple[int, int]:
    """Return the number of phrases that are true of their mask, and the number of phrases that were judged.

    Args:
        question, prediction: with names and phrases.
        masks: of the prediction, without the ignore region.
        things: targets and other annotated things of the question.
    """
    phrases = given_phrases(prediction)
    if not any(phrases) or not question.names:
        return 0, 0
    if len(question.names) != len(things) + 1 or len(phrases) != len(masks):
        raise ValueError(
            f"{question.id}: {len(question.names)} lists of names for {len(things)} things, and {len(phrases)} phrases "
            f"for {len(masks)} masks; give one list per thing and one for absent things, and one phrase per mask."
        )
    kind = question.dataset.partition("/")[0]
    is_drawn = kind == DRAWN or question.source.startswith(f"{DRAWN}-")
    if not is_drawn and kind not in CLASS_NAMED:
        return 0, 0
    covered = [_covered(row) for row in mask_algebra.pairwise_iou(masks, things)]
    verdicts = [
        _judge_drawn(phrase, mask, [] if at is None else question.names[at])
        if is_drawn
        else _judge_class(phrase, at, question.names)
        for phrase, mask, at in zip(phrases, masks, covered, strict=True)
        if phrase
    ]
    return sum(verdict is True for verdict in verdicts), sum(verdict is not None for verdict in verdicts)


def given_phrases(prediction: Prediction) -> list[str]:
    """Return the phrase beside each mask, read from the text if the system gives none; [] if there are none."""
    if prediction.phrases or not prediction.text:
        return prediction.phrases or []
    read = phrases_of(prediction.text.split(SEG_WORD))
    return read if len(read) == len(prediction.masks) else []


def _covered(ious: np.ndarray) -> int | None:
    """Return the thing with the largest IoU (T,), or None if no IoU is large enough."""
    return int(ious.argmax()) if len(ious) and ious.max() >= MIN_COVER else None


def _judge_class(phrase: str, covered: int | None, names: list[list[str]]) -> bool | None:
    """Return whether a phrase is a class name of the covered thing, or None if it cannot be judged."""
    name = _plain(phrase)
    known = [{_plain(text) for text in texts} for texts in names]
    if covered is None or not any(name in texts for texts in known):
        return None
    return name in known[covered]


def _plain(name: str) -> str:
    """Return a name in lower case without article and plural s: "dog" for "The dogs"."""
    words = _WORDS.findall(name.lower())
    words = words[1:] if len(words) > 1 and words[0] in _FILLERS else words
    return " ".join(words).removesuffix("s")


def _judge_drawn(phrase: str, mask: RLE, names: list[str]) -> bool | None:
    """Return whether a phrase such as "small red star" or "upper left" is true, or None if it cannot be judged.

    One wrong word makes it wrong. It is right if each word was judged. Words about another thing are not judged.
    """
    own = _OTHER_THING.sub("", phrase.lower())
    words = [_singular(word) for word in _WORDS.findall(own) if word not in _FILLERS]
    known = _attributes_of(names)
    verdicts: list[bool | None] = [None] if own != phrase.lower() else []
    for word in words:
        if word in ROWS or word in COLUMNS:
            verdicts.append(_judge_position(word, mask))
        else:
            attribute = _ATTRIBUTES.get(word)
            verdicts.append(word == known[attribute] if attribute in known else None)
    if not verdicts or (None in verdicts and False not in verdicts):
        return None
    return False not in verdicts


def _attributes_of(names: list[str]) -> dict[str, str]:
    """Return the attributes in the names of a thing: {"color": "red", "shape": "star"} for "the star in red"."""
    found = {}
    for name in names:
        for word in _WORDS.findall(name.lower()):
            if word in _RELATIONS:
                break
            word = _singular(word)
            if word in _ATTRIBUTES:
                found[_ATTRIBUTES[word]] = word
    return found


def _singular(word: str) -> str:
    return next((stem for stem in (word.removesuffix("es"), word.removesuffix("s")) if stem in _ATTRIBUTES), word)


def _judge_position(word: str, mask: RLE) -> bool | None:
    """Return whether the centroid of a mask is in the named quarter of the canvas, or None if it is only near it."""
    pixels = coco_mask.decode(mask)
    if not pixels.any():
        return None
    axis, quarters = (0, ROWS) if word in ROWS else (1, COLUMNS)
    counts = pixels.sum(axis=1 - axis, dtype=np.int64)  # foreground of each row or column
    centroid = (counts @ (np.arange(len(counts)) + 0.5)) / counts.sum() * len(quarters) / len(counts)  # in quarters
    quarter = quarters.index(word)
    distance = max(quarter - centroid, centroid - (quarter + 1), 0)
    return True if distance == 0 else False if distance >= MIN_DISTANCE else None
