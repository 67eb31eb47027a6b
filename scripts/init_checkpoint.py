"""Create a Gemma-LISA checkpoint from Gemma 3 and SAM, to be fine-tuned with train.py.

    python scripts/init_checkpoint.py --gemma google/gemma-3-4b-it --sam facebook/sam-vit-huge --output outputs/start
    python scripts/init_checkpoint.py --gemma google/gemma-3-1b-it --vision google/siglip2-base-patch16-224 \\
        --sam facebook/sam-vit-base --output outputs/start

Gemma 3 and SAM are folders or Hub names in Hugging Face format. SAM can also be a `.pth` file of segment_anything.
Gemma 3 270M and 1B read text only: --vision names a vision encoder for them. They can also be a GGUF file.
All weights are kept. New are the token `[SEG]`, which uses a spare row of the embedding, and `seg_projector`. With
--vision, the projector of the vision encoder is new too. New weights are random until they are trained. If an error
occurs, no folder is written.
"""

import argparse
import os
from pathlib import Path

from tokenizers import AddedToken
from torch import nn
from transformers import Gemma3Config, Gemma3TextConfig, PreTrainedTokenizerBase, SamConfig, logging

from gemma_lisa.checkpoints.checksums import write_checksums
from gemma_lisa.checkpoints.loading import DTYPES
from gemma_lisa.checkpoints.sources.gemma import ADDED_MODULES, GemmaSource, read_gemma
from gemma_lisa.checkpoints.sources.new_weights import initialize_seg_projector, initialize_seg_row
from gemma_lisa.checkpoints.sources.reading import read_fields
from gemma_lisa.checkpoints.sources.sam import load_sam, read_sam_config, read_sam_image_processor
from gemma_lisa.checkpoints.sources.text_gemma import is_gguf, read_text_gemma
from gemma_lisa.checkpoints.sources.vision import read_vision
from gemma_lisa.configuration_gemma_lisa import BRIDGES, GemmaLisaConfig
from gemma_lisa.interfaces.command_line import run
from gemma_lisa.interfaces.output_checks import check_new_folder
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor
from gemma_lisa.safety.errors import check_not_empty
from gemma_lisa.safety.whole_files import check_writable
from gemma_lisa.training.atomic_saves import whole_folder

SEG_TOKEN = "[SEG]"


# ---------------------------------------------------------------------------------------------------------------------
# Configurations and processor, which are checked before any weights are read
# ---------------------------------------------------------------------------------------------------------------------
def read_source(gemma: str, vision: str | None, image_tokens: int | None) -> GemmaSource:
    """Return Gemma 3 with its own vision encoder, or a text-only one with that of `vision`.

    Raises:
        ValueError: the options do not fit together, or a checkpoint cannot be used.
    """
    is_text = is_gguf(gemma)
    if not is_text:
        types = (Gemma3Config.model_type, Gemma3TextConfig.model_type)
        fields = read_fields(gemma, "--gemma", types, "'gemma3' (4B, 12B or 27B) or 'gemma3_text' (270M or 1B)")
        is_text = fields["model_type"] == Gemma3TextConfig.model_type
    if not is_text:
        if vision is not None or image_tokens is not None:
            raise ValueError(f"--gemma {gemma}: has its own vision encoder. Omit --vision and --image_tokens.")
        return read_gemma(gemma, fields)
    if vision is None:
        raise ValueError(
            f"--gemma {gemma}: reads text only. Add --vision with a vision encoder, such as "
            "google/siglip2-base-patch16-224."
        )
    return read_text_gemma(gemma, read_vision(vision, image_tokens))


