"""GemmaLisaTrainer: cross-entropy, BCE and Dice over the counts of the whole optimizer step, and the four scores."""

import math
import os
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute
import torch
from accelerate import DistributedType
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, SequentialSampler
from transformers import EvalPrediction, Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState

from gemma_lisa.checkpoints.checksums import write_checksums
from gemma_lisa.checkpoints.training_record import TRAINING_RECORD, Record
from gemma_lisa.datasets_builder.questions import EvaluationQuestions, MixtureQuestions
from gemma_lisa.datasets_builder.streams import StreamedQuestions
from gemma_lisa.evaluation.metrics import summarize_counts
from gemma_lisa.evaluation.protocols import teacher_forced_counts
from gemma_lisa.safety.errors import one_line_errors
from gemma_lisa.safety.whole_files import write_whole

from .atomic_saves import (
    ASIDE,
    NONFINITE_FILE,
    checkpoint_name,
    checkpoints_of,
    place_checkpoint,
    place_model,
    remove_folder,
    rotate,
    written_aside,
)
from .distributed import accelerate_prepares
from .hub_push import HubPushes
from .optimizers import parameter_groups
from .training_arguments import GemmaLisaTrainingArguments

# Options of an optimizer's groups that a resumed run takes from its arguments
ASKED_AT_RESUME = ("initial_lr", "weight_decay", "betas", "eps")
LOSS_PARTS = ("language_loss", "mask_bce_loss", "mask_dice_loss", "score_loss", "prompted_loss")


