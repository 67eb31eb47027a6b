"""Judge the predictions of any system, from a file. No model is loaded."""

from tqdm import tqdm

from .benchmark import Benchmark
from .judging import judge
from .prediction_files.assign import assign_predictions
from .prediction_files.read import PredictionFile
from .records import Judged


def judge_file(benchmark: Benchmark, predictions: PredictionFile, missing: str | None = None) -> list[Judged]:
    """Return the judged prediction for each question, in the order of the questions.

    Args:
        benchmark: questions. They include questions for words only if the file has words (`has_words`).
        predictions: from `prediction_files.read.open_predictions`.
        missing: as in `assign_predictions`.

    Raises:
        ValueError: as `assign_predictions`, or a row is not valid.
    """
    by_id = assign_predictions(predictions, benchmark, missing)
    with tqdm(benchmark, unit="question") as questions:
        return [judge(question, by_id[question.id]) for question in questions]
