"""An answer as text for people: the terminal and the pictures show the same text."""

from typing import Any

from gemma_lisa.answers_gemma_lisa import (
    INCOMPLETE,
    LOW_CONFIDENCE,
    NOTHING_FOUND,
    answer_status,
    mask_status,
    repeats_itself,
)
from gemma_lisa.safety.short_text import shorten

SEG_TOKEN = "[SEG]"
MAX_REPEATED_TEXT = 60  # characters to show of an answer that repeats itself


def answer_text(answer: dict[str, Any], first: int = 1) -> str:
    """Return the text of an answer, with numbers for its masks, and a note if nothing was found or it is uncertain.

    Args:
        answer: as returned by the processor's `post_process_segmentation`.
        first: number of its first mask.
    """
    pieces = answer["raw_text"].split(SEG_TOKEN)
    text = pieces[0] + "".join(f"[{number}]{piece}" for number, piece in enumerate(pieces[1:], start=first))
    if repeats_itself(answer["raw_text"]):
        text = shorten(text, MAX_REPEATED_TEXT)
    return f"{text} {note(answer)}".strip()


def note(answer: dict[str, Any]) -> str:
    """Return why an answer is not reliable, in parentheses, or "" if it is."""
    status = status_of(answer)
    if status == INCOMPLETE:
        if repeats_itself(answer["raw_text"]):
            return "(incomplete: the answer repeats itself)"
        if answer["complete"]:
            return "(incomplete: the answer is empty)"
        return "(incomplete: cut off; raise --max_new_tokens)"
    if status == NOTHING_FOUND:
        return f"(nothing found: {'the mask is' if len(answer['masks']) == 1 else 'all masks are'} empty)"
    return "(low confidence)" if status == LOW_CONFIDENCE else ""


def status_of(answer: dict[str, Any]) -> str:
    """Return the `answer_status` of an answer."""
    scores = answer["scores"].tolist()
    statuses = [mask_status(area, score) for area, score in zip(areas_of(answer), scores, strict=True)]
    return answer_status(answer["text"], answer["complete"], statuses)


def areas_of(answer: dict[str, Any]) -> list[int]:
    """Return the number of pixels of each mask of an answer."""
    return [int(mask.count_nonzero()) for mask in answer["masks"]]


def masks_text(query: str, answer: dict[str, Any], first: int = 1) -> str:
    """Return the masks of an answer in a line, such as "1 mask: [1] cup (score 0.91)".

    Args:
        query: question that was asked.
        answer: as in `answer_text`.
        first: number of its first mask.
    """
    count = sum(area > 0 for area in areas_of(answer))
    found = "no mask" if count == 0 else "1 mask" if count == 1 else f"{count} masks"
    listed = ", ".join(f"[{number}] {label}" for number, label in enumerate(labels(query, answer), start=first))
    return f"{found}: {listed}" if listed else found


def labels(query: str, answer: dict[str, Any]) -> list[str]:
    """Return a line for each mask of an answer: its phrase, or else the query, and the estimate of its IoU."""
    scores = answer["scores"].tolist()
    return [
        label_of(phrase or query, score, area)
        for phrase, score, area in zip(answer["phrases"], scores, areas_of(answer), strict=True)
    ]


def label_of(name: str, score: float, area: int) -> str:
    """Return the legend of a mask.

    Args:
        name: what the mask shows.
        score: SAM's own estimate of the mask's IoU.
        area: pixels of the mask.
    """
    status = mask_status(area, score)
    if status == NOTHING_FOUND:
        return f"{name} (empty mask)"
    return f"{name} (score {score:.2f}{', low confidence' if status == LOW_CONFIDENCE else ''})"
