"""Questions and predictions on drawn masks: "11.. 11.. .... ...." has a line of characters per row of the image."""

import numpy as np

from gemma_lisa.datasets_builder.rows import encode_mask
from gemma_lisa.evaluation.judging import judge
from gemma_lisa.evaluation.records import Judged, Prediction, Question

TOP_LEFT = "11.. 11.. .... ...."
TOP_RIGHT = "..11 ..11 .... ...."
BOTTOM_LEFT = ".... .... 11.. 11.."
BOTTOM_RIGHT = ".... .... ..11 ..11"
NOTHING = ".... .... .... ...."
EVERYTHING = "1111 1111 1111 1111"


def pixels(drawing: str) -> np.ndarray:
    """Return a drawing as a mask (H, W) bool."""
    return np.array([[character == "1" for character in line] for line in drawing.split()])


def rle(drawing: str) -> dict:
    return encode_mask(pixels(drawing))


def judged(targets: list[str], masks: list[str], ignore: str | None = None, others=(), names=(), **given) -> Judged:
    """Return the judged prediction of drawn masks for drawn targets.

    Args:
        targets, masks, ignore, others: drawings of one size.
        names: of the question.
        given: other fields of the question (id, dataset, source, kind) and of the prediction.
    """
    about = {name: given.pop(name) for name in ("id", "dataset", "source", "kind") if name in given}
    size = tuple(rle((targets or masks or [NOTHING])[0])["size"])
    question = Question(
        **{"id": "row#0", "dataset": "drawn", "source": "row", "kind": None} | about,
        text="the square",
        expected="It is {seg}.",
        size=size,
        targets=[rle(drawing) for drawing in targets],
        ignore=None if ignore is None else rle(ignore),
        others=[rle(drawing) for drawing in others],
        names=list(names),
    )
    return judge(question, Prediction(question.id, [rle(drawing) for drawing in masks], [], **given))


def answered(text: str | None, expected: str, **given) -> Judged:
    """Return the judged answer to a VQA question."""
    question = Question("row#1", "drawn", "row", None, "How many?", expected, (4, 4), None, None, [])
    return judge(question, Prediction(question.id, [], [], text, **given))
