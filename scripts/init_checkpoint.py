"""Make the first Gemma-LISA checkpoint of a plain Gemma 3 and a SAM: what train.py fine-tunes.

    python scripts/init_checkpoint.py --gemma google/gemma-3-4b-it --sam facebook/sam-vit-huge --output outputs/start

Both may be folders or names on the Hub, in Hugging Face form; SAM also a `.pth` file of segment_anything. Everything
they hold is kept; new are `[SEG]`, which takes one of the embedding's spare rows, and `seg_projector`, which is random
until trained. The folder appears when it is complete: what goes wrong leaves nothing behind.
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
from gemma_lisa.safety.whole_files import check_writable
from gemma_lisa.training.atomic_saves import whole_folder

SEG_TOKEN = "[SEG]"
TURN_TOKENS = ("<start_of_turn>", "<end_of_turn>")
# Modules that Gemma 3 does not have; `sam` comes from the other checkpoint, `seg_projector` from the seed.
ADDED_MODULES = ("sam.", "seg_projector.")
# transformers renames the Hub's keys by class; ours inherits that for all but the head, which only some files hold.
HEAD_OF_THE_HUB = {r"^language_model\.lm_head": "lm_head"}
# SAM's decoder doubles the side of the image embeddings twice.
MASK_UPSCALING = 4


# ---------------------------------------------------------------------------------------------------------------------
# Configurations and processor: small files, checked before any weight is read
# ---------------------------------------------------------------------------------------------------------------------
def read(load: Callable[[str], Any], name: str, what: str) -> Any:
    """`load(name)`, or one line that says what is not there.

    Raises:
        ValueError: neither a folder nor a name on the Hub, or one whose file is missing or broken.
    """
    try:
        return load(name)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{name}: no {what} that can be read: {str(error).strip().splitlines()[0]}") from error


def read_config(name: str, option: str, config_class: type[PreTrainedConfig], wanted: str) -> PreTrainedConfig:
    """The configuration at `name`, if it is of `config_class`.

    Raises:
        ValueError: nothing there, another kind of model, or quantised weights.
    """
    if Path(name).is_file():
        raise ValueError(f"{option} {name}: a file; expected a folder or a Hub name in Hugging Face form.")
    if not Path(name).is_dir() and (name.count("/") > 1 or name.startswith((".", "/", "~")) or name.endswith(".pth")):
        what = "file" if name.endswith(".pth") else "folder"
        raise ValueError(f"{option} {name}: no such {what}.")  # on the Hub it is name or owner/name
    fields, _ = read(PreTrainedConfig.get_config_dict, name, "checkpoint")
    if (found := fields.get("model_type")) != config_class.model_type:
        found = f"a checkpoint of type {found!r}" if found else "no config.json that names its type"
        raise ValueError(f"{option} {name}: {found}; expected {wanted}.")
    if "quantization_config" in fields:
        raise ValueError(f"{option} {name}: its weights are quantised; give the original, and quantise when loading.")
    return config_class.from_dict(fields)


def add_seg_token(tokenizer: PreTrainedTokenizerBase, num_rows: int, name: str) -> tuple[int, bool]:
    """Give the tokenizer `[SEG]`: its id, and whether it is new.

    Raises:
        ValueError: the embedding has no row left for it. It is never resized: 262,208 rows divide well among devices,
            and adapters and tied weights rely on their number.
    """
    is_new = SEG_TOKEN not in tokenizer.get_added_vocab()
    tokenizer.add_tokens([AddedToken(SEG_TOKEN, normalized=False, special=True)], special_tokens=True)
    seg_token_id = tokenizer.convert_tokens_to_ids(SEG_TOKEN)
    if seg_token_id >= num_rows:
        raise ValueError(
            f"{name}: {SEG_TOKEN} would be token {seg_token_id:,}, but the embedding's {num_rows:,} rows end at "
            f"{num_rows - 1:,}: no spare row is left for it. Gemma 3 as Google publishes it has 63."
        )
    return seg_token_id, is_new


def check_tokens(tokenizer: PreTrainedTokenizerBase, config: Gemma3Config, name: str) -> None:
    """The tokenizer has Gemma 3's tokens, at the ids that the configuration says.

    Raises:
        ValueError: it is another model's.
    """
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in TURN_TOKENS if token not in vocabulary]
    missing += [kind for kind in ("boi_token", "eoi_token", "image_token") if kind not in tokenizer.special_tokens_map]
    if missing:
        raise ValueError(f"{name}: the tokenizer has no {', '.join(missing)}; it is not Gemma 3's.")
    for kind, expected in (
        ("boi_token", config.boi_token_index),
        ("eoi_token", config.eoi_token_index),
        ("image_token", config.image_token_index),
    ):
        token = tokenizer.special_tokens_map[kind]
        if (found := vocabulary.get(token)) != expected:
            raise ValueError(f"{name}: {token} is token {found} of the tokenizer but {expected} in config.json.")


def build_processor(
    gemma: str, sam: str, tokenizer: PreTrainedTokenizerBase, config: Gemma3Config, sam_config: SamConfig
) -> tuple[GemmaLisaProcessor, bool]:
    """The processor for both towers, and whether SAM's part is the checkpoint's own (else made for its image size).

    Raises:
        ValueError: an image processor makes images of another size than its tower takes.
    """
    image_processor = read(Gemma3ImageProcessorPil.from_pretrained, gemma, "image processor")
    side = sam_config.vision_config.image_size
    mask_side = MASK_UPSCALING * side // sam_config.vision_config.patch_size  # 256 of 1024
    sam_image_processor = None
    if not Path(sam).is_file():  # a file holds weights only
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
        (gemma, "images of (height, width)", (size.height, size.width), (gemma_side, gemma_side)),
        (sam, "images of longest edge", sam_image_processor.size.longest_edge, side),
        (sam, "images padded to (height, width)", (pad_size.height, pad_size.width), (side, side)),
        (sam, "prompts for images of side", sam_config.prompt_encoder_config.image_size, side),
    ):
        if found != expected:
            raise ValueError(f"{name}: it makes {what} {found} but config.json of its vision tower says {expected}.")
    processor = GemmaLisaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        sam_image_processor=sam_image_processor,
        image_seq_length=config.mm_tokens_per_image,
        seg_token=SEG_TOKEN,
    )
    return processor, is_own


def build_config(config: Gemma3Config, sam_config: SamConfig, seg_token_id: int, seg_state: str) -> GemmaLisaConfig:
    """All fields of Gemma's configuration, SAM's beside them, and what joins the two."""
    fields = config.to_dict()
    for of_the_file in ("model_type", "architectures", "transformers_version", "dtype"):
        fields.pop(of_the_file, None)
    return GemmaLisaConfig(
        **fields, sam_config=sam_config.to_dict(), seg_token_id=seg_token_id, seg_state=seg_state, dtype=config.dtype
    )


def build_generation_config(gemma: str, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """Gemma's own, if it has one; it must stop at `<end_of_turn>`, which pretrained checkpoints do not know of."""
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
    """Every tensor of the checkpoint found its place, and every place but those of `added` its tensor.

    Raises:
        ValueError: how many did not, with the first.
    """
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(added))
    mismatched = sorted(key for key, *_ in info["mismatched_keys"])
    for keys, what in (
        (missing, "missing"),
        (sorted(info["unexpected_keys"]), "left over"),
        (mismatched, "of another shape than config.json says"),
    ):
        if keys:
            raise ValueError(f"{name}: {len(keys)} weights are {what}, the first {keys[0]}.")


