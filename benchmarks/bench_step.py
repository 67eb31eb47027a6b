"""Measure a training step of the small model on a CPU, with denormal numbers computed or flushed to zero.

    python benchmarks/bench_step.py --model examples/shapes-tiny --dataset shapes/both

Uses one process and one thread, and prints the median CPU milliseconds of the steps. Nothing is saved.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from gemma_lisa.checkpoints.loading import load_checkpoint
from gemma_lisa.checkpoints.training_record import commit
from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.datasets_builder.questions import TrainingQuestions
from gemma_lisa.training.optimizers import build_muon

BATCH_SIZE, NUM_STEPS = 8, 9
PARTS = ("samples", "batch", "forward", "backward", "optimizer")
MUON = {"muon_lr": 0.02, "adamw_lr": 2e-3, "weight_decay": 0.01, "betas": (0.9, 0.98)}


def measure(model, collator, questions, batch_size: int, num_steps: int) -> list[float]:
    """Return the median CPU milliseconds of each of PARTS."""
    optimizer = build_muon(model, **MUON)
    taken = []
    for step in range(num_steps):
        marks = [time.process_time()]
        samples = [questions[(step * batch_size + at) % len(questions)] for at in range(batch_size)]
        marks.append(time.process_time())
        batch = collator(samples)
        marks.append(time.process_time())
        loss = model(**batch).loss
        marks.append(time.process_time())
        loss.backward()
        marks.append(time.process_time())
        optimizer.step()
        optimizer.zero_grad()
        marks.append(time.process_time())
        taken.append([1000 * (end - start) for start, end in zip(marks, marks[1:], strict=False)])
    return [statistics.median(times) for times in zip(*taken, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a small checkpoint")
    parser.add_argument("--dataset", default="shapes/easy", help="level of shapes (default: shapes/easy)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = load_rows(args.dataset, "train", None, {"train_rows": 80, "validation_rows": 1, "test_rows": 1})
    print(f"{commit()}, torch {torch.__version__}, {BATCH_SIZE} rows per step\n")
    print(f"| | {' | '.join(PARTS)} | all |\n|---|{'---|' * (len(PARTS) + 1)}")
    for flush in (False, True):
        torch.set_flush_denormal(flush)
        model, processor = load_checkpoint(args.model, dtype=torch.float32)
        questions = TrainingQuestions(rows, 0, 4)
        collator = GemmaLisaCollator(processor, mask_loss_size=model.config.mask_loss_size)
        found = measure(model.train(), collator, questions, BATCH_SIZE, NUM_STEPS)
        name = "denormals flushed to zero" if flush else "denormals computed"
        print(f"| {name} | {' | '.join(f'{ms:.0f}' for ms in found)} | {sum(found):.0f} |", flush=True)


if __name__ == "__main__":
    main()
