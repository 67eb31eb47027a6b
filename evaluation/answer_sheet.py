"""Draw the answers of an evaluation as a sheet of pictures."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from gemma_lisa.datasets_builder.rows import decode_mask
from gemma_lisa.drawing.sheet import draw_samples
from gemma_lisa.images_gemma_lisa import IGNORE_VALUE

from .records import RLE, Judged


def draw_answers(judged: Sequence[Judged], images: Sequence[Image.Image], columns: int = 2) -> Image.Image:
    """Return a sheet with one card per answer: image, target, prediction, question, answer and IoU.

    Args:
        judged: answers to questions with masks.
        images: the upright RGB image of each.
        columns: number of cards per row.
    """
    cards = []
    for one, image in zip(judged, images, strict=True):
        question, prediction = one.question, one.prediction
        target = _stacked(question.targets, question).any(0).astype(np.uint8)
        if question.ignore is not None:
            target[_stacked([question.ignore], question)[0] & (target == 0)] = IGNORE_VALUE
        cards.append(
            {
                "image": image,
                "question": question.text,
                "target": target,
                "prediction": _stacked(prediction.masks, question),
                "answer": prediction.text or "",
                "iou": one.iou,
            }
        )
    return draw_samples(cards, columns=columns)


def _stacked(masks: list[RLE], question) -> np.ndarray:
    """Return masks (K, H, W) bool at the size of the question's image."""
    decoded = np.zeros((len(masks), *question.size), dtype=bool)
    for place, rle in zip(decoded, masks, strict=True):
        place[:] = decode_mask(rle, question.id)
    return decoded
