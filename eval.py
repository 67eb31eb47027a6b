"""Evaluate a checkpoint on a data set: gIoU, cIoU, N-acc and T-acc with 95% confidence intervals.
Writes RESULTS.json, RESULTS.samples.jsonl (one line per question), RESULTS.worst.png and RESULTS.preview.png.

    python eval.py --model outputs/demo --dataset shapes --split test --output outputs/demo/results.json
    python eval.py --model outputs/demo --dataset shapes/hard --rows 100 --output hard.json
    python eval.py --model outputs/photos --dataset folder --data_dir my_photos --split validation --output photos.json
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gemma_lisa.checkpoints.loading import load_asked
from gemma_lisa.checkpoints.training_record import circumstances, leakage_of
from gemma_lisa.datasets_builder.mixture import load_rows, tolerating
from gemma_lisa.datasets_builder.questions import EvaluationQuestions
from gemma_lisa.evaluation.answer_sheet import draw_answers
from gemma_lisa.evaluation.metrics import MEANINGS, intervals, summarize
from gemma_lisa.evaluation.protocols import Answer, by_generation, teacher_forced
from gemma_lisa.feature_cache.cache import FeatureCache
from gemma_lisa.feature_cache.encoders import GEMMA, SAM, open_cache
from gemma_lisa.feature_cache.filling import fill
from gemma_lisa.interfaces.command_line import (
    ArgumentParser,
    above_zero,
    add_model_options,
    check_path,
    json_object,
    not_negative,
    positive,
    run,
)
from gemma_lisa.interfaces.output_checks import check_outputs, check_suffix, data_inputs
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.safety.freed_memory import keep_freed_memory
from gemma_lisa.safety.redaction import mask
from gemma_lisa.safety.secret_names import environment_secrets
from gemma_lisa.safety.short_text import count_of
from gemma_lisa.safety.whole_files import check_writable, write_whole


# ---------------------------------------------------------------------------------------------------------------------
# Arguments
# ---------------------------------------------------------------------------------------------------------------------
def parse(arguments: list[str]) -> argparse.Namespace:
    args = build_parser().parse_args(arguments)
    check_path("--output", args.output, "a file")
    check_suffix("--output", args.output, (".json",))
    if args.cache_gb is not None and args.cache_features is None:
        raise UsageError("--cache_gb has no effect without --cache_features. Give a folder, or remove --cache_gb.")
    args.dataset_options = tolerating(args.dataset, args.dataset_options, args.max_bad)
    return args


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(
        description=__doc__,
        usage="python eval.py --model MODEL --dataset NAME --output RESULTS.json [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(parser, is_required=True)
    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset", metavar="NAME", required=True, help="name of a data set, such as shapes, shapes/easy or folder"
    )
    data.add_argument("--data_dir", metavar="FOLDER", help="folder with the original files of the data set")
    data.add_argument(
        "--dataset_options",
        metavar="JSON",
        type=json_object,
        help="options of the data set's builder, as a JSON object",
    )
    data.add_argument(
        "--max_bad", metavar="N", type=not_negative, help="maximum number of bad records to skip and list (default: 0)"
    )
    data.add_argument("--split", default="test", help="split to evaluate (default: test)")
    data.add_argument(
        "--rows", metavar="N", type=positive, help="number of rows to evaluate, from the start (default: all)"
    )
    evaluation = parser.add_argument_group("evaluation")
    evaluation.add_argument(
        "--protocol",
        choices=("generate", "teacher_forced"),
        default="generate",
        help="generate: the model writes its answer; teacher_forced: the right answer is given, and masks are decoded "
        "at its [SEG] tokens as in LISA's code. Do not compare results of the two protocols (default: generate)",
    )
    evaluation.add_argument(
        "--batch_size", metavar="N", type=positive, default=16, help="number of questions per batch (default: 16)"
    )
    evaluation.add_argument(
        "--max_new_tokens",
        metavar="N",
        type=positive,
        default=64,
        help="maximum number of tokens per answer (default: 64)",
    )
    _add_cache_options(evaluation)
    output = parser.add_argument_group("output")
    output.add_argument("--output", metavar="FILE", type=Path, required=True, help="results file to write (.json)")
    output.add_argument(
        "--pictures",
        metavar="N",
        type=not_negative,
        default=8,
        help="number of questions on each of the two sheets worst.png and preview.png; 0: no sheets (default: 8)",
    )
    output.add_argument(
        "--overwrite",
        action="store_true",
        help="replace existing files that Gemma-LISA did not write. Inputs are never replaced (default: off)",
    )
    return parser


def _add_cache_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--cache_features",
        metavar="FOLDER",
        type=Path,
        help="folder for features of the images, which are computed only once; train.py can use the same folder "
        "(default: none)",
    )
    group.add_argument(
        "--cache_gb",
        metavar="GB",
        type=above_zero,
        help="maximum size of --cache_features in GB (default: the free space of the disk)",
    )


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation
# ---------------------------------------------------------------------------------------------------------------------
def answer_all(
    model, processor, questions: EvaluationQuestions, args: argparse.Namespace, answers: list[Answer]
) -> None:
    """Answer every question in order under the protocol. Each batch of answers is appended to `answers`."""
    with tqdm(total=len(questions), unit="question") as bar:
        for start in range(0, len(questions), args.batch_size):
            samples = [questions[at] for at in range(start, min(start + args.batch_size, len(questions)))]
            if args.protocol == "generate":
                answers += by_generation(model, processor, samples, args.max_new_tokens, questions.cache)
            else:
                answers += teacher_forced(model, processor, samples, questions.cache)
            bar.update(len(samples))


def open_filled(model, processor, questions: EvaluationQuestions, args: argparse.Namespace) -> FeatureCache:
    """Return the cache with the features of all images of the questions, as far as they fit."""
    # Not by its class, whose import takes seconds
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    cache = open_cache(args.cache_features, plain, processor, [GEMMA, SAM])
    fill(cache, plain, processor, questions.rows_of_epochs(1), max_gb=args.cache_gb, log=print)
    return cache


def score(answers: list[Answer], protocol: str) -> dict[str, Any]:
    """Return the scores of answers to questions that ask for masks."""
    scores = summarize(answer.result for answer in answers)
    if protocol == "teacher_forced":
        scores["gIoU_all"] = None  # the given answer to a no-target question has no mask, whatever the model predicts
    return scores


def report(answers: list[Answer], args: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Return the contents of results.json."""
    vqa = [answer for answer in answers if answer.result is None]
    asked = [answer for answer in answers if answer.result is not None]
    scores = score(asked, args.protocol)
    if args.protocol == "generate":
        # VQA questions with one right wording, such as counting
        scores["answers_count"] = len(vqa)
        scores["answers_right"] = sum(answer.is_right for answer in vqa) / len(vqa) if vqa else None
    kinds = sorted({answer.kind for answer in answers if answer.kind})
    return {
        "scores": scores,
        "intervals": intervals(answer.result for answer in asked),
        "by_kind": {kind: score([a for a in asked if a.kind == kind], args.protocol) for kind in kinds},
        "protocol": args.protocol,
        "model": str(args.model),
        "adapter": args.adapter,
        "weights": "nf4" if args.load_in_4bit else "int8" if args.load_in_8bit else None,
        "dataset": args.dataset,
        "dataset_options": args.dataset_options,
        "split": args.split,
        "rows": args.rows,
        "max_new_tokens": args.max_new_tokens,
        "leakage": leakage_of(args.adapter or args.model),
        **circumstances(),
        "seconds": round(seconds, 1),
    }


