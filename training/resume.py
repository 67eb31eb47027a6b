"""Decide where train.py starts: from the beginning, from a checkpoint, or not at all because the run is finished."""

import hashlib
import json
import os
import re
from collections.abc import Collection
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from gemma_lisa.checkpoints.checksums import check_checksums
from gemma_lisa.checkpoints.training_record import TRAINING_RECORD, read_stages
from gemma_lisa.datasets_builder.mixture import BUILDERS
from gemma_lisa.safety.local_paths import short_path, shorten_paths
from gemma_lisa.safety.redaction import redact, redact_command

from .atomic_saves import NONFINITE_FILE, checkpoints_of, remove_folder, remove_scraps, step_of

# Lengths of the training, which can grow when a run is resumed.
LENGTHS = ("max_steps", "num_train_epochs")
# Options of TrainingArguments that change the final weights; the batch is compared by samples per optimizer step.
DECIDING = (
    *("seed", "data_seed", "bf16", "optim", "optim_args", "optim_target_modules", "learning_rate", "weight_decay"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "lr_scheduler_type", "lr_scheduler_kwargs"),
    *("warmup_steps", "label_smoothing_factor", "neftune_noise_alpha", "train_sampling_strategy"),
    *("dataloader_drop_last", "ignore_data_skip"),
)
# Own options that do not change the final weights (cached features only round to bf16): paths, evaluation, how a
# batch is split. The model is compared by its weights, not by its name.
FREE = (
    *("model", "adapter", "data_dir", "eval_dataset", "eval_split", "eval_rows", "preview_samples", "max_new_tokens"),
    *("fresh", "self_check", "global_batch_size", "expected_processes", "cache_features", "cache_gb"),
)
# A local path in settings: its short name and a hash of the absolute path, independent of the working directory
_MARKED = re.compile(r"<([^<>]*), path ([0-9a-f]{8})>")


@dataclass(frozen=True)
class Start:
    """Where a run starts.

    Args:
        checkpoint: checkpoint to resume from, or None.
        is_finished: whether all steps are trained.
        messages: lines to print.
        undone: files and folders that `DeletePickleCallback` deletes, in this order.
    """

    checkpoint: str | None = None
    is_finished: bool = False
    messages: list[str] = field(default_factory=list)
    undone: list[Path] = field(default_factory=list)


def settings_of(
    parts: list[Any], args: TrainingArguments, secrets: Collection[str] = (), **facts: Any
) -> dict[str, Any]:
    """Return the settings that must stay the same when a run is resumed, and LENGTHS, as JSON values.

    Args:
        secrets: values to mask wherever they occur (`secret_names.secrets_of`).
        parts: dataclasses of the program's own arguments.
        args: training arguments.
        facts: further settings, such as the fingerprint of the weights.
    """
    theirs = {found.name for found in fields(TrainingArguments)}
    own = {found.name: getattr(part, found.name) for part in parts for found in fields(part)}
    own |= {found.name: getattr(args, found.name) for found in fields(args) if found.name not in theirs}
    settings = {name: value for name, value in own.items() if name not in FREE}
    settings |= {name: getattr(args, name) for name in (*DECIDING, *LENGTHS)} | facts
    return redact(_mark_paths(json.loads(json.dumps(settings, default=str))), secrets)


