"""Measure init_checkpoint.py and predict.py at real size: time, peak memory and disk space.

    python benchmarks/bench_init_checkpoint.py --folder outputs/real

The weights are random. Sizes are those of google/gemma-3-4b-it (bf16, with its vocabulary size) and of
sam_vit_h_4b8939.pth (fp32). scripts/init_checkpoint.py combines them, and predict.py asks the result one question.

This needs 22 GB of disk space in --folder, which is deleted at the end, and 14 GiB of free memory. `--size tiny` runs
the same code in a minute. The results are in docs/checkpoints.md.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    PreTrainedTokenizerFast,
    SamConfig,
    SamModel,
)

from gemma_lisa.benchmarks.report import ROOT, publish
from gemma_lisa.benchmarks.stand_in_model import Work, build_sizes
from gemma_lisa.checkpoints.sam_pth import original_name
from gemma_lisa.checkpoints.training_record import commit
from gemma_lisa.configuration_gemma_lisa import GemmaLisaConfig
from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor

GIB = 2**30
MEMORY = {"real": 14 * GIB, "tiny": GIB}  # required free bytes, more than the measured peak
DISK = {"real": 22e9, "tiny": 1e9}


def gemma_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with 262,145 tokens like Gemma 3: its special tokens at their ids, bytes and filler tokens."""
    special = {
        "<pad>": 0,
        "<eos>": 1,
        "<bos>": 2,
        "<unk>": 3,
        "<start_of_turn>": 105,
        "<end_of_turn>": 106,
        "\n\n": 108,
        "<start_of_image>": 255_999,
        "<end_of_image>": 256_000,
        "<image_soft_token>": 262_144,
    }
    words = {index: token for token, index in special.items()}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words |= dict(enumerate(alphabet, start=200))
    vocabulary = {words.get(index, f"<filler_{index}>"): index for index in range(262_145)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(["\n\n"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        extra_special_tokens={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
        additional_special_tokens=["<start_of_turn>", "<end_of_turn>"],
        padding_side="left",
    )


@torch.no_grad()
def write_gemma(folder: Path, config: GemmaLisaConfig, processor: GemmaLisaProcessor) -> None:
    """Write a random Gemma 3 in bf16, with a tokenizer without `[SEG]`. Needs memory for one copy of the weights."""
    tokenizer = gemma_tokenizer()
    ids = tokenizer.get_vocab()
    config = Gemma3Config(
        text_config={**config.text_config.to_dict(), "vocab_size": 262_208},
        vision_config=config.vision_config.to_dict(),
        mm_tokens_per_image=config.mm_tokens_per_image,
        image_token_index=ids["<image_soft_token>"],
        boi_token_index=ids["<start_of_image>"],
        eoi_token_index=ids["<end_of_image>"],
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        model = Gemma3ForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    model.to_empty(device="cpu")
    model.tie_weights()
    model.init_weights()
    model.model.multi_modal_projector.mm_input_projection_weight.normal_(
        std=0.02
    )  # with the default of zero, images would have no effect
    model.save_pretrained(folder)
    Gemma3Processor(
        image_processor=processor.image_processor, tokenizer=tokenizer, image_seq_length=config.mm_tokens_per_image
    ).save_pretrained(folder)


def small_sam() -> SamConfig:
    """Return a SAM configuration with a small encoder for images of 64 pixels and the standard decoder."""
    return SamConfig(
        vision_config=dict(
            hidden_size=48,
            num_hidden_layers=2,
            num_attention_heads=3,
            image_size=64,
            patch_size=8,
            window_size=4,
            global_attn_indexes=[1],
        ),
        prompt_encoder_config=dict(image_size=64, patch_size=8),
    )


def write_sam(path: Path, config: SamConfig) -> None:
    """Write a random SAM in fp32, in the format of segment_anything."""
    torch.save({original_name(name): weight for name, weight in SamModel(config).state_dict().items()}, path)


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def measure(command: list[str | Path]) -> tuple[float, float]:
    """Run a program and return its seconds and its peak resident memory in GiB, including pages of mapped files.

    Raises:
        SystemExit: the program failed. Its output was printed.
    """
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"error: {command[0]} failed with exit code {os.waitstatus_to_exitcode(status)}.")
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / GIB  # Linux reports KiB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("real", "tiny"), default="real", help="model size (default: real)")
    parser.add_argument("--folder", type=Path, required=True, help="new folder for the checkpoints, deleted at the end")
    parser.add_argument("--output", type=Path, help="Markdown file to append the results to")
    args = parser.parse_args()
    folder = args.folder.absolute()
    if folder.exists():
        sys.exit(f"error: --folder {args.folder} exists; choose a new folder, because it is deleted at the end.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    for what, found, needed in (
        ("memory", psutil.virtual_memory().available, MEMORY[args.size]),
        ("disk", shutil.disk_usage(folder.parent).free, DISK[args.size]),
    ):
        if found < needed:
            sys.exit(f"error: {needed / 1e9:.1f} GB of free {what} are required, got {found / 1e9:.1f} GB.")

    folder.mkdir()
    gemma, sam, start, image = folder / "gemma", folder / "sam.pth", folder / "start", folder / "image.png"
    try:
        config, processor = build_sizes(Work(args.size))
        write_sam(sam, config.sam_config if args.size == "real" else small_sam())
        write_gemma(gemma, config, processor)
        pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(image)
        del processor
        query = ["--query", "the red circle", "--output", folder / "answer.png", "--max_new_tokens", "2"]
        steps = [
            ("init_checkpoint.py", "scripts/init_checkpoint.py", "--gemma", gemma, "--sam", sam, "--output", start),
            ("predict.py, 2 tokens", "predict.py", "--model", start, "--image", image, *query),
        ]
        figures = [(name, *measure(command)) for name, *command in steps]
        sizes = [(what, size_of(path)) for what, path in (("Gemma 3", gemma), ("sam.pth", sam), ("Gemma-LISA", start))]
    finally:
        shutil.rmtree(folder)

    lines = [
        f"\n## init_checkpoint.py at {args.size} size, {datetime.now(UTC):%Y-%m-%d}\n",
        f"`python benchmarks/bench_init_checkpoint.py {' '.join(sys.argv[1:])}` at {commit()}, torch "
        f"{torch.__version__}, {torch.get_num_threads()} thread(s), a {os.cpu_count()}-core CPU machine with "
        f"{psutil.virtual_memory().total / GIB:.0f} GiB, one run. Peaks include pages of mapped files, which the "
        f"system can drop. On disk: {', '.join(f'{what} {size / 1e9:.2f} GB' for what, size in sizes)}.\n",
        "| step | s | peak GiB |",
        "|---|---|---|",
        *(f"| {name} | {seconds:.0f} | {peak:.1f} |" for name, seconds, peak in figures),
    ]
    publish(lines, args.output)


if __name__ == "__main__":
    main()
