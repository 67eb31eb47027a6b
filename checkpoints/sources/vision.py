"""A vision encoder for a Gemma 3 that has none: SigLIP, or the trained encoder of a Gemma-LISA.

Letters: P patches per side of an image, T image tokens per side.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from transformers import AutoImageProcessor, SiglipVisionConfig, SiglipVisionModel
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from gemma_lisa.checkpoints.loading import load_checkpoint
from gemma_lisa.configuration_gemma_lisa import GemmaLisaConfig

from .reading import check_whole, read, read_fields

SIGLIP, SIGLIP_VISION = "siglip", "siglip_vision_model"  # SigLIP 2 with images of fixed size is "siglip" too
WANTED = "SigLIP or SigLIP 2 with images of fixed size, or a Gemma-LISA"
MOST_TOKENS = 256  # per image, as in Gemma 3 4B to 27B


@dataclass(frozen=True)
class VisionSource:
    """A vision encoder that is not loaded yet.

    Args:
        name: folder or Hub name.
        config: its configuration.
        image_processor: resizes images to its size.
        tokens_per_image: T², the number of tokens that Gemma reads per image.
        load: returns the encoder in a given type.
    """

    name: str
    config: SiglipVisionConfig
    image_processor: Gemma3ImageProcessorPil
    tokens_per_image: int
    load: Callable[[torch.dtype], nn.Module]


def read_vision(name: str, tokens_per_image: int | None = None) -> VisionSource:
    """Return the vision encoder of a folder or Hub name.

    Args:
        name: SigLIP or a Gemma-LISA.
        tokens_per_image: T², a square number whose root divides P. By default that of the Gemma-LISA, or the largest
            one up to MOST_TOKENS.

    Raises:
        ValueError: see `read_fields`, or the number of tokens is not possible.
    """
    fields = read_fields(name, "--vision", (SIGLIP, SIGLIP_VISION, GemmaLisaConfig.model_type), WANTED)
    if fields["model_type"] == GemmaLisaConfig.model_type:
        config = GemmaLisaConfig.from_dict(fields)
        vision_config, usual = config.vision_config, config.mm_tokens_per_image
        image_processor = read(Gemma3ImageProcessorPil.from_pretrained, name, "image processor")
        load = partial(_load_gemma_lisa, name)
    else:
        vision_fields = fields if fields["model_type"] == SIGLIP_VISION else fields.get("vision_config") or {}
        # Gemma reads the patches, not their pooled vector
        vision_config = SiglipVisionConfig.from_dict({**vision_fields, "vision_use_head": False})
        image_processor, usual = _gemma_image_processor(name, vision_config.image_size), None
        load = partial(_load_siglip, name, vision_config)
    tokens = _tokens_per_image(name, vision_config, usual if tokens_per_image is None else tokens_per_image)
    return VisionSource(name, vision_config, image_processor, tokens, load)


def _tokens_per_image(name: str, config: SiglipVisionConfig, asked: int | None) -> int:
    """Return T², after checking that P can be pooled to T."""
    patches = config.image_size // config.patch_size
    possible = [side**2 for side in range(1, patches + 1) if patches % side == 0]
    if asked is None:
        return max(tokens for tokens in possible if tokens <= MOST_TOKENS)
    if asked not in possible:
        raise ValueError(
            f"{name}: {asked} image tokens cannot be pooled from {patches} x {patches} patches; possible with "
            f"--image_tokens: {', '.join(map(str, possible))}."
        )
    return asked


def _gemma_image_processor(name: str, side: int) -> Gemma3ImageProcessorPil:
    """Return Gemma's image processor with the size and normalization of SigLIP's."""
    found = read(AutoImageProcessor.from_pretrained, name, "image processor")
    size = dict(found.size)
    if (size.get("height"), size.get("width")) != (side, side):
        raise ValueError(
            f"{name}: its image processor makes images of {size}, but config.json expects {side} x {side}."
        )
    return Gemma3ImageProcessorPil(
        size={"height": side, "width": side},
        image_mean=found.image_mean,
        image_std=found.image_std,
        resample=found.resample,
    )


def _load_siglip(name: str, config: SiglipVisionConfig, dtype: torch.dtype) -> SiglipVisionModel:
    options = {"output_loading_info": True, "ignore_mismatched_sizes": True, "use_safetensors": True}
    model, info = read(
        lambda name: SiglipVisionModel.from_pretrained(name, config=config, dtype=dtype, **options), name, "weights"
    )
    unused = ("text_model.", "logit_", "vision_model.head.", "head.")
    kept = [key for key in info["unexpected_keys"] if not key.startswith(unused)]
    check_whole(name, {**info, "unexpected_keys": kept})
    return model


def _load_gemma_lisa(name: str, dtype: torch.dtype) -> nn.Module:
    return load_checkpoint(name, dtype=dtype, device="cpu")[0].model.vision_tower