def add_seg_token(tokenizer: PreTrainedTokenizerBase, num_rows: int, name: str) -> tuple[int, bool]:
    """Add `[SEG]` to the tokenizer and return its id, and whether it is new.

    The embedding is never resized: adapters and tied weights rely on its 262,208 rows, a number that can be divided
    well among devices.

    Raises:
        ValueError: the embedding has no spare row for the token.
    """
    is_new = SEG_TOKEN not in tokenizer.get_added_vocab()
    tokenizer.add_tokens([AddedToken(SEG_TOKEN, normalized=False, special=True)], special_tokens=True)
    seg_token_id = tokenizer.convert_tokens_to_ids(SEG_TOKEN)
    if seg_token_id >= num_rows:
        raise ValueError(
            f"{name}: there is no spare row for {SEG_TOKEN}. It would be token {seg_token_id:,}, but the embedding has "
            f"{num_rows:,} rows. Use a Gemma 3 as published by Google, which has 63 spare rows."
        )
    return seg_token_id, is_new


def build_config(
    config: Gemma3Config, sam_config: SamConfig, seg_token_id: int, seg_state: str, bridge: str
) -> GemmaLisaConfig:
    """Return a configuration with all fields of Gemma, the configuration of SAM, and those of Gemma-LISA."""
    fields = config.to_dict()
    for name in ("model_type", "architectures", "transformers_version", "dtype"):
        fields.pop(name, None)
    added = {"sam_config": sam_config.to_dict(), "seg_token_id": seg_token_id}
    return GemmaLisaConfig(**fields, **added, seg_state=seg_state, bridge=bridge, dtype=config.dtype)


def count(module: nn.Module, without: tuple[str, ...] = ()) -> str:
    """Return the number of tensors and parameters as text. Shared tensors count once."""
    sizes = [weight.numel() for name, weight in module.named_parameters() if not name.startswith(without)]
    return f"{len(sizes):,} tensors, {sum(sizes):,} parameters"


# ---------------------------------------------------------------------------------------------------------------------
# The output folder
# ---------------------------------------------------------------------------------------------------------------------
def save_whole(model: GemmaLisaForConditionalGeneration, processor: GemmaLisaProcessor, output: Path) -> int:
    """Write the folder atomically and return its size in bytes.

    Raises:
        WriteError: the folder cannot be written, for example because the disk is full. No files are left then.
    """
    with whole_folder(output) as temporary:
        model.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        write_checksums(temporary)
        return sum(path.stat().st_size for path in temporary.rglob("*") if path.is_file())


def hub_names(*sources: str) -> list[str] | None:
    """Return the sources that are Hub names, or None if all are local files, whose Hub names are unknown."""
    return [source for source in sources if not Path(source).exists()] or None


