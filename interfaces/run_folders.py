"""Check the output folder of a training run before it starts: no input, and no model or picture of other origin."""

import os
from collections.abc import Iterable
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from gemma_lisa.checkpoints.adapter_base import ADAPTER_CONFIG
from gemma_lisa.checkpoints.training_record import read_stages
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.training.atomic_saves import checkpoints_of

from .output_checks import is_own

# Files of a model that a training run would replace
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "adapter_model.bin")
_CHECKPOINTS = [f"{PREFIX_CHECKPOINT_DIR}-*/{name}" for name in ("config.json", ADAPTER_CONFIG, *_WEIGHTS)]
_RUN_PICTURES = ("curve.png", "previews/step-*.png")


def check_run_folder(folder: Path, inputs: Iterable[str | Path | None], draws: bool = False) -> None:
    """Refuse an output folder of a training run that is an input, or that holds a model not saved by such a run.

    A run replaces the configuration and deletes the weights in its folder. With `fresh`, it also deletes checkpoints.

    Args:
        folder: output folder of the run.
        inputs: files and folders that the training reads.
        draws: the run writes its curve and previews there (`_RUN_PICTURES`).

    Raises:
        UsageError: what the folder holds, and what to do.
    """
    if not folder.is_dir():
        return
    for path in inputs:
        if path is not None and os.path.isdir(path) and os.path.samefile(path, folder):
            raise UsageError(f"output_dir {folder}: this folder is an input of the training; choose another folder.")
    if is_own_run(folder):
        return
    patterns = ("config.json", ADAPTER_CONFIG, *_WEIGHTS, *_CHECKPOINTS)
    found = next((path for pattern in patterns for path in folder.glob(pattern)), None)
    if found is not None:
        raise UsageError(
            f"output_dir {folder}: it holds a model that was not saved by a training run "
            f"({found.relative_to(folder)}) and would be overwritten; choose another folder."
        )
    drawn = (path for pattern in _RUN_PICTURES for path in sorted(folder.glob(pattern)) if draws)
    foreign = next((path for path in drawn if not is_own(path)), None)
    if foreign is not None:
        raise UsageError(
            f"output_dir {folder}: {foreign.relative_to(folder)} was not written by Gemma-LISA and would be "
            "overwritten; rename it, or choose another folder."
        )


def is_own_run(folder: Path) -> bool:
    """Return whether a folder, or its newest checkpoint, was written by a training run of this project.

    The training record alone is not enough: a published checkpoint has it too, but not the state of the Trainer.
    """
    if _names_own_arguments(folder) or ((folder / TRAINER_STATE_NAME).is_file() and _has_own_record(folder)):
        return True
    newest = checkpoints_of(folder)[-1:]
    return any(_has_own_record(path) or _names_own_arguments(path) for path in newest)


def _has_own_record(folder: Path) -> bool:
    try:
        stage = read_stages(folder)[-1]
    except (ValueError, LookupError, TypeError):
        return False  # no record, or one of another program
    if not isinstance(stage, dict):
        return False
    return isinstance(stage.get("settings"), dict) or str(stage.get("command")).startswith("train.py ")


def _names_own_arguments(folder: Path) -> bool:
    """Return whether the folder holds training arguments of this project's class. The pickle is never loaded."""
    path = folder / TRAINING_ARGS_NAME
    return path.is_file() and b"GemmaLisaTrainingArguments" in path.read_bytes()
