"""Write a trained adapter as a small folder that is distributed without its base model.

    python scripts/export_adapter.py --model outputs/lora --output examples/mine --made_by "make my-base"
    python scripts/export_adapter.py --model outputs/start --adapter outputs/lora --base outputs/rebuilt \\
        --output examples/mine --made_by "make my-base" --terms GEMMA_TERMS.html

The folder contains the trained weights in fp16, their record, a model card, examples and the terms. It has no
tokenizer, because the programs take that of the base model. The base model is recorded by its path relative to the
folder, and --made_by is the command that an error shows if it is missing.

If the written adapter answers the examples differently than the original, nothing is written. See docs/adapters.md.
"""

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file
from transformers import logging

from gemma_lisa.checkpoints.adapter_base import (
    ADAPTER_CONFIG,
    Base,
    find_base,
    identify,
    is_adapter,
    read_base,
    relative_to,
    write_base,
)
from gemma_lisa.checkpoints.checksums import write_checksums
from gemma_lisa.checkpoints.hub_repository import complete_adapter
from gemma_lisa.checkpoints.hub_upload import check_no_secrets
from gemma_lisa.checkpoints.loading import load_checkpoint
from gemma_lisa.checkpoints.model_card import Facts, read_results
from gemma_lisa.checkpoints.page_text import text_of_page
from gemma_lisa.checkpoints.training_record import stages_of
from gemma_lisa.images_gemma_lisa import load_rgb
from gemma_lisa.interfaces.command_line import ArgumentParser, run
from gemma_lisa.interfaces.output_checks import check_new_folder
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.pipeline_gemma_lisa import answer
from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.safety.parsing import parse_json
from gemma_lisa.safety.short_text import VALUE_LENGTH, count_of, on_one_line, reason_of, show
from gemma_lisa.safety.whole_files import check_writable, write_whole
from gemma_lisa.scripts.export import QUESTIONS, SCENE, answer_examples
from gemma_lisa.training.atomic_saves import whole_folder

# The programs convert the weights when they load them. fp16 rounds them by 0.05%, bf16 by 0.4%.
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
# Largest share of an image's pixels that differ between a mask of the written adapter and the original one.
# Both are computed in fp32: in bf16, rounding alone moves the edges of masks by more.
MASK_TOLERANCE = 0.005


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=Path, required=True, help="folder of a trained adapter")
    add("--adapter", type=Path, help="folder of the adapter; --model is then the base model that it was trained on")
    add("--base", help="base model to record, such as another build (default: the one that it was trained on)")
    add("--output", type=Path, required=True, help="folder to write, which must be new or empty")
    add("--made_by", metavar="COMMAND", help="command that makes the base model, for errors and the model card")
    add("--dtype", choices=DTYPES, default="float16", help="type of the written weights (default: float16)")
    add("--license", help="license of the weights, as an identifier of the Hub (default: gemma)")
    add("--terms", nargs="+", type=Path, default=[], help="files with license terms to add; HTML becomes text")
    add("--base_model", nargs="+", help="Hub names of the models that the base was made from (default: in config.json)")
    add("--datasets", nargs="+", default=[], help="names of the training data sets, for the model card")
    add("--results", nargs="+", type=Path, default=[], help="results files of eval.py, for the model card")
    examples_help = "image and questions to compare and to show; can be repeated (default: a drawn scene)"
    add("--examples", nargs="+", action="append", metavar=("IMAGE", "QUERY"), help=examples_help)
    args = parser.parse_args(arguments)
    args.examples = args.examples or [[str(SCENE), *QUESTIONS]]
    for image, *questions in args.examples:
        if not questions or not all(question.strip() for question in questions):
            raise UsageError(f"--examples {image}: give at least one question after the image.")
    if args.made_by is not None and args.made_by != on_one_line(args.made_by):
        raise UsageError(
            f"--made_by must be one line of at most {VALUE_LENGTH} characters without control characters, got "
            f"{show(args.made_by)}."
        )
    for path in args.terms:
        if not path.is_file():
            raise UsageError(f"--terms {path}: this file does not exist.")
    if not is_adapter(args.adapter or args.model):
        raise UsageError(f"{args.adapter or args.model}: not an adapter, because it has no {ADAPTER_CONFIG}.")
    return args


# ---------------------------------------------------------------------------------------------------------------------
# The comparison of answers
# ---------------------------------------------------------------------------------------------------------------------
def answers_to(
    model: GemmaLisaForConditionalGeneration, processor: GemmaLisaProcessor, asked: Iterable[list[str]]
) -> list[dict[str, Any]]:
    """Return the answers to all questions, each with its "question". The questions about an image are one batch."""
    answers = []
    for path, *texts in asked:
        image = load_rgb(path)
        found = answer(model, processor, [{"image": image, "text": text} for text in texts])
        answers += [{"question": text, **one} for text, one in zip(texts, found, strict=True)]
    return answers


