"""Create a Gemma-LISA checkpoint from Gemma 3 and SAM, to be fine-tuned with train.py.

    python scripts/init_checkpoint.py --gemma google/gemma-3-4b-it --sam facebook/sam-vit-huge --output outputs/start

Gemma 3 and SAM are folders or Hub names in Hugging Face format. SAM can also be a `.pth` file of segment_anything.
All their weights are kept. Two parts are new: the token `[SEG]`, which uses a spare row of the embedding, and
`seg_projector`, which is random until it is trained. If an error occurs, no folder is written.
"""

import argparse
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed  # transformers' own imports bitsandbytes
from safetensors import SafetensorError
from tokenizers import AddedToken
from torch import nn
from transformers import (
    AutoTokenizer,
    Gemma3Config,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    SamConfig,
    SamModel,
    logging,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from gemma_lisa.checkpoints import sam_pth
from gemma_lisa.checkpoints.checksums import write_checksums
from gemma_lisa.checkpoints.loading import DTYPES
from gemma_lisa.configuration_gemma_lisa import GemmaLisaConfig
from gemma_lisa.interfaces.command_line import run
from gemma_lisa.interfaces.output_checks import check_new_folder
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor
from gemma_lisa.safety.errors import check_not_empty
from gemma_lisa.safety.short_text import VALUE_LENGTH, reason_of, shorten, show
from gemma_lisa.safety.whole_files import check_writable
from gemma_lisa.training.atomic_saves import whole_folder

SEG_TOKEN = "[SEG]"
TURN_TOKENS = ("<start_of_turn>", "<end_of_turn>")
# Modules that Gemma 3 does not have. `sam` is loaded from SAM, and `seg_projector` is random.
ADDED_MODULES = ("sam.", "seg_projector.")
# transformers renames keys of Hub files by class. Our class inherits this except for the head, which few files have.
HEAD_OF_THE_HUB = {r"^language_model\.lm_head": "lm_head"}
# SAM's decoder upscales the image embeddings by this factor in each direction.
MASK_UPSCALING = 4


# ---------------------------------------------------------------------------------------------------------------------
# Configurations and processor, which are checked before any weights are read
# ---------------------------------------------------------------------------------------------------------------------
def read(load: Callable[[str], Any], name: str, what: str) -> Any:
    """Return `load(name)`. `what` describes the result in the error message.

    Raises:
        ValueError: the folder or Hub name does not exist, or a file is missing or damaged.
    """
    try:
        return load(name)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{name}: the {what} cannot be read ({reason_of(error)}).") from error


def read_config(name: str, option: str, config_class: type[PreTrainedConfig], wanted: str) -> PreTrainedConfig:
    """Return the configuration of a folder or Hub name.

    Args:
        name: folder or Hub name.
        option: option for the error message, "--gemma" or "--sam".
        config_class: expected class of the configuration.
        wanted: description of the expected model, for the error message.

    Raises:
        ValueError: the folder or name does not exist, is of another model type, or has quantized weights.
    """
    if Path(name).is_file():
        raise ValueError(f"{option} {name}: this is a file; expected a folder or a Hub name in Hugging Face format.")
    if not Path(name).is_dir() and (name.count("/") > 1 or name.startswith((".", "/", "~")) or name.endswith(".pth")):
        what = "file" if name.endswith(".pth") else "folder"
        raise ValueError(f"{option} {shorten(name, VALUE_LENGTH)}: the {what} does not exist.")  # and not a Hub name
    fields, _ = read(PreTrainedConfig.get_config_dict, name, "checkpoint")
    if (found := fields.get("model_type")) != config_class.model_type:
        found = f"a checkpoint of type {show(found)}" if found else "no config.json with a model_type"
        raise ValueError(f"{option} {name}: {found}; expected {wanted}.")
    if "quantization_config" in fields:
        raise ValueError(f"{option} {name}: its weights are quantized. Use the original checkpoint.")
    return config_class.from_dict(fields)


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


def check_tokens(tokenizer: PreTrainedTokenizerBase, config: Gemma3Config, name: str) -> None:
    """Check that the tokenizer has the tokens of Gemma 3 with the ids in the configuration.

    Raises:
        ValueError: it has not.
    """
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in TURN_TOKENS if token not in vocabulary]
    missing += [kind for kind in ("boi_token", "eoi_token", "image_token") if kind not in tokenizer.special_tokens_map]
    if missing:
        raise ValueError(f"{name}: the tokenizer has no {', '.join(missing)}; expected the tokenizer of Gemma 3.")
    for kind, expected in (
        ("boi_token", config.boi_token_index),
        ("eoi_token", config.eoi_token_index),
        ("image_token", config.image_token_index),
    ):
        token = tokenizer.special_tokens_map[kind]
        if (found := vocabulary.get(token)) != expected:
            raise ValueError(f"{name}: the id of {token} is {found} in the tokenizer but {expected} in config.json.")