def _mark_paths(value: Any) -> Any:
    """Return settings with each local path replaced by its short name and a hash of the absolute path."""
    if isinstance(value, dict):
        return {name: _mark_paths(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_mark_paths(part) for part in value]
    if not isinstance(value, str):
        return value
    is_relative = not os.path.isabs(value) and value.partition("/")[0] not in BUILDERS
    if is_relative and (os.path.isdir(value) or ("/" in value and os.path.exists(value))):
        return _mark_path(os.path.abspath(value))
    return shorten_paths(value, _mark_path)


def _mark_path(path: str) -> str:
    absolute = os.path.realpath(re.sub(r"^file:/*(?=/)", "", path))
    return f"<{short_path(path)}, path {hashlib.sha256(absolute.encode('utf-8', 'replace')).hexdigest()[:8]}>"


def _is_same(before: Any, now: Any) -> bool:
    """Compare settings; local paths by their hashes, or by their names if an older record has no hashes."""
    if isinstance(before, dict) and isinstance(now, dict):
        return before.keys() == now.keys() and all(_is_same(before[name], now[name]) for name in before)
    if isinstance(before, list) and isinstance(now, list):
        return len(before) == len(now) and all(map(_is_same, before, now))
    if isinstance(before, str) and isinstance(now, str):
        have_hashes = len(_MARKED.findall(before)) == len(_MARKED.findall(now))
        kept = r"\2" if have_hashes else r"\1"
        return _MARKED.sub(kept, before) == _MARKED.sub(kept, now)
    return before == now


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the settings that changed, each as "name old, not new".

    Longer trainings and settings that the older record does not have are no changes.
    """
    before = redact(before)  # an older record can hold absolute paths
    return [
        f"{name} {_brief(before[name])}, not {_brief(now.get(name))}"
        for name in before
        if (now.get(name, 0) < before[name] if name in LENGTHS else not _is_same(before[name], now.get(name)))
    ]


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def begin(args: TrainingArguments, settings: dict[str, Any], command: str) -> Start:
    """Return `choose_start` of the first process, on all processes.

    Raises:
        ValueError: on all processes, if the first one raised it.
    """
    found: list[Start | ValueError] = [Start()]
    if args.process_index == 0:
        try:
            found = [choose_start(Path(args.output_dir), settings, command, args.resume_from_checkpoint, args.fresh)]
            check_start(found[0])
        except ValueError as error:
            found = [error]
    if args.world_size > 1:
        torch.distributed.broadcast_object_list(found, device=args.device)
    if isinstance(found[0], ValueError):
        raise found[0]
    return found[0]


def check_start(start: Start) -> None:
    """Check the weights of the checkpoint to resume from against its checksums.

    Raises:
        ValueError: they differ.
    """
    if start.checkpoint is None:
        return
    try:
        check_checksums(start.checkpoint)
    except ValueError as error:
        raise ValueError(
            f"{error} Or resume from an older checkpoint with --resume_from_checkpoint FOLDER, or start over with "
            "--fresh true."
        ) from error


def choose_start(
    folder: Path, settings: dict[str, Any], command: str, wanted: str | None = None, fresh: bool = False
) -> Start:
    """Return where a run in `folder` starts, and delete what killed processes left there.

    Args:
        settings: `settings_of` the run.
        command: the run's command, as in its record.
        wanted: checkpoint of `resume_from_checkpoint`; the settings can then differ.
        fresh: start from the beginning.

    Raises:
        ValueError: the folder holds another run, or `wanted` is not a checkpoint.
    """
    remove_scraps(folder)
    checkpoints = checkpoints_of(folder)
    newest = checkpoints[-1] if checkpoints else None
    if fresh:
        undone = _undone(folder, checkpoints)
        line = f"fresh: deletes {_names(undone)} in {folder} and replaces the model there; other files stay"
        return Start(messages=[line] if undone else [], undone=undone)
    commands = [_last_stage(path).get("command") for path in (newest, folder) if path]
    is_again = any(before is not None and redact_command(before) == command for before in commands)
    if wanted is not None and not is_again:
        return _go_back(folder, Path(wanted), settings)

    finished = _last_stage(folder)
    if newest is None and not finished:
        return Start()
    is_over = bool(finished) and (newest is None or step_of(newest) <= finished["steps"])
    stage = finished if is_over else _last_stage(newest)
    if "settings" not in stage:
        raise ValueError(
            f"{folder} holds a run without recorded settings, so it cannot be resumed. Use another output_dir, or "
            "start over with --fresh true."
        )
    if changed := differences(stage["settings"], settings):
        further = f", resume it anyway with --resume_from_checkpoint {newest}" if newest else ""
        raise ValueError(
            f"{folder} holds a run with other settings: {'; '.join(changed)}. Use another output_dir{further}, or "
            "start over with --fresh true."
        )
    if is_over and all(settings[name] == stage["settings"][name] for name in LENGTHS):
        return Start(
            is_finished=True, messages=[f"finished: this run has trained all its {finished['steps']} steps in {folder}"]
        )
    if newest is None:
        raise ValueError(
            f"{folder} holds a finished run of {finished['steps']} steps without checkpoints, so it has no optimizer "
            f"state and cannot be extended. Start a new run from its model: --model {folder} --output_dir NEW; or "
            "start over with --fresh true."
        )
    return Start(str(newest), messages=[f"resuming from step {step_of(newest)}: {newest}"])


def _go_back(folder: Path, wanted: Path, settings: dict[str, Any]) -> Start:
    """Return a start at a given checkpoint; newer checkpoints of the folder will be deleted."""
    if not (wanted / TRAINER_STATE_NAME).is_file():
        raise ValueError(f"--resume_from_checkpoint {wanted} is not a checkpoint: it has no {TRAINER_STATE_NAME}.")
    if wanted.resolve().parent != folder.resolve() and (checkpoints_of(folder) or _last_stage(folder)):
        raise ValueError(
            f"--resume_from_checkpoint {wanted} is in another folder, but output_dir {folder} already holds a run. Use "
            "another output_dir, or start over with --fresh true."
        )
    step = json.loads((wanted / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["global_step"]
    newer = [path for path in checkpoints_of(folder) if step_of(path) > step and path.resolve() != wanted.resolve()]
    messages = [f"resuming from step {step}: {wanted}"]
    if changed := differences(_last_stage(wanted).get("settings", {}), settings):
        messages.append(f"with other settings: {'; '.join(changed)}")
    if undone := _undone(folder, newer):
        messages.append(f"deletes {_names(undone)} in {folder}, which are newer")
    return Start(str(wanted), messages=messages, undone=undone)


def _undone(folder: Path, checkpoints: list[Path]) -> list[Path]:
    """Return the record of a finished run, and the checkpoints, newest first.

    In this order, a process that is killed between two deletions leaves an older state of the same run.
    """
    files = [folder / name for name in (TRAINING_RECORD, NONFINITE_FILE)]
    return [*(path for path in files if path.exists()), *reversed(checkpoints)]


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths)


class DeletePickleCallback(TrainerCallback):
    """Deletes what a start replaces, before the first step: by then nothing can refuse the run any more."""

    def __init__(self, start: Start):
        self.undone = start.undone

    def on_step_begin(self, args, state, control, **kwargs):
        undone, self.undone = self.undone, []
        if not state.is_world_process_zero:
            return
        for path in undone:
            if path.is_dir():
                remove_folder(path)
            else:
                path.unlink()

    def on_train_end(self, *args, **kwargs):
        """Delete it also if no step was left to train."""
        self.on_step_begin(*args, **kwargs)


def _last_stage(folder: Path) -> dict[str, Any]:
    """Return the last stage of a folder's record, {} if it has none."""
    stages = read_stages(folder)
    return stages[-1] if stages else {}