def load_weights(
    gemma: str, sam: str, config: GemmaLisaConfig, dtype: torch.dtype | str, seed: int
) -> GemmaLisaForConditionalGeneration:
    """Gemma into our class, SAM into its place there, `seg_projector` from the seed.

    Raises:
        ValueError: one of the checkpoints is not whole.
    """
    options = {"output_loading_info": True, "ignore_mismatched_sizes": True, "use_safetensors": True}
    set_seed(seed)  # seg_projector is initialised while Gemma loads
    model, info = read(
        lambda name: GemmaLisaForConditionalGeneration.from_pretrained(
            name, config=config, dtype=dtype, key_mapping=HEAD_OF_THE_HUB, **options
        ),
        gemma,
        "weights",
    )
    check_whole(gemma, info, ADDED_MODULES)
    if config.tie_word_embeddings and model.lm_head.weight is not model.get_input_embeddings().weight:
        raise ValueError(
            f"{gemma}: config.json ties lm_head to the embedding, but its weights hold two different ones."
        )
    if Path(sam).is_file():
        model.sam.shared_image_embedding.float()  # the code of the image's places, see modeling_gemma_lisa
        sam_pth.load_weights(model.sam, sam)
        return model
    model.sam = None  # the random one goes before the trained one comes
    model.sam, info = read(
        lambda name: SamModel.from_pretrained(name, config=config.sam_config, dtype=torch.float32, **options),
        sam,
        "weights",
    )
    check_whole(sam, info)
    code = model.sam.shared_image_embedding.positional_embedding
    exact = code.detach().clone()
    model.sam.to(model.dtype)
    code.data = exact  # the code of the image's places stays in fp32, see modeling_gemma_lisa
    return model


@torch.no_grad()
def initialize_seg_row(model: GemmaLisaForConditionalGeneration, seg_token_id: int, num_tokens: int) -> None:
    """Set the row of `[SEG]` to the mean of the first `num_tokens` rows, those of real tokens.

    Its logit is then the mean of all logits: never the loudest at first, never out of reach. Google's conversion draws
    the spare rows around that mean, but what a fine-tuned checkpoint has in them nobody knows.
    """
    rows = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight  # the same tensor where they are tied, as in Gemma 3
    for weight in [rows] if head is rows else [rows, head]:
        total = torch.zeros(weight.shape[1])
        for part in weight[:num_tokens].split(8192):  # 262,145 rows in float32 at once would be gigabytes
            total += part.float().sum(0)
        weight[seg_token_id] = (total / num_tokens).to(weight.dtype)


