"""TrainingArguments with this model's defaults, learning rates for its parts, and a global batch size."""

import copy
import os
from dataclasses import dataclass, field
from typing import Any, Self

from accelerate.utils import get_int_from_env
from transformers import TrainingArguments

from gemma_lisa.safety.errors import UsageError
from gemma_lisa.safety.redaction import redact
from gemma_lisa.safety.secret_names import environment_secrets, is_secret_name
from gemma_lisa.safety.short_text import count_of

from .optimizers import PARTS

# Variables in which Accelerate looks for the number of processes
STARTED = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


@dataclass
class GemmaLisaTrainingArguments(TrainingArguments):
    """transformers' TrainingArguments with this model's defaults.

    Raises:
        UsageError: the global batch size is not a multiple of the micro-batches, or options cannot be combined.
    """

    muon_learning_rate: float | None = field(
        default=None,
        metadata={"help": "learning rate of Muon for weight matrices; AdamW trains the rest (default: no Muon)"},
    )
    lora_learning_rate: float | None = field(
        default=None, metadata={"help": "learning rate of LoRA's matrices (default: learning_rate)"}
    )
    bridge_learning_rate: float | None = field(
        default=None,
        metadata={"help": "learning rate of seg_projector and of [SEG]'s embedding (default: learning_rate)"},
    )
    decoder_learning_rate: float | None = field(
        default=None, metadata={"help": "learning rate of SAM's mask decoder (default: learning_rate)"}
    )
    global_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "samples per optimizer step on all devices; sets gradient_accumulation_steps (default: devices × "
            "per_device_train_batch_size × gradient_accumulation_steps)"
        },
    )
    gradient_accumulation_steps: int | None = field(
        default=None,
        metadata={"help": "micro-batches per optimizer step; cannot be combined with global_batch_size (default: 1)"},
    )
    expected_processes: int | None = field(
        default=None,
        metadata={"help": "number of processes on all machines; stop if another number was started (default: any)"},
    )
    fresh: bool = field(
        default=False, metadata={"help": "start from the beginning: delete the checkpoints in output_dir"}
    )
    self_check: bool = field(
        default=False,
        metadata={"help": "before training, overfit 8 rows, save, reload and compare; takes minutes at most"},
    )
    cache_features: str | None = field(
        default=None,
        metadata={"help": "folder for features of frozen image encoders, which are computed only once (default: none)"},
    )
    cache_gb: float | None = field(
        default=None, metadata={"help": "maximum size of cache_features in GB (default: the free space of the disk)"}
    )
    hub_license: str | None = field(
        default=None,
        metadata={"help": "license of weights pushed to the Hub (default: gemma if Gemma's weights are in them)"},
    )
    # The collator makes the inputs of forward, and rows are dictionaries without these columns
    remove_unused_columns: bool = False
    label_names: list[str] | None = field(default_factory=lambda: ["labels"])
    # Every trained module gets a gradient in every step (see modeling_gemma_lisa), so DDP need not search
    ddp_find_unused_parameters: bool | None = False
    # A loss that is not finite must be seen
    logging_nan_inf_filter: bool = False
    report_to: None | str | list[str] = "none"

    def __post_init__(self):
        self._follow_launcher()
        own = [f"{part}_learning_rate" for part, rate in self.part_rates.items() if rate is not None]
        if own and self.muon_learning_rate is not None:
            raise UsageError(
                f"{own[0]} cannot be combined with muon_learning_rate: Muon has one rate. Remove one of them."
            )
        if self.global_batch_size is not None:
            if self.gradient_accumulation_steps is not None:
                raise UsageError("global_batch_size sets gradient_accumulation_steps. Remove one of them.")
            # From the launcher's variable: TrainingArguments passes the number to engines before it starts processes
            self.gradient_accumulation_steps = self._accumulation(int(os.environ.get("WORLD_SIZE", 1)))
        elif self.gradient_accumulation_steps is None:
            self.gradient_accumulation_steps = 1
        super().__post_init__()

    def to_dict(self) -> dict[str, Any]:
        """Return the arguments for loggers and trackers, without secrets and absolute local paths."""
        return redact(super().to_dict(), environment_secrets())

    def redacted(self) -> Self:
        """Return a copy to save, without secrets, absolute local paths and objects of the engine."""
        copied = copy.copy(self)
        secrets = {value for name, value in vars(self).items() if is_secret_name(name) and isinstance(value, str)}
        for name, value in vars(self).items():
            if is_secret_name(name) or name in ("deepspeed_plugin", "hf_deepspeed_config"):
                setattr(copied, name, None)
            else:
                setattr(copied, name, redact(value, {*secrets, *environment_secrets()}))
        return copied

    def _follow_launcher(self) -> None:
        """Apply the settings of accelerate launch from the environment, so that they are printed and recorded."""
        precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
        if precision not in ("no", "bf16"):
            raise UsageError(f"accelerate launch --mixed_precision {precision} is not supported. Use bf16 or no.")
        self.bf16 = self.bf16 or precision == "bf16"
        self.use_cpu = self.use_cpu or os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("true", "1", "yes")
        if get_int_from_env(STARTED, 1) == 1:
            self.ddp_backend = None  # Accelerate would wait for processes that were not started

    @property
    def part_rates(self) -> dict[str, float | None]:
        """Return part of `optimizers.PARTS` -> its learning rate, or None if it has no own rate."""
        return {part: getattr(self, f"{part}_learning_rate") for part in PARTS}

    @property
    def order_seed(self) -> int:
        """Seed of the data: their order, the questions and their wording."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def samples_per_step(self) -> int:
        """Samples per optimizer step on all devices."""
        return self.train_batch_size * self.gradient_accumulation_steps * self.world_size

    def _accumulation(self, processes: int) -> int:
        """Return the number of micro-batches per step of global_batch_size samples."""
        at_once = self.per_device_train_batch_size * processes
        steps, rest = divmod(self.global_batch_size, at_once)
        if steps < 1 or rest:
            nearest = sorted({max(steps, 1) * at_once, max(steps + 1, 1) * at_once})
            raise UsageError(
                f"global_batch_size must be a multiple of {at_once} = {self.per_device_train_batch_size} per device × "
                f"{count_of(processes, 'process', 'processes')}, got {self.global_batch_size}. Use "
                f"{' or '.join(map(str, nearest))}."
            )
        return steps
