"""Read what several conversations about one image have in common only once: everything up to the end of the image.

Letters: B conversations, L tokens of a prompt, P tokens of the prefix, J images, D Gemma's hidden size.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .compatibility_gemma_lisa import CACHE_NAME
from .packing_gemma_lisa import masks_of_prompts

# Options of `generate` with which the first forward pass does not read exactly the prompts.
OTHER_PASSES = {"assistant_model", "prompt_lookup_num_tokens", "use_cache", CACHE_NAME}
TOKENS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass
class SharedPrefix:
    """The common beginning of conversations about the same images.

    Args:
        length: P, the same for all conversations.
        order: (B, L) columns of the tokens when the padding is moved between the prefix and the rest.
        first_rows: (J,) index of a conversation about each image.
        image_of_row: (B,) index of the image of each conversation.
        image_features: (J, 256, D) encoding of the images for Gemma.
    """

    length: int
    order: torch.LongTensor
    first_rows: torch.LongTensor
    image_of_row: torch.LongTensor
    image_features: torch.FloatTensor

    def reorder(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """Return prompts (B, L) with their tokens in this order, so that all prefixes are in the same columns."""
        return prompt | {name: prompt[name].gather(1, self.order) for name in TOKENS}


def find_shared_prefix(
    prompt: dict[str, torch.Tensor | None],
    image_features: torch.FloatTensor,
    image_of_row: torch.LongTensor,
    options: dict[str, Any],
    config: PreTrainedConfig,
) -> SharedPrefix | None:
    """Return what conversations have in common, or None if each must be read alone.

    Gemma counts the padding after the prefix as part of its sliding window. Therefore, prompt and answer must fit into
    one window.

    Args:
        prompt: input_ids, attention_mask and token_type_ids, (B, L), padded on the left.
        image_features: (J, 256, D).
        image_of_row: index of the image of each conversation that has one.
        options: of `generate`.
        config: configuration of the model.
    """
    input_ids, attention_mask, token_types = (prompt[name] for name in TOKENS)
    (count, columns), given = input_ids.shape, options["generation_config"]
    longest = options.get("max_new_tokens") if given is None else given.max_new_tokens
    if longest is None or token_types is None or options.keys() & OTHER_PASSES:
        return None
    is_long = columns + longest > config.text_config.sliding_window
    if is_long or not len(image_features) < count == len(image_of_row):
        return None
    image_of_row = image_of_row.to(input_ids.device)
    images, first_rows = _first_rows(image_of_row)
    column = torch.arange(columns, device=input_ids.device).expand_as(input_ids)  # (B, L)
    padding = columns - attention_mask.sum(1, keepdim=True)  # (B, 1)
    ends = torch.where(input_ids == config.image_token_id, column + 1, 0).amax(1, keepdim=True) - padding  # (B, 1)
    length = int(ends[0])
    order = torch.where(column < length, column + padding, column - length)
    order = torch.where(column < length + padding, order, column)
    is_aligned = torch.equal(attention_mask.bool(), column >= padding) and bool((ends == length).all())
    if not is_aligned or len(images) != len(image_features):
        return None
    prefixes = input_ids.gather(1, order[:, :length])  # (B, P)
    if not torch.equal(prefixes, prefixes[first_rows][image_of_row]):
        return None
    return SharedPrefix(length, order, first_rows, image_of_row, image_features)


def read_after_prefix(model, prefix: SharedPrefix, inputs: dict[str, Any]) -> dict[str, Any]:
    """Read the prefix once per image, fill the cache of all conversations with it, and return the remaining inputs.

    Args:
        model: a Gemma-LISA.
        prefix: of the B conversations.
        inputs: inputs of `forward` for the prompts (B * R, L), in the order of `find_shared_prefix`, with an empty
            cache. R is the number of beams or samples per conversation.
    """
    input_ids, mask = inputs["input_ids"], inputs["attention_mask"]  # (B * R, L)
    each = len(input_ids) // len(prefix.image_of_row)  # R
    text_config = model.config.get_text_config()
    read = DynamicCache(config=text_config)
    ids = input_ids[prefix.first_rows * each, : prefix.length]  # (J, P)
    is_image = (ids == model.config.image_token_id).long()
    model.model(
        input_ids=ids,
        attention_mask=masks_of_prompts(torch.ones_like(ids), is_image, text_config),
        token_type_ids=is_image,
        mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=prefix.image_features)},
        use_cache=True,
        **{CACHE_NAME: read},
    )
    of_row = prefix.image_of_row.repeat_interleave(each)  # (B * R,)
    for number, layer in enumerate(read.layers):
        of_layer = of_row.to(layer.keys.device)
        inputs[CACHE_NAME].update(layer.keys[of_layer], layer.values[of_layer], number)
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    rest = {"input_ids": input_ids[:, prefix.length :], "position_ids": positions[:, prefix.length :]}
    return {**inputs, **rest, "token_type_ids": None, "image_features": None}


def is_empty_dynamic(cache: Cache | None) -> bool:
    """Return whether a cache is empty and grows with its tokens."""
    return type(cache) is DynamicCache and cache.get_seq_length() == 0


def _first_rows(image_of_row: torch.LongTensor) -> tuple[torch.LongTensor, torch.LongTensor]:
    """Return the sorted images (J,), and the first conversation about each, (J,)."""
    images, of_row = image_of_row.unique(return_inverse=True)
    rows = torch.arange(len(of_row), device=of_row.device)
    first = rows.new_full((len(images),), len(rows)).scatter_reduce(0, of_row, rows, "amin")
    return images, first
