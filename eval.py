"""Evaluate a Gemma-LISA: gIoU, cIoU, N-acc and T-acc, with the answers behind them.

    python eval.py --model outputs/demo --dataset shapes --split test --output outputs/demo/results.json

Beside results.json it writes results.samples.jsonl (a line a question), results.worst.png and results.preview.png.
Two protocols, never to be mixed: `generate` lets the model answer freely; `teacher_forced` gives it the right answer
and takes the masks at its [SEG] tokens, as LISA's code does.
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
from gemma_lisa.evaluation.metrics import intervals, summarize
from gemma_lisa.evaluation.protocols import Answer, by_generation, teacher_forced
from gemma_lisa.interfaces.command_line import (
    ArgumentParser,
    add_model_options,
    json_object,
    not_negative,
    positive,
    run,
)
from gemma_lisa.interfaces.output_checks import check_outputs, check_suffix, data_inputs
from gemma_lisa.safety.redaction import mask
from gemma_lisa.safety.secret_names import environment_secrets
from gemma_lisa.safety.whole_files import check_writable, write_whole


# ---------------------------------------------------------------------------------------------------------------------
# Arguments
# ---------------------------------------------------------------------------------------------------------------------
def parse(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", required=True, help="folder or Hub name of a Gemma-LISA checkpoint, or folder of an adapter"
    )
    parser.add_argument("--dataset", required=True, help="as in shapes or shapes/easy")
    parser.add_argument("--data_dir", help="folder of the data set's original files")
    parser.add_argument("--dataset_options", type=json_object, help="options of its builder, as JSON")
    parser.add_argument("--max_bad", type=not_negative, help="so many bad records are left out and listed; 0")
    parser.add_argument("--split", default="test")
    parser.add_argument("--rows", type=positive, help="the first so many rows only")
    parser.add_argument("--protocol", choices=("generate", "teacher_forced"), default="generate")
    parser.add_argument("--output", type=Path, required=True, help="results file to write, .json")
    parser.add_argument("--batch_size", type=positive, default=16, help="questions at once")
    parser.add_argument("--max_new_tokens", type=positive, default=64, help="of an answer")
    parser.add_argument("--pictures", type=not_negative, default=8, help="questions on each of two sheets; 0 = none")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace existing files that Gemma-LISA did not write; never an input"
    )
    add_model_options(parser)
    args = parser.parse_args(arguments)
    check_suffix("--output", args.output, (".json",))
    args.dataset_options = tolerating(args.dataset, args.dataset_options, args.max_bad)
    return args


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation
# ---------------------------------------------------------------------------------------------------------------------
def answer_all(
    model, processor, questions: EvaluationQuestions, args: argparse.Namespace, answers: list[Answer]
) -> None:
    """Answer every question under the protocol, in order; `answers` takes what is answered, batch by batch."""
    with tqdm(total=len(questions), unit="question") as bar:
        for start in range(0, len(questions), args.batch_size):
            samples = [questions[at] for at in range(start, min(start + args.batch_size, len(questions)))]
            if args.protocol == "generate":
                answers += by_generation(model, processor, samples, args.max_new_tokens)
            else:
                answers += teacher_forced(model, processor, samples)
            bar.update(len(samples))


def score(answers: list[Answer], protocol: str) -> dict[str, Any]:
    """The scores of questions that ask for masks."""
    scores = summarize(answer.result for answer in answers)
    if protocol == "teacher_forced":
        scores["gIoU_all"] = None  # with the answer given, a missing thing has no mask whatever the model thinks
    return scores


def report(answers: list[Answer], args: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """The contents of results.json."""
    dialogue = [answer for answer in answers if answer.result is None]
    asked = [answer for answer in answers if answer.result is not None]
    scores = score(asked, args.protocol)
    if args.protocol == "generate":
        # VQA questions of one right wording, as counting: exactly right answers
        scores["answers_count"] = len(dialogue)
        scores["answers_right"] = sum(answer.is_right for answer in dialogue) / len(dialogue) if dialogue else None
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
    """A JSON line for each question."""
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
    """What is written: the results, and beside them the samples and two sheets of pictures."""
    stem = output.with_suffix("")
    endings = {"samples": "samples.jsonl", "worst": "worst.png", "preview": "preview.png"}
    return {"results": output, **{name: Path(f"{stem}.{ending}") for name, ending in endings.items()}}


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
        raise ValueError(f"{args.dataset} {args.split} asks nothing under the protocol {args.protocol}.")
    model, processor = load_asked(args)
    print(f"{args.dataset} {args.split}: {len(rows):,} rows, {len(questions):,} questions, {args.protocol}")

    start = time.perf_counter()
    answers = []
    try:
        answer_all(model, processor, questions, args, answers)
    finally:  # interrupted or terminated, the lines tell of what was answered
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
    for name, value in results["scores"].items():
        low, high = results["intervals"].get(name) or (None, None)
        spread = "" if value is None or low is None else f"   95 % of such draws of rows: {low:.4f} to {high:.4f}"
        print(
            f"  {name:16s} "
            f"{'-' if value is None else f'{value:.4f}' if isinstance(value, float) else f'{value:,}'}{spread}"
        )
    for kind, scores in results["by_kind"].items():
        measured = (f"{name} {scores[name]:.4f}" for name in ("gIoU", "N-acc", "T-acc") if scores[name] is not None)
        print(f"  {kind:16s} {', '.join(measured)} over {scores['count']:,}")
    print(f"wrote {args.output}")


if __name__ == "__main__":
    run(main)
