"""The options of eval.py, and the data sets and files that follow from them."""

import argparse
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gemma_lisa.safety.errors import UsageError

from .command_line import (
    ArgumentParser,
    above_zero,
    add_model_options,
    check_path,
    json_object,
    not_negative,
    positive,
)
from .output_checks import check_suffix

PROTOCOLS = ("generate", "teacher_forced")
STYLES = ("exact", "lisa")
# Value of --base without a name: the model that the training started from
RECORDED = "recorded"
# Options that have an effect only when a model answers
OF_MODELS = ("adapter", "load_in_4bit", "load_in_8bit", "device", "cache_features", "cache_gb", "base", "retained")
OF_MODELS += ("retained_dir", "retained_options", "fresh", "batch_size", "max_new_tokens")
# Options that have an effect only on results
OF_RESULTS = ("output", "report", "protocol", "metric_style", "pictures")
# They are set after the check, which must know whether an option was given
DEFAULTS = {"protocol": PROTOCOLS[0], "metric_style": STYLES[0], "batch_size": 16, "max_new_tokens": 64, "pictures": 8}
USAGE = """python eval.py --model MODEL --dataset NAME [NAME ...] --output RESULTS.json [options]
       python eval.py --predictions FILE_OR_FOLDER --dataset NAME --output RESULTS.json [options]
       python eval.py --dataset NAME --write_questions QUESTIONS.jsonl [options]
       python eval.py compare A.json B.json --output COMPARISON.html"""


@dataclass(frozen=True)
class Evaluated:
    """A data set to evaluate on.

    Args:
        name, split, data_dir, options: as in `mixture.load_rows`.
        output: results file.
        is_retained: it shows whether the tuned model keeps what its base model can do.
    """

    name: str
    split: str
    data_dir: str | None
    options: dict[str, Any]
    output: Path | None
    is_retained: bool = False

    @property
    def title(self) -> str:
        return f"{self.name} {self.split}"


def parse_options(arguments: list[str], description: str) -> argparse.Namespace:
    """Return the options. `sets` has an `Evaluated` for each data set.

    Raises:
        UsageError: an option is wrong, or has no effect together with the others.
    """
    args = build_parser(description).parse_args(arguments)
    check_combination(args)
    for option, path, ending in (
        ("--output", args.output, ".json"),
        ("--report", args.report, ".html"),
        ("--write_questions", args.write_questions, ".jsonl"),
    ):
        if path is not None:
            check_path(option, path, "a file")
            check_suffix(option, path, (ending,))
    args.sets = list_sets(args)
    return args


def check_combination(args: argparse.Namespace) -> None:
    """Refuse options that exclude each other, and options without effect.

    Raises:
        UsageError: for the first of them.
    """
    if args.model is not None and args.predictions is not None:
        raise UsageError("--model and --predictions exclude each other. Remove one of them.")
    if args.model is None:
        if unused := [name for name in OF_MODELS if getattr(args, name) not in (None, False)]:
            raise UsageError(f"--{unused[0]} has no effect without --model. Give a model, or remove it.")
        if args.predictions is None and args.write_questions is None:
            raise UsageError("give --model, --predictions or --write_questions; see --help for the options.")
    if args.missing is not None and args.predictions is None:
        raise UsageError("--missing has no effect without --predictions. Remove it.")
    answers = args.model is not None or args.predictions is not None
    if answers and args.output is None:
        raise UsageError("--output is missing. Give the results file to write, such as results.json.")
    if not answers and (unused := [name for name in OF_RESULTS if getattr(args, name) is not None]):
        raise UsageError(f"--{unused[0]} has no effect with --write_questions alone. Remove it.")
    if args.predictions is not None and args.protocol is not None:
        raise UsageError("--protocol has no effect with --predictions. Remove it.")
    if args.cache_gb is not None and args.cache_features is None:
        raise UsageError("--cache_gb has no effect without --cache_features. Give a folder, or remove --cache_gb.")
    if args.retained is None and (args.retained_dir is not None or args.retained_options is not None):
        raise UsageError("--retained_dir and --retained_options have no effect without --retained. Remove them.")
    if args.retained is not None and args.base is None:
        args.base = RECORDED
    if len(args.dataset) > 1 and (args.predictions is not None or args.write_questions is not None):
        option = "--predictions" if args.predictions is not None else "--write_questions"
        raise UsageError(f"{option} supports one data set, got {len(args.dataset)}. Give one --dataset.")
    for name, default in DEFAULTS.items():
        if getattr(args, name) is None:
            setattr(args, name, default)


def list_sets(args: argparse.Namespace) -> list[Evaluated]:
    """Return the data sets of --dataset and --retained, each with its results file.

    Raises:
        UsageError: two data sets would write the same file.
    """
    named = [
        *((text, args.data_dir, args.dataset_options, False) for text in args.dataset),
        *((text, args.retained_dir, args.retained_options, True) for text in args.retained or []),
    ]
    sets: list[Evaluated] = []
    for text, data_dir, options, is_retained in named:
        name, split = split_of(text, args.split if not is_retained else "test")
        sets.append(Evaluated(name, split, data_dir, dict(options or {}), args.output, is_retained))
    if args.output is None or len(sets) == 1:
        return sets
    stem = args.output.with_suffix("")
    sets = [replace(one, output=Path(f"{stem}.{file_name(one, sets)}.json")) for one in sets]
    outputs = [one.output for one in sets]
    if twice := [one for one in sets if outputs.count(one.output) > 1]:
        raise UsageError(f"{twice[0].title}: two data sets would write {twice[0].output}. Evaluate one of them alone.")
    return sets


