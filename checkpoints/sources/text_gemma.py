"""A text-only Gemma 3 (270M or 1B) for a new Gemma-LISA, joined to a vision encoder from another checkpoint.

The published 4B to 27B have a vision encoder. The small ones get one here: the embedding grows to the 262,208 rows of
the large ones, `<image_soft_token>` gets its usual id 262,144, and the projector between the two is new.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
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
SPARE_ROWS = 64  # as in Gemma 3 4B to 27B, whose embedding has 262,208 rows for 262,144 text tokens


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
    # A GGUF file does not list <image_soft_token>, and no small Gemma names the image tokens
    tokenizer = _read(AutoTokenizer.from_pretrained, name, "tokenizer", extra_special_tokens=IMAGE_TOKENS)
    ids = {kind: tokenizer.convert_tokens_to_ids(token) for kind, token in IMAGE_TOKENS.items()}
    text_config.vocab_size += SPARE_ROWS
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
        lambda config, dtype, seed: _load(name, vision, config, dtype, seed),
        new="the projector of the vision encoder is new and random, must be trained",
    )


def _file_of(name: str) -> tuple[str, dict[str, str]]:
    """Return the folder or Hub name of a model, and the argument of `from_pretrained` that names its GGUF file."""
    return (str(Path(name).parent), {"gguf_file": Path(name).name}) if is_gguf(name) else (name, {})


def _read(load: Any, name: str, what: str, **options) -> Any:
    """Call a `from_pretrained` with a folder, Hub name or GGUF file. Errors as in `reading.read`."""
    folder, file = _file_of(name)
    if file and not is_gguf_available():
        raise ValueError(f"{name}: a GGUF file needs the package gguf. Install it with: pip install gguf")
    try:
        return read(lambda folder: load(folder, **file, **options), folder, what)
    except (KeyError, NotImplementedError, ValueError) as error:
        if not file:
            raise
        raise ValueError(f"{name}: the {what} cannot be read from the GGUF file ({reason_of(error)}).") from error


def _read_config(name: str) -> Gemma3TextConfig:
    config = _read(AutoConfig.from_pretrained, name, "configuration")
    if not isinstance(config, Gemma3TextConfig):
        raise ValueError(f"--gemma {name}: a model of type '{config.model_type}'; expected Gemma 3.")
    if is_gguf(name):
        config.dtype = torch.float32  # the weights are converted
    return config


def _load(
    name: str, vision: VisionSource, config: GemmaLisaConfig, dtype: torch.dtype | str, seed: int
) -> GemmaLisaForConditionalGeneration:
    """Return the model with the weights of Gemma's text model and of the vision encoder.

    Raises:
        ValueError: one of the checkpoints is incomplete.
    """
    text, info = _read(
        Gemma3ForCausalLM.from_pretrained,
        name,
        "weights",
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
    missing, _ = language.load_state_dict(weights, strict=False)
    if any(not key.startswith("embed_tokens.") for key in missing):
        raise ValueError(f"{name}: {len(missing)} weights are missing, such as {missing[0]}.")
    with torch.no_grad():
        rows = language.embed_tokens.weight
        rows[: len(table)] = table
        rows[len(table) :] = mean_row(table)
    model.model.vision_tower.load_state_dict(vision.load(table.dtype).state_dict())
    initialize_projector(model.model.multi_modal_projector, table, seed)
    return model
