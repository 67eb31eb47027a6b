"""GemmaLisaTrainer: cross-entropy, BCE and Dice over the counts of the whole optimizer step, and the four scores."""

from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, SequentialSampler
from transformers import EvalPrediction, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState

from .datasets_builder.questions import MixtureQuestions
from .datasets_builder.streams import StreamedQuestions
from .losses_gemma_lisa import IGNORE_INDEX
from .metrics import summarize_counts
from .optimizers import parameter_groups
from .protocols import teacher_forced_counts
from .training_arguments import GemmaLisaTrainingArguments

LOSS_PARTS = ("language_loss", "mask_bce_loss", "mask_dice_loss")


class GemmaLisaTrainer(Trainer):
    """Trainer with five differences.

    The loss of a step is Σ CE / tokens, Σ BCE / masks and Σ Dice / masks, weighted by the model's configuration, where
    the divisors count all micro-batches on all ranks: how a step is cut into micro-batches changes nothing.

    Evaluation is teacher-forced (`protocols`) and exchanges counts between ranks, never masks.

    A mixture of data sets is gone through in its own order.

    A streamed mixture deals itself out to processes, and accelerate does not do it again.

    The training data are told every epoch (`set_epoch`), on all ranks and after a resume.

    The parts of the model have learning rates of their own (`optimizers.parameter_groups`).
    """

    # compute_loss divides by the counts of the whole step; Trainer must not divide by the accumulation once more.
    loss_is_scaled_for_ga = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, compute_metrics=scores_of_counts, **kwargs)
        self._part_sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), device=self.args.device))
        self._seen_parts: set[str] = set()
        self._part_steps = 0
        is_stream = isinstance(self.train_dataset, StreamedQuestions)
        self.add_callback(StreamCallback(dealt_out(self.args)) if is_stream else EpochCallback())

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device):
        """The micro-batches of one optimizer step, and (2,): its labelled tokens and masks on all ranks."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        tokens = sum(int((batch["labels"][:, 1:] != IGNORE_INDEX).sum()) for batch in batches)
        masks = sum(len(of_image) for batch in batches for of_image in batch.get("mask_labels", []))
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
            tokens, masks = num_items_in_batch.float()
            outputs = model(**inputs, num_items_in_batch=tokens, num_masks_in_batch=masks)
            # Gradients are averaged over ranks; the shares of the ranks are to be added up
            loss = outputs["loss"] * self.accelerator.num_processes
            for name in LOSS_PARTS:
                if outputs.get(name) is not None:
                    self._part_sums[name] += outputs[name].detach()
                    self._seen_parts.add(name)
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

    @torch.no_grad()
    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """(loss, counts (B, 5), sample ids (B,)): numbers of one size, whatever the images' sizes are."""
        sample_ids = inputs.pop("sample_ids")
        inputs = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        counts = teacher_forced_counts(self.processing_class, inputs, outputs).to(loss.device)
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
        if state.global_step >= state.max_steps:
            raise ValueError(f"All {state.max_steps} steps were trained; raise max_steps to go on.")
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


def dealt_out(args: TrainingArguments) -> dict[str, int]:
    """What decides which rows of a stream come to which step."""
    return {
        "seed": args.seed,
        "processes": args.world_size,
        "dataloader_num_workers": args.dataloader_num_workers,
        "per_device_train_batch_size": args.train_batch_size,
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
    }


def groups_of(model: torch.nn.Module, args: GemmaLisaTrainingArguments) -> list[dict[str, Any]]:
    """`parameter_groups` at the rates of the arguments."""
    return parameter_groups(model, args.learning_rate, args.weight_decay, args.part_rates)


def scores_of_counts(prediction: EvalPrediction) -> dict[str, float | int]:
    """The scores (`metrics`) of gathered counts; samples that filled up the last batch are counted once."""
    _, first = np.unique(prediction.label_ids, return_index=True)
    scores = summarize_counts(prediction.predictions[first].astype(np.int64))
    del scores["gIoU_all"]  # with the answer given, a missing thing has no mask whatever the model thinks
    return {name: value for name, value in scores.items() if value is not None}
