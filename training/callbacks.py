"""Callbacks of GemmaLisaTrainer: epochs and streams of the data, options of a resumed run, and the last step."""

import logging
from pathlib import Path

from torch.optim import Optimizer
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from .atomic_saves import checkpoints_of, remove_folder
from .training_arguments import GemmaLisaTrainingArguments

# Options of parameter groups that a resumed run takes from its arguments
ASKED_AT_RESUME = ("initial_lr", "weight_decay", "betas", "eps")
# Start of Trainer's warning about an epoch without a batch
EMPTY_EPOCH = "There seems not to be a single sample in your epoch_iterator"


class EpochCallback(TrainerCallback):
    """Sets the epoch of the training data; Accelerate does not in several processes or in a resumed epoch."""

    def on_epoch_begin(self, args, state, control, train_dataloader, **kwargs):
        train_dataloader.dataset.set_epoch(int(state.epoch))


class StreamCallback(TrainerCallback, ExportableState):
    """Skips the rows of a stream that were read before a resume. The whole training is one epoch of a stream.

    Every checkpoint records how the stream is distributed. If that changes, the stream would resume at other rows.
    """

    def __init__(self, dealt: dict[str, int]):
        self.dealt = dealt

    def state(self) -> dict[str, dict]:
        return {"args": {"dealt": self.dealt}, "attributes": {}}

    def on_epoch_begin(self, args, state, control, train_dataloader, **kwargs):
        if args.ignore_data_skip:
            return
        before = state.stateful_callbacks.get(type(self).__name__, {}).get("args", {}).get("dealt", {})
        if changed := [
            f"{name} was {before.get(name)} and is {value}"
            for name, value in distribution_of(args).items()
            if before.get(name) != value
        ]:
            raise ValueError(
                f"streaming: the checkpoint's stream was distributed differently: {'; '.join(changed)}. Resume with "
                "the old values, or start the data from the beginning with --ignore_data_skip true."
            )
        train_dataloader.dataset.skip(state.global_step * args.gradient_accumulation_steps, args.train_batch_size)


def distribution_of(args: GemmaLisaTrainingArguments) -> dict[str, int]:
    """Return the settings that decide which rows of a stream each step gets."""
    return {
        "seed": args.order_seed,
        "processes": args.world_size,
        "dataloader_num_workers": args.dataloader_num_workers,
        "per_device_train_batch_size": args.train_batch_size,
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
    }


class ResumedOptionsCallback(TrainerCallback):
    """Sets the options of a resumed optimizer to those of the arguments.

    A schedule that follows the scores has no initial rates, so its rates stay those of the checkpoint.
    """

    def __init__(self):
        self.asked: list[dict] = []

    def remember(self, optimizer: Optimizer) -> None:
        """Store the options of every group before a checkpoint is loaded."""
        self.asked = [
            {name: group[name] for name in ASKED_AT_RESUME if name in group} for group in optimizer.param_groups
        ]

    def on_train_begin(self, args, state, control, optimizer, lr_scheduler, **kwargs):
        for at, options in enumerate(self.asked):
            group = optimizer.param_groups[at]
            rate = options.pop("initial_lr", None)
            group |= options
            if rate is not None and rate != group["initial_lr"]:  # keep the position in the schedule
                group["lr"] *= rate / group["initial_lr"]
                group["initial_lr"] = lr_scheduler.base_lrs[at] = rate
                lr_scheduler._last_lr[at] = group["lr"]  # the logged rate


class LastStepCallback(TrainerCallback):
    """Ends a run that is resumed from the checkpoint of its last step. Trainer would train one more step.

    `GemmaLisaTrainer.get_batch_samples` then returns no batches. Nothing is logged, evaluated or saved again.
    Trainer's warning about an epoch without batches is suppressed, because it would blame the data.
    """

    def __init__(self):
        self.is_over = False

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.is_over = state.global_step >= state.max_steps
        control.should_training_stop |= self.is_over
        if self.is_over:
            logging.getLogger("transformers.trainer").addFilter(_is_no_empty_epoch)

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.is_over:
            logging.getLogger("transformers.trainer").removeFilter(_is_no_empty_epoch)
            control.should_log = control.should_evaluate = control.should_save = False


def _is_no_empty_epoch(record: logging.LogRecord) -> bool:
    """Return whether a message is not Trainer's warning about an epoch without a batch."""
    return EMPTY_EPOCH not in record.getMessage()


class BestOnlyCallback(TrainerCallback):
    """Keeps only the best checkpoint at the end if save_total_limit is 1, as Trainer does, with atomic deletions."""

    def on_train_end(self, args, state, control, **kwargs):
        folder, best = Path(args.output_dir), state.best_model_checkpoint
        if not args.should_save or args.save_total_limit != 1 or best is None:
            return
        if Path(best).resolve().parent == folder.resolve():
            for checkpoint in checkpoints_of(folder):
                if checkpoint.name != Path(best).name:
                    remove_folder(checkpoint)