def sample_lines(answers: list[Answer]) -> str:
    """Return one JSON line per answer."""
    lines = []
    for answer in answers:
        line = {
            "source": answer.source,
            "question": answer.question,
            "expected": answer.expected,
            "answer": answer.raw_text,
            "scores": [round(float(score), 4) for score in answer.scores],
        }
        if answer.result is None:
            line["is_right"] = answer.is_right
        else:
            numbers = ("intersection", "union", "num_targets", "num_predictions", "complete")
            line |= {"kind": answer.kind, "iou": round(answer.result.iou, 4)}
            line |= {name: getattr(answer.result, name) for name in numbers}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines)


def output_files(output: Path) -> dict[str, Path]:
    """Return the files to write: the results and, next to them, the samples and two sheets of pictures."""
    stem = output.with_suffix("")
    endings = {"samples": "samples.jsonl", "worst": "worst.png", "preview": "preview.png"}
    return {"results": output, **{name: Path(f"{stem}.{ending}") for name, ending in endings.items()}}


def print_scores(results: dict[str, Any]) -> None:
    """Print each score with its 95% CI and its meaning, then the scores of each kind of question."""
    meanings = MEANINGS | {"answers_count": "questions without masks", "answers_right": "of these, answered correctly"}
    for name, value in results["scores"].items():
        low, high = results["intervals"].get(name) or (None, None)
        number = "-" if value is None else f"{value:.4f}" if isinstance(value, float) else f"{value:,}"
        interval = "" if value is None or low is None else f"95% CI: {low:.4f} to {high:.4f}"
        print(f"  {name:16s} {number:8s} {interval:26s} {meanings[name]}")
    if results["by_kind"]:
        print("by kind of question:")
    for kind, scores in results["by_kind"].items():
        measured = (f"{name} {scores[name]:.4f}" for name in ("gIoU", "N-acc", "T-acc") if scores[name] is not None)
        print(f"  {kind:16s} {', '.join(measured)} ({scores['count']:,} questions)")


