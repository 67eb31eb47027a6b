"""Ask images in words: an overlay picture and the answer for each; or talk about one.

    python predict.py --image docs/scene.png --query "the red circle" --output answer.png
    python predict.py --model outputs/demo --image photos/ --query "the red circle" "all the squares" \\
        --output answers/ --masks answers/masks --json answers/answers.json
    python predict.py --table questions.csv --output answers/
    python predict.py --image docs/scene.png --chat --output talk.png

Without --model the small checkpoint of examples/ answers, which knows drawn shapes only.
Every query is asked of every image; a table (CSV with a header, or JSONL) has an image and a query in each row, paths
from its own folder on. One answer is written to --output; several to files in the folder of that name. Any kind of
picture is taken, see docs/images.md; one that cannot be read is refused before any is asked about.
"""

import argparse
import csv
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from gemma_lisa.checkpoints.loading import DTYPES, EXAMPLE, load_asked
from gemma_lisa.drawing.overlay import draw_answer
from gemma_lisa.images_gemma_lisa import FORMATS, load_rgb
from gemma_lisa.interfaces.answer_json import labels, record
from gemma_lisa.interfaces.command_line import ArgumentParser, add_model_options, positive, run
from gemma_lisa.interfaces.output_checks import PICTURES, check_outputs, check_suffix
from gemma_lisa.interfaces.terminal_chat import Talk, converse
from gemma_lisa.pipeline_gemma_lisa import answer
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.safety.parsing import csv_delimiter, parse_json
from gemma_lisa.safety.whole_files import check_writable, write_whole

COLUMNS = ("image", "query")  # of a table
NUMBERED = 3  # digits in the names of several answers, at least
LONGEST_STEM = 180  # bytes of an image's name in that of its answer: file systems take 255, with what is added
MASK_NAME = re.compile(r"(?P<stem>.+)\.mask\d+\.png", re.IGNORECASE)


# ---------------------------------------------------------------------------------------------------------------------
# Arguments
# ---------------------------------------------------------------------------------------------------------------------
def parse(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model",
        help="folder or Hub name of a Gemma-LISA checkpoint, or folder of an adapter; by default that of examples/",
    )
    parser.add_argument("--image", nargs="+", type=Path, help="picture files, and folders of them")
    parser.add_argument("--query", nargs="+", help="questions or phrases")
    parser.add_argument("--table", type=Path, help="instead of both: CSV or JSONL with the columns image and query")
    parser.add_argument("--chat", action="store_true", help="talk about the one --image in the terminal")
    parser.add_argument("--output", type=Path, required=True, help="picture to write; a folder for several answers")
    parser.add_argument("--masks", type=Path, help="also write each mask as a PNG of 0 and 255 to this folder")
    parser.add_argument(
        "--json", type=Path, help="also write texts and, of each mask, phrase, score, area, box, COCO RLE and polygons"
    )
    parser.add_argument("--threshold", type=float, default=0.0, help="mask logits above it are foreground")
    parser.add_argument("--multimask", action="store_true", help="of SAM's three masks, the one it scores best")
    parser.add_argument("--max_new_tokens", type=positive, default=64, help="of an answer")
    parser.add_argument("--batch_size", type=positive, default=8, help="questions at once, with their images")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of the weights; auto: as they are saved")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace existing files that Gemma-LISA did not write; never an input"
    )
    add_model_options(parser)
    args = parser.parse_args(arguments)
    if args.table is not None and (args.image or args.query):
        raise UsageError("--table has the images and queries; leave --image and --query out.")
    if args.table is None and not args.image:
        raise UsageError("nothing to ask about; give --image, or a --table.")
    if args.chat:
        if args.table is not None or args.query or len(args.image) != 1 or args.image[0].is_dir():
            raise UsageError("--chat takes one --image, and the questions as you type them.")
        if args.masks or args.json:
            raise UsageError("--chat writes one picture; leave --masks and --json out.")
    if args.json is not None:
        check_suffix("--json", args.json, (".json",))
    if not args.chat and args.table is None and not args.query:
        raise UsageError("nothing to ask; give --query, or --chat to talk.")
    if not all(query.strip() for query in args.query or []):
        raise UsageError("--query is empty; write what to look for.")
    return args


