"""Run all GPU checks: the tests marked gpu, then training steps and inference at real model sizes.

    python benchmarks/bench_gpu.py --output benchmarks/RESULTS.md

The models are Gemma 3 4B and SAM ViT-H with random weights in bf16, because speed and memory do not depend on the
weights. First, only seg_projector and SAM's mask decoder are trained. Then come training steps of the LoRA recipes,
with base weights in bf16 and in 4 bits. Their memory is compared with the prediction of scripts/plan_memory.py.

Results are appended to --output with command, commit, date and machine. Without a GPU, `--size tiny --device cpu` runs
the same code on a small model.
"""

import argparse
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
import torch
from bitsandbytes.nn import Linear4bit, Params4bit
from PIL import Image
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from gemma_lisa.benchmarks.report import ROOT, publish
from gemma_lisa.checkpoints.lora import TEXT_LINEARS, WRAPPED
from gemma_lisa.checkpoints.training_record import commit
from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.configuration_gemma_lisa import GemmaLisaConfig
from gemma_lisa.datasets_builder.templates import Conversation
from gemma_lisa.evaluation.protocols import to_device
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor
from gemma_lisa.scripts.init_tiny import build_config, build_processor, build_tokenizer
from gemma_lisa.scripts.plan_memory import build_model, measure_step, plan, read_recipe
from gemma_lisa.training.engine_configs import Engine
from gemma_lisa.training.model_sizes import build_real_config
from gemma_lisa.training.step_memory import make_batch

TRAINED = ("seg_projector", "sam.mask_decoder")
GPU_TESTS = ["-m", "gpu", "-q"]
RECIPES = ("gemma3-4b-lora", "gemma3-4b-qlora-24gb")
REPEATS = 5
QUESTION_TOKENS, MASK_SIZE = 64, (480, 640)
# Rows of a memory plan that torch does not count as allocated memory
NOT_ALLOCATED = ("fragmentation (5%)", "CUDA context and workspaces")


def real_size() -> tuple[GemmaLisaConfig, GemmaLisaProcessor]:
    """Return the configuration of Gemma 3 4B and SAM ViT-H, and a processor with the small project tokenizer."""
    processor = GemmaLisaProcessor(
        image_processor=Gemma3ImageProcessorPil(size={"height": 896, "width": 896}),
        tokenizer=build_tokenizer(),
        sam_image_processor=SamImageProcessorPil(),
    )
    small = build_config(build_processor(64), 64)  # for the token ids of the project tokenizer
    config = build_real_config(
        "4b",
        image_token_index=small.image_token_index,
        boi_token_index=small.boi_token_index,
        eoi_token_index=small.eoi_token_index,
        seg_token_id=small.seg_token_id,
    )
    return config, processor


def sample(generator: np.random.Generator, questions: int) -> dict:
    """Return a sample: an image of noise, 640 x 480 pixels, and questions with one mask each."""
    picture = Image.fromarray(generator.integers(0, 256, (480, 640, 3), dtype=np.uint8))
    masks = generator.random((questions, 1, 480, 640)) > 0.5
    conversations = [
        Conversation(((f"What could open bottle number {at}?", "It is {seg}, the opener."),)) for at in range(questions)
    ]
    return {"source": "noise", "image": picture, "conversations": conversations, "masks": list(masks.astype(np.uint8))}


def timed(run, repeats: int, device: torch.device) -> tuple[float, float]:
    """Return the median seconds of `repeats` calls after a warm-up call, and the peak GPU memory in GiB."""
    seconds = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(repeats + 1):
        synchronize(device)
        start = time.perf_counter()
        run()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else float("nan")
    return median(seconds[1:]), peak


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(args: argparse.Namespace, device: torch.device) -> list[tuple[str, float, float]]:
    """Return (case, median seconds, peak GiB) for each case."""
    config, processor = real_size() if args.size == "real" else tiny_size()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with device:
        model = GemmaLisaForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(TRAINED))
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-4)
    collator = GemmaLisaCollator(processor, mask_loss_size=model.config.mask_loss_size)
    generator = np.random.default_rng(0)

    figures = []
    for images, questions in ((1, 1), (2, 3)):
        batch = to_device(collator([sample(generator, questions) for _ in range(images)]), device)

        def step(batch=batch):
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        model.train()
        figures.append((f"training step, {images} × {questions} questions", *timed(step, REPEATS, device)))
    model.eval()
    shown = sample(generator, 1)
    for count in (1, 8):
        messages = [
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": shown["image"]},
                        {"type": "text", "text": "What could open the bottle?"},
                    ],
                }
            ]
        ] * count
        inputs = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
        inputs = to_device(inputs, device)
        case = f"segment, {count} question(s), 32 tokens"
        figures.append(
            (case, *timed(lambda inputs=inputs: model.segment(**inputs, max_new_tokens=32), REPEATS, device))
        )
    return figures


def measure_recipe(recipe: dict, args: argparse.Namespace, device: torch.device) -> tuple[float, float, float]:
    """Return samples per second, peak GiB and planned GiB of a recipe. A step has one micro-batch."""
    config = (real_size() if args.size == "real" else tiny_size())[0]
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

    seconds, peak = timed(step, REPEATS, device)
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


def tiny_size() -> tuple[GemmaLisaConfig, GemmaLisaProcessor]:
    processor = build_processor(64)
    return build_config(processor, 64), processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("real", "tiny"), default="real", help="model size (default: real)")
    parser.add_argument("--device", default="cuda", help="torch device (default: cuda)")
    parser.add_argument("--output", type=Path, help="Markdown file to append the results to")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("error: no GPU was found; to test the code without one, use --size tiny --device cpu.")
    tests = subprocess.run([sys.executable, "-m", "pytest", *GPU_TESTS], cwd=ROOT)
    figures = measure(args, device)
    recipes = [
        (name, *measure_recipe(read_recipe(ROOT / f"configs/{name}.yaml", []), args, device)) for name in RECIPES
    ]
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    lines = [
        f"\n## {machine}, {datetime.now(UTC):%Y-%m-%d}\n",
        f"`python benchmarks/bench_gpu.py {' '.join(sys.argv[1:])}` at {commit()}, "
        f"torch {torch.__version__}; pytest {' '.join(GPU_TESTS)}: exit {tests.returncode}; "
        f"medians of {REPEATS}.\n",
        "| case | s | peak GiB |",
        "|---|---|---|",
        *(f"| {case} | {seconds:.3f} | {peak:.1f} |" for case, seconds, peak in figures),
        "\n| recipe, one device | samples/s | peak GiB | planned GiB |",
        "|---|---|---|---|",
        *(f"| {name} | {rate:.2f} | {peak:.2f} | {planned:.2f} |" for name, rate, peak, planned in recipes),
    ]
    publish(lines, args.output)
    sys.exit(tests.returncode)


if __name__ == "__main__":
    main()
