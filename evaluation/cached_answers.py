"""Answer a batch of questions. Each image is encoded once, or its features are read from a cache."""

from collections.abc import Hashable
from typing import Any

import torch
from transformers import BatchFeature

from gemma_lisa.datasets_builder.rows import CachedImage, encode_mask
from gemma_lisa.feature_cache.cache import FeatureCache, image_inputs
from gemma_lisa.lazy_images_gemma_lisa import is_lazy
from gemma_lisa.mask_decoding_gemma_lisa import loaded_device
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.pipeline_gemma_lisa import encode_texts
from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor

SIZES = ("original_sizes", "reshaped_input_sizes")


def answer_batch(
    model: GemmaLisaForConditionalGeneration,
    processor: GemmaLisaProcessor,
    questions: list[dict[str, Any]],
    max_new_tokens: int,
    cache: FeatureCache | None = None,
) -> list[dict[str, Any]]:
    """Return the answer to each question, as `pipeline_gemma_lisa.answer` does, with masks as RLE.

    The questions are one batch. If cached features of an image are missing, all images of the batch are encoded.

    Args:
        model, processor: of a Gemma-LISA.
        questions: dicts of "text", "image" (PIL image, `LazyImage`, `CachedImage` or None) and, optionally, "earlier",
            the (question, answer) turns before the question.
        max_new_tokens: maximum number of tokens per answer.
        cache: features of the images; None to encode the images.

    Returns:
        dicts as in `post_process_segmentation` with `masks` as RLE dicts, and `tokens`, the number of generated tokens.
    """
    inputs = encode_texts(processor, questions)
    inputs |= _images_once(cache, processor, [asked["image"] for asked in questions if asked["image"] is not None])
    inputs = to_device(inputs, loaded_device(model, model.device))
    output = model.segment(**inputs, max_new_tokens=max_new_tokens)
    answers = processor.post_process_segmentation(output, inputs, encode_mask=lambda mask: encode_mask(mask.numpy()))
    new_tokens = output.sequences[:, inputs["input_ids"].shape[1] :].tolist()
    stops = {processor.tokenizer.eos_token_id, processor.tokenizer.convert_tokens_to_ids("<end_of_turn>")}
    for answer, tokens in zip(answers, new_tokens, strict=True):
        answer["tokens"] = next((at for at, token in enumerate(tokens, start=1) if token in stops), len(tokens))
        answer["masks"] = list(answer["masks"])  # an empty tensor without an image
    return answers


def to_device(batch: dict[str, Any] | BatchFeature, device: torch.device) -> dict[str, Any]:
    """Return the batch with its tensors and lists of tensors moved to a device."""
    return {
        name: [part.to(device) for part in value] if isinstance(value, list) else value.to(device)
        for name, value in batch.items()
    }


def _images_once(
    cache: FeatureCache | None, processor: GemmaLisaProcessor, images: list[Any]
) -> dict[str, torch.Tensor]:
    """Return the inputs of `segment` for images (one per question), with each distinct image once."""
    distinct = {_identity(image): image for image in images}
    inputs = image_inputs(cache, processor, list(distinct.values()))
    if len(distinct) == len(images):
        return dict(inputs)
    places = {identity: place for place, identity in enumerate(distinct)}
    index = torch.tensor([places[_identity(image)] for image in images])
    return {**inputs, **{name: inputs[name][index] for name in SIZES}, "image_index": index}


def _identity(image: Any) -> Hashable:
    """Return the key, content or path of an image's file, or the identity of a PIL image."""
    if isinstance(image, CachedImage):
        return image.key
    content = image.image if is_lazy(image) else image
    return content if isinstance(content, str | bytes) else id(image)
