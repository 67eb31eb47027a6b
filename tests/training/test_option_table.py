"""The table of options has every field, and the code that it names reads the option."""

import importlib
import inspect
import re
from dataclasses import fields

import pytest
from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig

from gemma_lisa.safety.errors import UsageError
from gemma_lisa.training import option_checks
from gemma_lisa.training.arguments import CLASSES, parse
from gemma_lisa.training.option_checks import COMMAND_LINE, CONDITIONS, LAUNCHER, Condition, refuse_unsupported
from gemma_lisa.training.option_table import OPTIONS, REMOVED, RENAMED

THEIRS = {field.name for field in fields(TrainingArguments)}
OURS = {field.name for part in CLASSES for field in fields(part)}
SUPPORTED = [name for name, option in OPTIONS.items() if option.reader is not None]
UNSUPPORTED = [name for name, option in OPTIONS.items() if option.reader is None]
EVALUATING = ["--eval_strategy", "epoch"]

# Supported option of transformers -> a value on the command line, and the parsed value
SAMPLES = {
    "output_dir": ("some", "some"),
    "per_device_train_batch_size": ("3", 3),
    "num_train_epochs": ("2.5", 2.5),
    "max_steps": ("7", 7),
    "learning_rate": ("0.5", 0.5),
    "lr_scheduler_type": ("cosine", "cosine"),
    "lr_scheduler_kwargs": ('{"power": 2}', {"power": 2}),
    "warmup_steps": ("0.25", 0.25),
    "optim": ("adamw_torch", "adamw_torch"),
    "optim_args": ("momentum=0.5", "momentum=0.5"),
    "weight_decay": ("0.5", 0.5),
    "adam_beta1": ("0.5", 0.5),
    "adam_beta2": ("0.5", 0.5),
    "adam_epsilon": ("0.5", 0.5),
    "gradient_accumulation_steps": ("3", 3),
    "max_grad_norm": ("0.5", 0.5),
    "bf16": ("true", True),
    "tf32": ("false", False),
    "activation_checkpointing": ("true", True),
    "activation_checkpointing_kwargs": ('{"every_n_layers": 2}', {"every_n_layers": 2}),
    "neftune_noise_alpha": ("5", 5.0),
    "torch_empty_cache_steps": ("3", 3),
    "logging_strategy": ("epoch", "epoch"),
    "logging_steps": ("3", 3),
    "logging_first_step": ("true", True),
    "log_on_each_node": ("false", False),
    "include_num_input_tokens_seen": ("true", "all"),
    "log_level": ("error", "error"),
    "log_level_replica": ("error", "error"),
    "disable_tqdm": ("true", True),
    "report_to": ("tensorboard", ["tensorboard"]),
    "run_name": ("some", "some"),
    "project": ("some", "some"),
    "trackio_space_id": ("some", "some"),
    "trackio_bucket_id": ("some", "some"),
    "trackio_static_space_id": ("some", "some"),
    "eval_strategy": ("epoch", "epoch"),
    "eval_steps": ("3", 3),
    "eval_delay": ("3", 3.0),
    "per_device_eval_batch_size": ("3", 3),
    "eval_on_start": ("true", True),
    "eval_accumulation_steps": ("3", 3),
    "save_strategy": ("epoch", "epoch"),
    "save_steps": ("3", 3),
    "save_on_each_node": ("true", True),
    "save_total_limit": ("3", 3),
    "push_to_hub": ("true", True),
    "hub_token": ("some", "some"),
    "hub_private_repo": ("false", False),
    "hub_model_id": ("some", "some"),
    "hub_strategy": ("checkpoint", "checkpoint"),
    "hub_always_push": ("true", True),
    "hub_revision": ("some", "some"),
    "load_best_model_at_end": ("true", True),
    "metric_for_best_model": ("gIoU", "gIoU"),
    "greater_is_better": ("false", False),
    "ignore_data_skip": ("true", True),
    "full_determinism": ("true", True),
    "seed": ("3", 3),
    "data_seed": ("3", 3),
    "use_cpu": ("true", True),
    "accelerator_config": ('{"non_blocking": true}', AcceleratorConfig(non_blocking=True)),
    "dataloader_drop_last": ("true", True),
    "dataloader_num_workers": ("3", 3),
    "dataloader_pin_memory": ("false", False),
    "dataloader_persistent_workers": ("true", True),
    "dataloader_prefetch_factor": ("3", 3),
    "dataloader_multiprocessing_context": ("spawn", "spawn"),
    "train_sampling_strategy": ("sequential", "sequential"),
    "ddp_find_unused_parameters": ("true", True),
    "ddp_bucket_cap_mb": ("3", 3),
    "ddp_broadcast_buffers": ("true", True),
    "ddp_static_graph": ("true", True),
    "ddp_timeout": ("3", 3),
    "debug": ("underflow_overflow", ["underflow_overflow"]),
    "skip_memory_metrics": ("false", False),
    "resume_from_checkpoint": ("some", "some"),
    "local_rank": ("0", 0),
}
# Engines and backends start processes: tested in test_distributed.py and test_training_engines.py
STARTED_ELSEWHERE = {"fsdp", "fsdp_config", "deepspeed", "ddp_backend"}
OWN_SAMPLES = {
    "hub_license": "mit",
    "ce_loss_weight": "2",
    "bce_loss_weight": "1",
    "dice_loss_weight": "1",
    "score_loss_weight": "1",
    "prompted_loss_weight": "1",
    "max_bad": "3",
    "eval_rows": "3",
    "translations": "some.json",
    "cache_gb": "3",
    "preview_samples": "3",
    "max_new_tokens": "3",
    "fsdp_config": '{"version": 2}',
    "ddp_backend": "gloo",
}
# What an option needs
WITH = {
    "lr_scheduler_kwargs": ["--lr_scheduler_type", "polynomial"],
    "optim_args": ["--optim", "sgd"],
    "activation_checkpointing_kwargs": ["--activation_checkpointing", "true"],
    "run_name": ["--report_to", "trackio"],
    "project": ["--report_to", "trackio"],
    "trackio_space_id": ["--report_to", "trackio"],
    "trackio_bucket_id": ["--report_to", "trackio"],
    "trackio_static_space_id": ["--report_to", "trackio"],
    "eval_steps": ["--eval_strategy", "steps"],
    "eval_delay": EVALUATING,
    "per_device_eval_batch_size": EVALUATING,
    "eval_accumulation_steps": EVALUATING,
    "hub_token": ["--push_to_hub", "true"],
    "hub_private_repo": ["--push_to_hub", "true"],
    "hub_model_id": ["--push_to_hub", "true"],
    "hub_strategy": ["--push_to_hub", "true"],
    "hub_always_push": ["--push_to_hub", "true"],
    "hub_revision": ["--push_to_hub", "true"],
    "load_best_model_at_end": [*EVALUATING, "--save_strategy", "epoch"],
    "metric_for_best_model": EVALUATING,
    "greater_is_better": [*EVALUATING, "--metric_for_best_model", "gIoU"],
    "dataloader_persistent_workers": ["--dataloader_num_workers", "1"],
    "dataloader_prefetch_factor": ["--dataloader_num_workers", "1"],
    "dataloader_multiprocessing_context": ["--dataloader_num_workers", "1"],
}
# What makes an option ineffective, where the defaults do not
WITHOUT = {
    "num_train_epochs": ["--max_steps", "3"],
    "lr_scheduler_kwargs": ["--lr_scheduler_type", "constant_with_warmup"],
    "warmup_steps": ["--lr_scheduler_type", "constant"],
    "optim": ["--muon_learning_rate", "0.1"],
    "adam_beta1": ["--optim", "adafactor"],
    "adam_beta2": ["--optim", "adafactor"],
    "adam_epsilon": ["--optim", "sgd"],
    "logging_steps": ["--logging_strategy", "epoch"],
    "save_steps": ["--save_strategy", "epoch"],
    "save_total_limit": ["--save_strategy", "no"],
    "load_best_model_at_end": ["--save_strategy", "no"],
    "hub_strategy": ["--push_to_hub", "true", "--save_strategy", "no"],
    "hub_always_push": ["--push_to_hub", "true", "--hub_strategy", "end"],
    "dataloader_drop_last": EVALUATING,
    "train_sampling_strategy": [
        *("--mixture", '{"a": {"weight": 1, "sets": ["shapes"]}}', "--epoch_length", "3", "--eval_dataset", "shapes")
    ],
    **dict.fromkeys(("bce_loss_weight", "dice_loss_weight"), ["--learn_masks", "false"]),
    **dict.fromkeys(("score_loss_weight", "prompted_loss_weight"), ["--learn_masks", "false"]),
    "ce_loss_weight": ["--learn_text", "false"],
    "metric_for_best_model": [*EVALUATING, "--save_strategy", "no"],
}


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Parses a command line for the CPU, as if trackio were installed."""
    monkeypatch.setattr(option_checks, "get_available_reporting_integrations", lambda: ["tensorboard", "trackio"])

    def call(*arguments):
        return parse(["--model", "some", "--output_dir", str(tmp_path), "--use_cpu", "true", *arguments])

    return call


def test_every_field_has_an_entry_and_every_entry_a_field():
    assert OURS - set(OPTIONS) == set(), "add it to OPTIONS in training/option_table.py"
    assert set(OPTIONS) - OURS == set(), "these are no longer options: remove their entries"


def test_every_condition_is_used_and_refers_to_options():
    assert {option.only_with for option in OPTIONS.values()} - {None} == set(CONDITIONS)
    deciding = {name for condition in CONDITIONS.values() for name in condition.decided_by}
    assert deciding - {LAUNCHER} <= OURS


def test_an_unsupported_option_has_a_reason_and_no_condition():
    assert all(option.reason for option in OPTIONS.values() if option.reader is None)
    assert all(option.only_with is None for option in OPTIONS.values() if option.reader is None)


def source_of(reader: str) -> str:
    """Return the source of "module:name", where a name can be a method or a property."""
    module, _, path = reader.partition(":")
    found = importlib.import_module(module)
    for name in path.split("."):
        found = inspect.getattr_static(found, name)
    if isinstance(found, property):
        found = found.fget
    elif not inspect.isclass(found):
        found = getattr(found, "func", getattr(found, "__func__", found))  # a cached property, a static method
    return inspect.getsource(found)


@pytest.mark.parametrize("name", SUPPORTED)
def test_the_named_code_reads_the_option(name):
    assert re.search(rf"\b{name}\b", source_of(OPTIONS[name].reader))


@pytest.mark.parametrize("name", sorted(THEIRS & set(SUPPORTED) - STARTED_ELSEWHERE, key=list(OPTIONS).index))
def test_an_option_of_transformers_is_passed_on(name, read, monkeypatch):
    condition = OPTIONS[name].only_with
    if condition is not None and LAUNCHER in CONDITIONS[condition].decided_by:
        monkeypatch.setitem(CONDITIONS, condition, Condition((LAUNCHER,), lambda *_: True))
    text, value = SAMPLES[name]
    assert getattr(read(*WITH.get(name, []), f"--{name}", text)[2], name) == value


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.only_with])
def test_an_option_is_refused_without_what_it_needs(name, read):
    text = OWN_SAMPLES[name] if name in OWN_SAMPLES else SAMPLES[name][0]
    if name == "dataloader_pin_memory":
        text = "true"
    if name == "optim_args":
        text = "momentun=0.5"
    with pytest.raises(UsageError, match=name) as refusal:
        read(f"--{name}", text, *WITHOUT.get(name, []))
    assert "\n" not in str(refusal.value)
    assert name == "dataloader_prefetch_factor" or "has no effect here: it needs" in str(refusal.value)


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_an_unsupported_option_is_refused_with_its_reason(name):
    default = object()
    with pytest.raises(UsageError, match=f"^{name} is not supported, got 'other': ") as refusal:
        refuse_unsupported({name: "other"}, {name: COMMAND_LINE}, {name: default})
    assert OPTIONS[name].reason in str(refusal.value) and "\n" not in str(refusal.value)
    if not OPTIONS[name].is_never_given:
        refuse_unsupported({name: default}, {name: COMMAND_LINE}, {name: default})


def test_an_option_of_a_newer_release_is_refused_until_it_has_an_entry(read, monkeypatch):
    monkeypatch.delitem(OPTIONS, "seed")
    with pytest.raises(UsageError, match="seed is not supported yet: it is new in this release of transformers"):
        read("--seed", "3")
    read()


def test_old_names_are_not_options_and_the_new_ones_are():
    assert not (set(RENAMED) | set(REMOVED)) & OURS
    for old, new in RENAMED.items():
        assert old == "logging_dir" or re.match(r"\w+", new).group() in OURS, old
