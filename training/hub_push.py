"""HubPushes: pushes of a training to the Hub. Each push is a complete repository in one commit."""

import logging
import shutil
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo
from transformers.trainer_utils import HubStrategy
from transformers.utils.hub import PushInProgress, hf_api

from gemma_lisa.checkpoints.hub_repository import link, shorten_files, stage
from gemma_lisa.checkpoints.hub_upload import commit_folder
from gemma_lisa.checkpoints.lora import AdaptedGemmaLisa
from gemma_lisa.checkpoints.model_card import Facts
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.safety.redaction import mask_text
from gemma_lisa.safety.secret_names import environment_secrets

from .atomic_saves import PUSHING

logger = logging.getLogger(__name__)


class HubPushes:
    """Mixin that replaces Trainer's pushes to the Hub.

    Trainer copies part of a checkpoint into the output folder and uploads that folder: without the model's code, and
    with pickles. Here each push has its own folder, made as scripts/export.py makes it. The folder holds links to files
    that are no longer written to. `hub_strategy` means the same as in Trainer.
    """

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        if isinstance(self.model, AdaptedGemmaLisa):
            raise UsageError(
                "push_to_hub is not supported for an adapter. Merge it with scripts/export.py and push that."
            )
        super().init_hf_repo(token=token, private=private)

    def push_to_hub(
        self,
        commit_message: str = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
    ) -> CommitInfo | Future | None:
        """Save the model and push it. Returns None on all processes but the first."""
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        return self.push_saved(commit_message, blocking, token, revision)

    def push_saved(
        self, commit_message: str, blocking: bool = True, token: str | None = None, revision: str | None = None
    ) -> CommitInfo | Future | None:
        """Push the model in the output folder."""
        if not self.is_world_process_zero():
            return None
        if self.push_in_progress is not None:
            self.push_in_progress.wait_until_done()
        job = self._push(Path(self.args.output_dir), commit_message, token=token, revision=revision)
        return job.result() if blocking else job

    def push_checkpoint(self, checkpoint: Path) -> None:
        """Start to push a saved checkpoint in the background.

        As in Trainer, it is skipped while the previous push still runs, unless `hub_always_push` is set.
        """
        strategy = self.args.hub_strategy
        if not self.is_world_process_zero() or strategy == HubStrategy.END:
            return
        going = self.push_in_progress
        if going is not None and not going.is_done() and not self.args.hub_always_push:
            return
        kept = {HubStrategy.CHECKPOINT: "last-checkpoint", HubStrategy.ALL_CHECKPOINTS: checkpoint.name}.get(strategy)
        message = f"Training in progress, step {self.state.global_step}"
        job = self._push(checkpoint, message, with_state_as=kept)
        if going is None or going.is_done():
            self.push_in_progress = PushInProgress([job])
        else:
            going.jobs.append(job)

    def _push(
        self,
        saved: Path,
        message: str,
        with_state_as: str | None = None,
        token: str | None = None,
        revision: str | None = None,
    ) -> Future:
        """Create the folder of a push, upload it in the background, and delete it afterwards."""
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        folder = Path(self.args.output_dir) / f"{PUSHING}{self.state.global_step}"
        shutil.rmtree(folder, ignore_errors=True)
        stage(saved, folder, self._facts())
        if with_state_as is not None:
            shutil.copytree(saved, folder / with_state_as, copy_function=link)
            shorten_files(folder / with_state_as)
        job = hf_api().run_as_future(
            commit_folder,
            folder,
            self.hub_model_id,
            message,
            revision or self.args.hub_revision,
            token or self.args.hub_token,
            {self.args.hub_token or "", *(self.record.secrets if self.record else ())},
        )
        job.add_done_callback(lambda done: _clear(done, folder))
        return job

    def _facts(self) -> Facts:
        stages = [] if self.record is None else self.record.content(self.state)["stages"]
        return Facts(self.hub_model_id, self.args.hub_license, self.model.config.base_models, stages)


def _clear(done: Future[Any], folder: Path) -> None:
    """Delete the folder of a push, and log a warning if the push failed."""
    shutil.rmtree(folder, ignore_errors=True)
    if not done.cancelled() and (error := done.exception()) is not None:
        logger.warning("a push to the Hub failed: %s", mask_text(" ".join(str(error).split()), environment_secrets()))
