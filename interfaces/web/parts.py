"""Data for the components of the page. viewer.js and turns.js draw it; each value is a change to what is shown."""

import base64
import html
from collections.abc import Sequence
from typing import Any

from gemma_lisa.answers_gemma_lisa import (
    FOUND,
    INCOMPLETE,
    LOW_CONFIDENCE,
    NOT_THERE,
    NOTHING_FOUND,
    TEXT_ONLY,
    repeats_itself,
)
from gemma_lisa.drawing.overlay import text_colour

from .cards import CARDS, Card, url_of
from .conversations import Conversation, Turn
from .layers import colour_of
from .translations import WORDS

NO_MASKS = {"turn": -1, "whole": False, "masks": []}
# Keys of the notes in translations.WORDS
ANSWER_NOTES = {
    FOUND: "",
    LOW_CONFIDENCE: "low_confidence",
    NOTHING_FOUND: "nothing_found",
    NOT_THERE: "not_there",
    TEXT_ONLY: "no_mask",
    INCOMPLETE: "cut_off",
}
MASK_NOTES = {FOUND: "", LOW_CONFIDENCE: "mask_low_confidence", NOTHING_FOUND: "mask_empty"}


def viewer_of(conversation: Conversation, at: int, turn: Turn | None = None) -> dict[str, Any]:
    """Return the masks that the viewer shows.

    Args:
        conversation: the conversation about the picture.
        at: index of the turn.
        turn: the turn with this index if its answer is still being written.
    """
    asked = conversation.turns[at] if turn is None else turn
    masks = [
        colours_of(index)
        | {"name": name, "score": kept.score, "note": MASK_NOTES[kept.status]}
        | kept.shown
        | {"points": list(kept.points)}
        for index, (kept, name) in enumerate(zip(asked.masks, asked.names, strict=True))
    ]
    return {"turn": at, "whole": turn is None, "masks": masks}


def turns_of(conversation: Conversation, shown: int, turn: Turn | None = None) -> dict[str, Any]:
    """Return all turns.

    Args:
        conversation: the conversation.
        shown: index of the turn whose masks are shown.
        turn: the last turn if its answer is still being written.
    """
    turns = [*conversation.turns, *([] if turn is None else [turn])]
    return {
        "shown": shown,
        "turns": [
            {
                "question": asked.question,
                "pieces": asked.pieces,
                "colours": [colours_of(index) for index in range(len(asked.masks))],
                "whole": asked is not turn,
                "note": "" if asked is turn else note_of(asked),
            }
            for asked in turns
        ],
    }


def note_of(turn: Turn) -> str:
    """Return the key of the note below an answer, or "" if the answer needs none."""
    if turn.status == INCOMPLETE and repeats_itself(turn.answer["raw_text"]):
        return "repeats"
    return ANSWER_NOTES[turn.status]


def colours_of(index: int) -> dict[str, str]:
    """Return the colour of a mask and of text on it, in CSS notation."""
    colour = colour_of(index)
    return {"colour": _in_css(colour), "ink": _in_css(text_colour(colour))}


def file_of(name: str, kind: str, content: bytes) -> dict[str, Any]:
    """Return a file that the browser saves. It is never written to the server's disk."""
    return {"file": {"name": name, "type": kind, "base64": base64.b64encode(content).decode("ascii")}}


def head(language: str, model: str | None) -> str:
    """Return title, introduction and the note about the model; `model` is None for the example checkpoint."""
    words = WORDS[language]
    note = words["note_example"] if model is None else words["note_model"].format(model=model)
    return (
        f'<div class="gl-head" lang="{language}"><h1>{words["title"]}</h1><p>{words["intro"]}</p>'
        f'<p class="gl-note">{html.escape(note)}</p></div>'
    )


def example_cards(language: str, cards: Sequence[Card] = CARDS) -> str:
    """Return the example cards as buttons."""
    heading = WORDS[language]["examples"]
    buttons = "".join(
        f'<button type="button" data-card="{number}"><img alt="" src="{url_of(card.path)}">'
        f'<span lang="en">{html.escape(card.question)}</span></button>'
        for number, card in enumerate(cards)
    )
    return f'<div class="gl-examples" role="group" aria-label="{heading}"><h3>{heading}</h3>{buttons}</div>'


def _in_css(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
