"""Export a trained Gemma-LISA to one folder with weights, code, model card and examples, and upload it to the Hub.

    python scripts/export.py --model outputs/lora --output outputs/merged
    python scripts/export.py --model outputs/start --adapter outputs/lora --output outputs/merged
    python scripts/export.py --model outputs/lora --output outputs/merged --results outputs/results.json \\
        --examples photo.jpg "what could open the bottle?" --push org/name

An adapter is merged into its base model, which must not be quantized. Sharded weights of DeepSpeed ZeRO and FSDP2 are
merged into one checkpoint. These shards are pickles, which can run code: use only those of your own runs.

If the exported model gives other outputs than the original, nothing is written. Before an upload the folder is
also tested in a Python process that has transformers but not this project. See docs/publish.md.
"""

import argparse
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import merge_fsdp_weights
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoConfig, GenerationConfig, logging

from gemma_lisa.checkpoints.adapter_base import is_adapter, read_base
from gemma_lisa.checkpoints.checksums import write_checksums
from gemma_lisa.checkpoints.devices import resolve_dtype
from gemma_lisa.checkpoints.hub_repository import ANSWERS, EXAMPLES, complete
from gemma_lisa.checkpoints.hub_upload import REPO_NAME, check_access, check_name, check_no_secrets, list_files, push
from gemma_lisa.checkpoints.loading import DTYPES, load_checkpoint, open_checkpoint, wrong_weights
from gemma_lisa.checkpoints.lora import AdaptedGemmaLisa, hold_in, merge_adapter
from gemma_lisa.checkpoints.model_card import GEMMA_LICENSE, Facts, read_results
from gemma_lisa.checkpoints.quantization import quantization_of
from gemma_lisa.checkpoints.training_record import stages_of
from gemma_lisa.drawing.overlay import draw_answer
from gemma_lisa.images_gemma_lisa import load_rgb
from gemma_lisa.interfaces.command_line import ArgumentParser, run
from gemma_lisa.interfaces.output_checks import check_new_folder
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.pipeline_gemma_lisa import ReasoningSegmentationPipeline
from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.safety.short_text import count_of, show
from gemma_lisa.safety.whole_files import check_writable, write_whole
from gemma_lisa.scripts.fresh_loading import check_loading
from gemma_lisa.training.atomic_saves import whole_folder

# Maximum difference between the outputs of the merged and the adapted model, relative to the largest output.
# Each merged weight is rounded once, in its own type.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
# Folder of the sharded weights in an FSDP2 checkpoint, and a file that DeepSpeed writes into a ZeRO checkpoint.
FSDP_FOLDER, ZERO_FILE = "pytorch_model_fsdp_0", "latest"
SCENE = Path(__file__).parents[1] / "docs" / "scene.png"
QUESTIONS = ("the red circle", "all the blue triangles", "the yellow star")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, required=True, help="folder of a checkpoint, an adapter, or a ZeRO or FSDP2 checkpoint"
    )
    parser.add_argument("--adapter", type=Path, help="folder of an adapter; --model is then its base model")
    parser.add_argument(
        "--config_from",
        type=Path,
        help="folder with the configuration and processor of a ZeRO or FSDP2 checkpoint (default: that folder or its "
        "parent)",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write, which must be new or empty")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="auto",
        help="type of the weights; auto keeps the type of the base model (default: auto)",
    )
    parser.add_argument("--max_shard_size", default="5GB", help="maximum size of each file of weights (default: 5GB)")
    parser.add_argument(
        "--license",
        help="license of the weights, as an identifier of the Hub (default: gemma, or apache-2.0 without weights of "
        "Gemma)",
    )
    parser.add_argument("--base_model", nargs="+", help="Hub names of the base models (default: those in config.json)")
    parser.add_argument("--datasets", nargs="+", default=[], help="names of the training data sets, for the model card")
    parser.add_argument(
        "--results",
        nargs="+",
        type=Path,
        help="results files of eval.py, for the model card (default: results.json in the model's folder, if it exists)",
    )
    parser.add_argument(
        "--hub_datasets",
        nargs="+",
        metavar="NAME=ORG/NAME",
        default=[],
        help="data sets of the Hub that contain the evaluated data sets, for .eval_results of the Hub's leaderboards",
    )
    parser.add_argument(
        "--examples",
        nargs="+",
        action="append",
        metavar=("IMAGE", "QUERY"),
        help="image and questions whose answers are shown in the model card; can be repeated (default: a drawn scene)",
    )
    parser.add_argument("--push", metavar="ORG/NAME", help="repository on the Hub to which the folder is uploaded")
    parser.add_argument("--private", action="store_true", help="make a new repository private; needs --push")
    parser.add_argument("--dry_run", action="store_true", help="test and list the files, but do not upload them")
    return _checked(parser.parse_args(arguments))


