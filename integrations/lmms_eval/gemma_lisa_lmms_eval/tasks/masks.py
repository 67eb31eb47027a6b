"""Functions of the mask tasks: questions from prepared rows, and the scores of answers with Gemma-LISA's own metrics.

An answer of any model is JSON with the keys of `gemma_lisa.evaluation.prediction_files.answers`: `masks`, and
optionally `scores`, `boxes`, `text` and `complete`. Every question counts. An answer that is not valid has no masks and
is not a refusal. `invalid` is the share of these answers.
"""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
from datasets import Dataset

from gemma_lisa.datasets_builder.formats.coco_segmentation import segmentation_runs
from gemma_lisa.datasets_builder.rows import ROW_FEATURES, check_mask_memory
from gemma_lisa.evaluation.benchmark import Benchmark, list_questions
from gemma_lisa.evaluation.judging import judge
from gemma_lisa.evaluation.metrics import summarize_counts
from gemma_lisa.evaluation.records import Prediction, Question
from gemma_lisa.safety.parsing import parse_json

METRICS = ("gIoU", "gIoU_all", "cIoU", "N-acc", "T-acc")
# Benchmarks by the fingerprint of their rows. A document names its image instead of holding it, because there are many
# questions about one image
_BENCHMARKS: dict[str, Benchmark] = {}


def documents(rows: Dataset) -> Dataset:
    """Return one document per question of prepared rows: id, text, expected, question (JSON), rows and number.

    Raises:
        ValueError: a row is not valid, or no question asks for masks.
    """
    if rows.features["image"] != ROW_FEATURES["image"]:
        rows = rows.cast_column("image", ROW_FEATURES["image"])
    benchmark = list_questions(rows, "lmms-eval", with_conversations=False)
    if not len(benchmark):
        raise ValueError("the split has no questions for masks; prepare a data set that has.")
    _BENCHMARKS[rows._fingerprint] = benchmark
    return Dataset.from_list(
        [
            {
                "id": question.id,
                "text": question.text,
                "expected": question.expected,
                "question": json.dumps(asdict(question)),
                "rows": rows._fingerprint,
                "number": number,
            }
            for number, question in enumerate(benchmark)
        ]
    )


def image_of(document: dict[str, Any]) -> list:
    """Return the upright RGB image of a document in a list."""
    return [_BENCHMARKS[document["rows"]].image(document["number"])]


def question_of(document: dict[str, Any], settings: dict[str, Any] | None = None) -> str:
    """Return the question, with the `post_prompt` of the model that is asked."""
    return document["text"] + (settings or {}).get("post_prompt", "")


def judged(document: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """Return for each metric the counts of `summarize_counts`, and whether the answer is invalid."""
    question = Question(**json.loads(document["question"]))
    prediction = prediction_of(results[0] if results else "", question)
    is_invalid = prediction is None
    found = judge(question, prediction or Prediction(question.id, [], [], complete=False))
    num_predicted = len(found.prediction.masks)
    counts = [found.intersection, found.union, len(question.targets), num_predicted, int(found.prediction.complete)]
    return {**{name: counts for name in METRICS}, "invalid": float(is_invalid)}


def prediction_of(answer: str, question: Question) -> Prediction | None:
    """Return the prediction in an answer, or None if the answer is not valid."""
    try:
        content = parse_json(answer)
        masks, complete = content["masks"], content.get("complete", True)
        if not isinstance(masks, list) or not isinstance(complete, bool):
            return None
        check_mask_memory(len(masks), question.size, question.id)
        runs = [segmentation_runs(mask, question.size, question.id) for mask in masks]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return Prediction(question.id, runs, [], complete=complete)


def giou(counts: list[list[int]]) -> float | None:
    """Return the gIoU of all documents; None, as for the other scores, if no question decides it."""
    return _score(counts, "gIoU")


def giou_all(counts: list[list[int]]) -> float | None:
    return _score(counts, "gIoU_all")


def ciou(counts: list[list[int]]) -> float | None:
    return _score(counts, "cIoU")


def nacc(counts: list[list[int]]) -> float | None:
    return _score(counts, "N-acc")


def tacc(counts: list[list[int]]) -> float | None:
    return _score(counts, "T-acc")


def _score(counts: list[list[int]], name: str) -> float | None:
    return summarize_counts(np.array(counts, dtype=np.int64))[name]
