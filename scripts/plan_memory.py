"""Will a recipe fit? The memory of a training step on each device, before anything is loaded or bought.

    python scripts/plan_memory.py --config configs/gemma3-4b-qlora-24gb.yaml --devices 1 --gpu_gb 24

Weights, gradients and the optimizer's state are counted; activations and logits are those of a step on torch's meta
device (`training/step_memory.py`); what an engine and CUDA take beside them is estimated, and marked so. The model's
size is the one in the recipe's name, else 4b, or `--size`, or that of `--model`, a folder with a config.json. The
engine is the accelerate file named at the head of the recipe, or `--engine`. Fields of the recipe are overridden as in
train.py: `--per_device_train_batch_size 1`. Exit code 1: it does not fit, and what would.
"""

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
from gemma_lisa.training.engine_configs import Engine, engine_of_recipe, read_engine
from gemma_lisa.training.model_sizes import GEMMA_SIZES, build_real_config
from gemma_lisa.training.step_memory import META, StepBytes, count_step, make_batch

GIB = 2**30
# What a plan depends on, with train.py's defaults; no other field of a recipe changes a byte.
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
QUESTION_TOKENS = 64  # of a question with its answer
# nf4 with double quantisation: half a byte, a byte of scale for 64 weights, four bytes of its scale for 256 scales
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
SMALLEST_IN_8BIT = 4096  # numbers; bitsandbytes keeps the averages of smaller tensors in 32 bits
# Numbers; DeepSpeed's defaults for reduce_bucket_size and stage3_max_live_parameters
ZERO_BUCKET, ZERO_LIVE = 500_000_000, 1_000_000_000
CUDA_CONTEXT = 1.0 * GIB  # the context, and workspaces of cuBLAS and NCCL
FRAGMENTATION = 0.05  # of all else: held by the allocator in pieces that nothing fits into


@dataclass
class Row:
    """A line of the table: bytes on each device, and how they are known."""

    what: str
    size: float
    how: str


# ---------------------------------------------------------------------------------------------------------------------
# The model and its step
# ---------------------------------------------------------------------------------------------------------------------
def build_model(config: GemmaLisaConfig, recipe: dict[str, Any], device: torch.device = META) -> torch.nn.Module:
    """The model as train.py prepares it, with random weights: what is trained, and the type of every weight."""
    with device:
        model = GemmaLisaForConditionalGeneration(config)
    trains_text = False
    if recipe["lora_rank"]:
        options = {name: recipe[f"lora_{name}"] for name in ("rank", "alpha", "dropout", "mlp")}
        options |= {name: recipe[name] for name in ("use_rslora", "use_dora")}
        model = add_lora(model, **options, **({"trainable": recipe["trainable"]} if recipe["trainable"] else {}))
    elif not recipe["trainable"]:
        raise UsageError("trainable: the recipe does not say what is trained; give patterns, or lora_rank.")
    else:
        names = trained_names(model, recipe["trainable"])
        trains_text = any(name.startswith("model.language_model.") for name in names)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in names)
    if recipe["bf16"] and not trains_text:
        hold_in(model, torch.bfloat16, only_frozen=True)
    return model.train()


def measure_step(
    config: GemmaLisaConfig, recipe: dict[str, Any], question_tokens: int, mask_size: tuple[int, int]
) -> StepBytes:
    """`count_step` of the recipe. Under autocast matrix products are in bf16, and so is nearly all that is kept."""
    model = build_model(config, recipe)
    model.to(torch.bfloat16 if recipe["bf16"] else torch.float32)
    if recipe["activation_checkpointing"]:
        inner = model.get_base_model() if recipe["lora_rank"] else model
        inner.config.text_config.use_cache = False
        inner.activation_checkpointing_enable()
    rows, questions = recipe["per_device_train_batch_size"], recipe["max_questions"]
    return count_step(model, make_batch(config, rows, questions, question_tokens, mask_size))


