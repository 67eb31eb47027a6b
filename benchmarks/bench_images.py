"""Measure memory and time for a large photo: opening it, encoding it for both vision encoders, and running predict.py.

    python benchmarks/bench_images.py

The image has 8000 × 6000 pixels and is stored as JPEG and as PNG. A small model answers with two masks. Each case runs
in a separate process, whose peak memory is measured.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gemma_lisa.checkpoints.loading import load_checkpoint
from gemma_lisa.images_gemma_lisa import load_rgb
from gemma_lisa.scripts.init_tiny import build_tiny

ROOT = Path(__file__).resolve().parents[1]
SIZE = (8000, 6000)  # (width, height) in pixels
MASKS = 2
PICTURES = ("photo.jpg", "photo.png")


def write_inputs(folder: Path) -> None:
    """Write a checkpoint whose answers are only `[SEG]` tokens into `folder`/model, and the image in both formats."""
    model, processor = build_tiny(image_size=64, seed=0)
    language_model = model.model.language_model
    with torch.no_grad():
        # Only the first feature reaches the head. It is equal for all tokens except `[SEG]`, where it is larger.
        language_model.embed_tokens.weight[:, 0] = 1
        language_model.embed_tokens.weight[processor.seg_token_id, 0] = 2
        language_model.norm.weight.fill_(-1)  # Gemma scales by 1 + weight
        language_model.norm.weight[0] = 0
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    coarse = np.random.default_rng(0).integers(0, 256, (SIZE[1] // 40, SIZE[0] // 40, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC)
    for name in PICTURES:
        picture.save(folder / name)


def measure(command: list[str]) -> str:
    """Return the peak memory in MB and the CPU seconds of a command, as text."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} failed: {output[-2000:]}")
    if "predict.py" in command[0] and f"{MASKS} masks" not in output:
        raise RuntimeError(f"predict.py must answer with {MASKS} masks, got: {output}")
    return f"{usage.ru_maxrss / 1024:,.0f} MB, {usage.ru_utime + usage.ru_stime:.0f} CPU s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--case", nargs=3, metavar=("NAME", "FOLDER", "IMAGE"), help="run only this case, in this process"
    )
    case = parser.parse_args().case
    if case:
        torch.set_num_threads(1)
        name, folder, image = case
        if name == "inputs":
            write_inputs(Path(folder))
            return
        _, processor = load_checkpoint(f"{folder}/model")
        if name == "opened":
            load_rgb(image)
        if name == "encoded":
            processor.encode_images([image])
        return
    with tempfile.TemporaryDirectory() as folder:
        # The peak memory of a child starts at that of its parent, so a child process writes the inputs
        measure([__file__, "--case", "inputs", folder, ""])
        nothing = measure([__file__, "--case", "nothing", folder, ""])
        print("| | baseline | opened | encoded | predict.py |\n|---|---|---|---|---|")
        for name in PICTURES:
            path = f"{folder}/{name}"
            cells = [measure([__file__, "--case", case, folder, path]) for case in ("opened", "encoded")]
            ask = ["--model", f"{folder}/model", "--image", path, "--query", "it", "--max_new_tokens", str(MASKS)]
            cells.append(measure([str(ROOT / "predict.py"), *ask, "--output", f"{folder}/answer.jpg"]))
            print(f"| {name} | {' | '.join([nothing, *cells])} |")


if __name__ == "__main__":
    main()
