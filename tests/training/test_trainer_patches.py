"""Trainer's methods are as the overrides expect them. A release that changes one fails here, with advice."""

import inspect
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers
from packaging.specifiers import SpecifierSet
from transformers import Trainer, TrainerCallback

from gemma_lisa.training import trainer_patches
from gemma_lisa.training.hub_push import HubPushes
from gemma_lisa.training.trainer import GemmaLisaTrainer
from gemma_lisa.training.trainer_patches import PatchedTrainer


@dataclass(frozen=True)
class Relied:
    """A method of Trainer that is overridden or relied on.

    Args:
        parameters: names of its parameters, without self.
        lines: lines that its source must have, in this order.
        used_for: what breaks without it, and where to fix that.
    """

    parameters: tuple[str, ...]
    lines: tuple[str, ...]
    used_for: str


PATCHED = {
    "_get_output_dir": Relied(
        ("trial",),
        ("run_dir = self.args.output_dir", "return run_dir"),
        "checkpoints are written aside (PatchedTrainer._get_output_dir)",
    ),
    "_save_checkpoint": Relied(
        ("model", "trial"),
        (
            "run_dir = self._get_output_dir(trial=trial)",
            "self.save_model(output_dir, _internal_call=True)",
            "self.state.best_model_checkpoint = best_checkpoint_dir",
            "self._save_optimizer_and_scheduler(output_dir)",
            "self._save_rng_state(output_dir)",
            "self._push_from_checkpoint(output_dir)",
            "rotate_checkpoints( output_dir=run_dir,",
        ),
        "a checkpoint gets its name when all of it is written (PatchedTrainer._save_checkpoint)",
    ),
    "_finalize_training": Relied(
        ("trial", "num_train_samples", "start_time"),
        (
            "output_dir=self._get_output_dir(trial)",
            "self.callback_handler.on_train_end(",
            "self._finish_current_push()",
        ),
        "old checkpoints are deleted by BestOnlyCallback and not by Trainer (training/callbacks.py), and the last push "
        "is waited for (HubPushes)",
    ),
    "_push_from_checkpoint": Relied(
        ("checkpoint_folder",),
        (),
        "checkpoints are pushed as whole repositories (HubPushes.push_checkpoint)",
    ),
    "_prepare_for_training": Relied(
        ("max_steps", "train_dataloader", "resume_from_checkpoint"),
        (
            "self.create_optimizer()",
            "self.accelerator.prepare(self.model, self.optimizer)",
            "self.create_scheduler(",
            "self._load_optimizer_and_scheduler(resume_from_checkpoint)",
        ),
        "FSDP2 (PatchedTrainer._prepare_for_training), and the optimizer's options after a resume "
        "(GemmaLisaTrainer.create_scheduler, ResumedOptionsCallback)",
    ),
}
# Private methods that are not overridden, but on whose order of calls the public ones rely
ORDER = {
    "_inner_training_loop": Relied(
        ("batch_size", "args", "resume_from_checkpoint", "trial", "ignore_keys_for_eval"),
        (
            "self._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)",
            "self.callback_handler.on_train_begin(",
            "self.callback_handler.on_epoch_begin(",
            "self._run_epoch(",
            "if self.control.should_training_stop:",
            "self._finalize_training(",
        ),
        "ResumedOptionsCallback and LastStepCallback (training/callbacks.py)",
    ),
    "_run_epoch": Relied(
        (
            *("model", "epoch", "train_dataloader", "steps_in_epoch", "num_update_steps_per_epoch", "trial"),
            *("ignore_keys_for_eval", "start_time", "resume_from_checkpoint", "epochs_trained"),
            "steps_trained_in_current_epoch",
        ),
        (
            "self.get_batch_samples(epoch_iterator, num_batches, self.args.device)",
            "self.accelerator.gradient_state._set_sync_gradients(do_sync_step)",
            "self.training_step(model, inputs, num_items_in_batch)",
            "self._clip_grad_norm(model)",
            "self.optimizer.step()",
            "self._maybe_log_save_evaluate(",
            "if self.control.should_epoch_stop or self.control.should_training_stop:",
            'logger.warning( "There seems not to be a single sample in your epoch_iterator,',
            "self.callback_handler.on_epoch_end(",
            "self._maybe_log_save_evaluate(",
        ),
        "the check before a step (GemmaLisaTrainer.training_step) and the end of a finished run (get_batch_samples)",
    ),
    "_maybe_log_save_evaluate": Relied(
        (
            *("tr_loss", "grad_norm", "model", "trial", "epoch", "ignore_keys_for_eval", "start_time"),
            "learning_rate",
        ),
        ("if self.control.should_log", "if self.control.should_evaluate:", "if self.control.should_save:"),
        "LastStepCallback (training/callbacks.py) and PatchedTrainer._save_checkpoint",
    ),
    "_get_train_sampler": Relied(
        ("train_dataset",),
        ('self.args.train_sampling_strategy == "sequential"', "return SequentialSampler(train_dataset)"),
        "a mixture keeps its own order (GemmaLisaTrainer.get_train_dataloader)",
    ),
    "get_train_dataloader": Relied(
        (), ("sampler_fn=self._get_train_sampler",), "a mixture keeps its own order (GemmaLisaTrainer)"
    ),
    "_get_dataloader": Relied(
        ("dataset", "description", "batch_size", "sampler_fn", "is_training", "dataloader_key"),
        ("sampler = sampler_fn(dataset)",),
        "a mixture keeps its own order: the sampler is made at once (GemmaLisaTrainer.get_train_dataloader)",
    ),
    "save_model": Relied(
        ("output_dir", "_internal_call"),
        (
            "self._save(output_dir, state_dict=state_dict)",
            "else: self._save(output_dir)",
            "if self.args.push_to_hub and not _internal_call:",
        ),
        "a model is saved without secrets and pushed once (GemmaLisaTrainer._write_model)",
    ),
    "_save": Relied(
        ("output_dir", "state_dict"),
        ("self.model.save_pretrained(output_dir, state_dict=state_dict", "torch.save(self.args,"),
        "no secrets (GemmaLisaTrainer._write_model) and no tied weights (the model's save_pretrained) are saved",
    ),
    "get_batch_samples": Relied(
        ("epoch_iterator", "num_batches", "device"),
        ("batch_samples.append(next(epoch_iterator))", "return batch_samples, num_items_in_batch"),
        "a step is divided by its tokens and masks (GemmaLisaTrainer.get_batch_samples)",
    ),
    "training_step": Relied(
        ("model", "inputs", "num_items_in_batch"),
        (
            "inputs = self._prepare_inputs(inputs)",
            "self.compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)",
            "self.loss_is_scaled_for_ga",
            "self.accelerator.backward(loss",
        ),
        "images are normalized on the device, and the weighted loss (GemmaLisaTrainer.compute_loss, "
        "loss_is_scaled_for_ga)",
    ),
    "create_optimizer": Relied(
        ("model",),
        ("is_optimizer_factory(optimizer_cls)", 'if "params" in optimizer_kwargs:'),
        "Muon and the learning rates of parts (training/optimizers.py)",
    ),
    "init_hf_repo": Relied(
        ("token", "private"), ("self.push_in_progress = None",), "pushes in the background (HubPushes)"
    ),
}


