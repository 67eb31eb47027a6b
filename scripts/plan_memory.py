"""Estimate the GPU memory of a training recipe, without loading a model and without a GPU.

    python scripts/plan_memory.py --config configs/gemma3-4b-qlora-24gb.yaml --devices 1 --gpu_gb 24

The program prints the memory on each device and whether the recipe fits. If it does not fit, the program suggests
changes, and the exit code is 1.

Weights, gradients and optimizer state are counted. Activations and logits are those of a training step on torch's meta
device. The memory of the engine and of CUDA is estimated and marked as such.

Options of the recipe can be overridden as in train.py, for example `--per_device_train_batch_size 1`.
"""

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gemma_lisa.checkpoints.lora import WRAPPED, add_lora, hold_in, trained_names
from gemma_lisa.checkpoints.quantization import TEXT_LINEARS
from gemma_lisa.configuration_gemma_lisa import GemmaLisaConfig
from gemma_lisa.interfaces.command_line import ArgumentParser, positive, run
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.safety.parsing import parse_yaml, read_yaml
from gemma_lisa.safety.short_text import VALUE_LENGTH, count_of, reason_of, shorten, show
from gemma_lisa.training.engine_configs import Engine, engine_of_recipe, read_engine
from gemma_lisa.training.model_sizes import GEMMA_SIZES, build_real_config, describe
from gemma_lisa.training.step_memory import META, StepBytes, count_step, make_batch

GIB = 2**30
# Options on which the memory depends, with the defaults of train.py
DEFAULTS: dict[str, Any] = {
    "trainable": None,
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
QUESTION_TOKENS = 64  # tokens of a question and its answer

# Bytes per weight of nf4 with double quantization: 0.5, plus 1 per 64 weights and 4 per 256 scales
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
SMALLEST_IN_8BIT = 4096  # elements; bitsandbytes keeps the optimizer state of smaller tensors in 32 bits
# Elements: DeepSpeed's defaults of reduce_bucket_size and stage3_max_live_parameters
ZERO_BUCKET, ZERO_LIVE = 500_000_000, 1_000_000_000
CUDA_CONTEXT = 1.0 * GIB  # the context, and workspaces of cuBLAS and NCCL
FRAGMENTATION = 0.05  # share of the other memory that the allocator cannot use


@dataclass
class Row:
    """A row of the table: bytes on each device, and whether they are counted or estimated."""

    what: str
    size: float
    how: str


# ---------------------------------------------------------------------------------------------------------------------
# The model and its step
# ---------------------------------------------------------------------------------------------------------------------
def build_model(config: GemmaLisaConfig, recipe: dict[str, Any], device: torch.device = META) -> torch.nn.Module:
    """Return the model as train.py prepares it, with random weights of the same types and trainable parameters."""
    with device:
        model = GemmaLisaForConditionalGeneration(config)
    trains_text = False
    if recipe["lora_rank"]:
        options = {name: recipe[f"lora_{name}"] for name in ("rank", "alpha", "dropout", "mlp")}
        options |= {name: recipe[name] for name in ("use_rslora", "use_dora")}
        model = add_lora(model, **options, **({"trainable": recipe["trainable"]} if recipe["trainable"] else {}))
    elif not recipe["trainable"]:
        raise UsageError(
            "trainable is missing in the recipe. Set trainable to patterns of parameter names, or set lora_rank."
        )
    else:
        names = trained_names(model, recipe["trainable"])
        trains_text = any(name.startswith("model.language_model.") for name in names)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in names)
    if recipe["bf16"] and not trains_text:
        hold_in(model, torch.bfloat16, only_frozen=True)
    return model.train()


def prepare_model(config: GemmaLisaConfig, recipe: dict[str, Any]) -> torch.nn.Module:
    """Return the model of a training step on the meta device, in one dtype, with checkpointing if the recipe has it."""
    model = build_model(config, recipe)
    model.to(torch.bfloat16 if recipe["bf16"] else torch.float32)
    if recipe["activation_checkpointing"]:
        inner = model.get_base_model() if recipe["lora_rank"] else model
        inner.config.text_config.use_cache = False
        inner.activation_checkpointing_enable()
    return model