def build_processor(
    gemma: str, sam: str, tokenizer: PreTrainedTokenizerBase, config: Gemma3Config, sam_config: SamConfig
) -> tuple[GemmaLisaProcessor, bool]:
    """Return the processor, and whether SAM's image processor was loaded from the checkpoint.

    If SAM has none, an image processor for its image size is created.

    Raises:
        ValueError: an image processor gives images of another size than the vision encoder expects.
    """
    image_processor = read(Gemma3ImageProcessorPil.from_pretrained, gemma, "image processor")
    side = sam_config.vision_config.image_size
    mask_side = MASK_UPSCALING * side // sam_config.vision_config.patch_size  # 256 of 1024
    sam_image_processor = None
    if not Path(sam).is_file():  # a .pth file has weights only
        with suppress(OSError):
            sam_image_processor = SamImageProcessorPil.from_pretrained(sam)
    is_own = sam_image_processor is not None
    if not is_own:
        sam_image_processor = SamImageProcessorPil(
            size={"longest_edge": side},
            pad_size={"height": side, "width": side},
            mask_size={"longest_edge": mask_side},
            mask_pad_size={"height": mask_side, "width": mask_side},
        )

    gemma_side, size = config.vision_config.image_size, image_processor.size
    pad_size = sam_image_processor.pad_size
    for name, what, found, expected in (
        (gemma, "(height, width) of its image processor", (size.height, size.width), (gemma_side, gemma_side)),
        (sam, "longest edge of its image processor", sam_image_processor.size.longest_edge, side),
        (sam, "padded (height, width) of its image processor", (pad_size.height, pad_size.width), (side, side)),
        (sam, "image_size of its prompt encoder", sam_config.prompt_encoder_config.image_size, side),
    ):
        if found != expected:
            raise ValueError(
                f"{name}: the {what} is {found}, but the vision encoder in config.json expects {expected}."
            )
    processor = GemmaLisaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        sam_image_processor=sam_image_processor,
        image_seq_length=config.mm_tokens_per_image,
        seg_token=SEG_TOKEN,
    )
    return processor, is_own


def build_config(config: Gemma3Config, sam_config: SamConfig, seg_token_id: int, seg_state: str) -> GemmaLisaConfig:
    """Return a configuration with all fields of Gemma, the configuration of SAM, and those of Gemma-LISA."""
    fields = config.to_dict()
    for name in ("model_type", "architectures", "transformers_version", "dtype"):
        fields.pop(name, None)
    return GemmaLisaConfig(
        **fields, sam_config=sam_config.to_dict(), seg_token_id=seg_token_id, seg_state=seg_state, dtype=config.dtype
    )


