"""Assign the predictions of a file to the questions: every question has exactly one prediction."""

import sys
from typing import Any

from gemma_lisa.datasets_builder.formats.coco_segmentation import segmentation_runs
from gemma_lisa.datasets_builder.rows import check_mask_memory
from gemma_lisa.evaluation.benchmark import SHOWN_IDS, Benchmark
from gemma_lisa.evaluation.records import Prediction
from gemma_lisa.safety.short_text import count_of, listed

from .entries import Entry
from .read import PredictionFile

ZERO = "zero"  # value of --missing


def assign_predictions(predictions: PredictionFile, benchmark: Benchmark, missing: str | None) -> dict[str, Prediction]:
    """Return the prediction for each question, by its id.

    Args:
        predictions: file or folder.
        benchmark: questions.
        missing: "zero" counts a question without a prediction as answered with nothing, and prints how many there are.
            None: it is an error.

    Raises:
        ValueError: a prediction is of no question, of a question that has another one, or is not valid. Also if a
            question has none.
    """
    found: dict[int, Entry] = {}
    for entry in predictions.entries_for(benchmark):
        index = _index_of(entry, benchmark)
        if index in found:
            raise ValueError(
                f"{predictions.path}: {benchmark.ids[index]} has two predictions ({found[index].where} and "
                f"{entry.where}); remove one of them."
            )
        found[index] = entry
    without = [id_ for index, id_ in enumerate(benchmark.ids) if index not in found]
    if without:
        _report_missing(without, predictions, benchmark, missing)
    # Only the questions of the file are read, in their order
    made = {benchmark.ids[index]: _prediction(found[index], index, benchmark) for index in sorted(found)}
    return made | {id_: Prediction(id_, [], [], text="") for id_ in without}


def _index_of(entry: Entry, benchmark: Benchmark) -> int:
    try:
        return benchmark.index_of(entry.name) if entry.asked is None else benchmark.asked_about(*entry.asked)
    except ValueError as error:
        raise ValueError(f"{entry.where}: {error}") from error


def _report_missing(without: list[str], predictions: PredictionFile, benchmark: Benchmark, missing: str | None) -> None:
    more = ", …" if len(without) > SHOWN_IDS else ""
    which = f"{len(without):,} of {count_of(len(benchmark), 'question')} ({listed(without[:SHOWN_IDS])}{more})"
    if missing != ZERO:
        raise ValueError(
            f"{predictions.path}: no prediction for {which}; add them, or count them as empty with --missing {ZERO}."
        )
    print(f"--missing {ZERO}: no prediction for {which}; counted as empty", file=sys.stderr)


def _prediction(entry: Entry, index: int, benchmark: Benchmark) -> Prediction:
    size = benchmark.size(index)
    masks = entry.masks or []
    if benchmark.asks_for_words(index):
        if masks or "text" not in entry.facts:
            raise ValueError(f"{entry.where}: the question asks for words; give text, and no masks.")
    elif entry.masks is None:
        raise ValueError(f"{entry.where}: the key masks is missing; write [] if there is nothing in the image.")
    if entry.size is not None and entry.size != size:
        has = "none" if size is None else str(list(size))
        raise ValueError(
            f"{entry.where}: the size of the masks is {list(entry.size)} (height, width), but its image has {has}; "
            "give masks at the size of the upright image."
        )
    if masks:
        check_mask_memory(len(masks), size, entry.where)
    for number, mask in enumerate(masks):
        if _is_array(mask, size):
            raise ValueError(
                f"{entry.where}: mask {number} is an array of pixels; encode it with pycocotools.mask.encode."
            )
    runs = [segmentation_runs(mask, size, f"{entry.where}: mask {number}") for number, mask in enumerate(masks)]
    return Prediction(benchmark.ids[index], runs, entry.scores, **entry.facts)


def _is_array(mask: Any, size: tuple[int, int]) -> bool:
    """Return whether a mask has one list of 0 and 1 per row of pixels. It could be read as a list of polygons."""
    return (
        isinstance(mask, list)
        and len(mask) == size[0]
        and all(isinstance(row, list) and len(row) == size[1] and all(value in (0, 1) for value in row) for row in mask)
    )