def measure_step(
    config: GemmaLisaConfig, recipe: dict[str, Any], question_tokens: int, mask_size: tuple[int, int]
) -> StepBytes:
    """Return the bytes of a training step of the recipe. With bf16, nearly all activations are in bf16."""
    model = prepare_model(config, recipe)
    images, questions = recipe["per_device_train_batch_size"], recipe["max_questions"]
    return count_step(model, make_batch(config, images, questions, question_tokens, mask_size))


# ---------------------------------------------------------------------------------------------------------------------
# The plan
# ---------------------------------------------------------------------------------------------------------------------
def plan(
    model: torch.nn.Module, step: StepBytes, recipe: dict[str, Any], engine: Engine, devices: int
) -> tuple[list[Row], float]:
    """Return the rows of the table for one device, and the bytes per device that are offloaded to host memory."""
    parameters = dict(model.named_parameters())
    trained = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
    numbers = sum(parameter.numel() for parameter in trained.values())
    zero = engine.kind == "deepspeed"  # keeps all weights in bf16, and fp32 copies of the trained ones
    sizes = {
        "weights": sum(weight_bytes(*item, recipe, zero) for item in parameters.items()),
        "gradients": numbers * (2 if zero else 4),
        "optimizer": sum(state_bytes(*item, recipe) for item in trained.items()) + 4 * numbers * zero,
    }
    sizes = {part: size / (devices if part in engine.shares else 1) for part, size in sizes.items()}
    offloaded = sum(sizes[part] for part in engine.offloads)
    sizes |= dict.fromkeys(engine.offloads, 0.0)

    rows = [
        Row("weights", sizes["weights"], "counted"),
        Row("buffers", sum(buffer.nbytes for buffer in model.buffers()), "counted"),
        Row("gradients", sizes["gradients"], "counted"),
        Row("optimizer state", sizes["optimizer"], "counted"),
        Row("activations", step.activations, "from a step on the meta device"),
        Row("logits and copies of the head", step.logits, "from a step on the meta device"),
        Row("temporary memory of the step", step.working, "from a step on the meta device"),
        Row(
            f"copies by the engine ({engine.name})", engine_bytes(model, trained, recipe, engine, devices), "estimated"
        ),
    ]
    rows.append(Row("fragmentation (5%)", FRAGMENTATION * sum(row.size for row in rows), "estimated"))
    rows.append(Row("CUDA context and workspaces", CUDA_CONTEXT, "estimated"))
    return rows, offloaded


def weight_bytes(name: str, parameter: torch.Tensor, recipe: dict[str, Any], in_bf16: bool) -> float:
    """Return the bytes of a weight in the type in which it is stored."""
    module = name.removeprefix(WRAPPED).replace(".base_layer", "").removesuffix(".weight")
    if re.fullmatch(TEXT_LINEARS, module):
        if recipe["load_in_4bit"]:
            return NF4_BYTES * parameter.numel()
        if recipe["load_in_8bit"]:
            return parameter.numel() + 4 * parameter.shape[0]  # and one scale per row
    return parameter.numel() * (2 if in_bf16 else parameter.element_size())


def state_bytes(name: str, parameter: torch.Tensor, recipe: dict[str, Any]) -> float:
    """Return the bytes of Adam's two averages for a weight."""
    in_8bit = "8bit" in recipe["optim"] and parameter.numel() >= SMALLEST_IN_8BIT and "embed" not in name
    return parameter.numel() * (2 if in_8bit else 8)


