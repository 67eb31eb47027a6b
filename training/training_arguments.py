"""transformers' TrainingArguments with this model's defaults, a rate for each part, and one knob for the batch."""

import copy
import os
from dataclasses import dataclass, field
from typing import Any, Self

from accelerate.utils import get_int_from_env
from transformers import TrainingArguments

from gemma_lisa.safety.errors import UsageError
from gemma_lisa.safety.redaction import redact
from gemma_lisa.safety.secret_names import environment_secrets, is_secret_name

from .optimizers import PARTS

# Where Accelerate looks for the number of processes
STARTED = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


@dataclass
class GemmaLisaTrainingArguments(TrainingArguments):
    """transformers' TrainingArguments with this model's defaults.

    Raises:
        UsageError: a global batch that cannot be cut, or options that do not go together.
    """

    muon_learning_rate: float | None = field(
        default=None, metadata={"help": "weight matrices by Muon at this rate, the rest by AdamW at learning_rate"}
    )
    lora_learning_rate: float | None = field(default=None, metadata={"help": "of LoRA's matrices"})
    bridge_learning_rate: float | None = field(default=None, metadata={"help": "of seg_projector and the row of [SEG]"})
    decoder_learning_rate: float | None = field(default=None, metadata={"help": "of SAM's mask decoder"})
    global_batch_size: int | None = field(
        default=None,
        metadata={"help": "samples per optimizer step on all devices; gradient_accumulation_steps follows"},
    )
    gradient_accumulation_steps: int | None = field(
        default=None, metadata={"help": "micro-batches per optimizer step, 1 by default; or give global_batch_size"}
    )
    expected_processes: int | None = field(
        default=None, metadata={"help": "refuse to train in fewer or more processes than so many, on all machines"}
    )
    fresh: bool = field(default=False, metadata={"help": "take the checkpoints from output_dir and begin anew"})
    self_check: bool = field(
        default=False, metadata={"help": "first learn 8 rows by heart, save, reload and compare; then begin as usual"}
    )
    hub_license: str | None = field(
        default=None, metadata={"help": "of weights pushed to the Hub; gemma, unless none of Gemma's are in them"}
    )
    # The collator makes what forward takes, and dictionaries of rows hold no such column
    remove_unused_columns: bool = False
    label_names: list[str] | None = field(default_factory=lambda: ["labels"])
    # Every trained module is touched in every step (see modeling_gemma_lisa), so DDP need not search
    ddp_find_unused_parameters: bool | None = False
    # A loss that is not finite must be seen
    logging_nan_inf_filter: bool = False
    report_to: None | str | list[str] = "none"

    def __post_init__(self):
        self._follow_launcher()
        own = [f"{part}_learning_rate" for part, rate in self.part_rates.items() if rate is not None]
        if own and self.muon_learning_rate is not None:
            raise UsageError(f"{own[0]}: Muon has one rate for all matrices; leave out that or muon_learning_rate.")
        if self.global_batch_size is not None:
            if self.gradient_accumulation_steps is not None:
                raise UsageError("global_batch_size and gradient_accumulation_steps say the same; give one of them.")
            # From the launcher's own word: TrainingArguments hands the number to the engines before it starts them
            self.gradient_accumulation_steps = self._accumulation(int(os.environ.get("WORLD_SIZE", 1)))
        elif self.gradient_accumulation_steps is None:
            self.gradient_accumulation_steps = 1
        super().__post_init__()

    def to_dict(self) -> dict[str, Any]:
        """As TrainingArguments, for loggers and trackers: without secrets and absolute local paths."""
        return redact(super().to_dict(), environment_secrets())

    def redacted(self) -> Self:
        """Return a copy to save: without secrets, absolute local paths and the engine's own objects."""
        copied = copy.copy(self)
        secrets = {value for name, value in vars(self).items() if is_secret_name(name) and isinstance(value, str)}
        for name, value in vars(self).items():
            if is_secret_name(name) or name in ("deepspeed_plugin", "hf_deepspeed_config"):
                setattr(copied, name, None)
            else:
                setattr(copied, name, redact(value, {*secrets, *environment_secrets()}))
        return copied

    def _follow_launcher(self) -> None:
        """Take over what accelerate launch says by the environment, so that it is stated and recorded."""
        precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
        if precision not in ("no", "bf16"):
            raise UsageError(f"accelerate launch --mixed_precision {precision} is not supported; use bf16 or no.")
        self.bf16 = self.bf16 or precision == "bf16"
        self.use_cpu = self.use_cpu or os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("true", "1", "yes")
        if get_int_from_env(STARTED, 1) == 1:
            self.ddp_backend = None  # Accelerate would wait for processes that nobody started

    @property
    def part_rates(self) -> dict[str, float | None]:
        """Part of `optimizers.PARTS` -> its learning rate, or None where it has none of its own."""
        return {part: getattr(self, f"{part}_learning_rate") for part in PARTS}

    @property
    def order_seed(self) -> int:
        """Seed of all that is drawn from the data: their order, the questions and their words."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def rows_a_step(self) -> int:
        """Rows of one optimizer step on all devices."""
        return self.train_batch_size * self.gradient_accumulation_steps * self.world_size

    def _accumulation(self, processes: int) -> int:
        """Micro-batches that make one step of global_batch_size rows."""
        at_once = self.per_device_train_batch_size * processes
        steps, rest = divmod(self.global_batch_size, at_once)
        if steps < 1 or rest:
            nearest = sorted({max(steps, 1) * at_once, max(steps + 1, 1) * at_once})
            raise UsageError(
                f"global_batch_size: {self.global_batch_size} is no multiple of {at_once} = "
                f"{self.per_device_train_batch_size} a device × {processes} process(es); "
                f"{' or '.join(map(str, nearest))} would be."
            )
        return steps
