"""Estimate how a training recipe scales to many GPUs, without loading a model and without a GPU.

    python scripts/plan_scaling.py --config configs/gemma3-4b-lora.yaml --gpus 8 64 512

The program counts the FLOP of a micro-batch on torch's meta device, and the bytes that each GPU sends per optimizer
step. It prints the samples per second, and what limits them. With `--cached_features` no image encoder runs.

The speed of the GPUs, of the links between them and of the data workers is given by options. Their defaults are data
sheet values of an H200 with 400 Gb/s per GPU between machines, and no measurement.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from gemma_lisa.configuration_gemma_lisa import GemmaLisaConfig
from gemma_lisa.interfaces.command_line import ArgumentParser, above_zero, positive, run
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.safety.parsing import read_yaml
from gemma_lisa.safety.short_text import count_of
from gemma_lisa.scripts.plan_memory import (
    QUESTION_TOKENS,
    build_model,
    choose_config,
    prepare_model,
    read_recipe,
    weight_bytes,
)
from gemma_lisa.training.engine_configs import Engine, engine_of_recipe, read_engine
from gemma_lisa.training.model_sizes import GEMMA_SIZES
from gemma_lisa.training.step_memory import META, LiveBytes, make_batch

MASK_SIZE = (480, 640)
BF16_BYTES, FP32_BYTES = 2, 4


@dataclass(frozen=True)
class Machines:
    """What the GPUs and their surroundings can do.

    Args:
        flops: FLOP per second that a GPU reaches in a step.
        gpus_per_machine: number of GPUs in a machine.
        inner_rate: bytes per second that a GPU sends to the others of its machine.
        outer_rate: bytes per second that a GPU sends to other machines.
    """

    flops: float
    gpus_per_machine: int
    inner_rate: float
    outer_rate: float

    def rate(self, gpus: int) -> float:
        """Return the bytes per second of the slowest link of a ring through all GPUs."""
        return self.inner_rate if gpus <= self.gpus_per_machine else self.outer_rate


@dataclass(frozen=True)
class Traffic:
    """Bytes of the tensors that the GPUs exchange.

    Args:
        weights: gathered once in the forward pass and once in the backward pass of each micro-batch; 0 under DDP.
        gradients: summed over the GPUs, once per optimizer step under DDP, else once per micro-batch.
        per_micro_batch: whether gradients are summed in each micro-batch.
    """

    weights: float
    gradients: float
    per_micro_batch: bool

    def sent(self, gpus: int, micro_batches: int) -> float:
        """Return the bytes that each GPU sends per optimizer step, with ring algorithms.

        An all-gather and a reduce-scatter of n bytes send n · (gpus − 1) / gpus each; an all-reduce is both.
        """
        share = (gpus - 1) / gpus
        if not self.per_micro_batch:
            return 2 * share * self.gradients
        return share * micro_batches * (2 * self.weights + self.gradients)


@dataclass(frozen=True)
class Point:
    """The estimate for one number of GPUs.

    Args:
        gpus: number of GPUs.
        micro_batches: micro-batches of each GPU per optimizer step.
        global_batch: samples per optimizer step.
        sent: bytes that each GPU sends per optimizer step.
        compute, transfer: seconds per optimizer step.
    """

    gpus: int
    micro_batches: int
    global_batch: int
    sent: float
    compute: float
    transfer: float

    @property
    def slowest(self) -> float:
        """Return the samples per second if no transfer is hidden behind computation."""
        return self.global_batch / (self.compute + self.transfer)

    @property
    def fastest(self) -> float:
        """Return the samples per second if transfers and computation overlap completely."""
        return self.global_batch / max(self.compute, self.transfer)


# ---------------------------------------------------------------------------------------------------------------------
# Counting
# ---------------------------------------------------------------------------------------------------------------------
def count_flop(config: GemmaLisaConfig, recipe: dict[str, Any], cached: bool) -> float:
    """Return the FLOP of a micro-batch: forward and backward pass, with recomputation if the recipe has it.

    Args:
        config: configuration of the model.
        recipe: options of the recipe.
        cached: whether the features of both image encoders are given.
    """
    model = prepare_model(config, recipe)
    images, questions = recipe["per_device_train_batch_size"], recipe["max_questions"]
    batch = make_batch(config, images, questions, QUESTION_TOKENS, MASK_SIZE)
    if cached:
        for name in ("pixel_values", "sam_pixel_values"):
            del batch[name]
        for name, shape in feature_shapes(config).items():
            batch[name] = torch.empty(images, *shape, device=META)
    dtype = model.get_input_embeddings().weight.dtype
    floats = {name: value.to(dtype) for name, value in batch.items() if _is_float(value)}
    with LiveBytes(), FlopCounterMode(display=False) as counter:
        model(**(batch | floats)).loss.backward()
    return counter.get_total_flops()


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def feature_shapes(config: GemmaLisaConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of one image's features of both encoders, by the name of the model's input."""
    encoder = config.sam_config.vision_config
    side = encoder.image_size // encoder.patch_size
    return {
        "image_features": (config.mm_tokens_per_image, config.text_config.hidden_size),
        "image_embeddings": (encoder.output_channels, side, side),
    }


