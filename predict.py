"""Ask images in words: an overlay picture and the answer for each.

    python predict.py --model outputs/demo --image scene.png --query "the red circle" --output answer.png
    python predict.py --model outputs/demo --image a.png b.png --query "the red circle" "all the squares" \\
        --output answers/ --json answers/answers.json

Every query is asked of every image. One answer is written to --output; several to files in the folder of that name.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from gemma_lisa.checkpoint import load_checkpoint
from gemma_lisa.command_line import ArgumentParser, UsageError, choose_device, positive, run, write_whole
from gemma_lisa.datasets_builder.rows import encode_mask, load_image
from gemma_lisa.drawing import draw_answer


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub name of a Gemma-LISA checkpoint")
    parser.add_argument("--image", nargs="+", type=Path, required=True, help="picture files")
    parser.add_argument("--query", nargs="+", required=True, help="questions or phrases")
    parser.add_argument("--output", type=Path, required=True, help="picture to write; a folder for several answers")
    parser.add_argument("--json", type=Path, help="also write texts, masks (COCO RLE), boxes, areas and scores there")
    parser.add_argument("--threshold", type=float, default=0.0, help="mask logits above it are foreground")
    parser.add_argument("--max_new_tokens", type=positive, default=64, help="of an answer")
    parser.add_argument("--batch_size", type=positive, default=8, help="questions at once")
    parser.add_argument("--device", help="cuda, cpu, ...; a GPU if there is one")
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
    """The processor's answers (see `post_process_segmentation`) to (image, query) pairs, `batch_size` at a time."""
    answers = []
    for start in tqdm(range(0, len(pairs), args.batch_size), unit="batch", disable=len(pairs) <= args.batch_size):
        conversations = [
            [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": query}]}]
            for image, query in pairs[start : start + args.batch_size]
        ]
        inputs = processor.apply_chat_template(
            conversations, add_generation_prompt=True, tokenize=True, return_dict=True
        ).to(model.device)
        output = model.segment(**inputs, max_new_tokens=args.max_new_tokens)
        answers += processor.post_process_segmentation(output, inputs, args.threshold)
    return answers


def record(image: Path, query: str, answer: dict[str, Any]) -> dict[str, Any]:
    """An answer for the JSON file; a box is (x, y, width, height) in pixels."""
    masks = []
    for mask, score, phrase in zip(answer["masks"].numpy(), answer["scores"].tolist(), answer["phrases"], strict=True):
        rows, columns = np.nonzero(mask)
        box = None
        if len(rows):
            left, top = int(columns.min()), int(rows.min())
            box = [left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1]
        masks.append(
            {"phrase": phrase, "score": round(score, 4), "area": len(rows), "box": box, "rle": encode_mask(mask)}
        )
    texts = {name: answer[name] for name in ("text", "raw_text", "complete")}
    return {"image": str(image), "query": query, **texts, "masks": masks}


def main(arguments: list[str]) -> None:
    args = parse(arguments)
    images = [load_image(path, str(path)) for path in args.image]
    model, processor = load_checkpoint(args.model)
    model.to(choose_device(args.device))
    asked = [(path, image, query) for path, image in zip(args.image, images, strict=True) for query in args.query]
    with torch.inference_mode():
        answers = ask(model, processor, [(image, query) for _, image, query in asked], args)

    for number, ((path, image, query), answer) in enumerate(zip(asked, answers, strict=True), start=1):
        picture = draw_answer(image, answer["masks"].numpy(), query, answer["text"])
        output = args.output if len(asked) == 1 else args.output / f"{number:03d}-{path.stem}.png"
        write_whole(output, picture)
        cut = "" if answer["complete"] else " (cut off; raise --max_new_tokens)"
        print(f"{path} | {query} | {answer['raw_text']}{cut} | {len(answer['masks'])} masks | {output}")
    if args.json:
        write_whole(
            args.json, [record(path, query, answer) for (path, _, query), answer in zip(asked, answers, strict=True)]
        )


if __name__ == "__main__":
    run(main)
