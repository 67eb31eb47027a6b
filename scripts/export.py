"""Make one complete folder of a trained Gemma-LISA: a repository of the Hub, with weights, code, card and examples.

    python scripts/export.py --model outputs/lora --output outputs/merged
    python scripts/export.py --model outputs/start --adapter outputs/lora --output outputs/merged
    python scripts/export.py --model outputs/lora --output outputs/merged --results outputs/results.json \\
        --examples photo.jpg "what could open the bottle?" --push org/name

--model is a checkpoint, an adapter (merged into its unquantised base, whatever it was trained on), or a checkpoint of
DeepSpeed ZeRO or FSDP2 that holds its weights in pieces only. The folder appears when it is complete, and when it
answers a probe as what it was made of does: the differences are printed. Pieces are pickles, which can run code: give
only those of your own runs. What is pushed has loaded and answered before in a Python that has transformers and not
this project. docs/publish.md tells more.
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
from gemma_lisa.checkpoints.hub_upload import check_access, check_name, check_no_secrets, list_files, push
from gemma_lisa.checkpoints.loading import DTYPES, load_checkpoint, open_checkpoint
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
from gemma_lisa.safety.whole_files import check_writable, write_whole
from gemma_lisa.scripts.fresh_loading import check_loading
from gemma_lisa.training.atomic_saves import whole_folder

# How far the merged model may be from the adapted one, as a share of its largest logit: a merged weight is rounded
# once, in its own type.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
# Where torch's sharded weights lie in a checkpoint of FSDP2, and what DeepSpeed leaves in one of ZeRO.
FSDP_FOLDER, ZERO_FILE = "pytorch_model_fsdp_0", "latest"
SCENE = Path(__file__).parents[1] / "docs" / "scene.png"
QUESTIONS = ("the red circle", "all the blue triangles", "the yellow star")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a checkpoint or of an adapter")
    parser.add_argument("--adapter", type=Path, help="folder of an adapter whose base --model names")
    parser.add_argument("--config_from", type=Path, help="where config and processor are, if not with the pieces")
    parser.add_argument("--output", type=Path, required=True, help="folder to write; must be new or empty")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of all weights; auto: the base's")
    parser.add_argument("--max_shard_size", default="5GB", help="of one file of weights")
    parser.add_argument(
        "--license", help="of the weights, as the Hub writes it; gemma, unless none of Gemma's are in it"
    )
    parser.add_argument("--base_model", nargs="+", help="Hub names of what it was made of, where its config has none")
    parser.add_argument("--datasets", nargs="+", default=[], help="names of what it was trained on, for the card")
    parser.add_argument(
        "--results", nargs="+", type=Path, help="results files of eval.py; by default the model's own results.json"
    )
    parser.add_argument(
        "--examples",
        nargs="+",
        action="append",
        metavar=("IMAGE", "QUERY"),
        help="a picture and questions to answer for the card; may come again. Without: a drawn scene",
    )
    parser.add_argument("--push", metavar="ORG/NAME", help="upload it there, in one commit")
    parser.add_argument("--private", action="store_true", help="where there is no such repository yet, make it private")
    parser.add_argument(
        "--dry_run", action="store_true", help="test and list what would be uploaded, and upload nothing"
    )
    args = parser.parse_args(arguments)
    args.examples = args.examples or [[str(SCENE), *QUESTIONS]]
    for image, *questions in args.examples:
        if not questions or not all(question.strip() for question in questions):
            raise UsageError(f"--examples {image}: a question is needed behind the picture.")
    if args.results is None:
        args.results = [path for path in [(args.adapter or args.model) / "results.json"] if path.is_file()]
    if len({path.name for path in args.results}) < len(args.results):
        raise UsageError("--results: two files of one name; rename one.")
    if args.push is not None:
        check_name(args.push)
    elif args.private:
        raise UsageError("--private says how a repository is made; --push names it.")
    if not re.fullmatch(r"\d+(\.\d+)?[KMG]i?B", args.max_shard_size):
        raise UsageError(f"--max_shard_size {args.max_shard_size}: a size is needed, as 5GB.")
    return args


# ---------------------------------------------------------------------------------------------------------------------
# What is exported
# ---------------------------------------------------------------------------------------------------------------------
def is_in_pieces(folder: Path) -> bool:
    """Whether a folder holds its weights only as an engine of several processes leaves them."""
    has_pieces = (folder / FSDP_FOLDER).is_dir() or (folder / ZERO_FILE).is_file()
    return has_pieces and not is_adapter(folder) and not list(folder.glob("*.safetensors"))


def put_together(
    folder: Path, config_from: Path | None, dtype: torch.dtype | str
) -> tuple[GemmaLisaForConditionalGeneration, GemmaLisaProcessor]:
    """The model of a ZeRO or FSDP2 checkpoint, in the configuration's type for "auto", with what was trained exact.

    Raises:
        ValueError: no configuration beside it; an adapter; weights that are missing or left over.
    """
    place = next((at for at in (config_from, folder, folder.parent) if at and (at / "config.json").is_file()), None)
    if place is None:
        raise ValueError(f"{folder}: its weights come without config.json; --config_from names the model it began as.")
    config = AutoConfig.from_pretrained(place, trust_remote_code=False)
    weights = read_pieces(folder)
    if adapted := [key for key in weights if "lora_" in key]:
        raise ValueError(
            f"{folder}: the pieces are of an adapter ({adapted[0]}); export the folder train.py saved it to."
        )
    model = GemmaLisaForConditionalGeneration(config)
    found = model.load_state_dict(weights, strict=False)
    tied = set(model.all_tied_weights_keys)
    wrong = [*(key for key in found.missing_keys if key not in tied), *found.unexpected_keys]
    if wrong:
        raise ValueError(f"{folder}: {len(wrong)} weights are missing or left over, as {wrong[0]}.")
    model.tie_weights()
    hold_in(model, resolve_dtype(dtype, config))
    model.generation_config = GenerationConfig.from_pretrained(place)
    return model.eval(), GemmaLisaProcessor.from_pretrained(place, trust_remote_code=False)


def read_pieces(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a ZeRO or FSDP2 checkpoint by name."""
    if (folder / FSDP_FOLDER).is_dir():
        with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
            merge_fsdp_weights(str(folder / FSDP_FOLDER), aside)
            return {name: weight.clone() for name, weight in load_file(Path(aside) / "model.safetensors").items()}
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    return get_fp32_state_dict_from_zero_checkpoint(str(folder))