def count(module: nn.Module, without: tuple[str, ...] = ()) -> str:
    """How many tensors and parameters, each shared one once."""
    sizes = [weight.numel() for name, weight in module.named_parameters() if not name.startswith(without)]
    return f"{len(sizes):,} tensors, {sum(sizes):,} parameters"


# ---------------------------------------------------------------------------------------------------------------------
# The folder
# ---------------------------------------------------------------------------------------------------------------------
def save_whole(model: GemmaLisaForConditionalGeneration, processor: GemmaLisaProcessor, output: Path) -> int:
    """Write a folder beside `output` and rename it when it is complete: bytes written.

    Raises:
        WriteError: it cannot be written, as on a full disk; nothing is left then.
    """
    with whole_folder(output) as aside:
        model.save_pretrained(aside)
        processor.save_pretrained(aside)
        write_checksums(aside)
        return sum(path.stat().st_size for path in aside.rglob("*") if path.is_file())


def hub_names(*sources: str) -> list[str] | None:
    """Those of the sources that are names on the Hub; None where all are files here, which tell no name."""
    return [source for source in sources if not Path(source).exists()] or None


def main(arguments: list[str]) -> None:
    check_not_empty(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gemma", required=True, help="folder or Hub name of a Gemma 3 that sees: 4B, 12B or 27B")
    parser.add_argument("--sam", required=True, help="folder, Hub name or .pth file of a SAM (the first)")
    parser.add_argument("--output", type=Path, required=True, help="folder to write; must be new or empty")
    parser.add_argument(
        "--seg_state", choices=("token", "previous"), default="token", help="the state that prompts SAM"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="of all weights; auto: as Gemma's are")
    parser.add_argument("--seed", type=int, default=0, help="of seg_projector")
    args = parser.parse_args(arguments)
    output = Path(os.path.abspath(args.output))

    check_new_folder(output)
    check_writable(output, "--output", is_folder=True)
    gemma_config = read_config(
        args.gemma, "--gemma", Gemma3Config, "'gemma3', a Gemma 3 that sees images (4B, 12B or 27B)"
    )
    if Path(args.sam).is_file():
        sam_config = sam_pth.read_config(args.sam)
    else:
        sam_config = read_config(args.sam, "--sam", SamConfig, "'sam', the first Segment Anything")
    tokenizer = read(AutoTokenizer.from_pretrained, args.gemma, "tokenizer")
    check_tokens(tokenizer, gemma_config, args.gemma)
    num_rows, num_tokens = gemma_config.text_config.vocab_size, len(tokenizer)
    seg_token_id, is_new = add_seg_token(tokenizer, num_rows, args.gemma)
    processor, is_own = build_processor(args.gemma, args.sam, tokenizer, gemma_config, sam_config)
    config = build_config(gemma_config, sam_config, seg_token_id, args.seg_state)
    config.base_models = hub_names(args.gemma, args.sam)
    generation_config = build_generation_config(args.gemma, tokenizer)

    print(f"loading Gemma from {args.gemma} and SAM from {args.sam}", flush=True)
    model = load_weights(args.gemma, args.sam, config, DTYPES[args.dtype], args.seed)
    model.generation_config = generation_config
    if is_new:
        initialize_seg_row(model, seg_token_id, num_tokens)
        row = f"new: the mean of the {num_tokens:,} rows before it"
    else:
        row = "the tokenizer had it already: id and row are kept"
    print(f"writing {output}", flush=True)
    size = save_whole(model, processor, output)

    sam_images = "its own image processor" if is_own else "image processor made for its image size"
    sides = gemma_config.vision_config.image_size, sam_config.vision_config.image_size
    print(
        f"{args.output}: {str(model.dtype).removeprefix('torch.')}, {size / 1e6:,.1f} MB\n"
        f"  Gemma          {count(model, ADDED_MODULES)}, all from {args.gemma}; images of {sides[0]} pixels, "
        f"{config.mm_tokens_per_image} tokens each\n"
        f"  SAM            {count(model.sam)}, all from {args.sam}; images of {sides[1]} pixels, {sam_images}\n"
        f"  seg_projector  {count(model.seg_projector)}, new: random (seed {args.seed}), to be trained\n"
        f"  {SEG_TOKEN}          token {seg_token_id:,} of {num_rows:,} rows, {row}\n"
        f"  masks          prompted by the state {'at' if args.seg_state == 'token' else 'before'} {SEG_TOKEN}\n"
        f"  answers        end at tokens {', '.join(map(str, generation_config.eos_token_id))}"
    )


if __name__ == "__main__":
    logging.set_verbosity_error()  # SAM's weights are no news while Gemma loads; what is missing is checked above
    run(main)