def build_generation_config(gemma: str, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """Return Gemma's generation configuration, or a new one, with `<end_of_turn>` as a stop token."""
    try:
        generation_config = GenerationConfig.from_pretrained(gemma)
    except OSError:
        generation_config = GenerationConfig(
            eos_token_id=[tokenizer.eos_token_id],
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
        )
    stops = generation_config.eos_token_id
    stops = [tokenizer.eos_token_id] if stops is None else [stops] if isinstance(stops, int) else list(stops)
    end_of_turn = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    generation_config.eos_token_id = stops if end_of_turn in stops else [*stops, end_of_turn]
    return generation_config


# ---------------------------------------------------------------------------------------------------------------------
# Weights
# ---------------------------------------------------------------------------------------------------------------------
def check_whole(name: str, info: dict[str, Iterable], added: tuple[str, ...] = ()) -> None:
    """Check that a checkpoint has all weights of the model, except those of `added`, and no others.

    Args:
        info: loading info of `from_pretrained`.
        added: prefixes of modules that the checkpoint does not have.

    Raises:
        ValueError: weights are missing, unexpected or of the wrong shape.
    """
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(added))
    mismatched = sorted(key for key, *_ in info["mismatched_keys"])
    for keys, what in (
        (missing, "missing"),
        (sorted(info["unexpected_keys"]), "unexpected"),
        (mismatched, "not of the shape in config.json"),
    ):
        if keys:
            count = "1 weight is" if len(keys) == 1 else f"{len(keys)} weights are"
            raise ValueError(f"{name}: {count} {what}, such as {shorten(keys[0], VALUE_LENGTH)}.")


def load_weights(
    gemma: str, sam: str, config: GemmaLisaConfig, dtype: torch.dtype | str, seed: int
) -> GemmaLisaForConditionalGeneration:
    """Return the model with the weights of Gemma and SAM, and a random `seg_projector`.

    Raises:
        ValueError: one of the checkpoints is incomplete.
    """
    options = {"output_loading_info": True, "ignore_mismatched_sizes": True, "use_safetensors": True}
    set_seed(seed)  # seg_projector is initialized while Gemma loads
    model, info = read(
        lambda name: GemmaLisaForConditionalGeneration.from_pretrained(
            name, config=config, dtype=dtype, key_mapping=HEAD_OF_THE_HUB, **options
        ),
        gemma,
        "weights",
    )
    check_whole(gemma, info, ADDED_MODULES)
    if config.tie_word_embeddings and model.lm_head.weight is not model.get_input_embeddings().weight:
        raise ValueError(f"{gemma}: config.json ties lm_head to the embedding, but the two weights differ.")
    if Path(sam).is_file():
        model.sam.shared_image_embedding.float()  # the positional encoding, see modeling_gemma_lisa
        sam_pth.load_weights(model.sam, sam)
        return model
    model.sam = None  # frees the memory of the random SAM before SAM is loaded
    model.sam, info = read(
        lambda name: SamModel.from_pretrained(name, config=config.sam_config, dtype=torch.float32, **options),
        sam,
        "weights",
    )
    check_whole(sam, info)
    encoding = model.sam.shared_image_embedding.positional_embedding
    exact = encoding.detach().clone()
    model.sam.to(model.dtype)
    encoding.data = exact  # the positional encoding stays in fp32, see modeling_gemma_lisa
    return model


