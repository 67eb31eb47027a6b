"""A text-only Gemma 3 (270M or 1B) for a new Gemma-LISA, joined to a vision encoder from another checkpoint.

The published 4B to 27B have a vision encoder. The small ones get one here: the embedding grows to the 262,208 rows of
the large ones, `<image_soft_token>` gets its usual id 262,144, and the projector between the two is new.
"""

import io
import struct
from contextlib import redirect_stderr
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaTokenizer,
    GenerationConfig,
)
from transformers.utils.import_utils import is_gguf_available

from gemma_lisa.configuration_gemma_lisa import GemmaLisaConfig
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.safety.short_text import reason_of

from .gemma import GemmaSource, check_tokens, generation_config_of
from .new_weights import initialize_projector, mean_row
from .reading import check_whole, read
from .vision import VisionSource

IMAGE_TOKENS = {
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "image_token": "<image_soft_token>",
}
ROWS = 64  # The number of rows is a multiple of this, as in Gemma 3 4B to 27B: 262,208 rows for 262,145 tokens
DEQUANTIZED = "text weights are dequantized from the GGUF file; "
MOST_GGUF_LAYERS = 26  # of Gemma 3 1B
# Of transformers and gguf with a damaged file, or one of another model
GGUF_ERRORS = (OSError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, struct.error)


def is_gguf(name: str) -> bool:
    """Return whether a name is that of a GGUF file."""
    return name.endswith(".gguf") and Path(name).is_file()


def read_text_gemma(name: str, vision: VisionSource) -> GemmaSource:
    """Return a text-only Gemma 3 with a vision encoder.

    Args:
        name: folder, Hub name or GGUF file. The weights of a GGUF file are converted to the type of the checkpoint.
        vision: the encoder.

    Raises:
        ValueError: a part is missing, or the file is not a Gemma 3.
    """
    text_config = _read_config(name)
    # A GGUF file does not list <image_soft_token>, and no small Gemma names the image tokens.
    # AutoTokenizer would read all metadata of a GGUF file once more, which takes seconds.
    load = (GemmaTokenizer if is_gguf(name) else AutoTokenizer).from_pretrained
    tokenizer = _read(load, name, "tokenizer", extra_special_tokens=IMAGE_TOKENS)
    ids = {kind: tokenizer.convert_tokens_to_ids(token) for kind, token in IMAGE_TOKENS.items()}
    source_config = deepcopy(text_config)
    num_rows = max(text_config.vocab_size, len(tokenizer) + 1)  # with one for [SEG]
    text_config.vocab_size = -(-num_rows // ROWS) * ROWS
    config = Gemma3Config(
        text_config=text_config.to_dict(),
        vision_config=vision.config.to_dict(),
        mm_tokens_per_image=vision.tokens_per_image,
        boi_token_index=ids["boi_token"],
        eoi_token_index=ids["eoi_token"],
        image_token_index=ids["image_token"],
        tie_word_embeddings=True,
        dtype=text_config.dtype,
    )
    check_tokens(tokenizer, config, name)
    return GemmaSource(
        name,
        config,
        tokenizer,
        vision.image_processor,
        generation_config_of(None if is_gguf(name) else lambda: GenerationConfig.from_pretrained(name), tokenizer),
        partial(_load, name, source_config, vision),
        new=f"{DEQUANTIZED if is_gguf(name) else ''}the projector of the vision encoder is new, random, must be "
        "trained",
    )


def _read(load: Any, name: str, what: str, **options) -> Any:
    """Call a `from_pretrained` with a folder, Hub name or GGUF file. Errors as in `reading.read`."""
    if not is_gguf(name):
        return read(lambda name: load(name, **options), name, what)
    if not is_gguf_available():
        raise ValueError(f"{name}: a GGUF file needs the package gguf. Install it with: pip install gguf")
    try:
        with redirect_stderr(io.StringIO()):  # a progress bar that transformers cannot switch off
            return load(str(Path(name).parent), gguf_file=Path(name).name, **options)
    except GGUF_ERRORS as error:
        raise ValueError(
            f"{name}: the {what} cannot be read; the file is damaged, truncated or not a Gemma 3 ({reason_of(error)})."
        ) from error


def _read_config(name: str) -> Gemma3TextConfig:
    config = _read(AutoConfig.from_pretrained, name, "configuration")
    if not isinstance(config, Gemma3TextConfig):
        raise ValueError(f"--gemma {name}: a model of type '{config.model_type}'; expected Gemma 3 270M or 1B.")
    if is_gguf(name):
        if config.num_hidden_layers > MOST_GGUF_LAYERS:
            raise ValueError(
                f"--gemma {name}: has {config.num_hidden_layers} layers. transformers does not read the RoPE scaling "
                f"of Gemma 3 4B to 27B from a GGUF file. Use the original checkpoint."
            )
        config.dtype = torch.float32  # the weights are converted
    config.name_or_path = ""  # a local path
    return config


def _load(
    name: str,
    text_config: Gemma3TextConfig,
    vision: VisionSource,
    config: GemmaLisaConfig,
    dtype: torch.dtype | str,
    seed: int,
) -> GemmaLisaForConditionalGeneration:
    """Return the model with the weights of Gemma's text model and of the vision encoder.

    Raises:
        ValueError: one of the checkpoints is incomplete.
    """
    text, info = _read(
        Gemma3ForCausalLM.from_pretrained,
        name,
        "weights",
        config=text_config,
        dtype=torch.float32 if is_gguf(name) and dtype == "auto" else dtype,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    check_whole(name, info)
    weights = text.model.state_dict()
    table = weights.pop("embed_tokens.weight")  # (V, D)
    del text
    model = GemmaLisaForConditionalGeneration(config).to(table.dtype)
    language = model.model.language_model
    with torch.no_grad():
        rows = language.embed_tokens.weight
        rows[: len(table)] = table
        rows[len(table) :] = mean_row(table)
    language.load_state_dict({**weights, "embed_tokens.weight": rows})
    model.model.vision_tower.load_state_dict(vision.load(table.dtype).state_dict())
    initialize_projector(model.model.multi_modal_projector, table, seed)
    return model
