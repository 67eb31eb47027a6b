"""Measure data loading: first and second start of published data sets, training samples, and memory of workers.

    python benchmarks/bench_data.py --output outputs/bench_data --results benchmarks/RESULTS.md

`stand_ins.py` writes full-scale stand-ins in the original formats: COCO's 118,287 photos with 860,001 annotations,
ADE20K's 20,210 label maps, and refCOCO's 142,210 descriptions. Photos and label maps are hard links to a few dozen
different files. Stand-ins that exist in --output are reused. Each case runs in a separate process.
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

# {data set: (its folder below the stand-ins, function that writes it)}
SETS = {"coco_instances": ("coco", write_coco), "ade20k": (".", write_ade), "refcoco": (".", write_refs)}
BATCH_SIZE, MAX_QUESTIONS = 4, 3
MEMORY = ("rss", "pss", "anonymous", "private_dirty")
MARKS = (0.1, 0.25, 0.5, 1.0)  # shares of the samples after which memory is measured
DONE = "written"  # file that exists if all stand-ins are complete


# ---------------------------------------------------------------------------------------------------------------------
# Cases, each in a separate process
# ---------------------------------------------------------------------------------------------------------------------
def write(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    for _, writer in SETS.values():
        writer(folder, args.scale)
    (folder / DONE).touch()
    return {}


def first_sample(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Measure loading the rows of a data set and the first training sample, without imports."""
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
    """CPU milliseconds per sample of each part of the work on a batch."""

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
    """Time the steps of `TrainingQuestions` on a batch of rows, and Pillow's decoding and resizing alone."""
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
    """Measure CPU milliseconds of each part of a training sample, and of the unavoidable work, as medians."""
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
    collator = GemmaLisaCollator(processor, as_bytes=True)  # as in train.py
    size, side = processor.image_processor.size, processor.sam_image_processor.size["longest_edge"]
    bilinear = Image.Resampling.BILINEAR
    order = np.random.default_rng(0).permutation(len(rows))
    clock = Clock()
    encode_images, encode_conversations = processor.encode_images, processor.encode_conversations

    def resize(rgb: Image.Image) -> None:
        scale = side / max(rgb.size)
        rgb.resize((size["width"], size["height"]), bilinear)
        rgb.resize((round(rgb.width * scale), round(rgb.height * scale)), bilinear)

    # Time the calls that the collator makes. Separate calls take other times, because memory is in another state.
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
    """Measure the total memory of the workers in MB at MARKS of one pass through a training mixture."""
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