class GemmaLisaTrainer(HubPushes, Trainer):
    """Trainer with ten differences.

    The loss of a step is Σ CE / tokens, Σ BCE / masks and Σ Dice / masks, weighted by the model's configuration, where
    the divisors count all micro-batches on all ranks: how a step is cut into micro-batches changes nothing.

    Evaluation is teacher-forced (`protocols`) and exchanges counts between ranks, never masks.

    A mixture of data sets is gone through in its own order.

    A streamed mixture deals itself out to processes, and accelerate does not do it again.

    The training data are told every epoch (`set_epoch`), on all ranks and after a resume.

    The parts of the model have learning rates of their own (`optimizers.parameter_groups`).

    What is saved is written aside and appears when it is whole (`run_folder`), with the run's record in it.

    What is pushed to the Hub is a complete repository (`pushing`).

    FSDP2 is kept from what it would do to an adapter, to precision and to what is saved (`parallel`).

    A loss or gradient that is not finite ends the run before it is learned from.

    Args:
        record: of the run, for every folder that is saved; and what Trainer takes.
    """

    # compute_loss divides by the counts of the whole step; Trainer must not divide by the accumulation once more.
    loss_is_scaled_for_ga = True

    def __init__(self, *args, record: Record | None = None, **kwargs):
        super().__init__(*args, compute_metrics=scores_of_counts, **kwargs)
        self.record = record
        self._saves_checkpoint = False
        self._step_sources: list[list[str]] = []  # of every micro-batch of the step
        self._step_losses: list[dict[str, torch.Tensor]] = []
        self._part_sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), device=self.args.device))
        self._seen_parts: set[str] = set()
        self._part_steps = 0
        is_stream = isinstance(self.train_dataset, StreamedQuestions)
        self.add_callback(StreamCallback(dealt_out(self.args)) if is_stream else EpochCallback())

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device):
        """The micro-batches of one optimizer step, and (2,): its labelled tokens and masks on all ranks."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._step_sources = [batch.pop("sources", []) for batch in batches]
        self._step_losses = []
        tokens = sum(len(batch["learned_positions"]) for batch in batches)
        masks = sum(len(batch.get("mask_targets", ())) for batch in batches)
        counts = torch.tensor([tokens, masks], device=device, dtype=torch.float64)
        self._part_steps += 1
        return batches, self.accelerator.reduce(counts, reduction="sum")

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ):
        """The weighted sum of the parts; `num_items_in_batch` is what `get_batch_samples` counted, or None."""
        if num_items_in_batch is None:
            outputs = model(**inputs)
            loss = outputs["loss"]
        else:
            tokens, masks = num_items_in_batch.long()  # whole numbers, which FSDP2 does not round to bf16
            outputs = model(**inputs, num_items_in_batch=tokens, num_masks_in_batch=masks)
            # Gradients are averaged over ranks; the shares of the ranks are to be added up
            loss = outputs["loss"] * self.accelerator.num_processes
            parts = {name: outputs[name].detach() for name in LOSS_PARTS if outputs.get(name) is not None}
            for name, part in parts.items():
                self._part_sums[name] += part
                self._seen_parts.add(name)
            self._step_losses.append({"loss": outputs["loss"].detach(), **parts})
            if self.accelerator.distributed_type == DistributedType.DEEPSPEED:  # it steps within backward
                self._stop_unless_finite(None)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs with the parts of the loss beside it, each the mean over the steps since the last log."""
        if "loss" in logs and self._part_steps:
            # The shares of the ranks are added up; a part that no batch had is not logged as 0
            sums = torch.stack([self._part_sums[name] for name in LOSS_PARTS])
            seen = torch.tensor([float(name in self._seen_parts) for name in LOSS_PARTS], device=sums.device)
            sums, seen = self.accelerator.reduce(torch.stack([sums, seen]), reduction="sum").tolist()
            logs |= {name: sums[at] / self._part_steps for at, name in enumerate(LOSS_PARTS) if seen[at]}
            self._part_sums.clear()
            self._seen_parts.clear()
            self._part_steps = 0
        super().log(logs, start_time)

    @staticmethod
    def get_optimizer_cls_and_kwargs(args, model=None):
        """Trainer's choice by `optim`, on groups with the rates of the arguments."""
        optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
        if options.keys() & {"params", "model", "optimizer_dict"}:
            raise ValueError(f"optim: {args.optim.value} makes its own groups of parameters; use an AdamW.")
        options["params"] = groups_of(model, args)  # Trainer hands them to the class, in place of its own
        return optimizer_class, options

    def _get_grad_norm(self, model, grad_norm=None):
        """As Trainer, which asks for it before every step of the optimizer: the last moment to stop."""
        grad_norm = super()._get_grad_norm(model, grad_norm)
        self._stop_unless_finite(grad_norm)
        return grad_norm

    def _stop_unless_finite(self, grad_norm: torch.Tensor | float | None) -> None:
        """End the run on all ranks if a loss of this step, or the gradient, is not finite on one of them.

        Raises:
            FloatingPointError: it is not; `nonfinite.json` then names the rows.
        """
        norm = None if grad_norm is None else float(grad_norm)
        losses = [{name: float(part) for name, part in parts.items()} for parts in self._step_losses]
        values = [*(value for parts in losses for value in parts.values()), 0.0 if norm is None else norm]
        is_bad = torch.tensor(float(not all(map(math.isfinite, values))), device=self.args.device)
        if not self.accelerator.reduce(is_bad, reduction="sum"):
            return
        batches = [
            {
                "rank": self.args.process_index,
                "sources": sources,
                **{name: _shown(part) for name, part in parts.items()},
            }
            for sources, parts in zip(self._step_sources, losses, strict=False)  # DeepSpeed: those up to now
        ]
        batches = gather_object(batches)
        path, step = Path(self.args.output_dir) / NONFINITE_FILE, self.state.global_step + 1
        if self.is_world_process_zero():
            write_whole(path, {"step": step, "grad_norm": _shown(norm), "micro_batches": batches})
        checkpoints = checkpoints_of(path.parent)
        resume = f"--resume_from_checkpoint {checkpoints[-1]}" if checkpoints else "--fresh true"
        part = "gradient" if all(map(_is_finite, batches)) else "loss"
        raise FloatingPointError(
            f"step {step}: the {part} is not finite, so nothing of it is kept. {path} names its rows: look at them, or "
            f"lower learning_rate or max_grad_norm and go on with {resume}."
        )

    def _run_epoch(self, *args, **kwargs):
        """As Trainer, which would take one more step where the checkpoint that is gone on from is the last."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)
        else:
            self.control.should_training_stop = True

    def _get_output_dir(self, trial):
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, ASIDE) if self._saves_checkpoint else folder

    def _save_checkpoint(self, model, trial):
        """As Trainer, but the folder appears when all ranks have written all they have to."""
        folder, name = Path(self.args.output_dir), checkpoint_name(self.state.global_step)
        aside = folder / ASIDE / name
        self._saves_checkpoint = True
        try:
            with written_aside(aside, folder / name):
                super()._save_checkpoint(model, trial)
        finally:
            self._saves_checkpoint = False
        if self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = str(folder / name)  # and not where it lies still
        with one_line_errors(folder / name, "cannot be written"):
            self._seal(aside, lambda: place_checkpoint(aside, folder / name))
        if self.args.push_to_hub:
            self.push_checkpoint(folder / name)
        if self.args.should_save:
            rotate(folder, self.args.save_total_limit, self.state.best_model_checkpoint)

    def save_model(self, output_dir=None, _internal_call=False):
        """As Trainer; into the output folder with the state and the record, moved there when all of it is written."""
        if output_dir is not None:
            super().save_model(output_dir, _internal_call)
            return
        folder = Path(self.args.output_dir)
        aside = folder / ASIDE / "model"
        with written_aside(aside, folder):
            super().save_model(str(aside), _internal_call=True)
        with one_line_errors(folder, "cannot be written"):
            self._seal(aside, lambda: place_model(aside, folder))
        if self.args.push_to_hub and not _internal_call:
            self.push_saved("Model save")

    def _save(self, output_dir=None, state_dict=None):
        """As Trainer, with checksums beside the weights, and the arguments without secrets and absolute paths.

        Of the copies of all weights that an engine hands over, none is saved that is tied to another.
        """
        if state_dict is not None:
            tied = getattr(self.model, "all_tied_weights_keys", {})
            state_dict = {name: weight for name, weight in state_dict.items() if name not in tied}
        args, self.args = self.args, self.args.redacted()
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args = args
        if args.should_save:
            write_checksums(Path(output_dir or args.output_dir))

    def _seal(self, aside: Path, place: Callable[[], None]) -> None:
        """Add state and record to what was written aside, and when all ranks are there, let it appear."""
        if self.args.should_save:
            self.state.save_to_json(str(aside / TRAINER_STATE_NAME))
            if self.record is not None:
                write_whole(aside / TRAINING_RECORD, self.record.content(self.state))
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            place()
        self.accelerator.wait_for_everyone()
        if self.is_local_process_zero() and aside.exists():  # a node with a disc of its own
            with suppress(FileNotFoundError):  # or one that was not told yet
                place()
        self.accelerator.wait_for_everyone()
        if self.is_local_process_zero() and aside.parent.exists():
            with suppress(OSError):  # another node was faster
                aside.parent.rmdir()

    def _finalize_training(self, trial, num_train_samples, start_time):
        """As Trainer, which keeps the best checkpoint alone where save_total_limit is 1, and would delete in place."""
        best = self.state.best_model_checkpoint
        is_here = best is not None and Path(best).resolve().parent == Path(self.args.output_dir).resolve()
        if self.args.should_save and is_here and self.args.save_total_limit == 1:
            for checkpoint in checkpoints_of(Path(self.args.output_dir)):
                if checkpoint.name != Path(best).name:
                    remove_folder(checkpoint)
        return super()._finalize_training(trial, num_train_samples, start_time)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As Trainer, but the optimizer's options are those asked for now, and not the checkpoint's.

        Under DeepSpeed, which loads its optimizer elsewhere, they stay the checkpoint's. A schedule that follows the
        scores has no initial rates, so that its rates stay the checkpoint's.
        """
        asked = [] if checkpoint is None or self.is_deepspeed_enabled else self.optimizer.param_groups
        asked = [{name: group[name] for name in ASKED_AT_RESUME if name in group} for group in asked]
        super()._load_optimizer_and_scheduler(checkpoint)
        for at, options in enumerate(asked):
            group = self.optimizer.param_groups[at]
            rate = options.pop("initial_lr", None)
            group |= options
            if rate is not None and rate != group["initial_lr"]:  # the schedule's place is kept, and every bit if equal
                group["lr"] *= rate / group["initial_lr"]
                group["initial_lr"] = self.lr_scheduler.base_lrs[at] = rate
                self.lr_scheduler._last_lr[at] = group["lr"]  # what is logged

    def _get_train_sampler(self, train_dataset=None):
        """In order for a mixture, which shuffles itself: no row of a set comes again before all others did."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        return (
            SequentialSampler(dataset) if isinstance(dataset, MixtureQuestions) else super()._get_train_sampler(dataset)
        )

    def get_train_dataloader(self) -> DataLoader:
        if not isinstance(self.train_dataset, StreamedQuestions):
            return super().get_train_dataloader()
        return DataLoader(
            self.train_dataset,
            batch_size=self._train_batch_size,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            multiprocessing_context=self.args.dataloader_multiprocessing_context,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        with accelerate_prepares(self.model, getattr(self.accelerator.state, "fsdp_plugin", None)):
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)

    def _prepare_inputs(self, inputs):
        """On the device, and there with the images as both towers take them."""
        return self.processing_class.normalize_images(super()._prepare_inputs(inputs))

    @torch.no_grad()
    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """(loss, counts (B, 5), sample ids (B,)): numbers of one size, whatever the images' sizes are."""
        sample_ids = inputs.pop("sample_ids")
        inputs.pop("sources", None)
        mask_labels = inputs.pop("mask_labels", [])  # at the images' own sizes, for the counts
        inputs = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        counts = teacher_forced_counts(self.processing_class, inputs, outputs, mask_labels).to(loss.device)
        return loss.detach(), counts, sample_ids.to(loss.device)


