"""What the data costs: indexing published sets, the second start, training samples, and the workers' memory.

    python benchmarks/bench_data.py --output outputs/bench_data --results benchmarks/RESULTS.md

Full-scale stand-ins are written by `stand_ins.py` in the original formats: COCO's 118,287 photos with 860,001
annotations, ADE20K's 20,210 label maps, refCOCO's 142,210 sentences. Photos and label maps are hard links to a few
dozen different ones. What is found in --output is taken as it is. Each case runs in a process of its own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from gemma_lisa.benchmarks.report import publish
from gemma_lisa.benchmarks.stand_ins import write_ade, write_coco, write_refs

# name of the data set: its folder below the stand-ins', who writes it
SETS = {"coco_instances": ("coco", write_coco), "ade20k": (".", write_ade), "refcoco": (".", write_refs)}
BATCH_SIZE, MAX_QUESTIONS = 4, 3
MEMORY = ("rss", "pss", "anonymous", "private_dirty")
MARKS = (0.1, 0.25, 0.5, 1.0)  # of the samples, at which memory is looked at
DONE = "written"  # in the folder, once all stand-ins are


# ---------------------------------------------------------------------------------------------------------------------
# Cases, each in a process of its own
# ---------------------------------------------------------------------------------------------------------------------
def write(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    for _, writer in SETS.values():
        writer(folder, args.scale)
    (folder / DONE).touch()
    return {}


def first_sample(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """A set's rows made, or found made, and the first sample of training read; imports are not counted."""
    from gemma_lisa.datasets_builder.mixture import load_rows
    from gemma_lisa.datasets_builder.questions import TrainingQuestions

    seconds, cpu = time.perf_counter(), time.process_time()
    rows = load_rows(args.dataset, "train", str(folder / SETS[args.dataset][0]))
    TrainingQuestions(rows, 0, MAX_QUESTIONS)[0]
    return {
        "rows": len(rows),
        "seconds": time.perf_counter() - seconds,
        "cpu": time.process_time() - cpu,
    }


class Clock:
    """CPU milliseconds a sample of each part of the work on a batch."""

    def __init__(self):
        self.taken: dict[str, list[float]] = {}

    def __call__(self, name: str, work: Callable, *given: Any, **options: Any) -> Any:
        start = time.process_time()
        result = work(*given, **options)
        self.taken.setdefault(name, []).append(1000 * (time.process_time() - start) / BATCH_SIZE)
        return result

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(values) for name, values in self.taken.items()}


def time_parts(clock: Clock, rows: list[dict], resize: Callable, seed: int) -> None:
    """What `TrainingQuestions` does with the rows of a batch, step by step, and Pillow's decoding and resizes alone."""
    import numpy as np

    from gemma_lisa.datasets_builder.rows import load_image, target_masks
    from gemma_lisa.datasets_builder.templates import ask
    from gemma_lisa.images_gemma_lisa import open_image

    def plain(path: str) -> None:
        with open(path, "rb") as file, open_image(file) as opened:
            resize(opened.convert("RGB"))

    clock("plain", lambda: [plain(row["image"]["path"]) for row in rows])
    generator = np.random.default_rng(seed)
    asked = clock("questions", lambda: [ask(row, generator, MAX_QUESTIONS) for row in rows])
    images = clock("JPEG", lambda: [load_image(row["image"], row["source"]) for row in rows])
    targets = [
        (target, image.size[::-1])
        for conversations, image in zip(asked, images, strict=True)
        for conversation in conversations
        for target in conversation.targets
    ]
    clock("masks", lambda: [target_masks(target, shape, "") for target, shape in targets])
    clock("two resizes", lambda: [resize(image) for image in images])


