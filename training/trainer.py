"""GemmaLisaTrainer: Trainer with this model's loss, evaluation scores and saved folders."""

import copy
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute
import torch
from accelerate import DistributedType
from accelerate.utils import send_to_device
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from transformers import EvalPrediction, Trainer
from transformers.trainer import TRAINER_STATE_NAME

from gemma_lisa.checkpoints.checksums import write_checksums
from gemma_lisa.checkpoints.training_record import TRAINING_RECORD, Record
from gemma_lisa.datasets_builder.questions import EvaluationQuestions, MixtureQuestions
from gemma_lisa.datasets_builder.streams import StreamedQuestions
from gemma_lisa.evaluation.metrics import summarize_counts
from gemma_lisa.evaluation.protocols import teacher_forced_counts
from gemma_lisa.outputs_gemma_lisa import LOSS_PARTS
from gemma_lisa.safety.errors import one_line_errors
from gemma_lisa.safety.whole_files import write_whole

from .atomic_saves import ASIDE, place_checkpoint, place_model, rotate, written_aside
from .callbacks import (
    BestOnlyCallback,
    EpochCallback,
    LastStepCallback,
    ResumedOptionsCallback,
    StreamCallback,
    distribution_of,
)
from .finite_check import stop_unless_finite
from .hub_push import HubPushes
from .measure_bridge import MeasureBridge
from .optimizers import parameter_groups
from .progress import show_table
from .text_states import TextStates
from .trainer_patches import PatchedTrainer
from .training_arguments import GemmaLisaTrainingArguments

logger = logging.getLogger(__name__)