def parse(arguments: list[str]) -> argparse.Namespace:
    check_not_empty(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--gemma", required=True, help="folder or Hub name of a Gemma 3, or a GGUF file of a text-only one")
    vision_help = "for a text-only Gemma (270M, 1B): folder or Hub name of SigLIP or of a Gemma-LISA (default: its own)"
    add("--vision", metavar="NAME", help=vision_help)
    tokens_help = "tokens per image with --vision, a square number (default: a Gemma-LISA's own, or at most 256)"
    add("--image_tokens", type=int, metavar="N", help=tokens_help)
    add("--sam", required=True, help="folder, Hub name or .pth file of SAM 1 (not SAM 2), or a Gemma-LISA, for its SAM")
    add("--output", type=Path, required=True, help="folder to write, which must be new or empty")
    states = "of [SEG] (token) or of the token before it (previous)"
    add(
        "--seg_state",
        choices=("token", "previous"),
        default="token",
        help=f"hidden state that prompts SAM: {states} (default: token)",
    )
    bridge_help = "what the state becomes: a sparse prompt (mlp), or also a map of the image (heat_map) (default: mlp)"
    add("--bridge", choices=BRIDGES, default="mlp", help=bridge_help)
    dtype_help = "type of the weights; auto keeps the type of Gemma's weights (default: bfloat16)"
    add("--dtype", choices=DTYPES, default="bfloat16", help=dtype_help)
    add("--seed", type=int, default=0, help="seed of the new weights (default: 0)")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    args = parse(arguments)
    output = Path(os.path.abspath(args.output))

    check_new_folder(output)
    check_writable(output, "--output", is_folder=True)
    sam_config = read_sam_config(args.sam)
    sam_image_processor, is_own = read_sam_image_processor(args.sam, sam_config)
    print(f"Reading the configuration and tokenizer of {args.gemma}", flush=True)
    gemma = read_source(args.gemma, args.vision, args.image_tokens)
    num_rows, num_tokens = gemma.config.text_config.vocab_size, len(gemma.tokenizer)
    seg_token_id, is_new = add_seg_token(gemma.tokenizer, num_rows, args.gemma)
    processor = GemmaLisaProcessor(
        image_processor=gemma.image_processor,
        tokenizer=gemma.tokenizer,
        sam_image_processor=sam_image_processor,
        image_seq_length=gemma.config.mm_tokens_per_image,
        seg_token=SEG_TOKEN,
    )
    config = build_config(gemma.config, sam_config, seg_token_id, args.seg_state, args.bridge)
    sources = [args.gemma, args.sam] if args.vision is None else [args.gemma, args.vision, args.sam]
    config.base_models = hub_names(*sources)

    print(f"Loading the weights of {' and '.join(sources[:-1])}", flush=True)
    model = gemma.load(config, DTYPES[args.dtype], args.seed)
    print(f"Loading the weights of SAM from {args.sam}", flush=True)
    load_sam(model, args.sam, config.sam_config)
    model.generation_config = gemma.generation_config
    initialize_seg_projector(model.seg_projector, args.seed)
    if is_new:
        initialize_seg_row(model, seg_token_id, num_tokens)
    print(f"Writing {output}", flush=True)
    size = save_whole(model, processor, output)

    print(f"{args.output}: {str(model.dtype).removeprefix('torch.')}, {size / 1e6:,.1f} MB")
    print_summary(args, gemma, model, is_new, num_tokens, is_own)


def print_summary(
    args: argparse.Namespace,
    gemma: GemmaSource,
    model: GemmaLisaForConditionalGeneration,
    is_new: bool,
    num_tokens: int,
    is_own: bool,
) -> None:
    """Print what the checkpoint contains.

    Args:
        args: options of the program.
        gemma: source of the language model.
        model: the new model.
        is_new: whether `[SEG]` was not in the tokenizer.
        num_tokens: number of tokens without `[SEG]`.
        is_own: whether SAM's image processor was read.
    """
    config = model.config
    side, sam_side = config.vision_config.image_size, config.sam_config.vision_config.image_size
    vision = "" if args.vision is None else f" and {args.vision}"
    new = f"\n                 {gemma.new}" if gemma.new else ""
    sam_images = "with its own image processor" if is_own else "with a new image processor for this size"
    row = f"new, initialized with the mean of the first {num_tokens:,} rows"
    row = row if is_new else "already in the tokenizer; its id and row are kept"
    print(
        f"  Gemma          {count(model, ADDED_MODULES)}, from {args.gemma}{vision}; images of {side} × {side} pixels "
        f"with {config.mm_tokens_per_image} tokens{new}\n"
        f"  SAM            {count(model.sam)}, from {args.sam}; images of {sam_side} × {sam_side} pixels "
        f"{sam_images}\n"
        f"  seg_projector  {count(model.seg_projector)}, new, random (seed {args.seed}), must be trained\n"
        f"  {SEG_TOKEN}          token {config.seg_token_id:,} of {config.text_config.vocab_size:,} rows, {row}\n"
        f"  masks          prompted by the hidden state {'of' if args.seg_state == 'token' else 'before'} {SEG_TOKEN}\n"
        f"  answers        end at token ids {', '.join(map(str, gemma.generation_config.eos_token_id))}"
    )


if __name__ == "__main__":
    logging.set_verbosity_error()  # hides the report of missing weights, which `check_whole` checks
    logging.disable_progress_bar()  # the program prints one line per step
    run(main)
