"""Show the progress of a training: a table of the steps, the scores of each evaluation, and a summary at the end."""

import json
import shlex
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import ProgressCallback, Trainer, TrainerState
from transformers.trainer_callback import PrinterCallback

from gemma_lisa.safety.short_text import count_of

from .arguments import DataArguments
from .atomic_saves import checkpoints_of
from .training_arguments import GemmaLisaTrainingArguments

# Loss part in the logs -> its column
LOSS_COLUMNS = {
    "language_loss": "language",
    "mask_bce_loss": "mask BCE",
    "mask_dice_loss": "mask Dice",
    "score_loss": "score",
    "heat_map_loss": "heat map",
    "prompted_loss": "prompted",
}
WIDTH, STEP_WIDTH = 9, 15  # characters of a column
# Score -> its meaning (`evaluation.metrics.summarize_counts`)
MEANINGS = {
    "loss": "weighted sum of the loss parts; lower is better",
    "gIoU": "mean IoU over questions with a target; 1 is best",
    "gIoU_plural": "mean IoU over questions with two or more masks; 1 is best",
    "cIoU": "sum of intersections / sum of unions, large objects count more; 1 is best",
    "N-acc": "share of questions about absent objects that get no mask; 1 is best",
    "T-acc": "share of questions about present objects that get a mask; 1 is best",
}
# LISA-7B: arXiv 2308.00692, table 1
GOOD = "gIoU above 0.5: most masks are in the right place; above 0.8: they fit closely. LISA-7B has 0.53 on ReasonSeg."


class TableCallback(ProgressCallback):
    """ProgressCallback that prints a table line per logging step, and a line with its meaning per score.

    The lines go to stdout, in the first process only. `logs` is not changed, so that trackers and `log_history` get all
    values. Without a progress bar (`disable_tqdm`) the lines are the same.

    Args:
        samples_per_step: global batch size, for the column samples/s.
        has_bar: whether to show progress bars.
    """

    def __init__(self, samples_per_step: int, has_bar: bool = True):
        super().__init__()
        self.samples_per_step, self.has_bar = samples_per_step, has_bar
        self.parts: list[str] = []  # loss parts that have a column
        self.has_header = False
        self._mark = time.monotonic()  # end of the last step, evaluation or checkpoint
        self._recent = self._whole = (0, 0.0)  # steps and their seconds: since the last line, since the start

    def on_train_begin(self, args, state, control, **kwargs):
        self._mark = time.monotonic()
        if self.has_bar:
            super().on_train_begin(args, state, control, **kwargs)

    def on_step_end(self, args, state, control, **kwargs):
        seconds = time.monotonic() - self._mark
        self._recent, self._whole = ((steps + 1, sum_ + seconds) for steps, sum_ in (self._recent, self._whole))
        self._mark = time.monotonic()
        if self.has_bar:
            super().on_step_end(args, state, control, **kwargs)

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        if self.has_bar:
            super().on_prediction_step(args, state, control, eval_dataloader=eval_dataloader, **kwargs)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        super().on_evaluate(args, state, control, **kwargs)
        if state.is_world_process_zero:
            for line in score_lines(metrics or {}, state.global_step):
                tqdm.write(line)
        self._mark = time.monotonic()

    def on_save(self, args, state, control, **kwargs):
        self._mark = time.monotonic()

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Print a line for the logs of a training step; scores are printed by `on_evaluate`."""
        if not state.is_world_process_zero or "loss" not in (logs or {}):
            return
        new = [name for name in LOSS_COLUMNS if name in logs and name not in self.parts]
        if new or not self.has_header:
            self.parts = [name for name in LOSS_COLUMNS if name in self.parts or name in new]
            self.has_header = True
            tqdm.write(self._header())
        tqdm.write(self._line(state, logs))
        self._recent = (0, 0.0)

    def on_train_end(self, args, state, control, **kwargs):
        if self.training_bar is not None:
            super().on_train_end(args, state, control, **kwargs)

    def _header(self) -> str:
        names = ("epoch", "loss", *(LOSS_COLUMNS[part] for part in self.parts))
        return _row("step", (*names, "lr", "grad norm", "samples/s", "time left"))

    def _line(self, state: TrainerState, logs: dict[str, Any]) -> str:
        (steps, seconds), (all_steps, all_seconds) = self._recent, self._whole
        speed = f"{steps * self.samples_per_step / seconds:.3g}" if seconds > 0 else "-"
        left = state.max_steps - state.global_step
        values = (
            f"{logs['epoch']:.2f}" if "epoch" in logs else "-",
            *(_number(logs.get(name)) for name in ("loss", *self.parts)),
            f"{logs['learning_rate']:.2e}" if "learning_rate" in logs else "-",
            _number(logs.get("grad_norm")),
            speed,
            _clock(left * all_seconds / all_steps) if all_steps else "-",
        )
        return _row(f"{state.global_step:,}/{state.max_steps:,}", values)


def show_table(trainer: Trainer) -> None:
    """Replace the callback of Trainer that prints logs as dictionaries."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(TableCallback(trainer.args.samples_per_step, has_bar=not trainer.args.disable_tqdm))


