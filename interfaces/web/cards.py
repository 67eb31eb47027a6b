"""Example cards of the page: a picture and a question that the example checkpoint answers correctly."""

import base64
import functools
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Card:
    """A picture and a question about it."""

    path: Path
    question: str


# Only circles, squares and triangles in red, green and blue: the example checkpoint knows nothing else
CARDS = (
    Card(HERE.parents[1] / "docs" / "scene.png", "all the blue triangles"),
    Card(HERE / "scenes" / "white.png", "is there a green square"),
    Card(HERE / "scenes" / "grey.png", "the red circle"),
    Card(HERE / "scenes" / "light.png", "the blue circle"),
    Card(HERE / "scenes" / "dark.png", "the red square"),
)


@functools.cache
def url_of(path: Path) -> str:
    """Return a PNG file as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
