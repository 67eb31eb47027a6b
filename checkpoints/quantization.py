"""Quantise the language model to 4 or 8 bits with bitsandbytes, and tell how saved weights are quantised."""

import logging
import re
from pathlib import Path

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel

# Paths of the linear layers that are quantised: whole, because SigLIP and SAM have a q_proj too.
TEXT_LINEARS = r"model\.language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"


def quantization_of(config: PreTrainedConfig) -> str | None:
    """Return how a model's weights are quantised: "4 bits", "8 bits", another method's name; None: not at all."""
    options = config.to_dict().get("quantization_config")
    if not options:
        return None
    bits = [number for number in (4, 8) if options.get(f"load_in_{number}bit") or options.get(f"_load_in_{number}bit")]
    return f"{bits[0]} bits" if bits else str(options.get("quant_method", "an unknown form"))


def check_quantization(config: PreTrainedConfig, path: str | Path, load_in_4bit: bool, load_in_8bit: bool) -> None:
    """Refuse to quantise weights that are saved quantised: transformers would ignore what was asked for.

    Raises:
        ValueError: how they are saved, and what to do.
    """
    saved = quantization_of(config)
    if saved is None or not (load_in_4bit or load_in_8bit):
        return
    asked = "--load_in_4bit" if load_in_4bit else "--load_in_8bit"
    raise ValueError(
        f"{path}: its weights are saved in {saved}, so {asked} has no effect; leave the option out, or give the "
        "checkpoint that was not quantised."
    )


def quantization_config(load_in_4bit: bool, load_in_8bit: bool) -> BitsAndBytesConfig | None:
    """bitsandbytes on the text model's linear layers; None for neither. The model itself names what stays as it is.

    Raises:
        ValueError: both.
    """
    if load_in_4bit and load_in_8bit:
        raise ValueError("load_in_4bit and load_in_8bit: choose one of them.")
    if load_in_8bit:
        # It says for every layer and call that int8 products go through fp16: of normed states, which fit
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    if not load_in_4bit:
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_quant_storage=torch.bfloat16,  # one type for all weights: FSDP2 can shard them
    )


def check_quantized(model: PreTrainedModel) -> None:
    """Every linear layer of the text model is quantised, and nothing else is."""
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    quantized = {name for name, module in model.named_modules() if isinstance(module, Linear4bit | Linear8bitLt)}
    wanted = {name for name, _ in model.named_modules() if re.fullmatch(TEXT_LINEARS, name)}
    assert quantized == wanted, f"quantised or not, as {min(quantized ^ wanted)}, against what was asked for"


def keep_layout(model: nn.Module) -> None:
    """4-bit weights stay as they were quantised.

    On a CPU with bf16 units bitsandbytes packs them otherwise at the first evaluation, for a product that has no
    gradient, so that nothing below would learn from then on; and it fails where a row is no multiple of a block.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
