"""Write and read the results of an evaluation: F.json with the scores, F.questions.parquet with a row per question."""

import io
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from gemma_lisa.checkpoints.model_card import read_results as read_content
from gemma_lisa.safety.errors import one_line_errors
from gemma_lisa.safety.short_text import VALUE_LENGTH, reason_of
from gemma_lisa.safety.whole_files import SOFTWARE, write_bytes, write_whole

from .error_classes import summarize_errors
from .mask_algebra import checked
from .metrics import EXACT, intervals, summarize
from .records import RLE, Judged, Prediction, Question

QUESTIONS = ".questions.parquet"  # ending of the questions file beside F.json
ROWS_PER_GROUP = 1000  # rows that are compressed together; masks of one image repeat

_LIST = pyarrow.list_
_COLUMNS = {
    "id": pyarrow.string(),
    "dataset": pyarrow.string(),
    "source": pyarrow.string(),
    "kind": pyarrow.string(),
    "question": pyarrow.string(),
    "expected": pyarrow.string(),
    "answer": pyarrow.string(),
    "is_right": pyarrow.bool_(),
    "error": pyarrow.string(),
    "num_targets": pyarrow.int64(),
    "num_predictions": pyarrow.int64(),
    "complete": pyarrow.bool_(),
    "refused": pyarrow.bool_(),
    "intersection": pyarrow.int64(),
    "union": pyarrow.int64(),
    "iou": pyarrow.float64(),
    "boundary_iou": pyarrow.float64(),
    "matched_ious": _LIST(pyarrow.float64()),
    "ordered_ious": _LIST(pyarrow.float64()),
    "scores": _LIST(pyarrow.float64()),
    "phrases": _LIST(pyarrow.string()),
    "phrases_right": pyarrow.int64(),
    "phrases_judged": pyarrow.int64(),
    "tokens": pyarrow.int64(),
    "seconds": pyarrow.float64(),
    "likelihood": pyarrow.float64(),
    "height": pyarrow.int64(),
    "width": pyarrow.int64(),
    "predictions": _LIST(pyarrow.string()),
    "targets": _LIST(pyarrow.string()),
    "ignore": pyarrow.string(),
    "names": _LIST(_LIST(pyarrow.string())),
}
# Signed, so that `output_checks.is_own` recognizes the file also if its results file was never written
SCHEMA = pyarrow.schema(list(_COLUMNS.items()), metadata={"software": SOFTWARE})


def questions_file(results: Path) -> Path:
    """Return the path of the questions file beside a results file."""
    return results.with_name(results.with_suffix("").name + QUESTIONS)


def write_results(path: Path, content: dict[str, Any], judged: list[Judged]) -> None:
    """Write a results file and its questions file. The results file is written last.

    Args:
        path: F.json.
        content: scores and facts; `questions_file` and its SHA-256, `questions_hash`, are added.
        judged: one per question.

    Raises:
        WriteError: a file cannot be written.
    """
    beside = questions_file(path)
    buffer = io.BytesIO()
    table = pyarrow.Table.from_pylist([row_of(one) for one in judged], schema=SCHEMA)
    parquet.write_table(table, buffer, compression="zstd", row_group_size=ROWS_PER_GROUP)
    write_bytes(beside, buffer.getbuffer())
    write_whole(
        path, {**content, "questions_file": beside.name, "questions_hash": sha256(buffer.getvalue()).hexdigest()}
    )


def read_results(path: Path) -> tuple[dict[str, Any], list[Judged]]:
    """Return the content of a results file, and its judged questions in order.

    The other targets of an image (`Question.others`) are those of the other questions of the same row.

    Raises:
        ValueError: a file is missing or is not a results file. The message names it.
    """
    content = read_content(path)
    beside = path.with_name(Path(str(content.get("questions_file") or questions_file(path).name)).name)
    if not beside.is_file():
        raise ValueError(f"{beside}: this file is missing; it must be beside {path}.")
    try:
        with one_line_errors(beside, "cannot be read"):
            table = parquet.read_table(beside, schema=SCHEMA)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise ValueError(f"{beside}: not a questions file of eval.py ({reason_of(error, VALUE_LENGTH)}).") from error
    known = content.get("questions_hash")  # files of older versions have none
    if known is not None and known != sha256(beside.read_bytes()).hexdigest():
        raise ValueError(f"{beside}: it does not belong to {path}, whose questions were others. Evaluate again.")
    rows = table.to_pylist()
    by_source: dict[str, list[tuple[str, list[str]]]] = {}
    for row in rows:
        by_source.setdefault(row["source"], []).append((row["id"], row["targets"] or []))
    return content, [_judged(row, by_source[row["source"]]) for row in rows]


