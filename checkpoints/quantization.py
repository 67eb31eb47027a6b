"""Quantize the language model to 4 or 8 bits with bitsandbytes, and recognize saved quantized weights."""

import logging
import re
from pathlib import Path

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel

# Full paths of the linear layers that are quantized. Full, because SigLIP and SAM also have a q_proj.
TEXT_LINEARS = r"model\.language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"


def quantization_of(config: PreTrainedConfig) -> str | None:
    """Return how a model's weights are quantized: "4 bits", "8 bits", or the name of another method; None if not."""
    options = config.to_dict().get("quantization_config")
    if not options:
        return None
    bits = [number for number in (4, 8) if options.get(f"load_in_{number}bit") or options.get(f"_load_in_{number}bit")]
    return f"{bits[0]} bits" if bits else str(options.get("quant_method", "an unknown format"))


def check_quantization(config: PreTrainedConfig, path: str | Path, load_in_4bit: bool, load_in_8bit: bool) -> None:
    """Check that saved quantized weights are not quantized again: transformers would silently ignore the option.

    Raises:
        ValueError: the weights are already quantized.
    """
    saved = quantization_of(config)
    if saved is None or not (load_in_4bit or load_in_8bit):
        return
    asked = "--load_in_4bit" if load_in_4bit else "--load_in_8bit"
    raise ValueError(
        f"{path}: its weights are already quantized ({saved}), so {asked} has no effect. Remove the option, or use the "
        "checkpoint that is not quantized."
    )


def quantization_config(load_in_4bit: bool, load_in_8bit: bool) -> BitsAndBytesConfig | None:
    """Return the bitsandbytes configuration for the text model's linear layers, or None if neither option is set.

    The model class lists the modules that are never quantized.

    Raises:
        ValueError: both options are set.
    """
    if load_in_4bit and load_in_8bit:
        raise ValueError("load_in_4bit and load_in_8bit: choose one of them.")
    if load_in_8bit:
        # It warns at every call that int8 products use fp16. That is safe here: their inputs are normalized.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    if not load_in_4bit:
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_quant_storage=torch.bfloat16,  # the same type for all weights, so that FSDP2 can shard them
    )


def check_quantized(model: PreTrainedModel) -> None:
    """Assert that all linear layers of the text model are quantized, and no other module."""
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    quantized = {name for name, module in model.named_modules() if isinstance(module, Linear4bit | Linear8bitLt)}
    wanted = {name for name, _ in model.named_modules() if re.fullmatch(TEXT_LINEARS, name)}
    assert quantized == wanted, f"{min(quantized ^ wanted)} is quantized but should not be, or the reverse"


def keep_layout(model: nn.Module) -> None:
    """Keep 4-bit weights in the layout in which they were quantized.

    On CPUs with AVX512-BF16, bitsandbytes repacks the weights at the first evaluation. The repacked product has no
    gradient, so the layers below would stop learning. It also fails if a row is not a multiple of the block size.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
