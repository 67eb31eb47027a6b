"""Choose the questions that are shown as pictures: best, worst, random, and each kind of error."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from gemma_lisa.datasets_builder.rows import SEG_SLOT, SEG_WORD

from ..error_classes import MEANINGS, PRESENCE
from ..judging import refuses
from ..records import Judged
from .facts import share_of
from .pictures import draw_pair

MAX_CARDS = 72  # in a report, about 60 kB each
PER_SHEET = 6  # maximum number of cards of a sheet
# Class of error -> heading; the class of presence has a sheet for each of its two sides
HEADINGS = {
    "selection": "Wrong selection",
    "boundary": "Inexact boundary",
    "count": "Wrong number of masks",
    "cut off": "Cut off",
}


@dataclass(frozen=True)
class Sheet:
    """A group of questions to show.

    Args:
        name: short name, such as "worst".
        heading, explanation: for people.
        chosen: indices of the shown questions, in their order.
        total: number of questions that belong to the group.
    """

    name: str
    heading: str
    explanation: str
    chosen: list[int]
    total: int


def choose_sheets(judged: Sequence[Judged], per_sheet: int = PER_SHEET) -> list[Sheet]:
    """Return the sheets of a data set that have a question. The choice is the same every time.

    Args:
        judged: all questions; VQA questions are ignored.
        per_sheet: maximum number of questions of a sheet.
    """
    asked = [at for at, one in enumerate(judged) if one.question.targets is not None]
    answered = [at for at in asked if judged[at].question.targets and judged[at].prediction.masks]
    order = np.random.default_rng(0).permutation(len(answered))
    # Equal IoUs in random order, so that a system with many of them is shown as it is
    by_iou = sorted((answered[at] for at in order), key=lambda at: judged[at].iou)
    drawn = [asked[at] for at in np.random.default_rng(1).permutation(len(asked))]
    missed = [at for at in drawn if judged[at].question.targets and refuses(judged[at].prediction)]
    invented = [at for at in drawn if not judged[at].question.targets and judged[at].prediction.masks]
    groups = [
        ("worst", "Worst", "Lowest IoU among questions with a target and a mask.", by_iou),
        ("best", "Best", "Highest IoU among questions with a target and a mask.", by_iou[::-1]),
        ("random", "Random", "Drawn at random from all questions, right or wrong.", drawn),
        ("refusals", "Wrong refusals", "The target is in the image, but the answer refuses. At random.", missed),
        (
            "invented",
            "Masks of absent targets",
            "The target is not in the image, but there is a mask. At random.",
            invented,
        ),
    ]
    for name in sorted({judged[at].error for at in asked if judged[at].error} - {PRESENCE}):
        words = MEANINGS[name]
        members = [at for at in drawn if judged[at].error == name]
        groups.append((name, HEADINGS[name], f"{words[0].upper()}{words[1:]}. At random.", members))
    return [
        Sheet(name, heading, words, members[:per_sheet], len(members))
        for name, heading, words, members in groups
        if members
    ]


def cards_per_sheet(num_sheets: int) -> int:
    """Return how many cards each of the sheets of all data sets of a report can have."""
    return min(PER_SHEET, max(1, MAX_CARDS // max(1, num_sheets)))


def card_of(judged: Judged, image: Image.Image | None) -> dict[str, Any]:
    """Return what the template shows of a question: pictures as data URIs, texts and numbers."""
    question, prediction = judged.question, judged.prediction
    target, predicted = draw_pair(judged, image)
    return {
        "id": question.id,
        "kind": question.kind or "",
        "question": question.text,
        "expected": text_of(question.expected),
        "answer": prediction.text,
        "iou": judged.iou,
        "error": judged.error,
        "num_targets": len(question.targets),
        "num_masks": len(prediction.masks),
        "target_share": share_of(question.targets),
        "prediction_share": share_of(prediction.masks),
        "refused": refuses(prediction),
        "scores": prediction.scores,
        "target_picture": target,
        "prediction_picture": predicted,
        "has_image": image is not None,
    }


def text_of(expected: str) -> str:
    """Return an expected answer in the words of a model, with [SEG] for each mask."""
    return expected.replace(SEG_SLOT, SEG_WORD)


def draw_cards(
    sheet: Sheet, judged: Sequence[Judged], image_of: Callable[[int], Image.Image | None] | None
) -> list[dict[str, Any]]:
    """Return the cards of a sheet. Each image is read only while its card is drawn."""
    return [card_of(judged[at], None if image_of is None else image_of(at)) for at in sheet.chosen]
