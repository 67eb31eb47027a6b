"""Ask questions about images. Prints each answer, and writes a picture with its masks.
A folder, several images or several questions make several answers: --output is then a folder.

    python predict.py --image docs/scene.png --query "the red circle" --output answer.png
    python predict.py --image photos/ --query "the red circle" "all the squares" --output answers/ --json answers.json
    python predict.py --table questions.csv --output answers/
    python predict.py --image photos/ --query "the red circle" --dataset_out to_correct/ --format coco
    python predict.py --image docs/scene.png --conversation --output conversation.png
"""

import argparse
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
from gemma_lisa.interfaces.answer_json import json_text, record
from gemma_lisa.interfaces.answer_text import answer_text, labels, masks_text
from gemma_lisa.interfaces.command_line import (
    ArgumentParser,
    add_model_options,
    check_path,
    json_object,
    positive,
    run,
)
from gemma_lisa.interfaces.dataset_export import OPTION, WRITERS, DatasetExport, check_folder
from gemma_lisa.interfaces.image_inputs import (
    expand_folders,
    picture_suffixes,
    read_table,
    register_heif,
    unreadable_images,
)
from gemma_lisa.interfaces.output_checks import PICTURES, check_outputs, check_suffix
from gemma_lisa.interfaces.terminal import TerminalConversation, run_conversation
from gemma_lisa.lazy_images_gemma_lisa import LazyImage
from gemma_lisa.pipeline_gemma_lisa import answer
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.safety.short_text import listed, shorten, show
from gemma_lisa.safety.whole_files import check_writable, write_whole

DIGITS = 3  # minimum number of digits in the file names of several answers
MAX_STEM = 180  # bytes of an image's name in the file name of its answer; file systems allow 255 in all
MASK_NAME = re.compile(r"(?P<stem>.+)\.mask\d+\.png", re.IGNORECASE)


# ---------------------------------------------------------------------------------------------------------------------
# Arguments
# ---------------------------------------------------------------------------------------------------------------------
def parse(arguments: list[str]) -> argparse.Namespace:
    args = build_parser().parse_args(arguments)
    kinds = {"table": "a file", "masks": "a folder", "json": "a file", "dataset_out": "a folder"}
    for option in ("image", "table", "output", "masks", "json", "dataset_out"):
        value = getattr(args, option)
        for path in value if isinstance(value, list) else [value]:
            check_path(f"--{option}", path, kinds.get(option, "a file or a folder"))
    if args.table is not None and (args.image or args.query):
        raise UsageError("--table already has the images and queries; remove --image and --query.")
    if args.table is None and not args.image:
        raise UsageError("no image; add --image or --table.")
    if args.conversation:
        if args.table is not None or args.query or len(args.image) != 1 or args.image[0].is_dir():
            raise UsageError("--conversation needs one --image file and no --query; questions are typed later.")
        if args.masks or args.json:
            raise UsageError("--conversation writes one picture only; remove --masks and --json.")
        if args.dataset_out:
            raise UsageError("--conversation cannot write a data set; remove --dataset_out.")
    check_dataset_options(args)
    if args.json is not None:
        check_suffix("--json", args.json, (".json",))
    if not args.conversation and args.table is None and not args.query:
        raise UsageError('no question; add --query "the red circle", or --conversation to type questions.')
    if not all(query.strip() for query in args.query or []):
        raise UsageError("--query is empty; write what to look for.")
    return args


