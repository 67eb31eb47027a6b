"""End a run whose loss or gradient is not finite, before anything of that step is saved."""

import math
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import Trainer

from gemma_lisa.safety.whole_files import write_whole

from .atomic_saves import NONFINITE_FILE, checkpoints_of


def stop_unless_finite(
    trainer: Trainer,
    sources: list[list[str]],
    losses: list[dict[str, torch.Tensor]],
    grad_norm: torch.Tensor | float | None,
) -> None:
    """End the run on all ranks if a loss of this step, or the gradient, is not finite on one of them.

    The weights are still those of the step before. Exception: DeepSpeed knows the gradient's norm only after the
    update. The last checkpoint on disk is good in both cases.

    Args:
        sources: sources of the rows, per micro-batch of the step.
        losses: losses by name, per micro-batch so far.
        grad_norm: norm before clipping, or None if it is not known yet.

    Raises:
        FloatingPointError: a value is not finite; `nonfinite.json` then names the rows.
    """
    norm = None if grad_norm is None else float(grad_norm)
    losses = [{name: float(part) for name, part in parts.items()} for parts in losses]
    values = [*(value for parts in losses for value in parts.values()), 0.0 if norm is None else norm]
    is_bad = torch.tensor(float(not all(map(math.isfinite, values))), device=trainer.args.device)
    if not trainer.accelerator.reduce(is_bad, reduction="sum"):
        return
    batches = [
        {
            "rank": trainer.args.process_index,
            "sources": names,
            **{name: _shown(part) for name, part in parts.items()},
        }
        for names, parts in zip(sources, losses, strict=False)  # under DeepSpeed only those so far
    ]
    batches = gather_object(batches)
    path, step = Path(trainer.args.output_dir) / NONFINITE_FILE, trainer.state.global_step + 1
    if trainer.is_world_process_zero():
        write_whole(path, {"step": step, "grad_norm": _shown(norm), "micro_batches": batches})
    checkpoints = checkpoints_of(path.parent)
    start = f"resume with --resume_from_checkpoint {checkpoints[-1]}" if checkpoints else "restart with --fresh true"
    part = "gradient" if all(map(_is_finite, batches)) else "loss"
    raise FloatingPointError(
        f"step {step}: the {part} is not finite, so the run stops without saving this step. {path} names its rows. "
        f"Check them, or lower learning_rate or max_grad_norm, and {start}."
    )


def _shown(value: float | None) -> float | str | None:
    """Return a number for JSON, which has no NaN: as text if it is not finite."""
    return value if value is None or math.isfinite(value) else str(value)


def _is_finite(batch: dict[str, Any]) -> bool:
    """Return whether all losses of a micro-batch in `nonfinite.json` are finite (no text)."""
    return not any(isinstance(value, str) for value in batch.values())