def engine_bytes(
    model: torch.nn.Module, trained: dict[str, torch.Tensor], recipe: dict[str, Any], engine: Engine, devices: int
) -> float:
    """Return the bytes of an engine's own copies: gathered or cast weights, and buffers of gradients."""
    numbers = sum(parameter.numel() for parameter in trained.values())
    if engine.kind == "ddp":
        casts = 2 * sum(parameter.numel() for parameter in trained.values() if parameter.ndim > 1) * recipe["bf16"]
        return casts + 4 * numbers * (devices > 1)  # copies of autocast, and DDP's buckets with all gradients
    layers = [module for module in model.modules() if type(module).__name__ in set(model._no_split_modules)]
    layer_bytes = [sum(weight_bytes(*item, recipe, True) for item in layer.named_parameters("")) for layer in layers]
    in_layers = {id(parameter) for layer in layers for parameter in layer.parameters()}
    other_weights = [
        (name, parameter) for name, parameter in model.named_parameters() if id(parameter) not in in_layers
    ]
    gathered = 2 * max(layer_bytes)  # this layer, and the next one, which is prefetched
    if engine.kind == "fsdp":
        own = max(sum(p.numel() for p in layer.parameters() if p.requires_grad) for layer in layers)
        return gathered + sum(weight_bytes(*item, recipe, True) for item in other_weights) + 4 * own
    buffers = 2 * 2 * min(numbers, ZERO_BUCKET) + 4 * numbers / devices * ("optimizer" not in engine.offloads)
    if "weights" not in engine.shares:
        return buffers
    largest = max(weight_bytes(*item, recipe, True) for item in other_weights)
    everything = sum(parameter.numel() for parameter in model.parameters())
    return max(gathered + largest, 2 * min(everything, ZERO_LIVE)) + buffers


def total_of(rows: list[Row]) -> float:
    return sum(row.size for row in rows)


# ---------------------------------------------------------------------------------------------------------------------
# Suggested changes
# ---------------------------------------------------------------------------------------------------------------------
def changes_for(recipe: dict[str, Any], engine: Engine) -> list[dict[str, Any]]:
    """Return changes for a recipe that does not fit, the cheapest first. They are applied cumulatively."""
    changes: list[dict[str, Any]] = []
    if not recipe["activation_checkpointing"]:
        changes.append({"activation_checkpointing": True})
    if recipe["per_device_train_batch_size"] > 1:
        changes.append({"per_device_train_batch_size": 1})
    if "8bit" not in recipe["optim"] and engine.kind == "ddp":
        changes.append({"optim": "adamw_bnb_8bit"})
    if not recipe["lora_rank"] and any(pattern.startswith("model.") for pattern in recipe["trainable"]):
        changes.append({"lora_rank": 16, "trainable": ["seg_projector.*", "sam.mask_decoder.*"]})
    can_quantize = "weights" not in engine.shares or engine.kind == "fsdp"
    if can_quantize and not recipe["load_in_4bit"] and (recipe["lora_rank"] or "lora_rank" in (changes or [{}])[-1]):
        changes.append({"load_in_4bit": True, "load_in_8bit": False})
    return changes


# ---------------------------------------------------------------------------------------------------------------------
# The program
# ---------------------------------------------------------------------------------------------------------------------
def read_recipe(path: Path, overrides: list[str]) -> dict[str, Any]:
    """Return the options on which the memory depends, from the recipe and the overrides of the command line.

    Raises:
        UsageError: the recipe cannot be read, or an override is unknown or has no value.
    """
    try:
        content = read_yaml(path)
        recipe = DEFAULTS | {name: value for name, value in content.items() if name in DEFAULTS}
    except (ValueError, AttributeError) as error:
        raise UsageError(f"--config {path}: the recipe cannot be read ({reason_of(error)}).") from error
    for name, value in zip(overrides[::2], overrides[1::2] + [""], strict=False):
        if name.removeprefix("--") not in DEFAULTS or not value:
            given = shorten(f"{name} {value}".strip(), VALUE_LENGTH)
            raise UsageError(
                f"{given}: expected an option with a value, such as --bf16 true, of: {', '.join(DEFAULTS)}."
            )
        recipe[name.removeprefix("--")] = parse_yaml(value)
    return recipe


