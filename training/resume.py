"""Where a start of train.py begins: anew, at a checkpoint of its folder, or nowhere because the run is finished."""

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

# How long is trained may grow while a run goes on.
LENGTHS = ("max_steps", "num_train_epochs")
# Of transformers' TrainingArguments, what decides which weights come out; the batch counts as rows a step.
DECIDING = (
    *("seed", "data_seed", "bf16", "optim", "optim_args", "optim_target_modules", "learning_rate", "weight_decay"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "lr_scheduler_type", "lr_scheduler_kwargs"),
    *("warmup_steps", "label_smoothing_factor", "neftune_noise_alpha", "train_sampling_strategy"),
    *("dataloader_drop_last", "ignore_data_skip"),
)
# Of the program's own, what does not: where things lie, what is looked at on the way, how a batch is cut. The model
# counts by its weights, not its name.
FREE = (
    *("model", "adapter", "data_dir", "eval_dataset", "eval_split", "eval_rows", "preview_samples", "max_new_tokens"),
    *("fresh", "self_check", "global_batch_size", "expected_processes"),
)
# A local path in settings: its short name, and a hash of the absolute path, which does not depend on the working folder
_MARKED = re.compile(r"<([^<>]*), path ([0-9a-f]{8})>")


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    Args:
        checkpoint: to go on from, or None.
        is_finished: nothing is left to do.
        says: what is to be told, in lines.
        undone: what of the folder is given up by that, in the order in which `DeletePickleCallback` takes it away.
    """

    checkpoint: str | None = None
    is_finished: bool = False
    says: list[str] = field(default_factory=list)
    undone: list[Path] = field(default_factory=list)


def settings_of(
    parts: list[Any], args: TrainingArguments, secrets: Collection[str] = (), **facts: Any
) -> dict[str, Any]:
    """What may not change while a run goes on, as JSON would give it back; and LENGTHS.

    Args:
        secrets: values to mask wherever they occur (`secret_names.secrets_of`).
        parts: dataclasses of the program's own arguments.
        args: of the training, with fields of the program's own.
        facts: what else it is, as the model's weights and the rows of a step.
    """
    theirs = {found.name for found in fields(TrainingArguments)}
    own = {found.name: getattr(part, found.name) for part in parts for found in fields(part)}
    own |= {found.name: getattr(args, found.name) for found in fields(args) if found.name not in theirs}
    settings = {name: value for name, value in own.items() if name not in FREE}
    settings |= {name: getattr(args, name) for name in (*DECIDING, *LENGTHS)} | facts
    return redact(_mark_paths(json.loads(json.dumps(settings, default=str))), secrets)


def _mark_paths(value: Any) -> Any:
    """Return settings in which every local path is its short name and a hash of the absolute path."""
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
    """Compare settings; local paths by their hashes, or by their names where an older record has no hashes."""
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
    """What of the settings has changed, except that more is to be trained; a setting not known before is one of now."""
    before = redact(before)  # an older record may hold absolute paths
    return [
        f"{name} {_brief(before[name])}, not {_brief(now.get(name))}"
        for name in before
        if (now.get(name, 0) < before[name] if name in LENGTHS else not _is_same(before[name], now.get(name)))
    ]


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def begin(args: TrainingArguments, settings: dict[str, Any], command: str) -> Start:
    """`choose_start` of the first process, for all of them; takes `fresh` and `resume_from_checkpoint` from `args`.

    Raises:
        ValueError: on all processes what it raised on the first.
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
    """Compare the weights of the checkpoint to resume from with its checksums.

    Raises:
        ValueError: they differ; with what to do.
    """
    if start.checkpoint is None:
        return
    try:
        check_checksums(start.checkpoint)
    except ValueError as error:
        raise ValueError(
            f"{error} Or resume from an older checkpoint with --resume_from_checkpoint FOLDER, or begin anew with "
            "--fresh true."
        ) from error


def choose_start(
    folder: Path, settings: dict[str, Any], command: str, wanted: str | None = None, fresh: bool = False
) -> Start:
    """Where a run in `folder` begins; takes away scraps.

    Args:
        settings: `settings_of` the run.
        command: of the run, as its record tells it.
        wanted: a checkpoint that is asked for: settings may differ then.
        fresh: begin anew.

    Raises:
        ValueError: the folder holds another run, or `wanted` is no checkpoint.
    """
    remove_scraps(folder)
    checkpoints = checkpoints_of(folder)
    newest = checkpoints[-1] if checkpoints else None
    if fresh:
        undone = _undone(folder, checkpoints)
        told = f"fresh: takes {_names(undone)} from {folder} and replaces its weights and configuration"
        return Start(says=[f"{told}; its other files stay"] if undone else [], undone=undone)
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
            f"{folder} holds a run that does not say what it was made with; take another output_dir, or begin anew "
            "with --fresh true."
        )
    if changed := differences(stage["settings"], settings):
        further = f", go on all the same with --resume_from_checkpoint {newest}" if newest else ""
        raise ValueError(
            f"{folder} holds another run: {'; '.join(changed)}. Take another output_dir{further}, or begin anew with "
            "--fresh true."
        )
    if is_over and all(settings[name] == stage["settings"][name] for name in LENGTHS):
        return Start(is_finished=True, says=[f"finished: {folder} holds all {finished['steps']} steps of this run"])
    if newest is None:
        raise ValueError(
            f"{folder} holds a finished run of {finished['steps']} steps and no checkpoint to go on from. Train on "
            "from its weights in another output_dir with --model, or begin anew with --fresh true."
        )
    return Start(str(newest), says=[f"going on from step {step_of(newest)}: {newest}"])


def _go_back(folder: Path, wanted: Path, settings: dict[str, Any]) -> Start:
    """Begin at the checkpoint that was asked for; newer ones of the folder are of a run that is given up."""
    if not (wanted / TRAINER_STATE_NAME).is_file():
        raise ValueError(f"--resume_from_checkpoint {wanted}: no checkpoint, it holds no {TRAINER_STATE_NAME}.")
    if wanted.resolve().parent != folder.resolve() and (checkpoints_of(folder) or _last_stage(folder)):
        raise ValueError(
            f"--resume_from_checkpoint {wanted}: {folder} holds a run of its own; take another output_dir, or begin "
            "anew with --fresh true."
        )
    step = json.loads((wanted / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["global_step"]
    newer = [path for path in checkpoints_of(folder) if step_of(path) > step and path.resolve() != wanted.resolve()]
    says = [f"going on from step {step}: {wanted}"]
    if changed := differences(_last_stage(wanted).get("settings", {}), settings):
        says.append(f"with other settings: {'; '.join(changed)}")
    if undone := _undone(folder, newer):
        says.append(f"takes {_names(undone)} from {folder}, which came later")
    return Start(str(wanted), says=says, undone=undone)


def _undone(folder: Path, checkpoints: list[Path]) -> list[Path]:
    """The record that says the run is finished, and the checkpoints, the newest first: killed between two of them, the
    folder holds a run that is further back.
    """
    files = [folder / name for name in (TRAINING_RECORD, NONFINITE_FILE)]
    return [*(path for path in files if path.exists()), *reversed(checkpoints)]


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths)


class DeletePickleCallback(TrainerCallback):
    """Takes away what a start gives up, before the first step: all that could refuse the run has not then."""

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
        """Where no step was left to do."""
        self.on_step_begin(*args, **kwargs)


def _last_stage(folder: Path) -> dict[str, Any]:
    """The last stage of a folder's record, {} where it has none."""
    stages = read_stages(folder)
    return stages[-1] if stages else {}