# ---------------------------------------------------------------------------------------------------------------------
# The plan
# ---------------------------------------------------------------------------------------------------------------------
def plan(
    model: torch.nn.Module, step: StepBytes, recipe: dict[str, Any], engine: Engine, devices: int
) -> tuple[list[Row], float]:
    """The lines of the table for one device, and the bytes that each device's share takes off the device."""
    parameters = dict(model.named_parameters())
    trained = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
    numbers = sum(parameter.numel() for parameter in trained.values())
    zero = (
        engine.kind == "deepspeed"
    )  # which holds all weights in bf16, and those trained in fp32 beside Adam's averages
    sizes = {
        "weights": sum(weight_bytes(*item, recipe, zero) for item in parameters.items()),
        "gradients": numbers * (2 if zero else 4),
        "optimizer": sum(state_bytes(*item, recipe) for item in trained.items()) + 4 * numbers * zero,
    }
    sizes = {part: size / (devices if part in engine.shares else 1) for part, size in sizes.items()}
    elsewhere = sum(sizes[part] for part in engine.offloads)
    sizes |= dict.fromkeys(engine.offloads, 0.0)

    rows = [
        Row("weights", sizes["weights"], "counted"),
        Row("buffers", sum(buffer.nbytes for buffer in model.buffers()), "counted"),
        Row("gradients", sizes["gradients"], "counted"),
        Row("the optimizer's state", sizes["optimizer"], "counted"),
        Row("activations", step.activations, "from a step on the meta device"),
        Row("logits and the head's copies", step.logits, "from a step on the meta device"),
        Row("working memory of the pass", step.working, "from a step on the meta device"),
        Row(f"copies of {engine.name}", engine_bytes(model, trained, recipe, engine, devices), "estimated"),
    ]
    rows.append(Row("fragmentation, 5 %", FRAGMENTATION * sum(row.size for row in rows), "estimated"))
    rows.append(Row("CUDA's context and workspaces", CUDA_CONTEXT, "estimated"))
    return rows, elsewhere


def weight_bytes(name: str, parameter: torch.Tensor, recipe: dict[str, Any], in_bf16: bool) -> float:
    """Bytes of one weight as it is held."""
    module = name.removeprefix(WRAPPED).replace(".base_layer", "").removesuffix(".weight")
    if re.fullmatch(TEXT_LINEARS, module):
        if recipe["load_in_4bit"]:
            return NF4_BYTES * parameter.numel()
        if recipe["load_in_8bit"]:
            return parameter.numel() + 4 * parameter.shape[0]  # and a scale for each row
    return parameter.numel() * (2 if in_bf16 else parameter.element_size())


def state_bytes(name: str, parameter: torch.Tensor, recipe: dict[str, Any]) -> float:
    """Bytes of Adam's two averages of one weight."""
    in_8bit = "8bit" in recipe["optim"] and parameter.numel() >= SMALLEST_IN_8BIT and "embed" not in name
    return parameter.numel() * (2 if in_8bit else 8)


def engine_bytes(
    model: torch.nn.Module, trained: dict[str, torch.Tensor], recipe: dict[str, Any], engine: Engine, devices: int
) -> float:
    """What an engine holds beside each device's share: weights gathered or cast for a layer, gradients on their way."""
    numbers = sum(parameter.numel() for parameter in trained.values())
    if engine.kind == "ddp":
        casts = 2 * sum(parameter.numel() for parameter in trained.values() if parameter.ndim > 1) * recipe["bf16"]
        return casts + 4 * numbers * (devices > 1)  # autocast's copies; DDP's buckets hold every gradient again
    layers = [module for module in model.modules() if type(module).__name__ in set(model._no_split_modules)]
    layer_bytes = [sum(weight_bytes(*item, recipe, True) for item in layer.named_parameters("")) for layer in layers]
    in_layers = {id(parameter) for layer in layers for parameter in layer.parameters()}
    beside = [(name, parameter) for name, parameter in model.named_parameters() if id(parameter) not in in_layers]
    gathered = 2 * max(layer_bytes)  # this layer, and the next that is fetched already
    if engine.kind == "fsdp":
        own = max(sum(p.numel() for p in layer.parameters() if p.requires_grad) for layer in layers)
        return gathered + sum(weight_bytes(*item, recipe, True) for item in beside) + 4 * own
    on_their_way = 2 * 2 * min(numbers, ZERO_BUCKET) + 4 * numbers / devices * ("optimizer" not in engine.offloads)
    if "weights" not in engine.shares:
        return on_their_way
    largest = max(weight_bytes(*item, recipe, True) for item in beside)
    everything = sum(parameter.numel() for parameter in model.parameters())
    return max(gathered + largest, 2 * min(everything, ZERO_LIVE)) + on_their_way


def total_of(rows: list[Row]) -> float:
    return sum(row.size for row in rows)