@torch.no_grad()
def initialize_seg_row(model: GemmaLisaForConditionalGeneration, seg_token_id: int, num_tokens: int) -> None:
    """Set the row of `[SEG]` to the mean of the first `num_tokens` rows, which are those of the other tokens.

    The logit of `[SEG]` is then the mean of all logits: at first it is never the largest, but it can be learned.
    Google initialized the spare rows near this mean, but fine-tuned checkpoints can contain other values.
    """
    rows = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight  # the same tensor if they are tied, as in Gemma 3
    for weight in [rows] if head is rows else [rows, head]:
        total = torch.zeros(weight.shape[1])
        for part in weight[:num_tokens].split(8192):  # 262,145 rows in fp32 at once would take gigabytes
            total += part.float().sum(0)
        weight[seg_token_id] = (total / num_tokens).to(weight.dtype)


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
    add("--gemma", required=True, help="folder or Hub name of a Gemma 3 with image input: 4B, 12B or 27B")
    add("--sam", required=True, help="folder, Hub name or .pth file of SAM 1 (not SAM 2)")
    add("--output", type=Path, required=True, help="folder to write, which must be new or empty")
    states = "of [SEG] (token) or of the token before it (previous)"
    add(
        "--seg_state",
        choices=("token", "previous"),
        default="token",
        help=f"hidden state that prompts SAM: {states} (default: token)",
    )
    dtype_help = "type of the weights; auto keeps the type of Gemma's weights (default: bfloat16)"
    add("--dtype", choices=DTYPES, default="bfloat16", help=dtype_help)
    add("--seed", type=int, default=0, help="seed of the random weights of seg_projector (default: 0)")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    args = parse(arguments)
    output = Path(os.path.abspath(args.output))

    check_new_folder(output)
    check_writable(output, "--output", is_folder=True)
    gemma_config = read_config(args.gemma, "--gemma", Gemma3Config, "'gemma3', a Gemma 3 with image input (not 1B)")
    if Path(args.sam).is_file():
        sam_config = sam_pth.read_config(args.sam)
    else:
        sam_config = read_config(args.sam, "--sam", SamConfig, "'sam', SAM 1 (not SAM 2)")
    tokenizer = read(AutoTokenizer.from_pretrained, args.gemma, "tokenizer")
    check_tokens(tokenizer, gemma_config, args.gemma)
    num_rows, num_tokens = gemma_config.text_config.vocab_size, len(tokenizer)
    seg_token_id, is_new = add_seg_token(tokenizer, num_rows, args.gemma)
    processor, is_own = build_processor(args.gemma, args.sam, tokenizer, gemma_config, sam_config)
    config = build_config(gemma_config, sam_config, seg_token_id, args.seg_state)
    config.base_models = hub_names(args.gemma, args.sam)
    generation_config = build_generation_config(args.gemma, tokenizer)

    print(f"Loading Gemma from {args.gemma} and SAM from {args.sam}", flush=True)
    model = load_weights(args.gemma, args.sam, config, DTYPES[args.dtype], args.seed)
    model.generation_config = generation_config
    if is_new:
        initialize_seg_row(model, seg_token_id, num_tokens)
        row = f"new, initialized with the mean of the first {num_tokens:,} rows"
    else:
        row = "already in the tokenizer; its id and row are kept"
    print(f"Writing {output}", flush=True)
    size = save_whole(model, processor, output)

    sam_images = "with its own image processor" if is_own else "with a new image processor for this size"
    sides = gemma_config.vision_config.image_size, sam_config.vision_config.image_size
    print(
        f"{args.output}: {str(model.dtype).removeprefix('torch.')}, {size / 1e6:,.1f} MB\n"
        f"  Gemma          {count(model, ADDED_MODULES)}, from {args.gemma}; images of {sides[0]} × {sides[0]} pixels "
        f"with {config.mm_tokens_per_image} tokens\n"
        f"  SAM            {count(model.sam)}, from {args.sam}; images of {sides[1]} × {sides[1]} pixels "
        f"{sam_images}\n"
        f"  seg_projector  {count(model.seg_projector)}, new, random (seed {args.seed}), must be trained\n"
        f"  {SEG_TOKEN}          token {seg_token_id:,} of {num_rows:,} rows, {row}\n"
        f"  masks          prompted by the hidden state {'of' if args.seg_state == 'token' else 'before'} {SEG_TOKEN}\n"
        f"  answers        end at token ids {', '.join(map(str, generation_config.eos_token_id))}"
    )


if __name__ == "__main__":
    logging.set_verbosity_error()  # hides the report of missing weights, which `check_whole` checks
    run(main)