def _checked(args: argparse.Namespace) -> argparse.Namespace:
    """Return the arguments with their defaults, after checks that need several of them."""
    args.examples = args.examples or [[str(SCENE), *QUESTIONS]]
    for image, *questions in args.examples:
        if not questions or not all(question.strip() for question in questions):
            raise UsageError(f"--examples {image}: give at least one question after the image.")
    if args.results is None:
        args.results = [path for path in [(args.adapter or args.model) / "results.json"] if path.is_file()]
    if len({path.name for path in args.results}) < len(args.results):
        raise UsageError("--results: two files have the same name. Rename one of them.")
    args.hub_datasets = dict(_hub_dataset(text) for text in args.hub_datasets)
    if args.push is not None:
        check_name(args.push)
    elif args.private:
        raise UsageError("--private needs --push ORG/NAME.")
    if not re.fullmatch(r"\d+(\.\d+)?[KMG]i?B", args.max_shard_size):
        raise UsageError(f"--max_shard_size is {show(args.max_shard_size)}; expected a size such as 5GB.")
    return args


def _hub_dataset(text: str) -> tuple[str, str]:
    """Return (name of a data set, name on the Hub) of NAME=ORG/NAME."""
    name, _, dataset = text.partition("=")
    if not name or not REPO_NAME.fullmatch(dataset):
        raise UsageError(f"--hub_datasets must have the form NAME=ORG/NAME, got {show(text)}.")
    return name, dataset


# ---------------------------------------------------------------------------------------------------------------------
# The source model
# ---------------------------------------------------------------------------------------------------------------------
def is_sharded(folder: Path) -> bool:
    """Return whether a folder contains its weights only as shards of DeepSpeed ZeRO or FSDP2."""
    has_shards = (folder / FSDP_FOLDER).is_dir() or (folder / ZERO_FILE).is_file()
    return has_shards and not is_adapter(folder) and not list(folder.glob("*.safetensors"))


def merge_shards(
    folder: Path, config_from: Path | None, dtype: torch.dtype | str
) -> tuple[GemmaLisaForConditionalGeneration, GemmaLisaProcessor]:
    """Return model and processor of a sharded ZeRO or FSDP2 checkpoint.

    Args:
        folder: folder of the checkpoint.
        config_from: folder with configuration and processor, or None to search in the checkpoint and its parent.
        dtype: type of the weights. "auto" is that of the configuration.

    Raises:
        ValueError: there is no configuration, the weights belong to an adapter, or weights are missing or unexpected.
    """
    place = next((at for at in (config_from, folder, folder.parent) if at and (at / "config.json").is_file()), None)
    if place is None:
        raise ValueError(f"{folder}: no config.json. Give the folder of the starting model with --config_from.")
    config = AutoConfig.from_pretrained(place, trust_remote_code=False)
    weights = read_shards(folder)
    if any("lora_" in name for name in weights):
        raise ValueError(
            f"{folder}: its shards belong to an adapter. Export the folder that contains adapter_config.json."
        )
    model = GemmaLisaForConditionalGeneration(config)
    found = model.load_state_dict(weights, strict=False)
    tied = set(model.all_tied_weights_keys)
    wrong = [*(key for key in found.missing_keys if key not in tied), *found.unexpected_keys]
    if wrong:
        raise ValueError(f"{folder}: {wrong_weights(wrong)}.")
    model.tie_weights()
    hold_in(model, resolve_dtype(dtype, config))
    model.generation_config = GenerationConfig.from_pretrained(place)
    return model.eval(), GemmaLisaProcessor.from_pretrained(place, trust_remote_code=False)


