"""Measure the time to the first mask, and the time of further questions about the same image.

    python benchmarks/bench_session.py
    python benchmarks/bench_session.py --model outputs/demo --repeats 9

Prints three tables of seconds and CPU seconds (medians, one thread):

- a new Python process from its start to the first mask, by part;
- the first question of a session, including image encoding, compared with a second question;
- ten questions in a session, compared with ten stateless calls with the whole conversation.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from gemma_lisa.checkpoints.loading import EXAMPLE, load_checkpoint
from gemma_lisa.images_gemma_lisa import load_rgb
from gemma_lisa.interfaces.command_line import ArgumentParser, positive, run

SCENE = Path(__file__).resolve().parents[1] / "docs" / "scene.png"
QUESTIONS = (
    "the red circle",
    "all the blue triangles",
    "the green square",
    "the blue square",
    "the red triangle",
    "all the triangles",
    "the circle",
    "the red shape",
    "the square",
    "all the blue shapes",
)
# Runs in a new Python process and records the time at the end of each part
FIRST_MASK = """
import json, sys, time
marks, model_path, image, question = [("start", time.perf_counter(), time.process_time())], *sys.argv[1:]
def mark(name):
    marks.append((name, time.perf_counter(), time.process_time()))
import torch
torch.set_num_threads(1)
mark("import torch")
import accelerate, safetensors, PIL.Image
from transformers import Gemma3ForConditionalGeneration, Gemma3Processor, SamModel
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil
mark("import the other libraries")
from gemma_lisa.checkpoints.loading import load_checkpoint
mark("import this project")
model, processor = load_checkpoint(model_path)
mark("open the checkpoint")
session = model.start(image, processor)
mark("read the image")
answer = session.ask(question)
mark("answer with a mask")
assert len(answer["masks"]), answer["raw_text"]
print(json.dumps([[name, wall - marks[at][1], cpu - marks[at][2]] for at, (name, wall, cpu) in enumerate(marks[1:])]))
"""


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, default=EXAMPLE, help="checkpoint folder (default: the checkpoint in examples/)"
    )
    parser.add_argument("--repeats", type=positive, default=5, help="number of repeats (default: 5)")
    return parser.parse_args(arguments)


def from_the_start(args: argparse.Namespace) -> None:
    """Print a table of the parts from the start of a Python process to the first mask."""
    runs = []
    for _ in range(args.repeats):
        command = [sys.executable, "-c", FIRST_MASK, str(args.model), str(SCENE), QUESTIONS[0]]
        begun = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        parts = json.loads(done.stdout.splitlines()[-1])
        runs.append((time.perf_counter() - begun, parts))
    print("| part, up to the first mask | s | CPU s |\n|---|---|---|")
    for at, (name, _, _) in enumerate(runs[0][1]):
        wall, cpu = (statistics.median(parts[at][column] for _, parts in runs) for column in (1, 2))
        print(f"| {name} | {wall:.2f} | {cpu:.2f} |")
    print(f"| all, with start and end of Python | {statistics.median(wall for wall, _ in runs):.2f} | |\n")


def clocked(action) -> tuple[float, float]:
    """Return the seconds and CPU seconds of an action."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - cpu


def second_question(model, processor, args: argparse.Namespace) -> None:
    """Print a table of the first question of a session with its image, a second question, and the first one again."""
    times: dict[str, list[tuple[float, float]]] = {"first, with image": [], "second": [], "first again": []}
    first, second, again = times.values()
    for _ in range(args.repeats):
        sessions = []
        first.append(
            clocked(lambda made=sessions: made.append(model.start(SCENE, processor)) or made[0].ask(QUESTIONS[0]))
        )
        second.append(clocked(lambda made=sessions: made[0].ask(QUESTIONS[3])))
        sessions[0].reset()
        again.append(clocked(lambda made=sessions: made[0].ask(QUESTIONS[0])))
    print("| question | s | CPU s | s relative to first | CPU s relative to first |\n|---|---|---|---|---|")
    medians = {
        name: [statistics.median(column) for column in zip(*found, strict=True)] for name, found in times.items()
    }
    whole = medians["first, with image"]
    for name, (wall, cpu) in medians.items():
        print(f"| {name} | {wall:.3f} | {cpu:.3f} | {wall / whole[0]:.2f} | {cpu / whole[1]:.2f} |")
    print()


def ten_questions(model, processor, args: argparse.Namespace) -> None:
    image = load_rgb(SCENE)

    def in_a_session() -> None:
        session = model.start(image, processor)
        for question in QUESTIONS:
            session.ask(question)

    def stateless() -> None:
        messages = []
        for question in QUESTIONS:
            content = [{"type": "text", "text": question}]
            messages.append(
                {"role": "user", "content": content if messages else [{"type": "image", "image": image}, *content]}
            )
            inputs = processor.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=True
            )
            answer = processor.post_process_segmentation(model.segment(**inputs), inputs)[0]
            messages.append({"role": "assistant", "content": answer["raw_text"]})

    print("| ten questions | s | CPU s |\n|---|---|---|")
    medians = []
    for name, action in (("stateless calls", stateless), ("session", in_a_session)):
        times = [clocked(action) for _ in range(args.repeats)]
        medians.append([statistics.median(column) for column in zip(*times, strict=True)])
        print(f"| {name} | {medians[-1][0]:.2f} | {medians[-1][1]:.2f} |")
    print(f"| stateless / session | {medians[0][0] / medians[1][0]:.1f} | {medians[0][1] / medians[1][1]:.1f} |")


def main(arguments: list[str]) -> None:
    args = parse(arguments)
    torch.set_num_threads(1)
    from_the_start(args)
    model, processor = load_checkpoint(args.model)
    second_question(model, processor, args)
    ten_questions(model, processor, args)


if __name__ == "__main__":
    run(main)