def changes(trainer: type, relied: dict[str, Relied]) -> list[str]:
    """Return a sentence for every method that changed."""
    found = []
    for name, expected in relied.items():
        advice = f"needed so that {expected.used_for}; adapt it, and this table"
        if (method := getattr(trainer, name, None)) is None:
            found.append(f"Trainer.{name} does not exist any more: {advice}.")
            continue
        parameters = tuple(inspect.signature(method).parameters)[1:]
        if parameters != expected.parameters:
            found.append(f"Trainer.{name} takes {parameters}, expected {expected.parameters}: {advice}.")
        source, at = " ".join(inspect.getsource(method).split()), 0
        for line in expected.lines:
            if (at := source.find(line, at)) < 0:
                found.append(f"Trainer.{name} has no `{line}` where it was: {advice}.")
                break
            at += len(line)
    return found


def own_private_methods(part: type) -> set[str]:
    """Return the names of Trainer's private methods that a class overrides."""
    return {name for name in vars(part) if name.startswith("_") and not name.startswith("__")} & set(dir(Trainer))


@pytest.mark.parametrize("name", [*PATCHED, *ORDER])
def test_a_method_of_transformers_is_unchanged(name):
    [*found] = changes(Trainer, {name: {**PATCHED, **ORDER}[name]})
    assert not found, found[0]


