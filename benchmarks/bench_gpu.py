"""Run all GPU checks: the tests marked gpu, then training steps and inference at real model sizes.

    python benchmarks/bench_gpu.py --output benchmarks/RESULTS.md

The models are Gemma 3 4B and SAM ViT-H with random weights in bf16, because speed and memory do not depend on the
weights. First, only seg_projector and SAM's mask decoder are trained. Then come training steps of the LoRA recipes,
with base weights in bf16 and in 4 bits. Their memory is compared with the prediction of scripts/plan_memory.py.

A LoRA step on 8 images with 3 questions each is compared with the GPU's own peak of matrix products in bf16. SAM's
encoder, the first mask of a session and a later question are measured alone.

`bench_train.py` and `bench_inference.py` compare the same sizes with LISA's way of working.

Results are appended to --output with command, commit, date and machine. Without a GPU, `--size tiny --device cpu` runs
the same code on a small model.
"""

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch
from bitsandbytes.nn import Linear4bit, Params4bit

from gemma_lisa.benchmarks.bench_inference import FIRST, FIRST_MASK, SECOND, Inference
from gemma_lisa.benchmarks.bench_train import Step
from gemma_lisa.benchmarks.part_clock import flop_counter
from gemma_lisa.benchmarks.report import ROOT, publish
from gemma_lisa.benchmarks.stand_in_model import Work, build_sizes, build_stand_in, collate, make_prompts, make_samples
from gemma_lisa.benchmarks.way_processes import Meter, matmul_peak
from gemma_lisa.checkpoints.lora import TEXT_LINEARS, WRAPPED
from gemma_lisa.checkpoints.training_record import commit
from gemma_lisa.evaluation.protocols import to_device
from gemma_lisa.interfaces.command_line import ArgumentParser, positive, run
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.scripts.plan_memory import build_model, measure_step, plan, read_recipe
from gemma_lisa.training.engine_configs import Engine
from gemma_lisa.training.step_memory import make_batch

TRAINED = ("seg_projector", "sam.mask_decoder")
GPU_TESTS = ["-m", "gpu", "-q"]
RECIPES = ("gemma3-4b-lora", "gemma3-4b-qlora-24gb")
REPEATS = 5
QUESTION_TOKENS, MASK_SIZE = 64, (480, 640)
# Of the LoRA step, and of the images that SAM encodes at once
STEP_IMAGES, STEP_QUESTIONS = 8, 3
SESSION_TOKENS = 16  # length of the answers of a session
# Rows of a memory plan that torch does not count as allocated memory
NOT_ALLOCATED = ("fragmentation (5%)", "CUDA context and workspaces")


def timed(action: Callable, repeats: int, device: torch.device) -> tuple[float, float]:
    """Return the median seconds of `repeats` calls after a warm-up call, and the peak GPU memory in GiB."""
    seconds = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(repeats + 1):
        synchronize(device)
        start = time.perf_counter()
        action()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else float("nan")
    return median(seconds[1:]), peak


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(args: argparse.Namespace, device: torch.device) -> list[tuple[str, float, float]]:
    """Return (case, median seconds, peak GiB) for each case."""
    work = Work(args.size, device=args.device)
    model, processor = build_stand_in(work)
    model.to(torch.bfloat16)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(TRAINED))
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-4)

    figures = []
    for images, questions in ((1, 1), (2, 3)):
        samples = make_samples(Work(args.size, images=images, questions=questions))
        batch = collate(samples, processor, model.config, args.device)

        def step(batch=batch):
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        model.train()
        figures.append((f"training step, {images} × {questions} questions", *timed(step, args.repeats, device)))
    model.eval()
    for count in (1, 8):
        inputs = make_prompts(work, processor, range(count))
        case = f"segment, {count} question(s), 32 tokens"
        action = lambda inputs=inputs: model.segment(**inputs, max_new_tokens=32)  # noqa: E731
        figures.append((case, *timed(action, args.repeats, device)))
    return figures


def measure_step_of_peak(args: argparse.Namespace, device: torch.device) -> list[str]:
    """Return a line with seconds, images per second and share of the matrix-product peak of a LoRA step."""
    work = Work(args.size, images=STEP_IMAGES, questions=STEP_QUESTIONS, device=args.device)
    step = Step("ours", work)
    with flop_counter() as counter:
        step.run()
    seconds, peak_gib = timed(step.run, args.repeats, device)
    peak = matmul_peak(Meter(args.device), work.dtype)
    flop = counter.get_total_flops()
    return [
        f"- LoRA step, {STEP_IMAGES} × {STEP_QUESTIONS} questions: {seconds:.3f} s, {peak_gib:.1f} GiB, "
        f"{STEP_IMAGES / seconds:.2f} images/s; {flop / 1e12:.3g} TFLOP, which is {100 * flop / seconds / peak:.0f} % "
        f"of the measured peak of {peak / 1e12:.3g} TFLOP/s"
    ]


