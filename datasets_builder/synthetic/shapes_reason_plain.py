"""Level "reason_plain" of shapes: the scenes and answers of "reason", asked for by color and shape only.

There are few different questions, so a model with a frozen language model can read each of them once.
"""

import numpy as np

from . import shapes_reason
from .scenes import Question, Scene
from .shapes_reason import COLORS, GRID, MIN_SIZE, SHAPES, answer, draw_scene

__all__ = ["COLORS", "COUNTING_SHARE", "GRID", "GRID_SHARE", "MIN_SIZE", "SHAPES", "answer", "ask", "draw_scene"]

GRID_SHARE = 0.0  # there is no question without a mask
COUNTING_SHARE = 0.0


def ask(scene: Scene, rng: np.random.Generator, training: bool) -> list[Question]:
    """Return N_QUESTIONS different questions, all of the kind "plain", in every split."""
    return shapes_reason.ask(scene, rng, training, {"plain": 1.0})