def read_shards(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a ZeRO or FSDP2 checkpoint by name."""
    if (folder / FSDP_FOLDER).is_dir():
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            merge_fsdp_weights(str(folder / FSDP_FOLDER), temporary)
            return {name: weight.clone() for name, weight in load_file(Path(temporary) / "model.safetensors").items()}
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    return get_fp32_state_dict_from_zero_checkpoint(str(folder))


def open_source(
    args: argparse.Namespace,
) -> tuple[GemmaLisaForConditionalGeneration | AdaptedGemmaLisa, GemmaLisaProcessor]:
    """Load the model of the arguments, in evaluation mode. An adapter is not merged yet."""
    dtype = DTYPES[args.dtype]
    if args.adapter is None and is_sharded(args.model):
        return merge_shards(args.model, args.config_from, dtype)
    model, processor = open_checkpoint(args.model, dtype, args.adapter)
    if saved := quantization_of(model.config):
        raise ValueError(
            f"{args.model}: its weights are quantized ({saved}) and cannot be exported or merged. Use the checkpoint "
            "that is not quantized."
        )
    return model.eval(), processor


def describe_source(args: argparse.Namespace) -> str:
    adapter = args.adapter or (args.model if is_adapter(args.model) else None)
    if adapter is None:
        return f"merged shards of {args.model}" if is_sharded(args.model) else f"copy of {args.model}"
    return f"{adapter} merged into {args.model if args.adapter else read_base(adapter).name}"


# ---------------------------------------------------------------------------------------------------------------------
# The comparison of outputs
# ---------------------------------------------------------------------------------------------------------------------
@torch.no_grad()
def probe(model: torch.nn.Module, processor: GemmaLisaProcessor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits (B, L, V) and mask logits (S, h, w) for two generated images with given answers."""
    conversations = []
    for number in range(2):
        side = 96 + 64 * number
        ramp = torch.arange(side * side * 3).reshape(side, side, 3) * (number + 7) % 256
        image = Image.fromarray(ramp.to(torch.uint8).numpy())
        question = [{"type": "image", "image": image}, {"type": "text", "text": "the red thing on the left"}]
        answer = [{"type": "text", "text": f"It is {processor.seg_token}."}]
        conversations.append([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])
    inputs = processor.apply_chat_template(conversations, tokenize=True, return_dict=True)
    output = model(**inputs)
    return output.logits.float(), output.pred_masks.float()


def compare(expected: tuple[torch.Tensor, ...], found: tuple[torch.Tensor, ...], tolerance: float) -> str:
    """Return a description of the differences between two outputs of `probe`.

    Raises:
        ValueError: the differences are larger than the tolerance.
    """
    shares = [
        ((a - b).abs().max() / a.abs().max()).item() if len(a) else 0.0 for a, b in zip(expected, found, strict=True)
    ]
    text = f"logits differ by {shares[0]:.1e} of the largest, mask logits by {shares[1]:.1e}"
    if not max(shares) <= tolerance:
        raise ValueError(
            f"The exported model gives other outputs than the original: {text}; expected at most {tolerance:.1e}."
        )
    return text


# ---------------------------------------------------------------------------------------------------------------------
# The folder
# ---------------------------------------------------------------------------------------------------------------------
def answer_examples(
    model: GemmaLisaForConditionalGeneration, processor: GemmaLisaProcessor, asked: list[list[str]], folder: Path
) -> list[dict[str, Any]]:
    """Answer the examples and write images, masks and answers to the folder.

    Returns:
        the content of `answers.json`: for each question `text`, `answer`, `raw_text` and, as paths relative to the
        folder, `image`, `picture` (with drawn masks) and `masks` (each with label and score).
    """
    ask = ReasoningSegmentationPipeline(model=model, processor=processor, device=model.device)
    (folder / EXAMPLES).mkdir()
    examples = []
    for number, (path, *questions) in enumerate(asked, start=1):
        image, place = load_rgb(path), f"{EXAMPLES}/{number}.png"
        write_whole(folder / place, image)
        for count, question in enumerate(questions, start=1):
            answer, stem = ask(images=image, text=question), f"{EXAMPLES}/{number}-{count}"
            masks = []
            for at, segment in enumerate(answer["segments"], start=1):
                masks.append({"label": segment["label"], "score": segment["score"], "mask": f"{stem}.mask-{at}.png"})
                write_whole(folder / masks[-1]["mask"], segment["mask"])
            drawn = np.zeros((0, image.height, image.width), dtype=bool)
            if masks:
                drawn = np.stack([np.asarray(segment["mask"]) > 0 for segment in answer["segments"]])
            write_whole(folder / f"{stem}.answer.png", draw_answer(image, drawn, question, answer["text"]))
            said = {"text": question, "answer": answer["text"], "raw_text": answer["raw_text"]}
            examples.append({"image": place, **said, "picture": f"{stem}.answer.png", "masks": masks})
    write_whole(folder / EXAMPLES / ANSWERS, examples)
    return examples


def export(args: argparse.Namespace) -> tuple[str, Facts, list[str]]:
    """Write and check a temporary folder, and rename it.

    Returns:
        result of the check, facts for the card, and lines about results without an entry for the Hub's leaderboards.
    """
    output = Path(os.path.abspath(args.output))
    results = {path.name: read_results(path) for path in args.results}
    for path, *_ in args.examples:
        load_rgb(path)
    source, processor = open_source(args)
    stages = stages_of(args.adapter or args.model)
    is_merged = isinstance(source, AdaptedGemmaLisa)
    dtype = source.dtype
    expected = probe(source, processor)
    model = merge_adapter(source, dtype) if is_merged else source
    hold_in(model, dtype)
    base_models = args.base_model or model.config.base_models
    facts = Facts(args.push or output.name, args.license, base_models, stages, results, datasets=args.datasets)
    facts.hub_datasets = args.hub_datasets
    if args.push and facts.license == GEMMA_LICENSE and not base_models:
        raise UsageError(
            "--base_model: config.json does not name the base models, and the terms of Gemma require it. Give the Hub "
            "name of the Gemma model."
        )
    model.config.base_models = base_models

    with whole_folder(output) as temporary:
        model.save_pretrained(temporary, max_shard_size=args.max_shard_size)
        processor.save_pretrained(temporary)
        write_checksums(temporary)
        del model, source
        written, again = load_checkpoint(temporary)
        difference = compare(expected, probe(written, again), TOLERANCE[dtype] if is_merged else 0.0)
        facts.examples = answer_examples(written, again, args.examples, temporary)
        notes = complete(temporary, facts)
        check_no_secrets(temporary)
    return difference, facts, notes


def main(arguments: list[str]) -> None:
    args = parse(arguments)
    check_new_folder(args.output)
    check_writable(args.output, "--output", is_folder=True)
    if args.push and not args.dry_run:
        check_access(args.push)
    difference, facts, notes = export(args)
    files = [path for path in args.output.iterdir() if path.suffix == ".safetensors"]
    size = sum(path.stat().st_size for path in files)
    print(f"{args.output}: {describe_source(args)}, {size / 1e6:,.1f} MB of weights in {count_of(len(files), 'file')}")
    print(f"  compared with the original: {difference}")
    for note in notes:
        print(f"  {note}")
    if facts.license == GEMMA_LICENSE and not facts.base_models:
        print("  warning: the model card does not name the base models; give them with --base_model")
    if args.push or args.dry_run:
        masks = check_loading(args.output.resolve())
        equal = ", ".join(f"{count_of(count, 'mask')} with {way}" for way, count in masks.items())
        print(f"  tested without this project: {equal}, all equal")
    if args.dry_run:
        print(f"Files of {args.push or args.output} (not uploaded):\n{list_files(args.output)}")
    elif args.push:
        print(f"uploaded: {push(args.output, args.push, args.private)}")


if __name__ == "__main__":
    logging.set_verbosity_error()
    run(main)
