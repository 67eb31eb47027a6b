"""Ask images in words: an overlay picture and the answer for each.

    python predict.py --image docs/scene.png --query "the red circle" --output answer.png
    python predict.py --model outputs/demo --image a.png b.png --query "the red circle" "all the squares" \\
        --output answers/ --json answers/answers.json

Without --model the small checkpoint of examples/ answers, which knows drawn shapes only.
Every query is asked of every image. One answer is written to --output; several to files in the folder of that name.
Any kind of picture is taken, see docs/images.md; one that cannot be read is refused before any is asked about.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from gemma_lisa.answers import record
from gemma_lisa.checkpoint import EXAMPLE, load_checkpoint
from gemma_lisa.command_line import (
    ArgumentParser,
    UsageError,
    add_model_options,
    choose_device,
    positive,
    run,
    write_whole,
)
from gemma_lisa.drawing import draw_answer
from gemma_lisa.images_gemma_lisa import load_rgb


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model",
        help="folder or Hub name of a Gemma-LISA checkpoint, or folder of an adapter; by default that of examples/",
    )
    parser.add_argument("--image", nargs="+", type=Path, required=True, help="picture files")
    parser.add_argument("--query", nargs="+", required=True, help="questions or phrases")
    parser.add_argument("--output", type=Path, required=True, help="picture to write; a folder for several answers")
    parser.add_argument("--json", type=Path, help="also write texts, masks (COCO RLE), boxes, areas and scores there")
    parser.add_argument("--threshold", type=float, default=0.0, help="mask logits above it are foreground")
    parser.add_argument("--max_new_tokens", type=positive, default=64, help="of an answer")
    parser.add_argument("--batch_size", type=positive, default=8, help="questions at once, with their images")
    add_model_options(parser)
    args = parser.parse_args(arguments)
    if not all(query.strip() for query in args.query):
        raise UsageError("--query is empty; write what to look for.")
    is_picture = Image.registered_extensions().get(args.output.suffix.lower()) in Image.SAVE
    if len(args.image) * len(args.query) > 1 and is_picture:
        raise UsageError(f"--output {args.output} is one file for several answers; give the name of a folder.")
    if len(args.image) * len(args.query) == 1 and not is_picture:
        raise UsageError(f"--output {args.output}: give a picture file, as answer.png.")
    return args


def ask(model, processor, pairs: list[tuple[Image.Image, str]], args: argparse.Namespace) -> list[dict[str, Any]]:
    """The processor's answers (see `post_process_segmentation`) to (image, query) pairs, all at once."""
    conversations = [
        [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": query}]}]
        for image, query in pairs
    ]
    inputs = processor.apply_chat_template(
        conversations, add_generation_prompt=True, tokenize=True, return_dict=True
    ).to(model.device)
    with torch.inference_mode():
        output = model.segment(**inputs, max_new_tokens=args.max_new_tokens)
    return processor.post_process_segmentation(output, inputs, args.threshold)


def answer_batch(
    model, processor, batch: list[tuple[int, Path, str]], is_only: bool, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Ask (number, path, query) triples, write and print each answer; their records, where `--json` asks for them."""
    images = {path: load_rgb(path) for path in dict.fromkeys(path for _, path, _ in batch)}
    answers = ask(model, processor, [(images[path], query) for _, path, query in batch], args)
    records = []
    for (number, path, query), answer in zip(batch, answers, strict=True):
        picture = draw_answer(images[path], answer["masks"].numpy(), query, answer["text"])
        output = args.output if is_only else args.output / f"{number:03d}-{path.stem}.png"
        write_whole(output, picture)
        cut = "" if answer["complete"] else " (cut off; raise --max_new_tokens)"
        tqdm.write(f"{path} | {query} | {answer['raw_text']}{cut} | {len(answer['masks'])} masks | {output}")
        if args.json:
            records.append(record(path, query, answer))
    return records


def main(arguments: list[str]) -> None:
    args = parse(arguments)
    for path in args.image:
        load_rgb(path)  # all are looked at before any is asked about; only those of a batch are held
    if args.model is None:
        print(f"model: {EXAMPLE}, which knows drawn shapes only; --model names another", file=sys.stderr)
    model, processor = load_checkpoint(
        args.model or EXAMPLE,
        adapter=args.adapter,
        load_in_4bit=args.load_in_4bit,
        load_in_8bit=args.load_in_8bit,
        device=choose_device(args.device),
    )
    pairs = [(path, query) for path in args.image for query in args.query]
    asked = [(number, path, query) for number, (path, query) in enumerate(pairs, start=1)]
    records = []
    for start in tqdm(range(0, len(asked), args.batch_size), unit="batch", disable=len(asked) <= args.batch_size):
        batch = asked[start : start + args.batch_size]
        records += answer_batch(model, processor, batch, len(asked) == 1, args)
    if args.json:
        write_whole(args.json, records)


if __name__ == "__main__":
    run(main)
