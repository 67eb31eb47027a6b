"""What the page's parts are given: plain data that stage.js and talk.js draw, each value a change of what is shown."""

import base64
import functools
import html
from pathlib import Path
from typing import Any

from gemma_lisa.drawing.overlay import text_colour
from gemma_lisa.images_gemma_lisa import load_rgb

from .conversations import Turn, Visit
from .layers import colour_of, data_url, mask_layer, number_place
from .translations import WORDS

HERE = Path(__file__).parent
# Drawings to begin with, and what to ask about each
SCENES = (
    (HERE.parents[1] / "docs" / "scene.png", "all the blue triangles"),
    (HERE / "scenes" / "easy-1.png", "all the triangles"),
    (HERE / "scenes" / "easy-2.png", "the red circle"),
    (HERE / "scenes" / "hard-1.png", "the purple shape"),
    (HERE / "scenes" / "hard-2.png", "the largest circle"),
)
NOTHING_SHOWN = {"turn": -1, "whole": False, "masks": []}


def stage_of(visit: Visit, at: int, turn: Turn | None = None) -> dict[str, Any]:
    """The masks of the answer number `at`, or of `turn`, which is still being written."""
    asked = visit.turns[at] if turn is None else turn
    masks = []
    decoded = visit.masks_of(asked)
    for index, (mask, told, name) in enumerate(zip(decoded, asked.answer["masks"], asked.names, strict=True)):
        masks.append(
            colours_of(index)
            | {
                "name": name,
                "score": told["score"],
                "layer": mask_layer(mask, colour_of(index)),
                "place": number_place(mask),
                "points": asked.points[index],
            }
        )
    return {"turn": at, "whole": turn is None, "masks": masks}


def talk_of(visit: Visit, shown: int, turn: Turn | None = None) -> dict[str, Any]:
    """All that was said, and `turn`, which is still being written; `shown` is whose masks are seen."""
    turns = [*visit.turns, *([] if turn is None else [turn])]
    return {
        "shown": shown,
        "turns": [
            {
                "question": asked.question,
                "words": asked.words,
                "colours": [colours_of(index) for index in range(len(asked.points))],
                "whole": asked is not turn,
                "cut_off": asked is not turn and not asked.answer["complete"],
            }
            for asked in turns
        ],
    }


def colours_of(index: int) -> dict[str, str]:
    """A mask's colour, and that of text on it, as CSS has them."""
    colour = colour_of(index)
    return {"colour": _in_css(colour), "ink": _in_css(text_colour(colour))}


def file_of(name: str, kind: str, content: bytes) -> dict[str, Any]:
    """A file for the browser to save; it goes there directly and never lies on this machine."""
    return {"file": {"name": name, "type": kind, "base64": base64.b64encode(content).decode("ascii")}}


def head(language: str, model: str | None) -> str:
    """Title, what this is, and which model answers; None: that of examples/."""
    words = WORDS[language]
    note = words["note_example"] if model is None else words["note_model"].format(model=model)
    return (
        f'<div class="gl-head" lang="{language}"><h1>{words["title"]}</h1><p>{words["intro"]}</p>'
        f'<p class="gl-note">{html.escape(note)}</p></div>'
    )


def message(line: str) -> str:
    """A line that a visitor is to see."""
    return f'<p role="alert">{html.escape(line)}</p>'


def examples(language: str) -> str:
    """The drawings to begin with, as buttons."""
    scenes = "".join(
        f'<button type="button" data-scene="{number}"><img alt="" src="{url}">{html.escape(question)}</button>'
        for number, (url, question) in enumerate(_scene_urls())
    )
    return f'<div class="gl-examples"><h3>{WORDS[language]["examples"]}</h3>{scenes}</div>'


@functools.cache
def _scene_urls() -> list[tuple[str, str]]:
    return [(data_url(load_rgb(path), "PNG"), question) for path, question in SCENES]


def _in_css(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