# ---------------------------------------------------------------------------------------------------------------------
# What would fit
# ---------------------------------------------------------------------------------------------------------------------
def changes_for(recipe: dict[str, Any], engine: Engine) -> list[dict[str, Any]]:
    """Fields to change where a recipe does not fit, the cheapest first, each on top of those before it."""
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
    """What a plan depends on, of the recipe and the command line.

    Raises:
        UsageError: no recipe, or an override that a plan does not depend on.
    """
    try:
        content = read_yaml(path)
        recipe = DEFAULTS | {name: value for name, value in content.items() if name in DEFAULTS}
    except (ValueError, AttributeError) as error:
        raise UsageError(f"--config {path}: no recipe that can be read ({error}).") from error
    for name, value in zip(overrides[::2], overrides[1::2] + [""], strict=False):
        if name.removeprefix("--") not in DEFAULTS or not value:
            raise UsageError(f"{name} {value}".strip() + f": a plan depends on {', '.join(DEFAULTS)}; as --bf16 true.")
        recipe[name.removeprefix("--")] = parse_yaml(value)
    return recipe


def choose_config(model: str | None, size: str | None, recipe: Path) -> tuple[GemmaLisaConfig, str]:
    """The configuration that is planned for, and what it is called."""
    if model is not None:
        found = GemmaLisaConfig.get_config_dict(model)[0].get("model_type")
        if found != GemmaLisaConfig.model_type:
            raise UsageError(f"--model {model}: a checkpoint of type {found!r}, no Gemma-LISA.")
        return GemmaLisaConfig.from_pretrained(model), model
    if size is None:
        named = re.search(r"-(\d+b)-", f"-{recipe.stem}-")
        size = named.group(1) if named and named.group(1) in GEMMA_SIZES else "4b"
    return build_real_config(size), f"Gemma 3 {size.upper()} with SAM ViT-H"


def main(arguments: list[str]) -> None:
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", type=Path, required=True, help="the recipe")
    parser.add_argument("--devices", type=positive, default=1, help="cards, over all machines")
    parser.add_argument("--gpu_gb", type=float, default=24, help="memory of one, in GiB as nvidia-smi tells")
    parser.add_argument("--size", choices=GEMMA_SIZES, help="of Gemma 3")
    parser.add_argument("--model", help="instead: folder of a Gemma-LISA, of which config.json is read")
    parser.add_argument("--engine", type=Path, help="accelerate's configuration, as configs/accelerate/zero2.yaml")
    parser.add_argument("--mask_size", type=positive, nargs=2, default=(480, 640), help="height and width in pixels")
    args, overrides = parser.parse_known_args(arguments)
    recipe = read_recipe(args.config, overrides)
    engine = engine_of_recipe(args.config) if args.engine is None else read_engine(args.engine)
    config, name = choose_config(args.model, args.size, args.config)

    def made(recipe: dict[str, Any]) -> tuple[list[Row], float]:
        step = measure_step(config, recipe, QUESTION_TOKENS, tuple(args.mask_size))
        return plan(build_model(config, recipe), step, recipe, engine, args.devices)

    rows, elsewhere = made(recipe)
    batch, questions = recipe["per_device_train_batch_size"], recipe["max_questions"]
    print(
        f"{args.config}, {name}: {args.devices} device(s) of {args.gpu_gb:g} GiB, {engine.name}\n"
        f"{batch} row(s) a device at once, {questions} question(s) of {QUESTION_TOKENS} tokens each, masks of "
        f"{args.mask_size[0]} × {args.mask_size[1]}\n"
    )
    print("| on each device | GiB | |\n|---|---|---|")
    for row in rows:
        print(f"| {row.what} | {row.size / GIB:.2f} | {row.how} |")
    print(f"| in all | {total_of(rows) / GIB:.2f} | |\n")
    if elsewhere:
        print(f"Off the device, for each of them: {elsewhere / GIB:.1f} GiB.")
    if total_of(rows) <= args.gpu_gb * GIB:
        print(f"It fits, by this estimate: {total_of(rows) / GIB:.1f} of {args.gpu_gb:g} GiB.")
        return
    print(f"It does not fit: {total_of(rows) / GIB:.1f} of {args.gpu_gb:g} GiB.")
    tried: dict[str, Any] = {}
    for change in changes_for(recipe, engine):
        tried |= change
        size = total_of(made(recipe | tried)[0])
        words = " ".join(f"--{field} {_as_argument(value)}" for field, value in tried.items())
        if size <= args.gpu_gb * GIB:
            print(f"It would with {words}: {size / GIB:.1f} GiB.")
            sys.exit(1)
        print(f"with {words}: {size / GIB:.1f} GiB")
    print("Spread the weights over more devices: configs/accelerate/fsdp2.yaml or zero3.yaml, and --devices.")
    sys.exit(1)


def _as_argument(value: Any) -> str:
    return " ".join(f"'{item}'" for item in value) if isinstance(value, list) else str(value).lower()


if __name__ == "__main__":
    run(main)