def open_source(
    args: argparse.Namespace,
) -> tuple[GemmaLisaForConditionalGeneration | AdaptedGemmaLisa, GemmaLisaProcessor]:
    """What the arguments name, in evaluation mode; an adapter still beside its base."""
    dtype = DTYPES[args.dtype]
    if args.adapter is None and is_in_pieces(args.model):
        return put_together(args.model, args.config_from, dtype)
    model, processor = open_checkpoint(args.model, dtype, args.adapter)
    if saved := quantization_of(model.config):
        raise ValueError(
            f"{args.model}: its weights are saved in {saved}, which cannot be exported or merged; give the checkpoint "
            "that was not quantised."
        )
    return model.eval(), processor


def describe_source(args: argparse.Namespace) -> str:
    adapter = args.adapter or (args.model if is_adapter(args.model) else None)
    if adapter is None:
        return f"{args.model}{', put together' if is_in_pieces(args.model) else ''}"
    return f"{adapter} merged into {args.model if args.adapter else read_base(adapter).name}"


# ---------------------------------------------------------------------------------------------------------------------
# The proof
# ---------------------------------------------------------------------------------------------------------------------
@torch.no_grad()
def probe(model: torch.nn.Module, processor: GemmaLisaProcessor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the model says of two made pictures with answers given: logits (B, L, V) and mask logits (S, h, w)."""
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
    """How far apart two probes are, in words.

    Raises:
        ValueError: too far.
    """
    shares = [
        ((a - b).abs().max() / a.abs().max()).item() if len(a) else 0.0 for a, b in zip(expected, found, strict=True)
    ]
    told = f"logits differ by {shares[0]:.1e} of the largest, mask logits by {shares[1]:.1e}"
    if not max(shares) <= tolerance:
        raise ValueError(f"what was written is not what was trained: {told}, at most {tolerance:.1e} is rounding.")
    return told


# ---------------------------------------------------------------------------------------------------------------------
# The folder
# ---------------------------------------------------------------------------------------------------------------------
def answer_examples(
    model: GemmaLisaForConditionalGeneration, processor: GemmaLisaProcessor, asked: list[list[str]], folder: Path
) -> list[dict[str, Any]]:
    """Have the model answer the examples, and write pictures, masks and answers below the folder.

    Returns:
        what `answers.json` holds: for each question text, answer, raw_text and, as paths from the folder, image,
        picture (with the masks drawn in) and masks with label and score.
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


def export(args: argparse.Namespace) -> tuple[str, Facts]:
    """Write the folder aside, prove it, rename it; what the proof says, and what the card tells."""
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
    if args.push and facts.license == GEMMA_LICENSE and not base_models:
        raise UsageError("--base_model: nothing says which Gemma this was made of, and its terms ask for it; name it.")
    model.config.base_models = base_models

    with whole_folder(output) as aside:
        model.save_pretrained(aside, max_shard_size=args.max_shard_size)
        processor.save_pretrained(aside)
        write_checksums(aside)
        del model, source
        written, again = load_checkpoint(aside)
        proof = compare(expected, probe(written, again), TOLERANCE[dtype] if is_merged else 0.0)
        facts.examples = answer_examples(written, again, args.examples, aside)
        complete(aside, facts)
        check_no_secrets(aside)
    return proof, facts


def main(arguments: list[str]) -> None:
    args = parse(arguments)
    check_new_folder(args.output)
    check_writable(args.output, "--output", is_folder=True)
    if args.push and not args.dry_run:
        check_access(args.push)
    proof, facts = export(args)
    files = [path for path in args.output.iterdir() if path.suffix == ".safetensors"]
    size = sum(path.stat().st_size for path in files)
    print(f"{args.output}: {describe_source(args)}, {size / 1e6:,.1f} MB of weights in {len(files)} file(s)")
    print(f"  a probe of it: {proof}")
    if facts.license == GEMMA_LICENSE and not facts.base_models:
        print("  its card names no base model, for nothing says it; --base_model does")
    if args.push or args.dry_run:
        masks = check_loading(args.output.resolve())
        equal = ", ".join(f"{count} by {way}" for way, count in masks.items())
        print(f"  loaded where this project is not; masks equal to those here: {equal}")
    if args.dry_run:
        print(f"{args.push or args.output} would hold:\n{list_files(args.output)}")
    elif args.push:
        print(f"pushed: {push(args.output, args.push, args.private)}")


if __name__ == "__main__":
    logging.set_verbosity_error()
    run(main)