class GemmaLisaTrainer(HubPushes, PatchedTrainer):
    """Trainer for Gemma-LISA. Private methods are overridden in `PatchedTrainer` only.

    Loss: Σ CE / tokens, Σ BCE / masks and Σ Dice / masks, weighted by the model's configuration. The divisors count all
    micro-batches on all ranks, so the result does not depend on the micro-batch size.

    A loss or gradient that is not finite ends the run before it changes a weight (`finite_check`). DeepSpeed updates
    the weights inside backward: there a gradient is checked after the update, but before anything is saved.

    Optimizer: each part of the model can have its own learning rate (`optimizers.parameter_groups`).

    Data: a mixture keeps its own order, and a stream is split between processes by itself (`callbacks`).

    Evaluation: teacher-forced (`protocols`). Ranks exchange counts, never masks.

    Saving: every folder appears when it is complete (`atomic_saves`), with checksums and the training record. A push to
    the Hub is a complete repository (`hub_push`).

    Logging: a table of the steps (`progress`) in place of Trainer's dictionaries.

    Args:
        record: training record to write into every saved folder.
        text_states: trains masks only, on states of texts that are read once. Other arguments are Trainer's.
    """

    # compute_loss divides by the counts of the whole step; Trainer must not divide by the accumulation again
    loss_is_scaled_for_ga = True

    def __init__(self, *args, record: Record | None = None, text_states: TextStates | None = None, **kwargs):
        super().__init__(*args, compute_metrics=scores_of_counts, **kwargs)
        self.text_states = text_states
        self.record = record
        self.step_sources: list[list[str]] = []  # per micro-batch of the step
        self.step_losses: list[dict[str, torch.Tensor]] = []
        self._part_sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), device=self.args.device))
        self._seen_parts: set[str] = set()
        self._part_steps = 0
        is_stream = isinstance(self.train_dataset, StreamedQuestions)
        self._resumed_options, self._last_step = ResumedOptionsCallback(), LastStepCallback()
        for callback in (
            StreamCallback(distribution_of(self.args)) if is_stream else EpochCallback(),
            self._resumed_options,
            self._last_step,
            BestOnlyCallback(),
            MeasureBridge(self),
        ):
            self.add_callback(callback)
        show_table(self)

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device):
        """Return the micro-batches of one optimizer step, and (2,): its labelled tokens and masks on all ranks."""
        if self._last_step.is_over:
            return [], None
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.step_sources = [batch.pop("sources", []) for batch in batches]
        self.step_losses = []
        tokens = sum(len(batch["prepared"].learned_positions) for batch in batches)
        masks = sum(batch["prepared"].num_masks for batch in batches)
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
        """Return the weighted sum of the loss parts. num_items_in_batch: counts of `get_batch_samples`, or None."""
        inputs = self.model_inputs(inputs, learns=num_items_in_batch is not None)
        if num_items_in_batch is None:
            outputs = model(**inputs)
            loss = outputs["loss"]
        else:
            tokens, masks = num_items_in_batch.long()  # whole numbers, which FSDP2 does not round to bf16
            outputs = model(**inputs, num_items_in_batch=tokens, num_masks_in_batch=masks)
            # DDP averages gradients over ranks, but the ranks' shares of the loss must be summed
            loss = outputs["loss"] * self.accelerator.num_processes
            parts = {name: outputs[name].detach() for name in LOSS_PARTS if outputs.get(name) is not None}
            for name, part in parts.items():
                self._part_sums[name] += part
                self._seen_parts.add(name)
            self.step_losses.append({"loss": outputs["loss"].detach(), **parts})
            if self.accelerator.distributed_type == DistributedType.DEEPSPEED:  # it updates the weights in backward
                stop_unless_finite(self, self.step_sources, self.step_losses, None)
        return (loss, outputs) if return_outputs else loss

    def model_inputs(self, batch: dict[str, Any], learns: bool) -> dict[str, Any]:
        """Return a batch of the collator as inputs of the model. learns: for training, not for evaluation."""
        batch = send_to_device(batch, self.args.device)  # Trainer leaves `prepared` of a stream on the CPU
        batch = self.processing_class.normalize_images(batch)  # uint8 to float32, on the device
        return batch if self.text_states is None or not learns else self.text_states.in_place_of_tokens(batch)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Train on a micro-batch; after the last one of a step, end the run if a loss or gradient is not finite.

        `on_pre_optimizer_step` is too late: clipping turns a gradient whose norm overflows into zeros. The
        norm reads all gradients again: 0.6% of the time of a step of examples/shapes-tiny on a CPU.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            stop_unless_finite(self, self.step_sources, self.step_losses, self._gradient_norm(model))
        return loss

    def _gradient_norm(self, model: torch.nn.Module) -> torch.Tensor | float | None:
        """Return the norm of the whole gradient on all ranks, before clipping.

        FSDP2 shards all parameters over one mesh, so gradients on several meshes, which Trainer handles, cannot occur.
        """
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            return self.accelerator.clip_grad_norm_(model.parameters(), float("inf"))  # reads the engine's norm
        norm = get_total_norm([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        """Create the scheduler; after a resume, the optimizer uses the options of the arguments.

        Exception: DeepSpeed loads its optimizer elsewhere and keeps the options of the checkpoint.
        """
        warn_of_warmup(self.args, num_training_steps)
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if not self.is_deepspeed_enabled:
            self._resumed_options.remember(self.optimizer)
        return scheduler

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log values; to a training loss, add the mean of each loss part over the steps since the last log."""
        if "loss" in logs and self._part_steps:
            # Sum the shares of the ranks; a part that no batch had is not logged
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
        """Return Trainer's optimizer for `optim`, with parameter groups at the rates of the arguments."""
        optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
        if options.keys() & {"params", "model", "optimizer_dict"}:
            raise ValueError(
                f"optim {args.optim.value} is not supported: it makes its own parameter groups. Use an AdamW optimizer."
            )
        options["params"] = groups_of(model, args)  # Trainer passes them to the class in place of its own
        return optimizer_class, options

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model. Into output_dir, it is moved with state and training record when all files are written."""
        if output_dir is not None:
            self._write_model(Path(output_dir))
            if self.args.push_to_hub and not _internal_call:
                self.push_to_hub("Model save", revision=self.args.hub_revision)
            return
        folder = Path(self.args.output_dir)
        aside = folder / ASIDE / "model"
        with written_aside(aside, folder):
            self._write_model(aside)
        with one_line_errors(folder, "cannot be written"):
            self._seal(aside, lambda: place_model(aside, folder))
        if self.args.push_to_hub and not _internal_call:
            self.push_saved("Model save")

    def _write_model(self, folder: Path) -> None:
        """Save the model with checksums. The saved arguments have no secrets and no absolute paths."""
        with self._use_args(self.args.redacted()):
            super().save_model(str(folder), _internal_call=True)
        if self.args.should_save:
            write_checksums(folder)

    @contextmanager
    def _use_args(self, args: GemmaLisaTrainingArguments) -> Iterator[None]:
        """Use other arguments inside the block."""
        given, self.args = self.args, args
        try:
            yield
        finally:
            self.args = given

    def place_checkpoint(self, aside: Path, place: Path) -> None:
        """Move a checkpoint to its place when all ranks have written it; then push it and delete old ones."""
        if self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = str(place)  # not the temporary folder
        with one_line_errors(place, "cannot be written"):
            self._seal(aside, lambda: place_checkpoint(aside, place))
        if self.args.push_to_hub:
            self.push_checkpoint(place)
        if self.args.should_save:
            rotate(place.parent, self.args.save_total_limit, self.state.best_model_checkpoint)

    def _seal(self, aside: Path, place: Callable[[], None]) -> None:
        """Add state and training record to a temporary folder, and call `place` when all ranks are ready."""
        if self.args.should_save:
            self.state.save_to_json(str(aside / TRAINER_STATE_NAME))
            if self.record is not None:
                write_whole(aside / TRAINING_RECORD, self.record.content(self.state))
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            place()
        self.accelerator.wait_for_everyone()
        if self.is_local_process_zero() and aside.exists():  # a node with its own disk
            with suppress(FileNotFoundError):  # or its view of a shared disk is old
                place()
        self.accelerator.wait_for_everyone()
        if self.is_local_process_zero() and aside.parent.exists():
            with suppress(OSError):  # another node was faster
                aside.parent.rmdir()

    def get_train_dataloader(self) -> DataLoader:
        if isinstance(self.train_dataset, MixtureQuestions):
            # A mixture shuffles itself: no row repeats before all other rows of its data set were used
            args = copy.copy(self.args)
            args.train_sampling_strategy = "sequential"
            with self._use_args(args):
                return super().get_train_dataloader()
        if not isinstance(self.train_dataset, StreamedQuestions):
            return super().get_train_dataloader()
        return DataLoader(
            self.train_dataset,
            batch_size=self.args.train_batch_size,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            multiprocessing_context=self.args.dataloader_multiprocessing_context,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )

    @torch.no_grad()
    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Return (loss, counts (B, 5), sample ids (B,)): shapes that do not depend on the image sizes."""
        sample_ids = inputs.pop("sample_ids")
        inputs.pop("sources", None)
        inputs = send_to_device(inputs, self.args.device)
        with self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        counts = teacher_forced_counts(self.processing_class, inputs, outputs).to(loss.device)
        return loss.detach(), counts, sample_ids.to(loss.device)


def warn_of_warmup(args: GemmaLisaTrainingArguments, steps: int) -> None:
    """Log a warning if a run of this many optimizer steps ends before or with its warm-up."""
    if args.should_log and 1 <= steps <= args.warmup_steps:
        logger.warning(
            "WARNING: %s warm-up (warmup_steps %d), so the learning rate never reaches its value; set a lower "
            "warmup_steps, a smaller global_batch_size or more epochs.",
            "the only step is" if steps == 1 else f"all {steps} steps are",
            args.warmup_steps,
        )


def groups_of(model: torch.nn.Module, args: GemmaLisaTrainingArguments) -> list[dict[str, Any]]:
    """Return `parameter_groups` with the rates of the arguments."""
    return parameter_groups(model, args.learning_rate, args.weight_decay, args.part_rates)


def measured_scores(questions: EvaluationQuestions) -> set[str]:
    """Return the names of the scores that these questions can measure, and the loss; without creating a question."""
    targets = questions.rows.select_columns(["targets"]).with_format("arrow")[:]["targets"]
    masks = pyarrow.compute.struct_field(pyarrow.compute.list_flatten(targets), "masks")
    counts = pyarrow.compute.list_value_length(masks).fill_null(0).to_numpy().astype(np.int64)
    nothing = np.zeros_like(counts)
    counts = np.stack([nothing, counts > 0, counts, nothing, nothing], axis=1)  # as in `summarize_counts`
    return {"loss", *_scores(counts)}


def scores_of_counts(prediction: EvalPrediction) -> dict[str, float | int]:
    """Return the scores (`metrics`) of gathered counts. Samples that padded the last batch count once."""
    _, first = np.unique(prediction.label_ids, return_index=True)
    return _scores(prediction.predictions[first].astype(np.int64))


def _scores(counts: np.ndarray) -> dict[str, float | int]:
    scores = summarize_counts(counts)
    del scores["gIoU_all"]  # with the answer given, an absent object never gets a mask
    return {name: value for name, value in scores.items() if value is not None}
