"""The record of a training: what was run, with what, and what it said, beside the checkpoint that came of it."""

import logging
import shlex
import shutil
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from transformers import TrainerState

from gemma_lisa.safety.parsing import parse_json
from gemma_lisa.safety.redaction import redact, redact_arguments
from gemma_lisa.safety.secret_names import secrets_of

_logger = logging.getLogger(__name__)

TRAINING_RECORD = "training.json"
# What a stage takes; CPU seconds, of the main process alone, tell it on a busy machine too
CLOCKS = {"seconds": time.perf_counter, "cpu_seconds": time.process_time}


def commit() -> str:
    """The checkout's commit, with a plus where files differ from it; "none" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parents[1]), "describe", "--always", "--dirty=+", "--abbrev=12"]
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


def read_stages(folder: str | Path) -> list[dict[str, Any]]:
    """The stages of training that a checkpoint's record tells of; none where it has no record.

    Raises:
        ValueError: a record that cannot be read.
    """
    path = Path(folder) / TRAINING_RECORD
    if not path.is_file():
        return []
    try:
        return parse_json(path.read_bytes())["stages"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no record of a training ({error}); take it away to go on without.") from error


def stages_of(model: str | Path) -> list[dict[str, Any]] | None:
    """As `read_stages`, of a folder or a Hub name; None where the Hub cannot be asked, which is said aloud."""
    if Path(model).is_dir():
        return read_stages(model)
    if try_to_load_from_cache(str(model), TRAINING_RECORD) is _CACHED_NO_EXIST:
        return []
    try:
        return read_stages(Path(hf_hub_download(str(model), TRAINING_RECORD)).parent)
    except LocalEntryNotFoundError:
        _logger.warning(
            "%s: the Hub was not reached, so nothing is known of how it was trained; hf download %s %s brings its "
            "record.",
            *(model, model, TRAINING_RECORD),
        )
        return None
    except EntryNotFoundError:
        return []


def command_of(arguments: list[str]) -> str:
    """Return the command of a run as its record holds it: without secrets and absolute local paths."""
    return shlex.join(["train.py", *redact_arguments(arguments, secrets_of(arguments))])


class Record:
    """What a run of train.py leaves beside its checkpoints: `{"stages": [stage, ...]}`, the last of them this run.

    Secrets and absolute local paths are in none of it (`redaction`).

    Args:
        model: folder or Hub name that the training starts from; its own record comes first.
        arguments: of train.py.
        resumed_from: a checkpoint of the same run, whose last stage is gone on with.
        facts: what else is known of the run: its seed, its data, ...; `allow_leakage` stays true once
            it was, and is None where the base's record could not be looked at.
    """

    def __init__(self, model: str, arguments: list[str], resumed_from: str | None, **facts: Any):
        command = {"command": command_of(arguments)}
        self.secrets = secrets_of(arguments)
        earlier = stages_of(model)
        self.stages, self.stage = earlier or [], {**command, **circumstances(), **facts}
        if earlier is None and not facts.get("allow_leakage"):
            self.stage["allow_leakage"] = None  # not known
        self.stage |= dict.fromkeys(CLOCKS, 0.0)
        if resumed_from and (before := read_stages(resumed_from)):
            *self.stages, begun = before
            again = ("command", "commit", "date", *CLOCKS)
            self.stage["resumed"] = [*begun.get("resumed", []), {name: begun.get(name) for name in again}]
            self.stage |= {name: begun.get(name, 0.0) for name in CLOCKS}
            self.stage["allow_leakage"] = facts.get("allow_leakage") or begun.get("allow_leakage")
        self.stages, self.stage = redact(self.stages, self.secrets), redact(self.stage, self.secrets)
        self._starts = {name: clock() - self.stage[name] for name, clock in CLOCKS.items()}

    def content(self, state: TrainerState) -> dict[str, Any]:
        """The record as it stands, with the losses and scores by step."""
        self.stage |= {name: round(clock() - self._starts[name], 1) for name, clock in CLOCKS.items()}
        return {"stages": [*self.stages, {**self.stage, "steps": state.global_step, "history": state.log_history}]}


def leakage_of(model: str | Path) -> dict[str, Any] | None:
    """Whether a stage of the model's training was allowed photos of evaluation splits, and which splits all stages held
    out; none where a stage does not say it, or there is no record."""
    stages = stages_of(model)
    if not stages or any(stage.get("allow_leakage") is None for stage in stages):
        return None
    held_out = [set(stage.get("held_out") or []) for stage in stages]
    return {
        "allow_leakage": any(stage["allow_leakage"] for stage in stages),
        "held_out": sorted(set.intersection(*held_out)),
    }
