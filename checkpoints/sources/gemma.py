"""Gemma 3 with image input for a new Gemma-LISA: its configuration, tokenizer, image processor and weights."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import (
    AutoTokenizer,
    Gemma3Config,
    GenerationConfig,
    PreTrainedTokenizerBase,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from gemma_lisa.configuration_gemma_lisa import GemmaLisaConfig
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration

from .reading import check_whole, read

TURN_TOKENS = ("<start_of_turn>", "<end_of_turn>")
# Modules that Gemma 3 does not have
ADDED_MODULES = ("sam.", "seg_projector.")
# transformers renames keys of Hub files by class. Our class inherits this except for the head, which few files have.
HEAD_OF_THE_HUB = {r"^language_model\.lm_head": "lm_head"}


@dataclass(frozen=True)
class GemmaSource:
    """A Gemma 3 whose weights are not loaded yet.

    Args:
        name: folder, Hub name or file.
        config: configuration, with image input.
        tokenizer: Gemma's, without `[SEG]`.
        image_processor: for the vision encoder.
        generation_config: with `<end_of_turn>` as a stop token.
        load: returns a model with Gemma's weights, in a given type and with a given seed of the new weights; SAM and
            `seg_projector` are random.
        new: what is new and random, for the summary; "" if nothing is.
    """

    name: str
    config: Gemma3Config
    tokenizer: PreTrainedTokenizerBase
    image_processor: Gemma3ImageProcessorPil
    generation_config: GenerationConfig
    load: Callable[[GemmaLisaConfig, torch.dtype | str, int], GemmaLisaForConditionalGeneration]
    new: str = ""


def read_gemma(name: str, fields: dict) -> GemmaSource:
    """Return a Gemma 3 with image input.

    Args:
        name: folder or Hub name.
        fields: of its config.json.

    Raises:
        ValueError: a part is missing or does not match the configuration.
    """
    config = Gemma3Config.from_dict(fields)
    tokenizer = read(AutoTokenizer.from_pretrained, name, "tokenizer")
    check_tokens(tokenizer, config, name)
    image_processor = read(Gemma3ImageProcessorPil.from_pretrained, name, "image processor")
    side, size = config.vision_config.image_size, image_processor.size
    if (size.height, size.width) != (side, side):
        raise ValueError(
            f"{name}: the (height, width) of its image processor is {(size.height, size.width)}, but the vision "
            f"encoder in config.json expects {(side, side)}."
        )
    generation_config = generation_config_of(lambda: GenerationConfig.from_pretrained(name), tokenizer)
    return GemmaSource(
        name,
        config,
        tokenizer,
        image_processor,
        generation_config,
        lambda config, dtype, seed: _load(name, config, dtype),  # it has no new weights
    )


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


def generation_config_of(
    load: Callable[[], GenerationConfig] | None, tokenizer: PreTrainedTokenizerBase
) -> GenerationConfig:
    """Return Gemma's generation configuration, or a new one, with `<end_of_turn>` as a stop token.

    Args:
        load: reads it; an OSError means that there is none. None: there is none.
        tokenizer: Gemma's.
    """
    try:
        generation_config = load() if load else None
    except OSError:
        generation_config = None
    if generation_config is None:
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


def _load(name: str, config: GemmaLisaConfig, dtype: torch.dtype | str) -> GemmaLisaForConditionalGeneration:
    """Return the model with Gemma's weights.

    Raises:
        ValueError: the checkpoint is incomplete, or its head is not tied.
    """
    options = {"output_loading_info": True, "ignore_mismatched_sizes": True, "use_safetensors": True}
    model, info = read(
        lambda name: GemmaLisaForConditionalGeneration.from_pretrained(
            name, config=config, dtype=dtype, key_mapping=HEAD_OF_THE_HUB, **options
        ),
        name,
        "weights",
    )
    check_whole(name, info, ADDED_MODULES)
    if config.tie_word_embeddings and model.lm_head.weight is not model.get_input_embeddings().weight:
        raise ValueError(f"{name}: config.json ties lm_head to the embedding, but the two weights differ.")
    return model
