"""Evaluate a model, or the predictions of any system: scores with 95% confidence intervals, and classes of errors.
Writes RESULTS.json, RESULTS.questions.parquet, RESULTS.report.html, RESULTS.worst.png and RESULTS.preview.png.

    python eval.py --model outputs/demo --dataset shapes --split test --output outputs/demo/results.json
    python eval.py --model outputs/demo --dataset shapes/easy shapes/hard --rows 100 --output results.json
    python eval.py --predictions boxes.json --dataset reason_seg --data_dir DATA --output results.json
    python eval.py --model outputs/photos --base --dataset folder --data_dir my_photos --output photos.json
    python eval.py compare results.json other.json --output comparison.html

The same command resumes an interrupted evaluation. Several processes share the questions: torchrun --nproc_per_node 2
"""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from gemma_lisa.interfaces.command_line import run
from gemma_lisa.interfaces.evaluation_options import RECORDED, Evaluated, output_files, parse_options, parts_folder
from gemma_lisa.interfaces.output_checks import check_outputs, data_inputs
from gemma_lisa.safety.redaction import mask
from gemma_lisa.safety.secret_names import environment_secrets, secrets_of
from gemma_lisa.safety.short_text import count_of
from gemma_lisa.safety.whole_files import check_writable, write_whole

