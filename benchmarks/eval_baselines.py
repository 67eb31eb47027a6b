"""Score known baselines as predictions of another system, to see what each score measures.

    python benchmarks/eval_baselines.py --dataset shapes/easy --rows 100 --output baselines.md

Each baseline is written as a prediction file from the questions, read, judged and scored. The rows of the table:

- truth: the targets themselves
- never: no mask, for every question
- empty mask: one mask without a pixel, for every question
- whole image: one mask of all pixels, for every question
- random box: one box at a random place, for every question
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gemma_lisa.benchmarks.report import publish
from gemma_lisa.checkpoints.training_record import commit
from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.datasets_builder.rows import encode_mask
from gemma_lisa.evaluation.benchmark import Benchmark, list_questions
from gemma_lisa.evaluation.from_files import judge_file
from gemma_lisa.evaluation.metrics import summarize
from gemma_lisa.evaluation.prediction_files.read import open_predictions
from gemma_lisa.evaluation.records import RLE, Question

SCORES = ("gIoU", "gIoU_all", "cIoU", "N-acc", "T-acc", "boundary_IoU", "instance_IoU", "presence_MCC", "cgF1")


def truth(question: Question) -> list[RLE]:
    return question.targets


def never(question: Question) -> list[RLE]:
    return []


def empty_mask(question: Question) -> list[RLE]:
    return [encode_mask(np.zeros(question.size, np.uint8))]


def whole_image(question: Question) -> list[RLE]:
    return [encode_mask(np.ones(question.size, np.uint8))]


def random_box(question: Question) -> list[RLE]:
    generator = np.random.default_rng([*question.id.encode()])  # the same box for the same question
    mask = np.zeros(question.size, np.uint8)
    (top, bottom), (left, right) = (np.sort(generator.integers(0, side + 1, 2)) for side in question.size)
    mask[top:bottom, left:right] = 1
    return [encode_mask(mask)]


BASELINES = {
    "truth": truth,
    "never": never,
    "empty mask": empty_mask,
    "whole image": whole_image,
    "random box": random_box,
}


def score(benchmark: Benchmark, answer: Callable[[Question], list[RLE]], path: Path) -> dict[str, float | int | None]:
    """Return the scores of a baseline, through a prediction file."""
    lines = (json.dumps({"id": question.id, "masks": answer(question)}) + "\n" for question in benchmark)
    path.write_text("".join(lines))
    return summarize(judge_file(benchmark, open_predictions(path)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="shapes/easy", help="name of a data set (default: shapes/easy)")
    parser.add_argument("--data_dir", help="folder with the original files of the data set")
    parser.add_argument("--dataset_options", type=json.loads, help="options of its builder, as a JSON object")
    parser.add_argument("--split", default="test", help="split (default: test)")
    parser.add_argument("--rows", type=int, help="number of rows, from the start (default: all)")
    parser.add_argument("--output", type=Path, help="Markdown file to append the table to (default: none)")
    args = parser.parse_args()
    rows = load_rows(args.dataset, args.split, args.data_dir, args.dataset_options)
    rows = rows if args.rows is None else rows.select(range(min(args.rows, len(rows))))
    benchmark = list_questions(rows, args.dataset)
    lines = [
        f"{args.dataset} {args.split}, {len(rows):,} rows, {len(benchmark):,} questions, commit {commit()}:",
        "",
        f"| | {' | '.join(SCORES)} |",
        f"|---{'|---' * len(SCORES)}|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name, answer in BASELINES.items():
            scores = score(benchmark, answer, Path(folder) / "predictions.jsonl")
            cells = ["-" if scores[key] is None else f"{scores[key]:.3f}" for key in SCORES]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    publish(lines, args.output)


if __name__ == "__main__":
    main()
