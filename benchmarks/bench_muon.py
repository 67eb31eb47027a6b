"""What the optimizer takes of a step: torch's Muon, matrix by matrix in bfloat16, against ours, stacked in float32.

    python benchmarks/bench_muon.py

Over the matrices of the small model, on one thread: the median of 20 steps, in milliseconds of CPU time.
"""

import statistics
import time

import torch

from gemma_lisa.scripts.init_tiny import build_tiny
from gemma_lisa.training.optimizers import StackedMuon, build_muon

NUM_STEPS = 20


def measure(muon: type[torch.optim.Optimizer], matrices: list[torch.nn.Parameter]) -> float:
    """CPU milliseconds of a step."""
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
    print(f"{len(matrices)} matrices: torch.optim.Muon {stock:.1f} ms, StackedMuon {stacked:.1f} ms a step")


if __name__ == "__main__":
    main()