def test_no_other_method_uses_the_folder_of_checkpoints():
    package = Path(transformers.__file__).parent
    files = {path for path in package.rglob("*.py") if "models" not in path.relative_to(package).parts}
    counts = {path.name: path.read_text().count("._get_output_dir(") for path in files}
    found = {name: count for name, count in counts.items() if count}
    assert found == {"trainer.py": 2, "trainer_jit_checkpoint.py": 1}, (
        f"Trainer._get_output_dir is called by {found}: decide for each caller whether it needs the folder aside "
        "(PatchedTrainer._aside), and adapt this test."
    )


def test_a_scheduler_returns_the_last_rates_that_were_set():
    scheduler = torch.optim.lr_scheduler.LambdaLR(torch.optim.SGD([torch.zeros(1)], lr=1.0), lambda step: 1.0)
    scheduler._last_lr[0] = 0.5
    assert scheduler.get_last_lr() == [0.5], (
        "LRScheduler._last_lr is not what get_last_lr gives: needed so that a resumed run logs its rate "
        "(ResumedOptionsCallback); adapt it, and this test."
    )


def test_every_private_override_is_in_the_one_file_and_in_the_table():
    assert own_private_methods(PatchedTrainer) == set(PATCHED)
    assert own_private_methods(GemmaLisaTrainer) == own_private_methods(HubPushes) == set()


def test_every_override_has_a_reason():
    for name in PATCHED:
        assert "Reason: " in getattr(PatchedTrainer, name).__doc__, name


def test_the_file_names_both_ends_of_the_supported_range():
    requirements = (Path(trainer_patches.__file__).parents[1] / "requirements.txt").read_text()
    [supported] = re.findall("^transformers(.+)$", requirements, re.MULTILINE)
    ends = {specifier.version for specifier in SpecifierSet(supported)}
    assert set(re.findall(r"\d+\.\d+\.\d+", trainer_patches.__doc__)) == ends


def test_a_changed_method_is_named_with_advice():
    class Renamed:
        pass

    class OtherArguments(Trainer):
        def _get_output_dir(self, trial, step):
            run_dir = self.args.output_dir
            return run_dir

    class OtherOrder(Trainer):
        def _get_output_dir(self, trial):
            return self.args.output_dir

    relied = {"_get_output_dir": PATCHED["_get_output_dir"]}
    for trainer, words in (
        (Renamed, "Trainer._get_output_dir does not exist any more"),
        (OtherArguments, r"Trainer._get_output_dir takes \('trial', 'step'\), expected \('trial',\)"),
        (OtherOrder, "Trainer._get_output_dir has no `run_dir = self.args.output_dir` where it was"),
    ):
        [sentence] = changes(trainer, relied)
        assert re.match(words, sentence) and "adapt it" in sentence


def test_the_used_callback_events_exist():
    events = {"on_epoch_begin", "on_epoch_end", "on_train_begin", "on_train_end", "on_step_begin", "on_evaluate"}
    assert events <= set(vars(TrainerCallback))