def _row(first: str, others: Iterable[str]) -> str:
    return f"{first:>{STEP_WIDTH}}" + "".join(f"  {text:>{WIDTH}}" for text in others)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _clock(seconds: float) -> str:
    """Return a time as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def score_lines(metrics: dict[str, Any], step: int, prefix: str = "eval_") -> list[str]:
    """Return a heading and one line per score of an evaluation; [] if it measured none."""
    scores = {name.removeprefix(prefix): value for name, value in metrics.items()}
    lines = [f"  {name:<12} {scores[name]:<7.4g} {text}" for name, text in MEANINGS.items() if name in scores]
    if not lines:
        return []
    count = f" on {count_of(scores['count'], 'question')}" if "count" in scores else ""
    return [f"Evaluation at step {step:,}{count}, with the correct answer's text as input (teacher-forced):", *lines]


# ---------------------------------------------------------------------------------------------------------------------
# Summary
# ---------------------------------------------------------------------------------------------------------------------
def summary_lines(state: TrainerState, args: GemmaLisaTrainingArguments, data_args: DataArguments) -> list[str]:
    """Return what a finished run made: where the model is, the time, the scores, and the next commands."""
    seconds = next((entry["train_runtime"] for entry in reversed(state.log_history) if "train_runtime" in entry), None)
    time_ = "" if seconds is None else f" in {_clock(seconds)} (h:mm:ss)"
    lines = [f"Training finished: {count_of(state.global_step, 'step')}{time_}.", f"Model saved: {args.output_dir}"]
    if checkpoints := checkpoints_of(Path(args.output_dir)):
        lines.append(f"Newest checkpoint, to resume from: {checkpoints[-1]}")
    evaluations = [entry for entry in state.log_history if "eval_loss" in entry]
    if evaluations:
        lines += ["Scores of the last evaluation:", *_last_and_best(evaluations), f"  {GOOD}"]
    elif data_args.learn_masks:
        lines.append("Scores: none, as the run had no evaluation. The last command below measures them.")
    return [*lines, "Next:", *(f"  {command}" for command in next_commands(args, data_args))]


def _last_and_best(evaluations: list[dict[str, Any]]) -> list[str]:
    lines = []
    for name, meaning in MEANINGS.items():
        measured = [entry for entry in evaluations if f"eval_{name}" in entry]
        if not measured:
            continue
        best = (min if name == "loss" else max)(measured, key=lambda entry: entry[f"eval_{name}"])
        value = f"{measured[-1][f'eval_{name}']:.4g}"
        if best[f"eval_{name}"] != measured[-1][f"eval_{name}"]:
            value += f" (best {best[f'eval_{name}']:.4g} at step {best['step']:,})"
        lines.append(f"  {name:<12} {value}: {meaning}")
    return lines


def next_commands(args: GemmaLisaTrainingArguments, data_args: DataArguments) -> list[str]:
    """Return the commands that ask the trained model and that evaluate it."""
    folder = shlex.quote(args.output_dir)
    commands = [f'python predict.py --model {folder} --image PHOTO.jpg --query "QUESTION" --output answer.png']
    if not data_args.learn_masks:
        return commands
    name = data_args.eval_dataset or data_args.dataset
    command = f"python eval.py --model {folder} --dataset {shlex.quote(name)} --split {data_args.eval_split}"
    if data_args.data_dir is not None:
        command += f" --data_dir {shlex.quote(data_args.data_dir)}"
    if data_args.dataset_options and name == data_args.dataset:
        command += f" --dataset_options {shlex.quote(json.dumps(data_args.dataset_options, ensure_ascii=False))}"
    if data_args.max_bad:
        command += f" --max_bad {data_args.max_bad}"
    return [*commands, f"{command} --output {shlex.quote(f'{args.output_dir}/results.json')}"]