@torch.no_grad()
def measure_answers(args: argparse.Namespace, device: torch.device) -> list[str]:
    """Return lines with images per second of SAM's encoder, and milliseconds of a session's questions."""
    work = Work(args.size, images=STEP_IMAGES, device=args.device)
    inference = Inference(work, adapter=False, is_lisa=False, tokens=SESSION_TOKENS)
    images = make_prompts(work, inference.processor, range(STEP_IMAGES))["sam_pixel_values"]
    seconds, peak_gib = timed(lambda: inference.model.encode_for_sam(images), args.repeats, device)
    sessions = [inference.session(Meter(args.device, is_cpu_time=False)) for _ in range(args.repeats + 1)][1:]
    taken = {name: 1000 * median(session[name] for session in sessions) for name in (FIRST_MASK, FIRST, SECOND)}
    return [
        f"- SAM's encoder, {STEP_IMAGES} images: {STEP_IMAGES / seconds:.2f} images/s, {peak_gib:.1f} GiB",
        f"- session, {SESSION_TOKENS} tokens per answer: "
        + ", ".join(f"{name} {milliseconds:.0f} ms" for name, milliseconds in taken.items()),
    ]


def measure_recipe(recipe: dict, args: argparse.Namespace, device: torch.device) -> tuple[float, float, float]:
    """Return samples per second, peak GiB and planned GiB of a recipe. A step has one micro-batch."""
    config = build_sizes(Work(args.size))[0]
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = build_model(config, recipe, device)
    torch.set_default_dtype(torch.float32)
    if recipe["load_in_4bit"]:
        quantize(model, device)
    model.get_base_model().activation_checkpointing_enable()
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad], fused=True
    )
    rows = recipe["per_device_train_batch_size"]
    batch = make_batch(config, rows, recipe["max_questions"], QUESTION_TOKENS, MASK_SIZE)
    for name in ("pixel_values", "sam_pixel_values"):
        batch[name] = torch.rand(batch[name].shape)
    batch = to_device(batch, device)

    def step():
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)  # keep the gradients in memory, as with several micro-batches

    seconds, peak = timed(step, args.repeats, device)
    planned = plan(
        build_model(config, recipe),
        measure_step(config, recipe, QUESTION_TOKENS, MASK_SIZE),
        recipe,
        Engine("one process"),
        devices=1,
    )[0]
    allocated = sum(row.size for row in planned if row.what not in NOT_ALLOCATED) / 2**30
    return rows / seconds, peak, allocated


def quantize(model: torch.nn.Module, device: torch.device) -> None:
    """Convert the linear layers below LoRA in the text model to nf4, in place."""
    for name, layer in list(model.named_modules()):
        path = name.removeprefix(WRAPPED)
        if path.endswith(".base_layer") and re.fullmatch(TEXT_LINEARS, path.removesuffix(".base_layer")):
            packed = Linear4bit(
                layer.in_features,
                layer.out_features,
                bias=False,
                compute_dtype=torch.bfloat16,
                quant_type="nf4",
                quant_storage=torch.bfloat16,
            )
            packed.weight = Params4bit(
                layer.weight.data, requires_grad=False, quant_type="nf4", quant_storage=torch.bfloat16
            )
            model.get_submodule(name.removesuffix(".base_layer")).base_layer = packed.to(device)


def main(arguments: list[str]) -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("real", "tiny"), default="real", help="model size (default: real)")
    parser.add_argument("--device", default="cuda", help="torch device (default: cuda)")
    parser.add_argument("--repeats", type=positive, default=REPEATS, help=f"number of repeats (default: {REPEATS})")
    parser.add_argument("--output", type=Path, help="Markdown file to append the results to")
    args = parser.parse_args(arguments)
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("no GPU was found; to test the code without one, use --size tiny --device cpu.")
    tests = subprocess.run([sys.executable, "-m", "pytest", *GPU_TESTS], cwd=ROOT)
    figures = measure(args, device)
    alone = measure_step_of_peak(args, device) + measure_answers(args, device)
    recipes = [
        (name, *measure_recipe(read_recipe(ROOT / f"configs/{name}.yaml", []), args, device)) for name in RECIPES
    ]
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    lines = [
        f"\n## {machine}, {datetime.now(UTC):%Y-%m-%d}\n",
        f"`python benchmarks/bench_gpu.py {' '.join(arguments)}` at {commit()}, "
        f"torch {torch.__version__}; pytest {' '.join(GPU_TESTS)}: exit {tests.returncode}; "
        f"medians of {args.repeats}.\n",
        "| case | s | peak GiB |",
        "|---|---|---|",
        *(f"| {case} | {seconds:.3f} | {peak:.1f} |" for case, seconds, peak in figures),
        "",
        *alone,
        "\n| recipe, one device | samples/s | peak GiB | planned GiB |",
        "|---|---|---|---|",
        *(f"| {name} | {rate:.2f} | {peak:.2f} | {planned:.2f} |" for name, rate, peak, planned in recipes),
    ]
    publish(lines, args.output)
    sys.exit(tests.returncode)


if __name__ == "__main__":
    run(main)