def compare_answers(expected: list[dict[str, Any]], found: list[dict[str, Any]]) -> str:
    """Return a description of the differences between the answers of two models to the same questions.

    Raises:
        ValueError: a text differs, or a mask differs by more than MASK_TOLERANCE.
    """
    largest = 0.0
    for before, after in zip(expected, found, strict=True):
        question = show(before["question"])
        if before["raw_text"] != after["raw_text"]:
            raise ValueError(
                f"The written adapter answers {question} with {show(after['raw_text'])}, the original with "
                f"{show(before['raw_text'])}. Try --dtype float32, or check --base."
            )
        for one, other in zip(before["masks"], after["masks"], strict=True):
            difference = (one ^ other).float().mean().item()
            largest = max(largest, difference)
            if difference > MASK_TOLERANCE:
                raise ValueError(
                    f"The written adapter answers {question} with a mask that differs from the original in "
                    f"{difference:.1%} of the pixels; expected at most {MASK_TOLERANCE:.1%}. Try --dtype float32, or "
                    "check --base."
                )
    return f"{count_of(len(found), 'equal answer')}, masks differ in at most {largest:.2%} of the pixels"


# ---------------------------------------------------------------------------------------------------------------------
# The folder
# ---------------------------------------------------------------------------------------------------------------------
def write_adapter(source: Path, folder: Path, base: Base, dtype: torch.dtype) -> None:
    """Write weights, configuration, checksums and the record of the base model.

    Args:
        source: folder of the trained adapter.
        folder: existing folder to write to.
        base: record, with a path relative to `folder`.
        dtype: type of the weights.

    Raises:
        ValueError: a weight is too large for the type, or not finite.
    """
    exact = tuple(GemmaLisaForConditionalGeneration._keep_in_fp32_modules_strict)
    weights = load_file(source / SAFETENSORS_WEIGHTS_NAME)
    converted = {
        name: weight if any(part in name for part in exact) else weight.to(dtype) for name, weight in weights.items()
    }
    if wrong := [name for name, weight in converted.items() if not weight.isfinite().all()]:
        raise ValueError(f"{source}: {wrong[0]} is not finite in this type. Use --dtype bfloat16 or float32.")
    save_file(converted, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
    config = parse_json((source / ADAPTER_CONFIG).read_bytes())
    write_whole(folder / ADAPTER_CONFIG, {**config, "base_model_name_or_path": base.name, "revision": base.revision})
    write_base(folder, base)
    write_checksums(folder)


def read_terms(path: Path) -> tuple[str, str]:
    """Return the name and the text of a file of terms. A saved web page becomes a .txt file.

    Raises:
        ValueError: the file is not text, or the page has none.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return (f"{path.stem}.txt", text_of_page(text)) if path.suffix in (".html", ".htm") else (path.name, text)
    except ValueError as error:
        raise ValueError(f"--terms {path}: cannot be read ({reason_of(error)}).") from error


def export(args: argparse.Namespace) -> tuple[str, Facts]:
    """Write and check a temporary folder, and rename it. Returns the result of the check, and facts for the card."""
    output, adapter = Path(os.path.abspath(args.output)), args.adapter or args.model
    trained_on, terms = read_base(adapter), dict(map(read_terms, args.terms))
    if args.base or args.adapter:
        base = identify(args.base or args.model)
    else:
        recorded = find_base(adapter)
        base = identify(recorded.name, recorded.revision)
    model, processor = load_checkpoint(args.model, torch.float32, args.adapter)
    expected = answers_to(model, processor, args.examples)
    base_models = args.base_model or model.config.base_models
    del model
    title = args.output.name if args.output.is_absolute() else args.output.as_posix()
    results = {path.name: read_results(path) for path in args.results}
    facts = Facts(title, args.license, base_models, stages_of(adapter), results, datasets=args.datasets)
    record = relative_to(output, base, args.made_by)
    facts.base, facts.made_by = record.name, record.made_by
    with whole_folder(output) as temporary:
        write_adapter(adapter, temporary, record, DTYPES[args.dtype])
        model, processor = load_checkpoint(temporary, torch.float32)
        difference = compare_answers(expected, answers_to(model, processor, args.examples))
        if trained_on.fingerprint != base.fingerprint:
            facts.base_note = (
                f"The adapter was trained on another build of this base model (weights {trained_on.fingerprint[:12]}). "
                f"On the recorded one (weights {base.fingerprint[:12]}) it gives the same answers: {difference}."
            )
        facts.examples = answer_examples(model, processor, args.examples, temporary)
        complete_adapter(temporary, facts, terms)
        check_no_secrets(temporary)
    return difference, facts


def main(arguments: list[str]) -> None:
    args = parse(arguments)
    check_new_folder(args.output)
    check_writable(args.output, "--output", is_folder=True)
    difference, facts = export(args)
    sizes = {path.name: path.stat().st_size for path in args.output.rglob("*") if path.is_file()}
    print(
        f"{args.output}: {sum(sizes.values()) / 1e6:,.1f} MB, of which {sizes[SAFETENSORS_WEIGHTS_NAME] / 1e6:,.1f} MB "
        f"of weights in {args.dtype}"
    )
    made_by = f", made by `{facts.made_by}`" if facts.made_by else ""
    print(f"  base model: {facts.base}{made_by}")
    print(f"  compared with the original: {difference}")
    if facts.base_note:
        print(f"  {facts.base_note}")


if __name__ == "__main__":
    logging.set_verbosity_error()
    run(main)
