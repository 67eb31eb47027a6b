"""The record of a training: what was run, with what, and what it said, beside the checkpoint that came of it."""

import json
import shlex
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers

TRAINING_RECORD = "training.json"


def commit() -> str:
    """The checkout's commit, with a plus where files differ from it; "none" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--abbrev=12"]
    if shutil.which("git") is None:
        return "none"
    described = subprocess.run(command, capture_output=True, text=True)
    return described.stdout.strip() if described.returncode == 0 else "none"


def circumstances() -> dict[str, Any]:
    """What a figure needs beside it: commit, date and versions."""
    packages = (torch, transformers, datasets)
    return {
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {package.__name__: package.__version__ for package in packages},
    }


def training_record(model: str, arguments: list[str], history: list[dict[str, Any]], **facts: Any) -> dict[str, Any]:
    """The stages that led to a checkpoint, the last of them this one.

    Args:
        model: folder or Hub name that the training started from; a folder's own record comes first.
        arguments: of train.py.
        history: Trainer's log, with the losses and scores by step.
        facts: what else is known of the run: `circumstances` as it began, its seed, ...

    Returns:
        {"stages": [{"command", ..., "history"}, ...]}
    """
    before = Path(model) / TRAINING_RECORD
    stages = json.loads(before.read_text())["stages"] if before.is_file() else []
    stage = {"command": shlex.join(["train.py", *arguments]), **facts, "history": history}
    return {"stages": [*stages, stage]}


def trained_on_held_out(model: str) -> bool | None:
    """Whether a stage of the model's training was allowed photos of evaluation splits; none where nothing says it."""
    path = Path(model) / TRAINING_RECORD
    if not path.is_file():
        return None
    return any(stage.get("allow_leakage", False) for stage in json.loads(path.read_text())["stages"])
