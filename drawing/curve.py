"""Draw the losses and evaluation scores of a training run over its steps."""

from pathlib import Path
from typing import Any, BinaryIO

from .overlay import PALETTE

EVALUATION_SCORES = ("gIoU", "gIoU_all", "gIoU_plural", "cIoU", "N-acc", "T-acc")
TRAINING_LOSSES = ("language_loss", "mask_bce_loss", "mask_dice_loss")


def draw_curve(log_history: list[dict[str, Any]], path: str | Path | BinaryIO) -> None:
    """Save a PNG of the logged losses (log scale) and evaluation scores over steps.

    Args:
        log_history: `trainer.state.log_history`. Each evaluation set (`eval_<name>_gIoU`) gets its own line.
        path: path of the PNG, or a file that is open for writing bytes.
    """
    from matplotlib.figure import Figure  # slow to import; unlike pyplot it keeps no global state

    names = dict.fromkeys(name for entry in log_history for name in entry)
    scores = [n for n in names if n.startswith("eval_") and n.endswith(tuple(f"_{s}" for s in EVALUATION_SCORES))]
    groups = [("training loss", [n for n in TRAINING_LOSSES if n in names]), ("evaluation score", scores)]
    groups = [(title, members) for title, members in groups if members] or [("nothing logged", [])]

    figure = Figure(figsize=(6.5 * len(groups), 4.2), layout="constrained")
    for axes, (title, members) in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        for index, name in enumerate(members):
            points = [(entry["step"], entry[name]) for entry in log_history if entry.get(name) is not None]
            if points:
                colour = tuple(channel / 255 for channel in PALETTE[index % len(PALETTE)])
                marker = "o" if name.startswith("eval_") or len(points) == 1 else None
                label = name.removeprefix("eval_").replace("_loss", "").replace("_", " ")
                axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4, label=label)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if members is scores:
            axes.set_ylim(-0.02, 1.02)
        elif members:
            axes.set_yscale("log")
        if axes.lines:
            axes.legend(frameon=False)
    figure.savefig(path, dpi=120, format="png")
