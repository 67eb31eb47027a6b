"""Read and write the training record, `training.json`: commands, settings, versions, losses and scores."""

import logging
import shlex
import shutil
import subprocess
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from gemma_lisa.safety.parsing import parse_json
from gemma_lisa.safety.redaction import redact, redact_arguments
from gemma_lisa.safety.secret_names import secrets_of
from gemma_lisa.safety.short_text import VALUE_LENGTH, reason_of

if TYPE_CHECKING:
    from transformers import TrainerState

_logger = logging.getLogger(__name__)

TRAINING_RECORD = "training.json"
# Times of a stage. CPU seconds of the main process are comparable on a busy machine too.
CLOCKS = {"seconds": time.perf_counter, "cpu_seconds": time.process_time}
PACKAGES = ("torch", "transformers", "datasets")  # whose versions are recorded
# Keys of records by older versions -> their present names
RENAMED = {"rows_a_step": "global_batch_size", "dialogue_share": "conversation_share"}


def commit() -> str:
    """Return the commit of the checkout, with "+" if files were changed, or "none" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parents[1]), "describe", "--always", "--dirty=+", "--abbrev=12"]
    if shutil.which("git") is None:
        return "none"
    described = subprocess.run(command, capture_output=True, text=True)
    return described.stdout.strip() if described.returncode == 0 else "none"


def circumstances() -> dict[str, Any]:
    """Return what is recorded with every measurement: commit, date and versions."""
    return {
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version for name in PACKAGES if (version := _version(name)) is not None},
    }


def _version(package: str) -> str | None:
    """Return the version of an installed package without importing it, which takes seconds; None without it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def read_stages(folder: str | Path) -> list[dict[str, Any]]:
    """Return the training stages of a checkpoint's record, or [] if it has no record.

    Raises:
        ValueError: the record cannot be read.
    """
    path = Path(folder) / TRAINING_RECORD
    if not path.is_file():
        return []
    try:
        return [_with_present_names(stage) for stage in parse_json(path.read_bytes())["stages"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: the training record cannot be read ({reason_of(error, VALUE_LENGTH)}). Copy it again, or "
            "delete it to continue without."
        ) from error


def _with_present_names(stage: dict[str, Any]) -> dict[str, Any]:
    """Return a stage, and its settings, with the keys of older versions renamed."""
    renamed = {RENAMED.get(name, name): value for name, value in stage.items()}
    if "settings" in renamed:
        renamed["settings"] = {RENAMED.get(name, name): value for name, value in renamed["settings"].items()}
    return renamed


def stages_of(model: str | Path) -> list[dict[str, Any]] | None:
    """Return `read_stages` of a folder or a Hub name, or None with a warning if the Hub cannot be reached."""
    if Path(model).is_dir():
        return read_stages(model)
    if try_to_load_from_cache(str(model), TRAINING_RECORD) is _CACHED_NO_EXIST:
        return []
    try:
        return read_stages(Path(hf_hub_download(str(model), TRAINING_RECORD)).parent)
    except LocalEntryNotFoundError:
        _logger.warning(
            "%s: the Hub cannot be reached, so the training record of this model is unknown. To download it, run "
            "`hf download %s %s`.",
            *(model, model, TRAINING_RECORD),
        )
        return None
    except EntryNotFoundError:
        return []


def command_of(arguments: list[str]) -> str:
    """Return the command of a run for its record: without secrets and absolute local paths."""
    return shlex.join(["train.py", *redact_arguments(arguments, secrets_of(arguments))])


class Record:
    """The training record of a run of train.py: `{"stages": [stage, ...]}`. The last stage is this run.

    It contains no secrets and no absolute local paths (`redaction`).

    Args:
        model: folder or Hub name that the training starts from. The stages of its record come first.
        arguments: command line of train.py.
        resumed_from: checkpoint of the same run to resume, whose last stage is continued.
        facts: other fields of the stage: seed, data, and so on. `allow_leakage` stays true once it was true, and is
            None if the record of the base model could not be read.
    """

    def __init__(self, model: str, arguments: list[str], resumed_from: str | None, **facts: Any):
        command = {"command": command_of(arguments)}
        self.secrets = secrets_of(arguments)
        earlier = stages_of(model)
        self.stages, self.stage = earlier or [], {**command, **circumstances(), **facts}
        if earlier is None and not facts.get("allow_leakage"):
            self.stage["allow_leakage"] = None  # unknown
        self.stage |= dict.fromkeys(CLOCKS, 0.0)
        if resumed_from and (before := read_stages(resumed_from)):
            *self.stages, begun = before
            again = ("command", "commit", "date", *CLOCKS)
            self.stage["resumed"] = [*begun.get("resumed", []), {name: begun.get(name) for name in again}]
            self.stage |= {name: begun.get(name, 0.0) for name in CLOCKS}
            self.stage["allow_leakage"] = facts.get("allow_leakage") or begun.get("allow_leakage")
        self.stages, self.stage = redact(self.stages, self.secrets), redact(self.stage, self.secrets)
        self._starts = {name: clock() - self.stage[name] for name, clock in CLOCKS.items()}

    def content(self, state: "TrainerState") -> dict[str, Any]:
        """Return the record so far, with the losses and scores by step."""
        self.stage |= {name: round(clock() - self._starts[name], 1) for name, clock in CLOCKS.items()}
        return {"stages": [*self.stages, {**self.stage, "steps": state.global_step, "history": state.log_history}]}


def leakage_of(model: str | Path) -> dict[str, Any] | None:
    """Return whether a stage was allowed to train on photos of evaluation splits, and which splits all stages held out.

    Returns:
        {"allow_leakage": bool, "held_out": names of splits}, or None if there is no record or a stage does not say.
    """
    stages = stages_of(model)
    if not stages or any(stage.get("allow_leakage") is None for stage in stages):
        return None
    held_out = [set(stage.get("held_out") or []) for stage in stages]
    return {
        "allow_leakage": any(stage["allow_leakage"] for stage in stages),
        "held_out": sorted(set.intersection(*held_out)),
    }