def cache_bytes(config: GemmaLisaConfig) -> int:
    """Return the bytes of one image in the feature cache, which stores bf16."""
    return BF16_BYTES * sum(torch.Size(shape).numel() for shape in feature_shapes(config).values())


def traffic_of(model: torch.nn.Module, recipe: dict[str, Any], engine: Engine) -> Traffic:
    """Return what the GPUs exchange. DeepSpeed sums gradients in bf16, FSDP2 and DDP in fp32."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    gradients = trained * (BF16_BYTES if engine.kind == "deepspeed" else FP32_BYTES)
    if engine.kind == "ddp":
        return Traffic(0, gradients, per_micro_batch=False)
    shards = "weights" in engine.shares
    weights = sum(weight_bytes(*item, recipe, True) for item in model.named_parameters()) if shards else 0
    return Traffic(weights, gradients, per_micro_batch=True)


def point_of(gpus: int, micro: int, asked_batch: int, flop: float, traffic: Traffic, machines: Machines) -> Point:
    """Return the estimate for a number of GPUs.

    Args:
        gpus: number of GPUs.
        micro: samples per micro-batch.
        asked_batch: global batch size of the recipe. The nearest one that these GPUs divide evenly is used.
        flop: FLOP of a micro-batch.
        traffic, machines: what is exchanged, and how fast.
    """
    micro_batches = max(1, round(asked_batch / (gpus * micro)))
    sent = traffic.sent(gpus, micro_batches)
    return Point(
        gpus=gpus,
        micro_batches=micro_batches,
        global_batch=micro_batches * gpus * micro,
        sent=sent,
        compute=micro_batches * flop / machines.flops,
        transfer=sent / machines.rate(gpus),
    )


# ---------------------------------------------------------------------------------------------------------------------
# The program
# ---------------------------------------------------------------------------------------------------------------------
def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="recipe, a YAML file with options of train.py")
    parser.add_argument(
        "--gpus", type=positive, nargs="+", default=[8, 64, 512], help="numbers of GPUs (default: 8 64 512)"
    )
    parser.add_argument(
        "--size", choices=GEMMA_SIZES, help="size of Gemma 3 (default: the size in the name of the recipe, else 4b)"
    )
    parser.add_argument("--model", help="folder of a Gemma-LISA checkpoint, whose config.json replaces --size")
    parser.add_argument("--engine", type=Path, help="configuration file of accelerate (default: that of the recipe)")
    parser.add_argument(
        "--global_batch_size", type=positive, help="samples per optimizer step (default: that of the recipe)"
    )
    parser.add_argument(
        "--cached_features", action="store_true", help="read the features of the images from a cache (default: off)"
    )
    parser.add_argument(
        "--tflops", type=above_zero, default=445, help="TFLOP/s that a GPU reaches in a step (default: 445)"
    )
    parser.add_argument("--gpus_per_machine", type=positive, default=8, help="number of GPUs in a machine (default: 8)")
    parser.add_argument(
        "--inner_gb_s", type=above_zero, default=450, help="GB/s that a GPU sends inside a machine (default: 450)"
    )
    parser.add_argument(
        "--outer_gb_s", type=above_zero, default=50, help="GB/s that a GPU sends to other machines (default: 50)"
    )
    parser.add_argument(
        "--images", type=positive, default=10_000_000, help="images in the feature cache (default: 10000000)"
    )
    parser.add_argument(
        "--samples_per_core",
        type=above_zero,
        default=53,
        help="samples per second that a core prepares; benchmarks/bench_data.py measures it (default: 53)",
    )
    return parser.parse_known_args(arguments)


def print_points(points: list[Point]) -> None:
    print("| GPUs | samples per optimizer step | GB sent per GPU and step | computing | sending | samples per second |")
    print("|---|---|---|---|---|---|")
    for point in points:
        print(
            f"| {point.gpus} | {point.global_batch:,} | {point.sent / 1e9:.2f} | {point.compute:.2f} s | "
            f"{point.transfer:.2f} s | {point.slowest:,.0f} to {point.fastest:,.0f} |"
        )


def limits(points: list[Point], asked_batch: int) -> list[str]:
    """Return sentences about the number of GPUs from which more of them help less, and why."""
    found = []
    if waits := [point.gpus for point in points if point.transfer > point.compute]:
        found.append(f"From {waits[0]} GPUs, sending takes longer than computing: the links limit the speed.")
    if grown := [point for point in points if point.micro_batches == 1 and point.global_batch > asked_batch]:
        found.append(
            f"From {grown[0].gpus} GPUs, one micro-batch of each has {grown[0].global_batch:,} samples, more than the "
            f"global batch size of {asked_batch}: learning rates and steps must change."
        )
    return found or ["None of these numbers of GPUs reaches a limit."]


def main(arguments: list[str]) -> None:
    args, overrides = parse(arguments)
    recipe = read_recipe(args.config, overrides)
    engine = engine_of_recipe(args.config) if args.engine is None else read_engine(args.engine)
    config, name = choose_config(args.model, args.size, args.config)
    asked_batch = args.global_batch_size or read_yaml(args.config).get("global_batch_size")
    if asked_batch is None:
        raise UsageError(f"--config {args.config}: the recipe has no global_batch_size. Give --global_batch_size N.")
    machines = Machines(args.tflops * 1e12, args.gpus_per_machine, args.inner_gb_s * 1e9, args.outer_gb_s * 1e9)

    micro, questions = recipe["per_device_train_batch_size"], recipe["max_questions"]
    flop = count_flop(config, recipe, args.cached_features)
    traffic = traffic_of(build_model(config, recipe), recipe, engine)
    points = [point_of(gpus, micro, asked_batch, flop, traffic, machines) for gpus in args.gpus]

    where = "features from a cache" if args.cached_features else "images encoded in each step"
    print(f"{args.config}, {name}, {engine.name}, {where}")
    print(
        f"micro-batch: {count_of(micro, 'image')} with {count_of(questions, 'question')} of {QUESTION_TOKENS} tokens, "
        f"{flop / 1e12:.1f} TFLOP; {args.tflops:g} TFLOP/s per GPU"
    )
    print(
        f"exchanged: weights {traffic.weights / 1e9:.2f} GB, gradients {traffic.gradients / 1e9:.2f} GB; "
        f"{args.inner_gb_s:g} GB/s inside a machine of {count_of(args.gpus_per_machine, 'GPU')}, "
        f"{args.outer_gb_s:g} GB/s between machines\n"
    )
    print_points(points)
    print()
    for sentence in limits(points, asked_batch):
        print(sentence)
    most, size = max(point.fastest for point in points), cache_bytes(config)
    if args.cached_features:
        print(
            f"Feature cache: {size / 1e6:.2f} MB per image, {args.images * size / 1e12:.1f} TB for "
            f"{count_of(args.images, 'image')}. It is read at up to {most * size / 1e9:.1f} GB/s."
        )
    else:
        print(
            f"Data workers: {most / args.samples_per_core:,.0f} cores at {args.samples_per_core:g} samples per second."
        )


if __name__ == "__main__":
    run(main)