# Everything else is imported where it is used: pyarrow, Datasets and PyTorch take seconds


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options of an evaluation; see `evaluation_options.parse_options`."""
    return parse_options(arguments, __doc__)


# ---------------------------------------------------------------------------------------------------------------------
# Data
# ---------------------------------------------------------------------------------------------------------------------
def open_rows(one: Evaluated, args: argparse.Namespace):
    """Return the rows of a data set to evaluate on."""
    from gemma_lisa.datasets_builder.mixture import load_rows, tolerating

    rows = load_rows(one.name, one.split, one.data_dir, tolerating(one.name, one.options, args.max_bad))
    return rows if args.rows is None else rows.select(range(min(args.rows, len(rows))))


def open_questions(one: Evaluated, rows, with_conversations: bool, does: str):
    """Return the questions of rows, and print their number.

    Args:
        one, rows: the data set.
        with_conversations: include VQA questions.
        does: what is done with them, for the printed line.

    Raises:
        ValueError: there is no question.
    """
    from gemma_lisa.datasets_builder.published_sizes import compared_with_published
    from gemma_lisa.evaluation.benchmark import list_questions

    benchmark = list_questions(rows, one.name, with_conversations)
    if len(benchmark) == 0:
        raise ValueError(f"{one.title} has no questions for {does}.")
    if not with_conversations and (others := len(list_questions(rows, one.name, True)) - len(benchmark)):
        print(f"{one.title}: {count_of(others, 'question')} without masks, not evaluated with {does}")
    print(f"{one.title}: {count_of(len(rows), 'row')}, {count_of(len(benchmark), 'question')}, {does}")
    if line := compared_with_published(one.name, one.split, len(rows), len(benchmark)):
        print(line)
    return benchmark


def check_files(args: argparse.Namespace, base: str | None) -> None:
    """Refuse to overwrite inputs and files of other programs, before the work begins.

    Raises:
        UsageError: as `check_outputs`.
    """
    written = []
    for one in args.sets:
        if one.output is not None:
            for output in (one.output, *([of_base(one.output)] if base else [])):
                written += [("--output", path) for path in files_of(output).values()]
    if args.output is not None:
        written.append(("--report", report_file(args)))
    if args.write_questions is not None:
        from gemma_lisa.evaluation.benchmark import questions_files

        written += [("--write_questions", path) for path in questions_files(args.write_questions).values()]
    inputs: list[Any] = [args.predictions]
    for one in args.sets:
        inputs += data_inputs(one.name, one.data_dir, one.options)
    check_outputs(written, inputs, args.overwrite, models=[args.model, args.adapter, base])
    for option, path in written:
        check_writable(path, option)


def files_of(output: Path) -> dict[str, Path]:
    """Return the files that are written for one data set."""
    return output_files(output)


def of_base(output: Path) -> Path:
    """Return the results file of the base model."""
    return output.with_suffix(".base.json")


def report_file(args: argparse.Namespace) -> Path:
    return args.report or args.output.with_suffix(".report.html")


# ---------------------------------------------------------------------------------------------------------------------
# Results
# ---------------------------------------------------------------------------------------------------------------------
def finish(one: Evaluated, output: Path, judged: list, benchmark, args: argparse.Namespace, facts: dict[str, Any]):
    """Write the results of a data set, print its scores, and return (content, judged, image_of) for the report."""
    from gemma_lisa.checkpoints.training_record import circumstances
    from gemma_lisa.evaluation.results_file import content_of, write_results
    from gemma_lisa.interfaces.score_table import score_lines

    data = {"dataset": one.name, "data_dir": one.data_dir, "dataset_options": one.options, "split": one.split}
    content = content_of(
        judged,
        args.protocol,
        args.metric_style,
        {**data, "rows": args.rows, "fingerprint": benchmark.fingerprint, **facts, **circumstances()},
    )
    content = mask({**content, "command": args.command}, {*args.secrets, *environment_secrets()})
    write_results(output, content, judged)
    draw_sheets(judged, benchmark, output, args.pictures)
    print(f"{one.title}:")
    print("\n".join(score_lines(content)))
    return content, judged, benchmark.image


def draw_sheets(judged: list, benchmark, output: Path, count: int) -> None:
    """Draw the answers with the lowest IoU, and answers spread over all questions."""
    from gemma_lisa.evaluation.answer_sheet import draw_answers

    asked = [at for at, one in enumerate(judged) if one.question.targets is not None]
    if not count or not asked:
        return
    worst = sorted(asked, key=lambda at: judged[at].iou)
    for name, chosen in (("worst", worst), ("preview", asked[:: max(1, len(asked) // count)])):
        chosen = chosen[:count]
        sheet = draw_answers([judged[at] for at in chosen], [benchmark.image(at) for at in chosen])
        write_whole(files_of(output)[name], sheet)


def finish_all(finished: list, args: argparse.Namespace) -> None:
    """Write the report, and print which files were written.

    Args:
        finished: (results file, what `finish` returned) of each data set.
    """
    from gemma_lisa.evaluation.report.page import write_report

    report = report_file(args)
    write_report(report, [result for _, result in finished])
    written = [path for output, _ in finished for path in files_of(output).values() if path.is_file()]
    print(f"wrote {', '.join(map(str, [*written, report]))}")


# ---------------------------------------------------------------------------------------------------------------------
# The two ways
# ---------------------------------------------------------------------------------------------------------------------
def evaluate_predictions(args: argparse.Namespace) -> None:
    """Judge the predictions of any system, or only write the questions."""
    check_files(args, None)
    [one] = args.sets
    if args.predictions is None:
        write_the_questions(args, open_questions(one, open_rows(one, args), True, "written with their ids"))
        return
    from gemma_lisa.evaluation.from_files import judge_file
    from gemma_lisa.evaluation.prediction_files.read import open_predictions

    predictions = open_predictions(args.predictions)  # first: the first start prepares the rows, which can take minutes
    benchmark = open_questions(one, open_rows(one, args), predictions.has_words, "given predictions")
    judged = judge_file(benchmark, predictions, args.missing)
    write_the_questions(args, benchmark)
    facts = {"model": None, "predictions": str(args.predictions), "missing": args.missing}
    finish_all([(one.output, finish(one, one.output, judged, benchmark, args, facts))], args)


def write_the_questions(args: argparse.Namespace, benchmark) -> None:
    if args.write_questions is not None:
        from gemma_lisa.evaluation.benchmark import IMAGES, questions_files, write_questions

        images = write_questions(benchmark, args.write_questions)
        more = f", {count_of(images, 'image')} in {args.write_questions.with_suffix(IMAGES)}" if images else ""
        print(f"wrote {', '.join(map(str, questions_files(args.write_questions).values()))}{more}")


def evaluate_models(args: argparse.Namespace) -> None:
    """Evaluate a model, and its base model if asked for, in one or several processes."""
    from gemma_lisa.evaluation.of_model import answer_and_judge, open_model
    from gemma_lisa.evaluation.parts import delete_parts
    from gemma_lisa.evaluation.processes import joined

    with joined() as processes:
        with processes.first_before_others(), processes.printing():
            base = find_base(args)
            print(f"{count_of(processes.count, 'process', 'processes')} will answer", file=sys.stderr)
            check_files(args, base)
            data = [(one, open_rows(one, args)) for one in args.sets]
            does = f"protocol {args.protocol}"
            data = [(one, rows, open_questions(one, rows, args.protocol == "generate", does)) for one, rows in data]
        finished, folders = [], []
        for model, adapter in [(args.model, args.adapter), *([(base, None)] if base else [])]:
            opened = open_model(argparse.Namespace(**{**vars(args), "model": model, "adapter": adapter}), processes)
            for one, rows, benchmark in data:
                output = one.output if model == args.model else of_base(one.output)
                folders.append(parts_folder(output))
                judged, facts = answer_and_judge(opened, rows, benchmark, args, one.split, folders[-1], processes)
                if processes.is_first:
                    facts |= {name: getattr(args, name) for name in ("max_new_tokens", "batch_size")}
                    finished.append((output, finish(one, output, judged, benchmark, args, opened.facts | facts)))
            del opened
        if processes.is_first:
            finish_all(finished, args)
            if base:
                print_changes(finished, base, args)
            if args.write_questions is not None:
                write_the_questions(args, data[0][2])
            for folder in folders:  # only now, so that the same command resumes with the first unanswered question
                delete_parts(folder)


def find_base(args: argparse.Namespace) -> str | None:
    """Return the model of --base, or None without it."""
    if args.base is None:
        return None
    from gemma_lisa.evaluation.base_model import recorded_base

    base = recorded_base(args.model, args.adapter) if args.base == RECORDED else args.base
    print(f"base model: {base}", file=sys.stderr)
    return base


def print_changes(finished: list, base: str, args: argparse.Namespace) -> None:
    """Print how the scores of the tuned model differ from those of its base model."""
    from gemma_lisa.evaluation.base_model import difference, summary

    count = len(args.sets)
    pairs = zip(args.sets, finished[count:], finished[:count], strict=True)
    found = [
        (one.title, one.is_retained, difference(before[1][1], after[1][1], args.protocol))
        for one, before, after in pairs
    ]
    print(f"compared with {base}:")
    print("\n".join(summary(found)))


# ---------------------------------------------------------------------------------------------------------------------
# Main
# ---------------------------------------------------------------------------------------------------------------------
def main(arguments: list[str]) -> None:
    if arguments[:1] == ["compare"]:
        from gemma_lisa.interfaces import compare_command

        compare_command.main(arguments[1:])
        return
    args = parse(arguments)
    args.command, args.secrets = shlex.join(["eval.py", *arguments]), secrets_of(arguments)
    (evaluate_predictions if args.model is None else evaluate_models)(args)


if __name__ == "__main__":
    run(main)
