"""Judged answers to the first test scenes of shapes/reason, for tests of benchmarks/reason.py."""

from functools import lru_cache

from datasets import Dataset

from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.evaluation.benchmark import Benchmark, list_questions
from gemma_lisa.evaluation.judging import judge
from gemma_lisa.evaluation.records import Judged, Prediction

ROWS = 30


@lru_cache(maxsize=1)
def scenes() -> Dataset:
    return load_rows("shapes/reason", "test", None, {"train_rows": 0, "validation_rows": 0, "test_rows": ROWS})


@lru_cache(maxsize=1)
def questions() -> Benchmark:
    return list_questions(scenes(), "shapes/reason", True)


@lru_cache(maxsize=1)
def answers() -> dict[str, str]:
    """Return the right answer to each question, by its id."""
    return {
        f"{row['source']}#{number}": target["answer"]
        for row in scenes()
        for number, target in enumerate(row["targets"])
    }


def right() -> list[Judged]:
    """Return the right answer to every question."""
    return [
        judge(question, Prediction(question.id, list(question.targets or []), [], answers().get(question.id)))
        for question in questions()
    ]


def refused() -> list[Judged]:
    """Return a refusal for every question, in other words than the right answer."""
    return [judge(question, Prediction(question.id, [], [], "It is not there.")) for question in questions()]