def choose_config(model: str | None, size: str | None, recipe: Path) -> tuple[GemmaLisaConfig, str]:
    """Return the configuration of the model and its name for the output."""
    if model is not None:
        found = GemmaLisaConfig.get_config_dict(model)[0].get("model_type")
        if found != GemmaLisaConfig.model_type:
            raise UsageError(
                f"--model {model}: a checkpoint of type {show(found)}; expected {GemmaLisaConfig.model_type!r}."
            )
        return GemmaLisaConfig.from_pretrained(model), model
    if size is None:
        named = re.search(r"-(\d+[bm])-", f"-{recipe.stem}-")
        size = named.group(1) if named and named.group(1) in GEMMA_SIZES else "4b"
    return build_real_config(size), describe(size)


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="recipe, a YAML file with options of train.py")
    parser.add_argument("--devices", type=positive, default=1, help="number of GPUs on all machines (default: 1)")
    parser.add_argument("--gpu_gb", type=float, default=24, help="memory of each GPU in GiB (default: 24)")
    parser.add_argument(
        "--size", choices=GEMMA_SIZES, help="size of Gemma 3 (default: the size in the name of the recipe, else 4b)"
    )
    parser.add_argument("--model", help="folder of a Gemma-LISA checkpoint, whose config.json replaces --size")
    parser.add_argument(
        "--engine",
        type=Path,
        help="configuration file of accelerate, for example configs/accelerate/zero2.yaml (default: the file that is "
        "named in the first comment of the recipe, else DDP)",
    )
    parser.add_argument(
        "--mask_size",
        type=positive,
        nargs=2,
        default=(480, 640),
        metavar=("HEIGHT", "WIDTH"),
        help="size of the masks in pixels (default: 480 640)",
    )
    return parser.parse_known_args(arguments)


def main(arguments: list[str]) -> None:
    args, overrides = parse(arguments)
    recipe = read_recipe(args.config, overrides)
    engine = engine_of_recipe(args.config) if args.engine is None else read_engine(args.engine)
    config, name = choose_config(args.model, args.size, args.config)

    def plan_of(recipe: dict[str, Any]) -> tuple[list[Row], float]:
        step = measure_step(config, recipe, QUESTION_TOKENS, tuple(args.mask_size))
        return plan(build_model(config, recipe), step, recipe, engine, args.devices)

    rows, offloaded = plan_of(recipe)
    batch, questions = recipe["per_device_train_batch_size"], recipe["max_questions"]
    print(
        f"{args.config}, {name}: {count_of(args.devices, 'device')} with {args.gpu_gb:g} GiB, {engine.name}\n"
        f"{count_of(batch, 'image')} per device and micro-batch, with {count_of(questions, 'question')} of "
        f"{QUESTION_TOKENS} tokens each, masks of {args.mask_size[0]} × {args.mask_size[1]} pixels\n"
    )
    print("| memory on each device | GiB | how it is known |\n|---|---|---|")
    for row in rows:
        print(f"| {row.what} | {row.size / GIB:.2f} | {row.how} |")
    print(f"| total | {total_of(rows) / GIB:.2f} | |\n")
    if offloaded:
        print(f"Offloaded to host memory: {offloaded / GIB:.1f} GiB per device.")
    if total_of(rows) <= args.gpu_gb * GIB:
        print(f"The recipe fits according to this estimate: {total_of(rows) / GIB:.1f} of {args.gpu_gb:g} GiB.")
        return
    print(f"The recipe does not fit: {total_of(rows) / GIB:.1f} GiB are needed, {args.gpu_gb:g} GiB are available.")
    tried: dict[str, Any] = {}
    for change in changes_for(recipe, engine):
        tried |= change
        size = total_of(plan_of(recipe | tried)[0])
        options = " ".join(f"--{field} {_as_argument(value)}" for field, value in tried.items())
        if size <= args.gpu_gb * GIB:
            print(f"It fits with {options}: {size / GIB:.1f} GiB.")
            sys.exit(1)
        print(f"It does not fit with {options}: {size / GIB:.1f} GiB.")
    print("Shard the weights over more devices: --engine configs/accelerate/fsdp2.yaml (or zero3.yaml) --devices N")
    sys.exit(1)


def _as_argument(value: Any) -> str:
    return " ".join(f"'{item}'" for item in value) if isinstance(value, list) else str(value).lower()


if __name__ == "__main__":
    run(main)
