"""Measure time and memory of scoring the predictions of other systems with eval.py --predictions.

    python benchmarks/bench_eval.py --output eval.json

The data set has 10,000 questions with one target of 640 × 480 pixels each, four per photo. The predictions are the
targets, moved by a few pixels. One run prepares the cache of the data set.

Then each format of predictions is read, judged and scored in a process of its own. "start" is the same with one
question.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from gemma_lisa.checkpoints.training_record import commit
from gemma_lisa.datasets_builder.rows import encode_mask

ROOT = Path(__file__).resolve().parents[1]
SIZE = (480, 640)  # (height, width) in pixels
PER_PHOTO = 4  # questions
SHAPES, PHOTOS = 40, 20  # different ones
LARGEST_STEP = 12  # pixels that a prediction is moved
FORMATS = ("jsonl", "coco", "png")
ROWS_PER_SHARD = 500


def draw_shapes() -> list[np.ndarray]:
    """Return masks (H, W) uint8 with uneven outlines."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    shapes = []
    for _ in range(SHAPES):
        y, x = generator.uniform(0.2, 0.8, 2) * SIZE
        angle = np.arctan2(rows - y, columns - x)
        radius = generator.uniform(20, 160) * np.ones_like(angle)
        for waves in range(2, 16):
            radius *= 1 + generator.normal(0, 0.3 / waves) * np.sin(waves * angle + generator.uniform(0, 2 * np.pi))
        shapes.append((np.hypot(rows - y, columns - x) < radius).astype(np.uint8))
    return shapes


def draw_photos() -> list[bytes]:
    """Return JPEG files."""
    generator, photos = np.random.default_rng(1), []
    for _ in range(PHOTOS):
        coarse = Image.fromarray(generator.integers(0, 256, (48, 64, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize(SIZE[::-1], Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        photos.append(buffer.getvalue())
    return photos


def pairs(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield a target and a prediction for each question."""
    generator, shapes = np.random.default_rng(2), draw_shapes()
    for number in range(count):
        target = np.roll(shapes[number % SHAPES], generator.integers(-60, 60, 2), (0, 1))
        yield target, np.roll(target, generator.integers(-LARGEST_STEP, LARGEST_STEP + 1, 2), (0, 1))


def write_inputs(folder: Path, count: int, formats: list[str]) -> None:
    """Write prepared rows into `folder`/rows and the predictions in each format."""
    import pyarrow
    import pyarrow.parquet as parquet

    from gemma_lisa.datasets_builder.rows import ROW_FEATURES, new_row, new_target

    (folder / "rows").mkdir(parents=True)
    photos, rows, lines, records = draw_photos(), [], [], []
    for number, (target, prediction) in enumerate(pairs(count)):
        if number % PER_PHOTO == 0:
            rows.append(new_row(photos[len(rows) % PHOTOS], f"bench/{len(rows):06d}", []))
        asked = new_target([f"the thing {number}"], [encode_mask(target)])
        rows[-1]["targets"].append(asked)
        name, mask = f"{rows[-1]['source']}#{number % PER_PHOTO}", encode_mask(prediction)
        lines.append(json.dumps({"id": name, "masks": [mask], "scores": [0.9]}) + "\n")
        records.append({"image_id": number, "category_id": 1, "score": 0.9, "segmentation": mask})
        if "png" in formats:
            (folder / "png").mkdir(exist_ok=True)
            Image.fromarray(prediction * 255).save(folder / "png" / f"{quote(name, safe='')}.png", compress_level=1)
    table = pyarrow.Table.from_pylist(rows, schema=ROW_FEATURES.arrow_schema)
    parquet.write_table(table, folder / "rows" / "test.parquet", row_group_size=ROWS_PER_SHARD)
    (folder / "jsonl").write_text("".join(lines))
    (folder / "coco").write_text(json.dumps(records))


def measure(command: list[str], cache: Path) -> dict[str, float]:
    """Return wall and CPU seconds and the peak memory in MB of a command."""
    start = time.perf_counter()
    environment = {**os.environ, "HF_DATASETS_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, *command], stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=ROOT
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        output.seek(0)
        if status:
            raise RuntimeError(f"{' '.join(command)} failed: {output.read()[-2000:]}")
    cpu = usage.ru_utime + usage.ru_stime
    return {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "megabytes": round(usage.ru_maxrss / 1024)}


def score(folder: Path, name: str, cache: Path) -> dict[str, float]:
    """Return the measurements of eval.py with the predictions of a format, and the gIoU that it prints."""
    options = ["--predictions", str(folder / name), "--dataset", str(folder / "rows"), "--split", "test"]
    output = folder / f"{name}.results.json"
    measured = measure(
        [str(ROOT / "eval.py"), *options, "--output", str(output), "--pictures", "0", "--overwrite"], cache
    )
    return {**measured, "gIoU": json.loads(output.read_text())["scores"]["gIoU"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=10_000, help="number of questions (default: 10,000)")
    parser.add_argument(
        "--formats", nargs="+", choices=FORMATS, default=FORMATS, help="formats of predictions (default: all)"
    )
    parser.add_argument("--output", type=Path, help="JSON file for the results (default: none)")
    parser.add_argument("--inputs", type=Path, help=argparse.SUPPRESS)  # only write the inputs, in a process of its own
    args = parser.parse_args()
    if args.inputs:
        write_inputs(args.inputs, args.questions, args.formats)
        return
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        # The peak memory of a child starts at that of its parent, so another process writes the inputs
        for name, count in (("one", 1), ("all", args.questions)):
            folder, cache = Path(temporary) / name, Path(temporary) / "cache"
            options = ["--questions", str(count), "--formats", *args.formats]
            measure([__file__, "--inputs", str(folder), *options], cache)
            score(folder, args.formats[0], cache)
            if name == "one":
                found["start"] = score(folder, args.formats[0], cache)
                continue
            for kind in args.formats:
                found[kind] = score(folder, kind, cache)
    print(f"{args.questions:,} questions, commit {commit()}\n\n| | wall s | CPU s | MB | gIoU |\n|---|---|---|---|---|")
    for name, numbers in found.items():
        print(f"| {name} | {' | '.join(map(str, numbers.values()))} |")
    if args.output:
        args.output.write_text(json.dumps({"questions": args.questions, "commit": commit(), "cases": found}, indent=2))


if __name__ == "__main__":
    main()