def picture_endings() -> set[str]:
    """How the names of pictures end that can be read; of HEIF too, where a plugin is registered."""
    return {ending for ending, name in Image.registered_extensions().items() if name in FORMATS}


def check_output(args: argparse.Namespace, pairs: list[tuple[Path, str]]) -> list[Path]:
    """The picture file of each answer, checked: --output is a file for one answer and a folder for several.

    Raises:
        UsageError: --output is the wrong one of these, or something would overwrite a file that must be kept.
    """
    count = len(pairs) or 1
    if count > 1 and args.output.suffix.lower() in picture_endings():
        raise UsageError(f"--output {args.output} is one file for several answers; give the name of a folder.")
    if count == 1:
        check_suffix("--output", args.output, PICTURES)
    pictures = picture_files(args.output, [path for path, _ in pairs])
    for option, folder in (("--output", args.output), ("--masks", args.masks)):
        if folder is not None and any(path.is_dir() and is_same(path, folder) for path in args.image or []):
            raise UsageError(
                f"{option} {folder}: the images are there, and a later run would take what is written for "
                "images; name another folder."
            )
    outputs = [*(("--output", picture) for picture in pictures), *mask_files(args.masks, pictures)]
    outputs += [("--json", args.json)] if args.json else []
    asked = {path: None for path, _ in pairs} | {path: None for path in args.image or [] if not path.is_dir()}
    check_outputs(outputs, [*asked, args.table], args.overwrite, models=[args.model or EXAMPLE, args.adapter])
    return pictures


def picture_files(output: Path, images: list[Path]) -> list[Path]:
    """The picture file of each answer about one of these images; in the folder `output` where there are several."""
    if len(images) <= 1:
        return [output]
    digits = max(NUMBERED, len(str(len(images))))
    stems = (os.fsdecode(os.fsencode(path.stem)[:LONGEST_STEM]) for path in images)
    return [output / f"{number:0{digits}d}-{stem}.png" for number, stem in enumerate(stems, start=1)]


