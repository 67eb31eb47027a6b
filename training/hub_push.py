"""HubPushes: a training's pushes to the Hub, each a repository that is complete, in one commit."""

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
    """What Trainer would do by `push_to_hub`, for a trainer whose checkpoints appear when they are whole.

    Trainer copies half of a checkpoint into the output folder and uploads what lies there: without the code, with its
    own pickles. Here each push is of a folder made for it, as scripts/export.py makes it, of links to files that nobody
    writes to any more. `hub_strategy` means what it means there.
    """

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        if isinstance(self.model, AdaptedGemmaLisa):
            raise UsageError(
                "push_to_hub: an adapter alone does not open by its name; push what scripts/export.py makes."
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
        """Save the model and push it; what it returns is None but on the first process."""
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        return self.push_saved(commit_message, blocking, token, revision)

    def push_saved(
        self, commit_message: str, blocking: bool = True, token: str | None = None, revision: str | None = None
    ) -> CommitInfo | Future | None:
        """Push the model that lies in the output folder."""
        if not self.is_world_process_zero():
            return None
        if self.push_in_progress is not None:
            self.push_in_progress.wait_until_done()
        job = self._push(Path(self.args.output_dir), commit_message, token=token, revision=revision)
        return job.result() if blocking else job

    def push_checkpoint(self, checkpoint: Path) -> None:
        """Begin to push a checkpoint that is in its place; the training goes on.

        As in Trainer it is passed over while the last push still runs, unless `hub_always_push`.
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
        """Make the folder of a push now, and upload it in the background; then it goes."""
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
    """Take the folder of a push away, and say so if it failed: nobody else looks."""
    shutil.rmtree(folder, ignore_errors=True)
    if not done.cancelled() and (error := done.exception()) is not None:
        logger.warning("a push to the Hub failed: %s", mask_text(" ".join(str(error).split()), environment_secrets()))
