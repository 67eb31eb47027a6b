"""Answer questions about images whose features are cached."""

from typing import Any

import torch
from transformers import BatchFeature

from gemma_lisa.chat_template_gemma_lisa import user_turn
from gemma_lisa.feature_cache.cache import FeatureCache, image_inputs
from gemma_lisa.mask_decoding_gemma_lisa import loaded_device
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor


def answer_with_cache(
    model: GemmaLisaForConditionalGeneration,
    processor: GemmaLisaProcessor,
    questions: list[dict[str, Any]],
    max_new_tokens: int,
    cache: FeatureCache,
) -> list[dict[str, Any]]:
    """Return the answer to each question, as `pipeline_gemma_lisa.answer` does, with cached features of the images.

    The questions are one batch. If features of an image are missing, all images of the batch are encoded.

    Args:
        model, processor: of a Gemma-LISA.
        questions: dicts of "text" and "image" (PIL image, `CachedImage` or None).
        max_new_tokens: maximum number of tokens per answer.
        cache: features of the images.
    """
    conversations = [[user_turn(asked["text"], asked["image"])] for asked in questions]
    inputs = processor.pad_conversations(processor.encode_conversations(conversations, add_generation_prompt=True))
    inputs.pop("assistant_masks")
    images = [asked["image"] for asked in questions if asked["image"] is not None]
    inputs |= image_inputs(cache, processor, images)
    inputs = to_device(inputs, loaded_device(model, model.device))
    output = model.segment(**inputs, max_new_tokens=max_new_tokens)
    return processor.post_process_segmentation(output, inputs)


def to_device(batch: dict[str, Any] | BatchFeature, device: torch.device) -> dict[str, Any]:
    """Return the batch with its tensors and lists of tensors moved to a device."""
    return {
        name: [part.to(device) for part in value] if isinstance(value, list) else value.to(device)
        for name, value in batch.items()
    }