def split_of(text: str, default: str) -> tuple[str, str]:
    """Return name and split of a data set that is given as NAME or NAME:SPLIT."""
    name, colon, split = text.rpartition(":")
    return (
        (name, split) if colon and name and re.fullmatch(r"\w+", split) and not Path(text).is_dir() else (text, default)
    )


def file_name(one: Evaluated, sets: list[Evaluated]) -> str:
    """Return the part of a results file's name that stands for its data set, such as shapes-easy or refcoco-testA."""
    name = Path(one.name).resolve().name if Path(one.name).is_dir() else one.name
    is_twice = sum(other.name == one.name for other in sets) > 1
    return re.sub(r"[^\w.-]+", "-", f"{name}-{one.split}" if is_twice else name)


def output_files(output: Path) -> dict[str, Path]:
    """Return the files that are written for a data set: the results F.json, and those beside it."""
    stem = output.with_suffix("")
    endings = {"questions": "questions.parquet", "worst": "worst.png", "preview": "preview.png"}
    return {"results": output, **{name: Path(f"{stem}.{ending}") for name, ending in endings.items()}}


def parts_folder(output: Path) -> Path:
    """Return the folder with the answers of an unfinished evaluation."""
    return output.with_suffix(".parts")


# ---------------------------------------------------------------------------------------------------------------------
# The parser
# ---------------------------------------------------------------------------------------------------------------------
def build_parser(description: str) -> ArgumentParser:
    """Return the parser of eval.py, without its subcommand compare."""
    parser = ArgumentParser(description=description, usage=USAGE, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser, has_example=False)
    _add_data_options(parser.add_argument_group("data"))
    _add_evaluation_options(parser.add_argument_group("evaluation"))
    _add_comparison_options(parser.add_argument_group("comparison with the base model"))
    _add_output_options(parser.add_argument_group("output"))
    return parser


def _add_data_options(data: argparse._ArgumentGroup) -> None:
    data.add_argument(
        "--predictions",
        metavar="PATH",
        type=Path,
        help="file or folder with the predictions of any system, instead of --model: COCO results, JSON, JSONL or PNG "
        "masks",
    )
    data.add_argument(
        "--missing",
        choices=("zero",),
        help="zero: count questions without a prediction as answered without a mask (default: refuse them)",
    )
    data.add_argument(
        "--dataset",
        metavar="NAME",
        nargs="+",
        required=True,
        help="names of data sets, such as shapes, shapes/easy or folder; NAME:SPLIT sets the split of one of them",
    )
    data.add_argument("--data_dir", metavar="FOLDER", help="folder with the original files of the data sets")
    data.add_argument(
        "--dataset_options",
        metavar="JSON",
        type=json_object,
        help="options of the builders of all --dataset, as a JSON object",
    )
    data.add_argument(
        "--max_bad", metavar="N", type=not_negative, help="maximum number of bad records to skip and list (default: 0)"
    )
    data.add_argument("--split", default="test", help="split to evaluate (default: test)")
    data.add_argument(
        "--rows", metavar="N", type=positive, help="number of rows to evaluate, from the start (default: all)"
    )


def _add_evaluation_options(evaluation: argparse._ArgumentGroup) -> None:
    evaluation.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        help="generate: the model writes its answer; teacher_forced: the right answer is given, and masks are decoded "
        "at its [SEG] tokens as in LISA's code. Do not compare results of the two protocols (default: generate)",
    )
    evaluation.add_argument(
        "--metric_style",
        choices=STYLES,
        help="lisa: print the scores with the arithmetic of LISA's code beside the exact ones (default: exact)",
    )
    evaluation.add_argument(
        "--batch_size", metavar="N", type=positive, help="number of questions per batch (default: 16)"
    )
    evaluation.add_argument(
        "--max_new_tokens",
        metavar="N",
        type=positive,
        help="maximum number of tokens per answer (default: 64)",
    )
    evaluation.add_argument(
        "--cache_features",
        metavar="FOLDER",
        type=Path,
        help="folder for features of the images, which are computed only once; train.py can use the same folder "
        "(default: none)",
    )
    evaluation.add_argument(
        "--cache_gb",
        metavar="GB",
        type=above_zero,
        help="maximum size of --cache_features in GB (default: the free space of the disk)",
    )


def _add_comparison_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--base",
        metavar="MODEL",
        nargs="?",
        const=RECORDED,
        help="also evaluate this model and print the differences; without MODEL, the model that the training of "
        "--model started from (default: none)",
    )
    group.add_argument(
        "--retained",
        metavar="NAME",
        nargs="+",
        help="other data sets on which both models are compared, to see what the training changed elsewhere; their "
        "split is test, or that of NAME:SPLIT (default: none)",
    )
    group.add_argument("--retained_dir", metavar="FOLDER", help="folder with the original files of --retained")
    group.add_argument(
        "--retained_options",
        metavar="JSON",
        type=json_object,
        help="options of the builders of all --retained, as a JSON object",
    )


def _add_output_options(output: argparse._ArgumentGroup) -> None:
    output.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="results file to write (.json). With several data sets, FILE.NAME.json for each",
    )
    output.add_argument(
        "--report", metavar="FILE", type=Path, help="report to write (.html, default: that of --output, .report.html)"
    )
    output.add_argument(
        "--write_questions", metavar="FILE", type=Path, help="file to write with all questions and their ids (.jsonl)"
    )
    output.add_argument(
        "--pictures",
        metavar="N",
        type=not_negative,
        help="number of questions on each of the two sheets worst.png and preview.png; 0: no sheets (default: 8)",
    )
    output.add_argument(
        "--fresh",
        action="store_true",
        help="delete the answers of an interrupted evaluation instead of resuming it (default: off)",
    )
    output.add_argument(
        "--overwrite",
        action="store_true",
        help="replace existing files that Gemma-LISA did not write. Inputs are never replaced (default: off)",
    )