def content_of(judged: list[Judged], protocol: str, style: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a results file: scores with intervals, scores by kind, classes of errors, and facts.

    Args:
        judged, protocol, style: as in `metrics.summarize`.
        facts: what was evaluated, and how.
    """
    kinds = sorted({one.question.kind for one in judged if one.question.kind})
    content = {
        "scores": summarize(judged, protocol, style),
        "intervals": intervals(judged, protocol, style),
        "by_kind": {
            kind: summarize([one for one in judged if one.question.kind == kind], protocol, style) for kind in kinds
        },
        "errors": summarize_errors(judged),
        "protocol": protocol,
        "style": style,
    }
    if style != EXACT:
        content["exact_scores"] = summarize(judged, protocol, EXACT)
    return {**content, **facts}


def row_of(one: Judged) -> dict[str, Any]:
    """Return a judged question as a row of the questions file. Masks have the size of the image (height, width)."""
    question, prediction = one.question, one.prediction
    height, width = question.size or (None, None)
    return {
        "id": question.id,
        "dataset": question.dataset,
        "source": question.source,
        "kind": question.kind,
        "question": question.text,
        "expected": question.expected,
        "answer": prediction.text,
        "is_right": one.is_right,
        "error": one.error,
        "num_targets": None if question.targets is None else len(question.targets),
        "num_predictions": len(prediction.masks),
        "complete": prediction.complete,
        "refused": prediction.refused,
        "intersection": one.intersection,
        "union": one.union,
        "iou": one.iou,
        "boundary_iou": one.boundary_iou,
        "matched_ious": one.matched_ious,
        "ordered_ious": one.ordered_ious,
        "scores": prediction.scores,
        "phrases": prediction.phrases,
        "phrases_right": one.phrases_right,
        "phrases_judged": one.phrases_judged,
        "tokens": prediction.tokens,
        "seconds": prediction.seconds,
        "likelihood": prediction.likelihood,
        "height": height,
        "width": width,
        "predictions": [mask["counts"] for mask in prediction.masks],
        "targets": None if question.targets is None else [mask["counts"] for mask in question.targets],
        "ignore": None if question.ignore is None else question.ignore["counts"],
        "names": question.names,
    }


def _judged(row: dict[str, Any], of_source: list[tuple[str, list[str]]]) -> Judged:
    """Return a row of the questions file as a record.

    Args:
        row: from `row_of`.
        of_source: id and targets of the questions of the same row of the data set.
    """
    size = None if row["height"] is None else (row["height"], row["width"])

    def masks(counts: list[str]) -> list[RLE]:
        return [checked({"size": list(size), "counts": one}, size, row["id"]) for one in counts]

    question = Question(
        id=row["id"],
        dataset=row["dataset"],
        source=row["source"],
        kind=row["kind"],
        text=row["question"],
        expected=row["expected"],
        size=size,
        targets=None if row["targets"] is None else masks(row["targets"]),
        ignore=None if row["ignore"] is None else masks([row["ignore"]])[0],
        others=[mask for other, targets in of_source if other != row["id"] for mask in masks(targets)],
        names=row["names"],
    )
    prediction = Prediction(
        id=row["id"],
        masks=masks(row["predictions"]),
        text=row["answer"],
        **{name: row[name] for name in ("scores", "phrases", "complete", "tokens", "seconds", "likelihood", "refused")},
    )
    measured = ("intersection", "union", "iou", "boundary_iou", "matched_ious", "ordered_ious", "error", "is_right")
    counts = ("phrases_right", "phrases_judged")
    return Judged(question, prediction, **{name: row[name] for name in (*measured, *counts)})
