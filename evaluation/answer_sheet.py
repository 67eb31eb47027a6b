"""Draw the answers of an evaluation as a sheet of pictures."""

from typing import Any

from PIL import Image

from gemma_lisa.drawing.sheet import draw_samples

from .metrics import unite
from .protocols import Answer


def draw_answers(samples: list[dict[str, Any]], answers: list[Answer], columns: int = 2) -> Image.Image:
    """Return a sheet with one card per sample: image, target, prediction, question, answer and IoU."""
    cards = []
    for sample, answer in zip(samples, answers, strict=True):
        size = (sample["image"].height, sample["image"].width)
        cards.append(
            {
                "image": sample["image"].load(),
                "question": answer.question,
                "target": unite(answer.target, size),
                "prediction": answer.masks,
                "answer": answer.raw_text,
                "iou": answer.result.iou,
            }
        )
    return draw_samples(cards, columns=columns)
