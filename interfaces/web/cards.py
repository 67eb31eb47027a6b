"""Example cards of the page: a picture and a question that the example checkpoint answers correctly."""

import base64
import functools
from dataclasses import dataclass
from pathlib import Path

SCENES = Path(__file__).parent / "scenes"


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


@functools.cache
def url_of(path: Path) -> str:
    """Return a PNG file as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
