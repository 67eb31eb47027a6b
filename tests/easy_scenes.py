"""Scenes and rows of level "easy" of shapes, and the objects that a question asks for."""

import numpy as np

from gemma_lisa.datasets_builder.synthetic.shapes import row_of_scene
from gemma_lisa.datasets_builder.synthetic.shapes_easy import draw_scene

SIZE = 64
N_SCENES = 400  # four questions each
AREAS = {"circle": np.pi, "square": 2.0, "triangle": 3 * np.sqrt(3) / 4}  # inscribed in the unit circle
RGB = {"red": (215, 50, 50), "green": (50, 180, 60), "blue": (55, 75, 220)}


def make(index, training=False, size=SIZE):
    rng = np.random.default_rng((0, index))
    scene = draw_scene(rng, size)
    return scene, row_of_scene(scene, rng, training, f"test/{index}")


def named(objects, words):
    """Return the objects that match words such as "red circles", "shape" or "blue shapes"."""
    found = objects
    for word in words.split():
        word = word.removesuffix("s")
        if word in RGB:
            found = [thing for thing in found if thing.color == word]
        elif word in AREAS:
            found = [thing for thing in found if thing.shape == word]
        else:
            assert word == "shape"
    return found


def kind_of(target):
    """Return the kind of a question from its text and masks."""
    words = target["texts"][0].split()
    if not target["masks"]:
        return "absent"
    if words[0] == "all":
        return "plural"
    return "color_shape" if len(words) == 3 and words[2] != "shape" else "color" if words[1] in RGB else "shape"