def samples(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """CPU milliseconds of each part of a training sample, and of what nobody can avoid; medians over batches."""
    import numpy as np
    import torch
    from PIL import Image

    from gemma_lisa.collator import GemmaLisaCollator
    from gemma_lisa.datasets_builder.mixture import load_rows
    from gemma_lisa.datasets_builder.questions import TrainingQuestions

    torch.set_num_threads(1)
    processor = real_size_processor()
    rows = load_rows("coco_instances", "train", str(folder / "coco"))
    questions = TrainingQuestions(rows, 0, MAX_QUESTIONS)
    collator = GemmaLisaCollator(processor, as_bytes=True)  # as train.py's
    size, side = processor.image_processor.size, processor.sam_image_processor.size["longest_edge"]
    bilinear = Image.Resampling.BILINEAR
    order = np.random.default_rng(0).permutation(len(rows))
    clock = Clock()
    encode_images, encode_conversations = processor.encode_images, processor.encode_conversations

    def resize(rgb: Image.Image) -> None:
        scale = side / max(rgb.size)
        rgb.resize((size["width"], size["height"]), bilinear)
        rgb.resize((round(rgb.width * scale), round(rgb.height * scale)), bilinear)

    # The collator's own calls: made once more for the clock, with memory in another state, they take other times
    processor.encode_images = lambda *given, **options: clock("both towers", encode_images, *given, **options)
    processor.encode_conversations = lambda *given: clock("tokens", encode_conversations, *given)
    for at in range(args.batches):
        batch = [int(order[(at * BATCH_SIZE + place) % len(rows)]) for place in range(BATCH_SIZE)]
        found = clock("samples", lambda batch: [questions[index] for index in batch], batch)
        collated = clock("batch", collator, found)
        clock("normalisation", processor.normalize_images, collated)
        drawn = clock("rows", lambda batch: [rows[index] for index in batch], batch)
        time_parts(clock, drawn, resize, seed=at)
    ms = clock.medians()
    ms["pixels"] = ms["both towers"] - ms["two resizes"]
    ms["all"] = ms.pop("samples") + ms["batch"]
    ms["collation"] = ms.pop("batch") - ms.pop("both towers") - ms["tokens"]
    return {"ms": ms, "questions": statistics.mean(len(sample["conversations"]) for sample in found)}


def workers(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Memory of the workers in MB, all together, at MARKS of one pass over a training mix."""
    import torch
    from torch.utils.data import DataLoader

    from gemma_lisa.collator import GemmaLisaCollator
    from gemma_lisa.datasets_builder.mixture import load_rows
    from gemma_lisa.datasets_builder.questions import EvaluationQuestions, MixtureQuestions, Part
    from gemma_lisa.scripts.init_tiny import build_processor

    torch.set_num_threads(1)
    rows = {name: load_rows(name, "train", str(folder / below)) for name, (below, _) in SETS.items()}
    if args.questions == "evaluation":
        questions = EvaluationQuestions(rows["coco_instances"], with_conversations=False)
    else:
        parts = [Part(name, rows_of_set, 1.0) for name, rows_of_set in rows.items()]
        questions = MixtureQuestions(parts, 0, MAX_QUESTIONS, epoch_length=args.samples)
    loader = DataLoader(
        torch.utils.data.Subset(questions, range(min(args.samples, len(questions)))),
        batch_size=BATCH_SIZE,
        num_workers=args.workers,
        collate_fn=GemmaLisaCollator(build_processor(64)),
    )
    found, seen = {}, 0
    for batch in loader:
        seen += len(batch["input_ids"])
        for mark in {round(part * args.samples) for part in MARKS}:
            if seen >= mark and mark not in found:
                found[mark] = memory_of_children()
    return {"memory": sorted(found.items())}


def headers(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """CPU microseconds to find the size of a photo by `stored_size` and by Pillow; medians of 9 turns."""
    from gemma_lisa.datasets_builder.formats.jpeg_header import size_by_pillow, stored_size

    with os.scandir(folder / "coco" / "train2017") as entries:
        photos = [Path(entry.path) for _, entry in zip(range(200), entries, strict=False)]
    taken = {"stored_size": [], "Pillow": []}
    for _ in range(9):
        for name, look in (("stored_size", lambda path: stored_size(path, "")), ("Pillow", size_by_pillow)):
            start = time.process_time()
            for path in photos:
                look(path)
            taken[name].append(1e6 * (time.process_time() - start) / len(photos))
    return {name: statistics.median(values) for name, values in taken.items()}


def polygons(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """IoU of the masks that libraries draw with those of ReasonSeg's `fill_polygon`: (mean, lowest) of 40 polygons."""
    import numpy as np
    from PIL import Image, ImageDraw
    from pycocotools import mask as coco_mask

    from gemma_lisa.datasets_builder.published.reason_seg import fill_polygon

    def of_pillow(points: np.ndarray) -> np.ndarray:
        canvas = Image.new("1", size[::-1])
        ImageDraw.Draw(canvas).polygon([tuple(point) for point in points.tolist()], fill=1, outline=1)
        return np.asarray(canvas)

    def of_pycocotools(points: np.ndarray) -> np.ndarray:
        return coco_mask.decode(coco_mask.frPyObjects([points.ravel().astype(float).tolist()], *size))[..., 0] > 0

    def of_opencv(points: np.ndarray) -> np.ndarray:
        canvas, outline = np.zeros(size, np.uint8), [points.astype(np.int32)]
        cv2.polylines(canvas, outline, True, 1, 1)
        return cv2.fillPoly(canvas, outline, 1) > 0

    ways = {"Pillow": of_pillow, "pycocotools": of_pycocotools}
    if find_spec("cv2"):
        import cv2

        ways["OpenCV"] = of_opencv
    generator, size, found = np.random.default_rng(0), (768, 1024), {name: [] for name in ways}
    for _ in range(40):
        count = int(generator.integers(5, 120))
        angles = np.sort(generator.uniform(0, 2 * np.pi, count))
        radii = generator.uniform(20, 300) * generator.uniform(0.6, 1, count)
        center = generator.uniform(0.2, 0.8, 2) * size
        points = np.stack([center[1] + radii * np.cos(angles), center[0] + radii * np.sin(angles)], axis=1)
        points = points.clip(0, [size[1] - 1, size[0] - 1]).astype(np.int64)
        own = fill_polygon(points, size)
        for name, draw in ways.items():
            mask = draw(points)
            found[name].append(float((own & mask).sum() / (own | mask).sum()))
    return {name: (statistics.mean(values), min(values)) for name, values in found.items()}


def memory_of_children() -> dict[str, float]:
    """MB of the processes that this one started.

    pss: a page that several hold is shared out among them. anonymous: what each holds that is no file's, so without the
    rows that are mapped from the disk, which the system takes back when it needs the memory; most of it came from the
    parent, and is one page for all until somebody writes to it. private_dirty: what each wrote for itself.
    """
    found = [part for child in psutil.Process().children() for part in child.memory_maps()]
    return {kind: sum(getattr(part, kind) for part in found) / 1e6 for kind in MEMORY}


def real_size_processor():
    """The processor with images of the real sizes, 896² and 1024, and the small tokenizer."""
    from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor
    from gemma_lisa.scripts.init_tiny import Gemma3ImageProcessorPil, SamImageProcessorPil, build_tokenizer

    gemma = Gemma3ImageProcessorPil(size={"height": 896, "width": 896}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return GemmaLisaProcessor(gemma, build_tokenizer(), SamImageProcessorPil())


CASES = {
    "write": write,
    "first": first_sample,
    "samples": samples,
    "workers": workers,
    "headers": headers,
    "polygons": polygons,
}


# ---------------------------------------------------------------------------------------------------------------------
# All of them
# ---------------------------------------------------------------------------------------------------------------------
def run_case(case: str, folder: Path, args: argparse.Namespace, **options: str) -> dict[str, Any]:
    """What a case found, and its process's peak memory in GB."""
    shared = {"scale": args.scale, "samples": args.samples, "workers": args.workers, "batches": args.batches}
    given = [f"--{name}={value}" for name, value in {**shared, **options}.items()]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--case", case, "--output", str(folder), *given]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"the case {case} failed; what it said is above.")
    return {**json.loads(said.splitlines()[-1]), "peak": usage.ru_maxrss / 1e6}


def report(folder: Path, args: argparse.Namespace) -> list[str]:
    lines = ["| | rows | first start | CPU | peak memory | second start | CPU |\n|---|---|---|---|---|---|---|"]
    for name in SETS:
        first, second = (run_case("first", folder, args, dataset=name) for _ in range(2))
        lines.append(
            f"| {name} | {first['rows']:,} | {first['seconds']:.0f} s | {first['cpu']:.0f} s | {first['peak']:.2f} GB "
            f"| {second['seconds']:.1f} s | {second['cpu']:.1f} s |"
        )
    found = run_case("samples", folder, args)
    ms = found["ms"]
    parts = ("rows", "questions", "JPEG", "masks", "two resizes", "pixels", "tokens", "collation")
    lines += [
        f"\nA training sample, 640 × 480, {found['questions']:.1f} questions, CPU ms: {ms['all']:.1f}, "
        f"{1000 / ms['all']:.0f} samples a second and core; {ms['all'] / ms['plain']:.2f} times Pillow's decoding and "
        f"two resizes alone. Normalisation, where the model is: {ms['normalisation']:.1f} ms more on a CPU.\n",
        f"| {' | '.join(parts)} | all | decoding and two resizes |\n|{'---|' * (len(parts) + 2)}",
        f"| {' | '.join(f'{ms[part]:.1f}' for part in parts)} | {ms['all']:.1f} | {ms['plain']:.1f} |",
        f"\nMemory of {args.workers} workers together, MB:\n",
        "| | samples | RSS | PSS | no file's | written by each |\n|---|---|---|---|---|---|",
    ]
    for questions in ("training", "evaluation"):
        for seen, memory in run_case("workers", folder, args, questions=questions)["memory"]:
            cells = " | ".join(f"{memory[kind]:,.0f}" for kind in MEMORY)
            lines.append(f"| {questions} | {seen:,} | {cells} |")

    from gemma_lisa.checkpoints.training_record import (
        commit,  # at the end: a child's peak memory begins at its parent's
    )

    machine = f"a {os.cpu_count()}-core CPU machine under a load of {os.getloadavg()[0]:.1f}"
    command = f"`python benchmarks/bench_data.py` at {commit()}, scale {args.scale:g}, {machine}."
    return [f"\n## Data, {date.today()}\n", f"{command}\n", *lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder of the stand-ins; by default a temporary one")
    parser.add_argument("--results", type=Path, help="file that the report is appended to")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the stand-ins, 1 = as the real sets")
    parser.add_argument("--samples", type=int, default=10_000, help="that the workers read")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--batches", type=int, default=50, help=f"of {BATCH_SIZE} samples that are timed")
    parser.add_argument("--case", choices=CASES, help="run one case in this process")
    parser.add_argument("--dataset", choices=SETS, help="of the case first")
    parser.add_argument("--questions", choices=("training", "evaluation"), help="of the case workers")
    args = parser.parse_args()
    if args.case:
        print(json.dumps(CASES[args.case](args.output, args)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.output or Path(temporary)).absolute()
        if not (folder / DONE).exists():
            if folder.is_dir() and any(folder.iterdir()):
                raise ValueError(f"--output {folder}: holds other files; give a new folder.")
            run_case("write", folder, args)
        publish(report(folder, args), args.results)


if __name__ == "__main__":
    main()