def mask_files(folder: Path | None, pictures: list[Path]) -> list[tuple[str, Path]]:
    """("--masks", file) of the files in the folder that masks of these answers can overwrite: their number is open."""
    if folder is None or not folder.is_dir():
        return []
    stems = {picture.stem for picture in pictures}
    named = ((MASK_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return [("--masks", path) for match, path in named if match and match["stem"] in stems]


def is_same(path: Path, other: Path) -> bool:
    return other.exists() and path.samefile(other)


# ---------------------------------------------------------------------------------------------------------------------
# What is asked
# ---------------------------------------------------------------------------------------------------------------------
def read_pairs(args: argparse.Namespace) -> list[tuple[Path, str]]:
    """(image, query) of every answer wanted.

    Raises:
        ValueError: a folder without a picture; a table that cannot be read, with its row.
    """
    if args.table is not None:
        return read_table(args.table)
    images = [file for path in args.image for file in (pictures_in(path) if path.is_dir() else [path])]
    return [(image, query) for image in images for query in args.query]


def pictures_in(folder: Path) -> list[Path]:
    """The files of a folder whose names end as those of pictures do, by name; how many others it holds is said."""
    known = picture_endings()
    files = sorted(path for path in folder.iterdir() if path.is_file())
    pictures = [path for path in files if path.suffix.lower() in known]
    if not pictures:
        raise ValueError(f"{folder}: no file in it is named as a picture, like a.png or b.jpg.")
    if others := len(files) - len(pictures):
        print(f"{folder}: left out files that are not named as pictures: {others:,}", file=sys.stderr)
    return pictures


def read_table(path: Path) -> list[tuple[Path, str]]:
    """The rows of a CSV or JSONL file; images are looked for from its own folder on."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file.")
    pairs = []
    try:
        for number, row in rows_of(path):
            values = [row.get(name) if isinstance(row, dict) else None for name in COLUMNS]
            if not all(isinstance(value, str) and value.strip() for value in values):
                raise ValueError(f"{path}, line {number}: an image and a query are needed, in columns of these names.")
            pairs.append((path.parent / values[0], values[1]))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}); save it as such.") from error
    if not pairs:
        raise ValueError(f"{path}: holds no row.")
    return pairs


def rows_of(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, row) of a CSV or JSONL file."""
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise ValueError(f"{path}: a table is a .csv or a .jsonl file.")
    with open(path, encoding="utf-8-sig", newline="") as file:
        if path.suffix.lower() == ".csv":
            delimiter = csv_delimiter(file.readline())
            file.seek(0)
            reader = csv.DictReader(file, delimiter=delimiter)
            try:
                for row in reader:
                    yield reader.line_num, row
            except csv.Error as error:
                raise ValueError(f"{path}, line {reader.line_num}: not CSV ({error}); save it again.") from error
            return
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield number, parse_json(line)
                except ValueError as error:
                    raise ValueError(f"{path}, line {number}: not JSON ({error}).") from error


# ---------------------------------------------------------------------------------------------------------------------
# Answers
# ---------------------------------------------------------------------------------------------------------------------
def answer_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options that `answer` and `ImageSession.ask` share."""
    return {
        "max_new_tokens": args.max_new_tokens,
        "threshold": args.threshold,
        "multimask_output": args.multimask,
    }


def write_answer(output: Path, image: Image.Image, query: str, found: dict[str, Any], masks: Path | None) -> None:
    """The picture of an answer and, in the folder `masks`, each of its masks."""
    picture = draw_answer(image, found["masks"].numpy(), query, found["text"], labels(query, found))
    write_whole(output, picture)
    for number, mask in enumerate(found["masks"].numpy(), start=1) if masks is not None else ():
        write_whole(masks / f"{output.stem}.mask{number}.png", Image.fromarray(mask.astype("uint8") * 255))


def answer_all(
    model, processor, pairs: list[tuple[Path, str]], pictures: list[Path], args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Ask the (image, query) pairs in batches, write and print each answer; its record, where --json asks for it.

    pictures: the file of each answer's picture.
    """
    options = answer_options(args)
    for start in tqdm(range(0, len(pairs), args.batch_size), unit="batch", disable=len(pairs) <= args.batch_size):
        batch = pairs[start : start + args.batch_size]
        images = {path: load_rgb(path) for path in dict.fromkeys(path for path, _ in batch)}
        questions = [{"image": images[path], "text": query} for path, query in batch]
        answers = answer(model, processor, questions, **options)
        outputs = pictures[start : start + args.batch_size]
        for (path, query), found, output in zip(batch, answers, outputs, strict=True):
            write_answer(output, images[path], query, found, args.masks)
            cut = "" if found["complete"] else " (cut off; raise --max_new_tokens)"
            tqdm.write(f"{path} | {query} | {found['raw_text']}{cut} | masks: {len(found['masks'])} | {output}")
            if args.json:
                yield record(path, query, found)


def main(arguments: list[str]) -> None:
    args = parse(arguments)
    pairs = [] if args.chat else read_pairs(args)
    pictures = check_output(args, pairs)
    check_writable(args.output, "--output", is_folder=len(pairs) > 1)
    for option, path, is_folder in (("--masks", args.masks, True), ("--json", args.json, False)):
        if path is not None:
            check_writable(path, option, is_folder)
    for path in dict.fromkeys(path for path, _ in pairs):
        load_rgb(path)  # all are looked at before any is asked about; only those of a batch are held
    model, processor = load_asked(args, DTYPES[args.dtype])
    if args.chat:
        converse(Talk(model.start(args.image[0], processor), args.output, answer_options(args)))
        return
    records = []
    try:
        for found in answer_all(model, processor, pairs, pictures, args):
            records.append(found)
    finally:  # interrupted or terminated, the file tells of the pictures that are there
        if args.json and records:
            write_whole(args.json, records)
            if len(records) < len(pairs):
                print(f"stopped early: {args.json} holds {len(records)} of {len(pairs)} answers", file=sys.stderr)


if __name__ == "__main__":
    run(main)
