"""Count the questions of a data set, and draw a sheet of examples."""

from collections import Counter
from pathlib import Path

import datasets
import numpy as np
from tqdm import tqdm

from gemma_lisa.drawing.sheet import draw_questions
from gemma_lisa.safety.short_text import count_of, name_of
from gemma_lisa.safety.whole_files import write_whole

from .questions import EvaluationQuestions
from .rows import SEG_SLOT

MAX_CLASSES = 20  # questions that are listed
BAR_LENGTH = 40  # characters
DEFAULT_CARDS = 16
MAX_CARDS = 100  # of a sheet that shows every question
MAX_TEXTS = 10_000  # different questions whose rows are remembered
EXAMPLE_CARDS = 4  # questions of a photo that a remark is about


def print_counts(rows: datasets.Dataset, split: str) -> dict[str, list[int]]:
    """Print the numbers of targets, masks and turns, and the most common questions.

    Returns:
        the indices of the rows that ask each question, of the first MAX_TEXTS questions.
    """
    texts, masks, absent, turns, places = Counter(), 0, 0, 0, {}
    for at, row in enumerate(tqdm(rows.select_columns(["targets", "conversation"]), unit="row", desc="Counting")):
        turns += len(row["conversation"])
        for target in row["targets"]:
            text = target["texts"][0]
            texts[text] += 1
            masks += len(target["masks"])
            absent += not target["masks"]
            if text in places or len(places) < MAX_TEXTS:
                places.setdefault(text, []).append(at)
    total = sum(texts.values())
    counts = [count_of(total, "target"), count_of(masks, "mask"), f"{absent:,} without a mask (not in the image)"]
    print(f"{split}: {', '.join(counts)}, {count_of(turns, 'conversation turn')}")
    most = texts.most_common(MAX_CLASSES)
    for text, count in most:
        bar = "█" * max(1, round(BAR_LENGTH * count / most[0][1]))
        print(f"  {count:>8,} {bar:<{BAR_LENGTH}} {name_of(text)}")
    if len(texts) > MAX_CLASSES:
        print(f"  and {count_of(len(texts) - MAX_CLASSES, 'other question')}")
    return places


def choose_questions(
    rows: datasets.Dataset,
    places: dict[str, list[int]],
    examples: list[list[str]],
    count: int | None,
    generator: np.random.Generator,
) -> list[tuple[int, str | None]]:
    """Return the questions of a sheet: (row, question, or None for any of its questions).

    First come photos that show what the builder remarked, then each other question once, then other rows.

    Args:
        rows: of a split.
        places: from `print_counts`.
        examples: for each remark, paths of photos.
        count: number of questions; None: DEFAULT_CARDS, or up to MAX_CARDS for all examples and different questions.
        generator: chooses among the rows and, if there are too many, among the questions.
    """
    chosen = []
    for at in _rows_of(rows, examples):
        asked = [target["texts"][0] for target in rows[at]["targets"]][:EXAMPLE_CARDS]
        chosen += [(at, text) for text in asked or [None]]
    texts = [text for text in places if text not in {text for _, text in chosen}]
    most = max(0, (count or MAX_CARDS) - len(chosen))
    if len(texts) > most:
        texts = [texts[at] for at in sorted(generator.permutation(len(texts))[:most].tolist())]
    chosen += [(int(generator.choice(places[text])), text) for text in texts]
    seen = {at for at, _ in chosen}
    least = max(DEFAULT_CARDS, len(chosen))
    chosen += [(at, None) for at in generator.permutation(len(rows)).tolist() if at not in seen]
    return chosen[: count or least]


def _rows_of(rows: datasets.Dataset, examples: list[list[str]]) -> list[int]:
    """Return for each example the first row of the first of its photos that has a row."""
    wanted, found = {path for paths in examples for path in paths}, {}
    if not wanted:
        return []
    for at, row in enumerate(rows.select_columns(["image"])):
        path = row["image"] and row["image"]["path"]
        if path in wanted:
            found.setdefault(path, at)
    first = (next((found[path] for path in paths if path in found), None) for paths in examples)
    return list(dict.fromkeys(at for at in first if at is not None))


def draw(rows: datasets.Dataset, chosen: list[tuple[int, str | None]], output: Path) -> None:
    """Write a sheet with a card for each of the chosen questions whose row has an image."""
    cards = []
    for at, text in chosen:
        questions = EvaluationQuestions(rows.select([at]), with_conversations=True)
        wanted = [row["texts"][0] for row in rows[at]["targets"]]
        sample = questions[wanted.index(text) if text in wanted else 0] if len(questions) else None
        if sample is None or sample["image"] is None:
            continue
        [conversation], [masks] = sample["conversations"], sample["masks"]
        question, answer = conversation.turns[0]
        cards.append(
            {
                "image": sample["image"].load(),
                "question": question,
                "answer": answer.replace(SEG_SLOT, "[SEG]"),
                "masks": masks,
            }
        )
    if not cards:
        print(f"nothing to draw: no image in {count_of(len(chosen), 'row')}")
        return
    write_whole(output, draw_questions(cards, columns=min(3, len(cards))))
    print(f"saved {output}")