class EpochCallback(TrainerCallback):
    """Tells the training data which epoch begins; accelerate does not in several processes, nor in a resumed epoch."""

    def on_epoch_begin(self, args, state, control, train_dataloader, **kwargs):
        train_dataloader.dataset.set_epoch(int(state.epoch))


class StreamCallback(TrainerCallback, ExportableState):
    """Tells a stream, whose only epoch is the whole training, how much of it was seen before a resume.

    How it is dealt out is written into every checkpoint: dealt out in another way, it would begin elsewhere.
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
            f"{name} {value}, not {before.get(name)}"
            for name, value in dealt_out(args).items()
            if before.get(name) != value
        ]:
            raise ValueError(
                f"The stream was dealt out in another way: {'; '.join(changed)}. Go on as it began, or begin the data "
                "anew with ignore_data_skip."
            )
        train_dataloader.dataset.skip(state.global_step * args.gradient_accumulation_steps, args.train_batch_size)


def dealt_out(args: GemmaLisaTrainingArguments) -> dict[str, int]:
    """What decides which rows of a stream come to which step."""
    return {
        "seed": args.order_seed,
        "processes": args.world_size,
        "dataloader_num_workers": args.dataloader_num_workers,
        "per_device_train_batch_size": args.train_batch_size,
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
    }


def _shown(value: float | None) -> float | str | None:
    """A number as JSON has it, which knows no nan."""
    return value if value is None or math.isfinite(value) else str(value)


def _is_finite(batch: dict[str, Any]) -> bool:
    """Whether no loss of a micro-batch of `nonfinite.json` is a word."""
    return not any(isinstance(batch.get(name), str) for name in ("loss", *LOSS_PARTS))


def groups_of(model: torch.nn.Module, args: GemmaLisaTrainingArguments) -> list[dict[str, Any]]:
    """`parameter_groups` at the rates of the arguments."""
    return parameter_groups(model, args.learning_rate, args.weight_decay, args.part_rates)


def measured_scores(questions: EvaluationQuestions) -> set[str]:
    """Names of the scores that an evaluation on these questions gives, with the loss; without drawing a question."""
    targets = questions.rows.select_columns(["targets"]).with_format("arrow")[:]["targets"]
    masks = pyarrow.compute.struct_field(pyarrow.compute.list_flatten(targets), "masks")
    counts = pyarrow.compute.list_value_length(masks).fill_null(0).to_numpy().astype(np.int64)
    nothing = np.zeros_like(counts)
    counts = np.stack([nothing, counts > 0, counts, nothing, nothing], axis=1)  # as `QueryResult.numbers`
    return {"loss", *_scores(counts)}


def scores_of_counts(prediction: EvalPrediction) -> dict[str, float | int]:
    """The scores (`metrics`) of gathered counts; samples that filled up the last batch are counted once."""
    _, first = np.unique(prediction.label_ids, return_index=True)
    return _scores(prediction.predictions[first].astype(np.int64))


def _scores(counts: np.ndarray) -> dict[str, float | int]:
    scores = summarize_counts(counts)
    del scores["gIoU_all"]  # with the answer given, a missing thing has no mask whatever the model thinks
    return {name: value for name, value in scores.items() if value is not None}
