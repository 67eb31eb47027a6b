"""PatchedTrainer: all overrides of private methods of transformers' Trainer.

Each override gives the reason why there is no public way. Checked against transformers 5.23.0 and 5.24.0.
tests/training/test_trainer_patches.py fails when a release changes what they rely on.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import Trainer
from transformers.trainer_utils import TrainOutput

from .atomic_saves import ASIDE, checkpoint_name, written_aside
from .distributed import accelerate_prepares


class PatchedTrainer(Trainer):
    """Trainer that writes checkpoints to a temporary folder, and prepares the model for FSDP2."""

    _is_aside = False

    def place_checkpoint(self, aside: Path, place: Path) -> None:
        """Complete the checkpoint in the temporary folder `aside`, and move it to `place`."""
        raise NotImplementedError

    def _get_output_dir(self, trial: None) -> str:
        """Return the folder to write checkpoints to. Reason: a half-written checkpoint must not have a final name."""
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, ASIDE) if self._is_aside else folder

    def _save_checkpoint(self, model, trial: None) -> None:
        """Save a checkpoint. Reason: it must get its final name only when every process has written all its files."""
        name = checkpoint_name(self.state.global_step)
        folder = Path(self.args.output_dir)
        aside, place = folder / ASIDE / name, folder / name
        with self._aside(), written_aside(aside, place):
            super()._save_checkpoint(model, trial)
        self.place_checkpoint(aside, place)

    def _finalize_training(self, trial: None, num_train_samples: int, start_time: float) -> TrainOutput:
        """Finish a training. Reason: Trainer would delete checkpoints file by file; see `BestOnlyCallback`."""
        with self._aside():
            return super()._finalize_training(trial, num_train_samples, start_time)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Make Trainer read and write checkpoints in the temporary folder only."""
        self._is_aside = True
        try:
            yield
        finally:
            self._is_aside = False

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Do nothing. Reason: Trainer calls it before the checkpoint has its final name; see `push_checkpoint`."""

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        """Prepare model and optimizer. Reason: FSDP2 needs changes right before and after `accelerator.prepare`."""
        with accelerate_prepares(self.model, getattr(self.accelerator.state, "fsdp_plugin", None)):
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
