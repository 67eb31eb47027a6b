"""The image encoders of a model whose features can be cached, and their stores."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor

from .cache import FeatureCache, Store
from .fingerprint import fingerprint, preparation_of

GEMMA, SAM = "gemma", "sam"
WORDS = {GEMMA: "Gemma's image encoder", SAM: "SAM's image encoder"}


def modules_of(model: nn.Module, encoder: str) -> dict[str, nn.Module]:
    """Return the modules of an encoder of a model without adapter, by name."""
    if encoder == SAM:
        return {"vision_encoder": model.sam.vision_encoder}
    return {"vision_tower": model.model.vision_tower, "multi_modal_projector": model.model.multi_modal_projector}


def is_trained(model: nn.Module, encoder: str) -> bool:
    return any(
        parameter.requires_grad for module in modules_of(model, encoder).values() for parameter in module.parameters()
    )


def open_cache(
    folder: str | Path, model: nn.Module, processor: GemmaLisaProcessor, encoders: list[str], use_bf16: bool = False
) -> FeatureCache:
    """Return the cache of some encoders of a model. Its entries can be missing.

    Args:
        folder: folder of the cache.
        model: without adapter, with whole weights.
        processor: processor of the model.
        encoders: GEMMA, SAM or both.
        use_bf16: whether encoders with weights in fp32 run in bf16 (`runs_in_bf16`).
    """
    config, preparation = model.config, preparation_of(processor)
    vision = config.sam_config.vision_config
    side = vision.image_size // vision.patch_size
    stores = []
    for encoder in encoders:
        modules, autocast = modules_of(model, encoder), use_bf16 and runs_in_fp32(model, encoder)
        if encoder == SAM:
            names, shape, settings = ("image_embeddings", "sam_pixel_values"), (vision.output_channels, side, side), {}
            settings = vision.to_dict()
        else:
            names, shape = (
                ("image_features", "pixel_values"),
                (config.mm_tokens_per_image, config.get_text_config().hidden_size),
            )
            settings = config.vision_config.to_dict() | {"tokens": config.mm_tokens_per_image}
        mark = fingerprint(modules, settings, autocast, preparation[names[1]])
        stores.append(Store(*names, Path(folder) / f"{encoder}-{mark}", shape))
    return FeatureCache(Path(folder), stores)


def runs_in_fp32(model: nn.Module, encoder: str) -> bool:
    """Return whether the encoder has weights in fp32. With weights in bf16 it needs no autocast."""
    return any(
        parameter.dtype == torch.float32
        for module in modules_of(model, encoder).values()
        for parameter in module.parameters()
    )


@contextmanager
def ready_to_encode(model: nn.Module, encoders: list[str], device: torch.device | None) -> Iterator[None]:
    """Move encoders to a device inside the block, in evaluation mode. None leaves them where they are."""
    modules = [module for encoder in encoders for module in modules_of(model, encoder).values()]
    before = [(module.training, next(module.parameters()).device) for module in modules]
    try:
        for module in modules:
            module.eval()
            if device is not None:
                module.to(device)
        yield
    finally:
        for module, (training, place) in zip(modules, before, strict=True):
            module.train(training)
            if device is not None:
                module.to(place)


@torch.no_grad()
def encode(model: nn.Module, cache: FeatureCache, batch: dict[str, Any], use_bf16: bool) -> dict[str, torch.Tensor]:
    """Return the features (I, …) of a batch of normalized pixels, by the names of the stores."""
    features = {}
    for store in cache.stores:
        encoder, run = (
            (SAM, model.encode_for_sam) if store.name == "image_embeddings" else (GEMMA, model.encode_for_gemma)
        )
        [module, *_] = modules_of(model, encoder).values()
        pixels = batch[store.pixels].to(next(module.parameters()).device)
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=use_bf16 and runs_in_fp32(model, encoder)):
            features[store.name] = run(pixels)
    return features
