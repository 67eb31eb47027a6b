"""Judged questions about images with boxes, for tests of the report and of the comparison."""

import numpy as np
from PIL import Image

from gemma_lisa.datasets_builder.rows import encode_mask
from gemma_lisa.evaluation.judging import judge
from gemma_lisa.evaluation.records import Judged, Prediction, Question
from gemma_lisa.evaluation.results_file import content_of

SIZE = (40, 60)  # height, width
REFUSAL = "It is not in the image."


def box(left: int, top: int, width: int = 12, height: int = 10) -> dict:
    """Return the mask of a box."""
    mask = np.zeros(SIZE, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return encode_mask(mask)


WHOLE, EMPTY = box(0, 0, SIZE[1], SIZE[0]), encode_mask(np.zeros(SIZE, dtype=bool))


def question(number: int = 0, targets: list[dict] | None = (), **fields) -> Question:
    """Return the question of a row; targets None: without masks."""
    values = {
        "id": f"boxes/test/{number:04d}#0",
        "dataset": "boxes",
        "source": f"boxes/test/{number:04d}",
        "kind": None,
        "text": f"box {number}",
        "expected": "It is {seg}." if targets else REFUSAL,
        "size": SIZE,
        "targets": None if targets is None else list(targets),
        "ignore": None,
        "others": [],
    }
    return Question(**{**values, **fields})


def answered(asked: Question, masks: list[dict] = (), **fields) -> Judged:
    """Return a question with an answer."""
    return judge(asked, Prediction(**{"id": asked.id, "masks": list(masks), "scores": [], **fields}))


def questions(count: int = 24) -> list[Question]:
    """Return questions about boxes at different places: every fourth has no target, every sixth has two."""
    found = []
    for number in range(count):
        place = (3 + 7 * number % 40, 2 + 5 * number % 26)
        targets = [box(*place)] + ([box((place[0] + 25) % 46, place[1])] if number % 6 == 5 else [])
        absent = number % 4 == 3
        kind = "absent" if absent else "plural" if len(targets) > 1 else "single"
        found.append(question(number, [] if absent else targets, kind=kind))
    return found


def baseline(name: str, count: int = 24) -> list[Judged]:
    """Return the answers of truth, always, never, whole, empty or random to `questions`."""
    generator = np.random.default_rng(0)
    found = []
    for asked in questions(count):
        masks = {
            "truth": asked.targets,
            "always": asked.targets or [box(20, 15)],
            "never": [],
            "whole": [WHOLE],
            "empty": [EMPTY],
            "random": [box(int(generator.integers(0, 46)), int(generator.integers(0, 28)))],
        }[name]
        found.append(answered(asked, masks))
    return found


def mixed(count: int = 24, shift: int = 2) -> list[Judged]:
    """Return answers with every class of error and with scores."""
    found = []
    for number, asked in enumerate(questions(count)):
        masks, fields = list(asked.targets), {"text": "It is [SEG]."}
        if number % 8 == 0:
            masks = []
        elif number % 8 == 1:
            masks = [box(46, 28)]
        elif number % 8 == 3:
            masks = [box(20, 15)]
        elif number % 8 == 5:
            masks = masks[:1]
        elif number % 8 == 2:
            decoded = np.roll(_pixels(masks[0]), shift, axis=1) if masks else None
            masks = [] if decoded is None else [encode_mask(decoded)]
        elif number % 8 == 4:
            masks, fields = [], {"text": "the the the", "complete": False}
        found.append(answered(asked, masks, scores=[0.9] * len(masks), **fields))
    return found


def _pixels(mask: dict) -> np.ndarray:
    from gemma_lisa.datasets_builder.rows import decode_mask

    return decode_mask(mask, "box") == 1


def contents(judged: list[Judged], **facts) -> dict:
    """Return the content of a results file."""
    named = {"model": "outputs/demo", "dataset": "boxes", "split": "test", "fingerprint": "ab" * 32}
    return content_of(judged, "generate", "exact", {**named, **facts})


def image_of(index: int) -> Image.Image:
    """Return an image with the size of the questions."""
    return Image.new("RGB", SIZE[::-1], (90, 30 + index % 200, 60))
