"""Example cards of the page: a picture and a question that the model answers correctly.

A folder that `scripts/export.py` or `scripts/export_adapter.py` wrote has its own examples. Other models have those of
the example checkpoint.
"""

import base64
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemma_lisa.checkpoints.hub_repository import ANSWERS, EXAMPLES
from gemma_lisa.safety.parsing import parse_json

SCENES = Path(__file__).parent / "scenes"
MAX_CARDS = 4
# Limits for the examples of a model's folder. The page contains each picture.
MAX_BYTES, MAX_QUESTION = 2_000_000, 200  # bytes of a picture, characters


@dataclass(frozen=True)
class Card:
    """A picture and a question about it."""

    path: Path
    question: str


# Only circles, squares and triangles in red, green and blue: the example checkpoint knows nothing else
CARDS = (
    Card(SCENES / "grey.png", "all the blue triangles"),
    Card(SCENES / "white.png", "the green square"),
    Card(SCENES / "dark.png", "the red circle"),
    Card(SCENES / "light.png", "the blue circle"),
)


def cards_of(model: str | Path | None) -> tuple[Card, ...]:
    """Return the cards of a model: the first examples of its folder, or CARDS if it has none.

    Args:
        model: folder or Hub name; None for the example checkpoint. Examples that cannot be shown are skipped.
    """
    path = None if model is None else Path(model) / EXAMPLES / ANSWERS
    if path is None or not path.is_file():
        return CARDS
    try:
        entries = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return CARDS
    cards = [card for entry in entries if (card := _card_of(entry, Path(model)))] if isinstance(entries, list) else []
    return tuple(cards[:MAX_CARDS]) or CARDS


def _card_of(entry: Any, folder: Path) -> Card | None:
    """Return the card of an example, or None if it has no question or no small PNG file inside the folder."""
    if not isinstance(entry, dict):
        return None
    image, question = entry.get("image"), entry.get("text")
    if not (isinstance(image, str) and isinstance(question, str) and 0 < len(question.strip()) <= MAX_QUESTION):
        return None
    try:
        path = (folder / image).resolve()
        is_shown = path.is_relative_to(folder.resolve()) and path.suffix == ".png" and path.is_file()
        return Card(path, question) if is_shown and path.stat().st_size <= MAX_BYTES else None
    except (OSError, ValueError):  # the name is too long, or contains a zero character
        return None


@functools.cache
def url_of(path: Path) -> str:
    """Return a PNG file as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
