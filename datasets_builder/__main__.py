"""Prepare, inspect and verify data sets.

    python -m gemma_lisa.datasets_builder prepare ade20k --data_dir data --output prepared/ade20k --num_proc 8
    python -m gemma_lisa.datasets_builder inspect ade20k --data_dir data --output ade20k.png
    python -m gemma_lisa.datasets_builder verify ade20k --data_dir data

`prepare` writes Parquet shards that include the images, and a card. If it was stopped, the same command resumes.

`inspect` prints the numbers of rows and targets. It draws a sheet with a question of each class and a photo of each
remark.

`verify` opens every image and mask. It lists what was interpreted, united or skipped, and all errors. Its exit code is
1 if there are any errors.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from gemma_lisa.checkpoints.hub_upload import push
from gemma_lisa.datasets_builder.inspection import choose_questions, draw, print_counts
from gemma_lisa.datasets_builder.mixture import BUILDERS, builder_of, make_rows, tolerating
from gemma_lisa.datasets_builder.prepared import is_prepared, own_data_advice
from gemma_lisa.datasets_builder.published.archives import QUESTIONS, ArchiveBuilder
from gemma_lisa.datasets_builder.questions import EvaluationQuestions
from gemma_lisa.datasets_builder.rows import check_row, load_image, target_masks
from gemma_lisa.datasets_builder.shards import card_of, write_shards
from gemma_lisa.datasets_builder.tolerant_builder import NO_LIMIT, TolerantBuilder
from gemma_lisa.interfaces.command_line import ArgumentParser, json_object, not_negative, positive, run
from gemma_lisa.interfaces.output_checks import PICTURES, check_outputs, check_suffix, data_inputs
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.safety.short_text import count_of, name_of, show
from gemma_lisa.safety.whole_files import check_writable, write_whole


def parse(arguments: list[str]) -> argparse.Namespace:
    args = build_parser().parse_args(arguments)
    if args.name.partition("/")[0] not in BUILDERS and Path(args.name).is_dir():
        if is_prepared(Path(args.name)):
            raise UsageError(
                f"{args.name}: its rows are already prepared; give the name of a data set, such as folder."
            )
        raise UsageError(own_data_advice(args.name).replace("--dataset ", f"{args.command} "))
    if args.command == "inspect":
        check_suffix("--output", args.output, PICTURES)
        inputs = data_inputs(args.name, args.data_dir, args.dataset_options)
        check_outputs([("--output", args.output)], inputs, args.overwrite)
    if args.command == "prepare" and args.data_dir and args.output.resolve() == Path(args.data_dir).resolve():
        raise UsageError(f"--output {args.output}: this folder contains the original files; set another folder.")
    if args.command != "verify":
        args.dataset_options = tolerating(args.name, args.dataset_options, args.max_bad)
    return args


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m gemma_lisa.datasets_builder",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="prepare|inspect|verify")
    for command, description in (
        ("prepare", "write Parquet shards that include the images"),
        ("inspect", "count rows and targets and draw a sheet of examples"),
        ("verify", "open every image and mask and list all errors"),
    ):
        sub = commands.add_parser(command, help=description, description=description)
        sub.add_argument("name", help="name of the data set, such as folder, ade20k or refcocog/umd")
        sub.add_argument("--data_dir", help="folder of the data set's original files")
        sub.add_argument("--dataset_options", type=json_object, default={}, help="options of the data set, as JSON")
        if command != "verify":  # verify lists all errors
            sub.add_argument(
                "--max_bad",
                type=not_negative,
                help="maximum number of bad files or records to skip and list (default: 0)",
            )
            what = "folder to write" if command == "prepare" else "image file to write, such as sheet.png"
            sub.add_argument("--output", type=Path, required=True, help=what)
        if command == "prepare":
            sub.add_argument("--num_proc", type=positive, default=1, help="number of processes (default: 1)")
            sub.add_argument(
                "--shards",
                type=positive,
                default=1,
                help="minimum number of shards per split; use one per process that streams them (default: 1)",
            )
            sub.add_argument(
                "--push", metavar="ORG/NAME", help="Hub repository to upload the folder to; a new repository is private"
            )
        if command == "inspect":
            sub.add_argument(
                "--overwrite",
                action="store_true",
                help="overwrite an existing file that Gemma-LISA did not write; inputs are never overwritten",
            )
            sub.add_argument("--split", help="split to draw (default: the first)")
            sub.add_argument(
                "--rows",
                type=positive,
                help="number of questions to draw (default: 16, or more to show every class and remark)",
            )
            sub.add_argument("--seed", type=int, default=0, help="seed for choosing the rows (default: 0)")
    return parser


# ---------------------------------------------------------------------------------------------------------------------
# Prepare
# ---------------------------------------------------------------------------------------------------------------------
def prepare(args: argparse.Namespace) -> None:
    builder = builder_of(args.name, args.data_dir, args.dataset_options)
    make_rows(builder)
    splits = {name: builder.as_dataset(split=name) for name, found in builder.info.splits.items() if found.num_examples}
    if not splits:
        raise ValueError(f"{args.name}: the data set has no rows.")
    identity = f"{args.name} {builder.info.version} {builder.config_id}"
    write_shards(splits, args.output, identity, args.num_proc, args.shards)
    write_whole(args.output / "README.md", card_of(args.name, builder, splits))
    sizes = [f"{split} {count_of(len(rows), 'row')}" for split, rows in splits.items()]
    print(f"saved {args.output}: {', '.join(sizes)}")
    if args.push:
        # Private if it is new: most licenses require it
        print(f"uploaded {push(args.output, args.push, private=True, message='Prepared rows', repo_type='dataset')}")


# ---------------------------------------------------------------------------------------------------------------------
# Inspect
# ---------------------------------------------------------------------------------------------------------------------
def inspect(args: argparse.Namespace) -> None:
    builder = builder_of(args.name, args.data_dir, args.dataset_options)
    make_rows(builder)
    official = builder.ARCHIVE if isinstance(builder, ArchiveBuilder) else None
    width = max(map(len, builder.info.splits), default=0)
    for split, found in builder.info.splits.items():
        size = f"{split:<{width}} {count_of(found.num_examples, 'row'):>12}"
        if official and split in official.sizes:
            count, unit, there = official.sizes[split], official.unit, found.num_examples
            if unit == QUESTIONS:
                rows = builder.as_dataset(split=split)
                there = len(EvaluationQuestions(rows, with_conversations=False))
                size += f" with {there:,} {unit}"
            size += f" (published: {count:,} {unit})" if count != there else f" ({unit}, as published)"
        print(size)
    split = args.split or next(iter(builder.info.splits))
    if split not in builder.info.splits:
        raise UsageError(f"{args.name} has no split {show(split)}; it has: {', '.join(builder.info.splits)}.")
    if not builder.info.splits[split].num_examples:
        raise ValueError(f"{args.name}: the split {show(split)} has no rows.")
    rows = builder.as_dataset(split=split)
    places = print_counts(rows, split)
    examples = builder.examples if isinstance(builder, TolerantBuilder) else []
    generator = np.random.default_rng(args.seed)
    drawn = choose_questions(rows, places, examples, args.rows, generator)
    draw(rows, drawn, args.output)
    if missing := len(places.keys() - {text for _, text in drawn}):
        print(f"the sheet does not show {count_of(missing, 'question')}; to draw more, set --rows")


# ---------------------------------------------------------------------------------------------------------------------
# Verify
# ---------------------------------------------------------------------------------------------------------------------
def verify(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:  # without the cache: its rows have another max_bad
        builder = builder_of(args.name, args.data_dir, args.dataset_options, cache_dir=folder)
        remarks, errors = [], []
        if isinstance(builder, TolerantBuilder):
            builder.config.max_bad, builder.logs_remarks = NO_LIMIT, False
        make_rows(builder)
        if isinstance(builder, TolerantBuilder):
            remarks, errors = builder.remarks, [str(error) for error in builder.bad]
        count = num_invalid = 0
        for split, found in builder.info.splits.items():
            rows = builder.as_dataset(split=split) if found.num_examples else []
            for row in tqdm(rows, unit="row", desc=f"Verifying {split}"):
                count += 1
                try:
                    check(row)
                except ValueError as error:
                    num_invalid += 1
                    errors.append(str(error))
    for line in remarks + errors:
        print(line)
    if not count and not errors:
        raise ValueError(f"{args.name}: the data set has no rows.")
    if errors:
        found = f"{count_of(len(errors), 'error')} (listed above)"
        raise ValueError(f"{args.name}: {found}, {count_of(count - num_invalid, 'valid row')}.")
    found = f", {count_of(len(remarks), 'remark')} (listed above)" if remarks else ""
    print(f"{args.name}: {count_of(count, 'row')}, no errors{found}")


def check(row: dict) -> None:
    """Open the image and all masks of a row.

    Raises:
        ValueError: one of them is not valid; the message has the source of the row.
    """
    check_row(row)
    image = load_image(row["image"], row["source"])
    for target in row["targets"]:
        if image is None:
            raise ValueError(f"{name_of(row['source'])}: the row has targets but no image.")
        target_masks(target, (image.height, image.width), row["source"])


def main(arguments: list[str]) -> None:
    args = parse(arguments)
    if args.command != "verify":
        check_writable(args.output, "--output", is_folder=args.command == "prepare")
    {"prepare": prepare, "inspect": inspect, "verify": verify}[args.command](args)


if __name__ == "__main__":
    run(main)
