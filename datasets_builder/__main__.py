"""Prepare, look at and check data sets.

    python -m gemma_lisa.datasets_builder prepare ade20k --data_dir data --output prepared/ade20k --num_proc 8
    python -m gemma_lisa.datasets_builder inspect ade20k --data_dir data --output ade20k.png
    python -m gemma_lisa.datasets_builder verify ade20k --data_dir data

prepare writes Parquet shards with the images in them and a card; stopped in between, it goes on where it was. inspect
draws a sheet of questions and counts classes and rows. verify opens every image and mask; exit code 1 if any is bad.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
from tqdm import tqdm

from gemma_lisa.checkpoints.hub_upload import push
from gemma_lisa.datasets_builder.mixture import builder_of, make_rows, tolerating
from gemma_lisa.datasets_builder.published.archives import QUESTIONS, ArchiveBuilder
from gemma_lisa.datasets_builder.questions import EvaluationQuestions
from gemma_lisa.datasets_builder.rows import SEG_SLOT, check_row, load_image, target_masks
from gemma_lisa.datasets_builder.shards import card_of, write_shards
from gemma_lisa.datasets_builder.tolerant_builder import TolerantBuilder
from gemma_lisa.drawing.sheet import draw_questions
from gemma_lisa.interfaces.command_line import ArgumentParser, json_object, not_negative, positive, run
from gemma_lisa.interfaces.output_checks import PICTURES, check_outputs, check_suffix, data_inputs
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.safety.short_text import show
from gemma_lisa.safety.whole_files import check_writable, write_whole

COMMONEST = 20  # classes that inspect lists
NO_LIMIT = sys.maxsize  # of bad records, for verify reports them all


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="python -m gemma_lisa.datasets_builder",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="prepare|inspect|verify")
    for command, says in (
        ("prepare", "write Parquet shards and a card"),
        ("inspect", "draw a contact sheet and count"),
        ("verify", "open every image and mask"),
    ):
        sub = commands.add_parser(command, help=says, description=says)
        sub.add_argument("name", help="as in ade20k or refcocog/umd")
        sub.add_argument("--data_dir", help="folder of the data set's original files")
        sub.add_argument("--dataset_options", type=json_object, default={}, help="options of its builder, as JSON")
        if command != "verify":  # which lists all that are bad
            sub.add_argument("--max_bad", type=not_negative, help="so many bad records are left out and listed; 0")
        if command != "verify":
            sub.add_argument("--output", type=Path, required=True, help="folder, or picture file, to write")
        if command == "prepare":
            sub.add_argument("--num_proc", type=positive, default=1, help="processes")
            sub.add_argument(
                "--shards", type=positive, default=1, help="of a split, at least: one for each that streams them"
            )
            sub.add_argument(
                "--push", metavar="ORG/NAME", help="upload the folder to the Hub afterwards, as private if it is new"
            )
        if command == "inspect":
            sub.add_argument(
                "--overwrite",
                action="store_true",
                help="replace a file that Gemma-LISA did not write; never an input",
            )
            sub.add_argument("--split", help="by default its first")
            sub.add_argument("--rows", type=positive, default=16, help="questions drawn, of as many rows")
            sub.add_argument("--seed", type=int, default=0, help="which ones")
    args = parser.parse_args(arguments)
    if args.command == "inspect":
        check_suffix("--output", args.output, PICTURES)
        inputs = data_inputs(args.name, args.data_dir, args.dataset_options)
        check_outputs([("--output", args.output)], inputs, args.overwrite)
    if args.command == "prepare" and args.data_dir and args.output.resolve() == Path(args.data_dir).resolve():
        raise UsageError(f"--output {args.output}: the original files are in it; give another folder.")
    if args.command != "verify":
        args.dataset_options = tolerating(args.name, args.dataset_options, args.max_bad)
    return args


# ---------------------------------------------------------------------------------------------------------------------
# Prepare
# ---------------------------------------------------------------------------------------------------------------------
def prepare(args: argparse.Namespace) -> None:
    builder = builder_of(args.name, args.data_dir, args.dataset_options)
    make_rows(builder)
    splits = {name: builder.as_dataset(split=name) for name, found in builder.info.splits.items() if found.num_examples}
    if not splits:
        raise ValueError(f"{args.name} holds no row.")
    identity = f"{args.name} {builder.info.version} {builder.config_id}"
    write_shards(splits, args.output, identity, args.num_proc, args.shards)
    write_whole(args.output / "README.md", card_of(args.name, builder, splits))
    print(f"wrote {args.output}: {', '.join(f'{len(rows):,} rows {split}' for split, rows in splits.items())}")
    if args.push:
        # Private, if it is new: most licences ask for it
        print(f"pushed {push(args.output, args.push, private=True, message='Prepared rows', repo_type='dataset')}")


# ---------------------------------------------------------------------------------------------------------------------
# Inspect
# ---------------------------------------------------------------------------------------------------------------------
def inspect(args: argparse.Namespace) -> None:
    builder = builder_of(args.name, args.data_dir, args.dataset_options)
    make_rows(builder)
    official = builder.ARCHIVE if isinstance(builder, ArchiveBuilder) else None
    for split, found in builder.info.splits.items():
        said = f"{split}: {found.num_examples:,} rows"
        if official and split in official.sizes:
            count, unit, there = official.sizes[split], official.unit, found.num_examples
            if unit == QUESTIONS:
                rows = builder.as_dataset(split=split)
                there = len(EvaluationQuestions(rows, with_conversations=False))
                said += f" of {there:,} {unit}"
            said += f" (published: {count:,} {unit})" if count != there else f" ({unit}, as published)"
        print(said)
    split = args.split or next(iter(builder.info.splits))
    if split not in builder.info.splits:
        raise UsageError(f"{args.name} has no split {show(split)}; it has: {', '.join(builder.info.splits)}.")
    if not builder.info.splits[split].num_examples:
        raise ValueError(f"{args.name}: its split {show(split)} holds no row.")
    rows = builder.as_dataset(split=split)
    print_counts(rows, split)
    draw(rows, args)


def print_counts(rows: datasets.Dataset, split: str) -> None:
    """What is asked for, and how often."""
    texts, masks, absent, turns = Counter(), 0, 0, 0
    for row in tqdm(rows.select_columns(["targets", "conversation"]), unit="row", desc="counting"):
        turns += len(row["conversation"])
        for target in row["targets"]:
            texts[target["texts"][0]] += 1
            masks += len(target["masks"])
            absent += not target["masks"]
    total = sum(texts.values())
    print(f"{split}: {total:,} targets, {masks:,} masks, {absent:,} targets of what is not there, {turns:,} turns")
    for text, count in texts.most_common(COMMONEST):
        print(f"  {count:>8,} {'█' * max(1, round(40 * count / texts.most_common(1)[0][1]))} {text}")
    if len(texts) > COMMONEST:
        print(f"  and {len(texts) - COMMONEST:,} others")


def draw(rows: datasets.Dataset, args: argparse.Namespace) -> None:
    """A sheet of one question each of some rows that show an image."""
    generator = np.random.default_rng(args.seed)
    order = generator.permutation(len(rows))[: args.rows]
    questions = EvaluationQuestions(rows.select(sorted(order)), with_conversations=True)
    of_row = {}
    for at, (row, _) in enumerate(questions.questions.tolist()):
        of_row.setdefault(row, []).append(at)
    samples = [questions[int(generator.choice(places))] for places in of_row.values()]
    cards = []
    for sample in samples:
        if sample["image"] is None:
            continue
        [conversation], [masks] = sample["conversations"], sample["masks"]
        question, answer = conversation.turns[0]
        cards.append(
            {
                "image": sample["image"],
                "question": question,
                "answer": answer.replace(SEG_SLOT, "[SEG]"),
                "masks": masks,
            }
        )
    if not cards:
        print(f"nothing to draw: none of the {len(samples)} rows shows an image")
        return
    write_whole(args.output, draw_questions(cards, columns=min(3, len(cards))))
    print(f"wrote {args.output}")


# ---------------------------------------------------------------------------------------------------------------------
# Verify
# ---------------------------------------------------------------------------------------------------------------------
def verify(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:  # anew: rows that are there were made with another limit
        builder = builder_of(args.name, args.data_dir, args.dataset_options, cache_dir=folder)
        if isinstance(builder, TolerantBuilder):
            builder.config.max_bad = NO_LIMIT
        make_rows(builder)
        complaints = [str(error) for error in builder.bad] if isinstance(builder, TolerantBuilder) else []
        count = 0
        for split, found in builder.info.splits.items():
            rows = builder.as_dataset(split=split) if found.num_examples else []
            for row in tqdm(rows, unit="row", desc=split):
                count += 1
                try:
                    check(row)
                except ValueError as error:
                    complaints.append(str(error))
    for complaint in complaints:
        print(complaint)
    if complaints:
        raise ValueError(f"{args.name}: {len(complaints)} of its records are bad, listed above; {count:,} were made.")
    print(f"{args.name}: all {count:,} rows are whole")


def check(row: dict) -> None:
    """Open the row's image and all its masks.

    Raises:
        ValueError: what is wrong, with the row's source.
    """
    check_row(row)
    image = load_image(row["image"], row["source"])
    for target in row["targets"]:
        if image is None:
            raise ValueError(f"{row['source']}: targets without an image.")
        target_masks(target, (image.height, image.width), row["source"])


def main(arguments: list[str]) -> None:
    args = parse(arguments)
    if args.command != "verify":
        check_writable(args.output, "--output", is_folder=args.command == "prepare")
    {"prepare": prepare, "inspect": inspect, "verify": verify}[args.command](args)


if __name__ == "__main__":
    run(main)