def trace(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Measure the milliseconds that each training step waits for its batch, if a step takes `args.step` seconds."""
    import torch
    from torch.utils.data import DataLoader

    from gemma_lisa.collator import GemmaLisaCollator
    from gemma_lisa.datasets_builder.mixture import load_rows
    from gemma_lisa.datasets_builder.questions import TrainingQuestions

    torch.set_num_threads(1)
    questions = TrainingQuestions(load_rows("coco_instances", "train", str(folder / "coco")), 0, MAX_QUESTIONS)
    order = [step % len(questions) for step in range(args.batches * BATCH_SIZE)]
    loader = DataLoader(
        torch.utils.data.Subset(questions, order),
        batch_size=BATCH_SIZE,
        num_workers=args.workers,
        collate_fn=GemmaLisaCollator(real_size_processor(), as_bytes=True),
    )
    waited, batches = [], iter(loader)
    for _ in range(len(loader)):
        start = time.perf_counter()
        next(batches)
        waited.append(1000 * (time.perf_counter() - start))
        time.sleep(args.step)  # the accelerator works, and the CPU is free
    later = waited[1:] or waited
    return {"first": waited[0], "median": statistics.median(later), "longest": max(later), "steps": len(later)}


def headers(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Measure CPU microseconds to read the size of a photo with `stored_size` and Pillow (medians of 9 repeats)."""
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
    """Return (mean, lowest) IoU of ReasonSeg's `fill_polygon` with the masks of libraries, for 40 polygons."""
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
    """Return the memory of the child processes in MB.

    rss: all resident pages.
    pss: each page divided by the number of processes that share it.
    anonymous: pages without a file. This excludes rows mapped from disk, which the system can drop. Most of these pages
        are shared with the parent until one of the processes writes to them.
    private_dirty: pages that a process has written.
    """
    found = [part for child in psutil.Process().children() for part in child.memory_maps()]
    return {kind: sum(getattr(part, kind) for part in found) / 1e6 for kind in MEMORY}


def real_size_processor():
    """Return a processor with the real image sizes, 896 x 896 and 1024, and the small tokenizer."""
    from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor
    from gemma_lisa.scripts.init_tiny import Gemma3ImageProcessorPil, SamImageProcessorPil, build_tokenizer

    gemma = Gemma3ImageProcessorPil(size={"height": 896, "width": 896}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return GemmaLisaProcessor(gemma, build_tokenizer(), SamImageProcessorPil())


CASES = {
    "write": write,
    "first": first_sample,
    "samples": samples,
    "workers": workers,
    "trace": trace,
    "headers": headers,
    "polygons": polygons,
}


# ---------------------------------------------------------------------------------------------------------------------
# Report
# ---------------------------------------------------------------------------------------------------------------------
def run_case(case: str, folder: Path, args: argparse.Namespace, **options: str) -> dict[str, Any]:
    """Run a case in a process and return its result, with the peak memory of the process in GB."""
    shared = {"scale": args.scale, "samples": args.samples, "workers": args.workers, "batches": args.batches}
    shared["step"] = args.step
    given = [f"--{name}={value}" for name, value in {**shared, **options}.items()]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--case", case, "--output", str(folder), *given]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"case {case} failed; its output is above.")
    return {**json.loads(output.splitlines()[-1]), "peak": usage.ru_maxrss / 1e6}


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
        f"\nTraining samples of 640 × 480 pixels with {found['questions']:.1f} questions: {ms['all']:.1f} CPU ms, "
        f"{1000 / ms['all']:.0f} samples per second and core. This is {ms['all'] / ms['plain']:.2f} times the time of "
        f"Pillow's decoding and two resizes. Normalisation by the model: {ms['normalisation']:.1f} ms more on a CPU.\n",
        f"| {' | '.join(parts)} | all | decoding and two resizes |\n|{'---|' * (len(parts) + 2)}",
        f"| {' | '.join(f'{ms[part]:.1f}' for part in parts)} | {ms['all']:.1f} | {ms['plain']:.1f} |",
        f"\nMemory of {args.workers} workers together, MB:\n",
        "| | samples | RSS | PSS | anonymous | private dirty |\n|---|---|---|---|---|---|",
    ]
    for questions in ("training", "evaluation"):
        for seen, memory in run_case("workers", folder, args, questions=questions)["memory"]:
            cells = " | ".join(f"{memory[kind]:,.0f}" for kind in MEMORY)
            lines.append(f"| {questions} | {seen:,} | {cells} |")
    found = run_case("trace", folder, args, workers=str(args.trace_workers))
    lines += [
        f"\nMilliseconds that a step of {args.step:g} s with {BATCH_SIZE} samples waits for its batch, with "
        f"{args.trace_workers} workers:\n",
        "| steps | median | longest | first step, with the start of the workers |\n|---|---|---|---|",
        f"| {found['steps']} | {found['median']:.1f} | {found['longest']:.1f} | {found['first']:,.0f} |",
    ]

    from gemma_lisa.checkpoints.training_record import (
        commit,  # imported late, because the peak memory of a child starts at that of its parent
    )

    machine = f"a {os.cpu_count()}-core CPU machine under a load of {os.getloadavg()[0]:.1f}"
    command = f"`python benchmarks/bench_data.py` at {commit()}, scale {args.scale:g}, {machine}."
    return [f"\n## Data, {date.today()}\n", f"{command}\n", *lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder of the stand-ins (default: a temporary folder)")
    parser.add_argument("--results", type=Path, help="Markdown file to append the report to")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="size of the stand-ins relative to the real data sets (default: 1)"
    )
    parser.add_argument(
        "--samples", type=int, default=10_000, help="number of samples that the workers read (default: 10000)"
    )
    parser.add_argument("--workers", type=int, default=8, help="number of worker processes (default: 8)")
    parser.add_argument(
        "--batches", type=int, default=50, help=f"number of timed batches of {BATCH_SIZE} samples (default: 50)"
    )
    parser.add_argument(
        "--step", type=float, default=0.5, help="seconds of a training step of --case trace (default: 0.5)"
    )
    parser.add_argument(
        "--trace_workers", type=int, default=2, help="number of worker processes of the trace (default: 2)"
    )
    parser.add_argument("--case", choices=CASES, help="run only this case, in this process")
    parser.add_argument("--dataset", choices=SETS, help="data set of --case first")
    parser.add_argument("--questions", choices=("training", "evaluation"), help="kind of samples of --case workers")
    args = parser.parse_args()
    if args.case:
        print(json.dumps(CASES[args.case](args.output, args)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.output or Path(temporary)).absolute()
        if not (folder / DONE).exists():
            if folder.is_dir() and any(folder.iterdir()):
                raise ValueError(
                    f"--output {folder}: the folder is not empty and has no complete stand-ins; choose a new folder."
                )
            run_case("write", folder, args)
        publish(report(folder, args), args.results)


if __name__ == "__main__":
    main()