def check_dataset_options(args: argparse.Namespace) -> None:
    """Refuse options without an effect, and set the default of --format."""
    if args.dataset_out is None:
        for option in ("format", "class_names", "polygon_tolerance"):
            if getattr(args, option) is not None:
                raise UsageError(f"--{option} has no effect without --dataset_out; add it, or remove --{option}.")
        if args.output is None:
            raise UsageError("no output; add --output for pictures, or --dataset_out for a data set to correct.")
    if args.output is None and args.masks is not None:
        raise UsageError("--masks needs --output, which names the files; add --output.")
    args.format = args.format or next(iter(WRITERS))


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(
        description=__doc__,
        usage="python predict.py --image FILE --query QUESTION --output FILE [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    asked = parser.add_argument_group("images and questions")
    asked.add_argument(
        "--image",
        metavar="PATH",
        nargs="+",
        action="extend",
        type=Path,
        help="image files and folders of images (not of subfolders)",
    )
    asked.add_argument(
        "--query", metavar="QUESTION", nargs="+", action="extend", help="questions to ask about each image"
    )
    asked.add_argument(
        "--table",
        metavar="FILE",
        type=Path,
        help="CSV (with a header) or JSONL file with the columns image and query, instead of --image and --query. "
        "Paths are relative to its folder",
    )
    asked.add_argument(
        "--conversation",
        action="store_true",
        help="type questions about one image in the terminal; each answer uses the turns before it (default: off)",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output",
        metavar="PATH",
        type=Path,
        help="picture to write for one answer (.png, .jpg, .webp or .tif); folder to write to for several answers",
    )
    output.add_argument(
        "--masks", metavar="FOLDER", type=Path, help="also write each mask to this folder, as a PNG of 0 and 255"
    )
    output.add_argument(
        "--json",
        metavar="FILE",
        type=Path,
        help="also write all answers to this .json file: text and status; phrase, score, area, box, COCO RLE and "
        "polygons of each mask",
    )
    output.add_argument(
        "--overwrite",
        action="store_true",
        help="replace existing files that Gemma-LISA did not write, and the data set of an earlier --dataset_out. "
        "Inputs are never replaced (default: off)",
    )
    add_dataset_options(parser)
    add_model_options(parser)
    add_inference_options(parser)
    return parser


def pixels(text: str) -> float:
    """Return the value of an argument that must be a number of pixels."""
    if not re.fullmatch(r"\d{1,3}(\.\d{1,9})?", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"must be a number of pixels from 0 to 999, got {show(text)}")
    return float(text)


def add_dataset_options(parser: ArgumentParser) -> None:
    dataset = parser.add_argument_group("data set to correct in a labelling tool")
    dataset.add_argument(
        "--dataset_out",
        metavar="FOLDER",
        type=Path,
        help="write copies of the photos and all masks to this folder, as a data set; --output is then optional",
    )
    dataset.add_argument("--format", choices=WRITERS, help="format of the data set (default: coco)")
    dataset.add_argument(
        "--class_names",
        metavar="JSON",
        type=json_object,
        help='classes of questions, such as \'{"what can open it?": "opener"}\' (default: the question without '
        '"the", "a" or "all"; a question with a question mark is kept as it is)',
    )
    dataset.add_argument(
        "--polygon_tolerance",
        metavar="PIXELS",
        type=pixels,
        help="maximum distance of polygons from the outline of a mask; above 0, they have fewer points and are easier "
        "to correct (default: 0, exact)",
    )


def add_inference_options(parser: ArgumentParser) -> None:
    inference = parser.add_argument_group("inference")
    inference.add_argument(
        "--threshold",
        metavar="LOGIT",
        type=float,
        default=0.0,
        help="mask logit above which a pixel belongs to a mask; higher gives smaller masks (default: 0.0)",
    )
    inference.add_argument(
        "--multimask", action="store_true", help="decode three masks per [SEG] and keep the best-scored (default: off)"
    )
    inference.add_argument(
        "--max_new_tokens",
        metavar="N",
        type=positive,
        default=64,
        help="maximum number of tokens per answer (default: 64)",
    )
    inference.add_argument(
        "--batch_size", metavar="N", type=positive, default=8, help="number of questions per batch (default: 8)"
    )
    inference.add_argument(
        "--dtype", choices=DTYPES, default="auto", help="dtype of the weights; auto: as saved (default: auto)"
    )


def check_output(args: argparse.Namespace, pairs: list[tuple[Path, str]]) -> list[Path | None]:
    """Return the picture file of each answer, after checking that --output is a file for one answer, else a folder.

    Without --output, there is no picture: None for each answer.

    Raises:
        UsageError: --output is of the wrong kind, or a file that must be kept would be overwritten.
    """
    count = len(pairs) or 1
    inputs = {path: None for path, _ in pairs} | {path: None for path in args.image or [] if not path.is_dir()}
    models = [args.model or EXAMPLE, args.adapter]
    if args.dataset_out is not None:
        outputs = [("--output", args.output), ("--masks", args.masks), ("--json", args.json)]
        folders = [path for path in args.image or [] if path.is_dir()]
        check_folder(args.dataset_out, args.overwrite, [*inputs, *folders, args.table, *models], outputs)
    if args.output is None:
        check_outputs([("--json", args.json)] if args.json else [], [*inputs, args.table], args.overwrite, models)
        return [None] * count
    if count > 1 and args.output.suffix.lower() in picture_suffixes():
        raise UsageError(f"--output must be a folder for {count:,} answers, got the file name {args.output}.")
    if count == 1:
        check_suffix("--output", args.output, PICTURES)
    pictures = picture_files(args.output, [path for path, _ in pairs])
    for option, folder in (("--output", args.output), ("--masks", args.masks)):
        if folder is not None and any(path.is_dir() and is_same(path, folder) for path in args.image or []):
            raise UsageError(
                f"{option} {folder} is also the folder of the input images, and the next run would use the written "
                "pictures as inputs; choose another folder."
            )
    outputs = [*(("--output", picture) for picture in pictures), *mask_files(args.masks, pictures)]
    outputs += [("--json", args.json)] if args.json else []
    check_outputs(outputs, [*inputs, args.table], args.overwrite, models)
    return pictures


def picture_files(output: Path, images: list[Path]) -> list[Path]:
    """Return the picture file of the answer about each of these images: `output`, or files in this folder."""
    if len(images) <= 1:
        return [output]
    digits = max(DIGITS, len(str(len(images))))
    stems = (os.fsdecode(os.fsencode(path.stem)[:MAX_STEM]) for path in images)
    return [output / f"{number:0{digits}d}-{stem}.png" for number, stem in enumerate(stems, start=1)]


def mask_files(folder: Path | None, pictures: list[Path]) -> list[tuple[str, Path]]:
    """Return ("--masks", file) of each existing file that a mask of these answers could overwrite."""
    if folder is None or not folder.is_dir():
        return []
    stems = {picture.stem for picture in pictures}
    named = ((MASK_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return [("--masks", path) for match, path in named if match and match["stem"] in stems]


def is_same(path: Path, other: Path) -> bool:
    return other.exists() and path.samefile(other)


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
    """Write the picture of an answer and, if `masks` is a folder, each of its masks."""
    picture = draw_answer(image, found["masks"].numpy(), query, answer_text(found), labels(query, found))
    write_whole(output, picture)
    for number, mask in enumerate(found["masks"].numpy(), start=1) if masks is not None else ():
        write_whole(masks / f"{output.stem}.mask{number}.png", Image.fromarray(mask.astype("uint8") * 255))


def answer_all(
    model,
    processor,
    asked: list[tuple[tuple[Path, str], Path | None]],
    args: argparse.Namespace,
    export: DatasetExport | None,
) -> Iterator[dict[str, Any]]:
    """Answer the questions in batches, write and print each answer, and yield its record if --json is given.

    Args:
        model, processor: of a Gemma-LISA.
        asked: ((image, query), picture file) of each answer; no picture is written for None.
        args: options of the program.
        export: keeps the answers for the data set.
    """
    options = answer_options(args)
    is_hidden = True if len(asked) <= args.batch_size else None  # None: shown in a terminal only
    for start in tqdm(range(0, len(asked), args.batch_size), unit="batch", disable=is_hidden):
        batch = asked[start : start + args.batch_size]
        images = {path: LazyImage(path) for path in dict.fromkeys(path for (path, _), _ in batch)}
        questions = [{"image": images[path], "text": query} for (path, query), _ in batch]
        answers = answer(model, processor, questions, **options)
        for ((path, query), output), found in zip(batch, answers, strict=True):
            line = f"{path} | {shorten(query)} | {answer_text(found)} | {masks_text(query, found)}"
            if output is not None:
                write_answer(output, images[path].load(), query, found, args.masks)
                line += f" | wrote {output}"
            tqdm.write(line)
            if export is not None:
                export.add(path, images[path].size[::-1], query, found)
            if args.json:
                yield record(path, query, found)


def write_dataset(export: DatasetExport) -> None:
    """Write the photos whose questions are all answered, and print what to do next."""
    if summary := export.write():
        print(summary)
    else:
        print(f"no photo has all its answers, so {export.folder} was not written", file=sys.stderr)


def main(arguments: list[str]) -> None:
    args = parse(arguments)
    register_heif()
    if args.conversation:
        pairs, found = [], set()
    elif args.table is not None:
        pairs, found = read_table(args.table), set()
    else:
        images, found = expand_folders(args.image)
        pairs = [(image, query) for image in images for query in args.query]
    pictures = check_output(args, pairs)
    export = None
    if args.dataset_out is not None:
        names, tolerance = args.class_names or {}, args.polygon_tolerance
        export = DatasetExport(args.dataset_out, args.format, pairs, names, tolerance)
    outputs = [("--output", args.output, len(pairs) > 1), ("--masks", args.masks, True), ("--json", args.json, False)]
    if export:  # it is written beside its place and renamed
        outputs += [
            (OPTION, path, True) for path in (args.dataset_out, Path(os.path.realpath(args.dataset_out)).parent)
        ]
    for option, path, is_folder in outputs:
        if path is not None:
            check_writable(path, option, is_folder)
    images = dict.fromkeys(path for path, _ in pairs)
    skipped = unreadable_images(images or args.image, found)  # before the model is loaded
    if len(skipped) == len(images) > 0:
        raise ValueError("None of the images could be opened.")
    if export:
        export.skip(skipped)
    model, processor = load_asked(args, DTYPES[args.dtype])
    if args.conversation:
        session = model.start(args.image[0], processor)
        run_conversation(TerminalConversation(session, args.output, answer_options(args)))
        return
    asked = [(pair, picture) for pair, picture in zip(pairs, pictures, strict=True) if pair[0] not in skipped]
    records = []
    try:
        for one in answer_all(model, processor, asked, args, export):
            records.append(one)
    finally:  # also after Ctrl-C or SIGTERM: the file and the data set then hold the finished answers
        if args.json and records:
            write_whole(args.json, json_text(records))
            if len(records) < len(asked):
                print(f"stopped early: {args.json} holds {len(records)} of {len(asked)} answers", file=sys.stderr)
        if export:
            write_dataset(export)
    if skipped:
        names = listed(map(str, skipped))
        raise ValueError(f"{len(skipped):,} of {len(images):,} images could not be opened: {names}. See above.")


if __name__ == "__main__":
    run(main)
