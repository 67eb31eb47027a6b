"""Measure the time of an optimizer step: torch's Muon (one matrix at a time, bf16) and StackedMuon (stacked, fp32).

    python benchmarks/bench_muon.py

Prints the median CPU milliseconds of 20 steps for the matrices of the small model, on one thread.
"""

import statistics
import time

import torch

from gemma_lisa.scripts.init_tiny import build_tiny
from gemma_lisa.training.optimizers import StackedMuon, build_muon

NUM_STEPS = 20


def measure(muon: type[torch.optim.Optimizer], matrices: list[torch.nn.Parameter]) -> float:
    """Return the median CPU milliseconds of a step."""
    optimizer = muon(matrices, lr=0.02, weight_decay=0.01)
    times = []
    for _ in range(NUM_STEPS):
        start = time.process_time()
        optimizer.step()
        times.append(1000 * (time.process_time() - start))
    return statistics.median(times)


def main() -> None:
    torch.set_num_threads(1)
    model, _ = build_tiny()
    options = {"muon_lr": 0.02, "adamw_lr": 1e-3, "weight_decay": 0.01, "betas": (0.9, 0.98)}
    matrices = build_muon(model, **options).muon.param_groups[0]["params"]
    for matrix in matrices:
        matrix.grad = torch.randn_like(matrix)
    stock, stacked = measure(torch.optim.Muon, matrices), measure(StackedMuon, matrices)
    print(f"{len(matrices)} matrices: torch.optim.Muon {stock:.1f} ms, StackedMuon {stacked:.1f} ms per step")


if __name__ == "__main__":
    main()