# ---------------------------------------------------------------------------------------------------------------------
# Main
# ---------------------------------------------------------------------------------------------------------------------
def main(arguments: list[str]) -> None:
    args = parse(arguments)
    files = output_files(args.output)
    inputs = data_inputs(args.dataset, args.data_dir, args.dataset_options)
    written = [("--output", path) for path in files.values()]
    check_outputs(written, inputs, args.overwrite, models=[args.model, args.adapter])
    check_writable(args.output, "--output")
    rows = load_rows(args.dataset, args.split, args.data_dir, args.dataset_options)
    if args.rows is not None:
        rows = rows.select(range(min(args.rows, len(rows))))
    questions = EvaluationQuestions(rows, with_conversations=args.protocol == "generate")
    if len(questions) == 0:
        raise ValueError(f"{args.dataset} {args.split} has no questions for the protocol {args.protocol}.")
    model, processor = load_asked(args)
    if model.device.type == "cpu":
        keep_freed_memory()
    size = f"{count_of(len(rows), 'row')}, {count_of(len(questions), 'question')}"
    print(f"{args.dataset} {args.split}: {size}, protocol {args.protocol}")
    if args.cache_features is not None:
        questions.cache = open_filled(model, processor, questions, args)

    start = time.perf_counter()
    answers = []
    try:
        answer_all(model, processor, questions, args, answers)
    finally:  # also after Ctrl-C or SIGTERM
        if answers:
            write_whole(files["samples"], sample_lines(answers))
            if len(answers) < len(questions):
                words = f"{files['samples']} holds {len(answers)} of {len(questions)} answers"
                print(f"stopped early: {words}; {args.output} was not written", file=sys.stderr)
    results = report(answers, args, time.perf_counter() - start)
    write_whole(args.output, mask(results, environment_secrets()))
    if args.pictures and results["scores"]["count"]:
        asked = [at for at, answer in enumerate(answers) if answer.result is not None]
        worst = sorted(asked, key=lambda at: answers[at].result.iou)[: args.pictures]
        for name, chosen in (("worst", worst), ("preview", asked[:: max(1, len(asked) // args.pictures)])):
            chosen = chosen[: args.pictures]
            sheet = draw_answers([questions[at] for at in chosen], [answers[at] for at in chosen])
            write_whole(files[name], sheet)
    print_scores(results)
    written = [path for path in files.values() if path.is_file()]
    print(f"wrote {', '.join(map(str, written))}")


if __name__ == "__main__":
    run(main)
