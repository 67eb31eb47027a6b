"""The arguments of a training: the global batch is the knob, and what does not go together is refused."""

import json

import pytest
import torch

from gemma_lisa.safety.errors import UsageError
from gemma_lisa.training.training_arguments import GemmaLisaTrainingArguments


def arguments(**options):
    return GemmaLisaTrainingArguments(output_dir="out", use_cpu=True, **options)


def test_accumulation_follows_from_the_global_batch():
    args = arguments(global_batch_size=160, per_device_train_batch_size=2)
    assert (args.gradient_accumulation_steps, args.rows_a_step) == (80, 160)
    assert arguments(global_batch_size=8).gradient_accumulation_steps == 1


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 80), (8, 10), (80, 1)])
def test_accumulation_counts_the_processes_that_were_started(monkeypatch, processes, accumulation):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    # What starts the processes is not under test: only what is handed to it
    monkeypatch.setattr("transformers.TrainingArguments.__post_init__", lambda self: None)
    args = arguments(global_batch_size=160, per_device_train_batch_size=2)
    assert args.gradient_accumulation_steps == accumulation


def test_without_a_global_batch_a_step_is_one_micro_batch_or_as_many_as_asked_for():
    assert arguments().gradient_accumulation_steps == 1
    args = arguments(gradient_accumulation_steps=3, per_device_train_batch_size=2)
    assert (args.gradient_accumulation_steps, args.rows_a_step) == (3, 6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"global_batch_size": 10}, ["10 is no multiple of 4 = 4 a device × 1 process", "8 or 12 would be"]),
        ({"global_batch_size": 2}, ["2 is no multiple of 4", "4 would be"]),
        ({"global_batch_size": 0}, ["0 is no multiple of 4", "4 would be"]),
        ({"global_batch_size": -3}, ["-3 is no multiple of 4", "4 would be"]),
        ({"global_batch_size": 8, "gradient_accumulation_steps": 2}, ["give one of them"]),
        ({"global_batch_size": 8, "gradient_accumulation_steps": 1}, ["give one of them"]),
        ({"muon_learning_rate": 0.02, "bridge_learning_rate": 1e-3}, ["bridge_learning_rate: Muon has one rate"]),
    ],
    ids=lambda value: "" if isinstance(value, list) else " ".join(value),
)
def test_what_does_not_go_together_is_a_usage_error_that_says_what_would(options, words):
    with pytest.raises(UsageError) as refusal:
        arguments(per_device_train_batch_size=4, **options)
    assert all(word in str(refusal.value) for word in words), refusal.value


@pytest.mark.parametrize(("precision", "bf16"), [("bf16", True), ("BF16", True), ("no", False), (None, False)])
def test_the_launchers_precision_counts(monkeypatch, precision, bf16):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if precision is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
    args = arguments()
    assert (args.bf16, args.mixed_precision.lower()) == (bf16, "bf16" if bf16 else "no")


@pytest.mark.parametrize("precision", ["fp16", "fp8"])
def test_a_precision_of_the_launcher_that_is_not_supported_is_refused(monkeypatch, precision):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
    with pytest.raises(UsageError, match=f"--mixed_precision {precision} is not supported; use bf16 or no"):
        arguments(bf16=True)


def test_a_launcher_that_uses_the_cpu_is_followed(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert GemmaLisaTrainingArguments(output_dir="out").use_cpu


def test_the_data_have_their_own_seed_or_that_of_the_run():
    assert (arguments(seed=3).order_seed, arguments(seed=3, data_seed=0).order_seed) == (3, 0)


def test_each_part_has_its_own_rate_or_none():
    args = arguments(lora_learning_rate=3e-4, decoder_learning_rate=1e-5)
    assert args.part_rates == {"lora": 3e-4, "bridge": None, "decoder": 1e-5}


def test_what_is_saved_and_logged_of_the_arguments_holds_no_secret_and_no_local_path(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "of-the-tracker")
    args = GemmaLisaTrainingArguments(
        output_dir=str(tmp_path / "run"),
        hub_token="hf_of_the_tests",
        run_name="by of-the-tracker",
        optim_args=None,
        lr_scheduler_kwargs={"password": "hunter22"},
        use_cpu=True,
    )
    torch.save(args.redacted(), tmp_path / "training_args.bin")
    saved = torch.load(tmp_path / "training_args.bin", weights_only=False)
    for text in (args.to_json_string(), json.dumps(args.to_dict()), (tmp_path / "training_args.bin").read_bytes()):
        text = text if isinstance(text, str) else text.decode("latin-1")
        for hidden in ("hf_of_the_tests", "of-the-tracker", "hunter22", str(tmp_path)):
            assert hidden not in text
    assert (saved.hub_token, saved.output_dir, saved.learning_rate) == (None, "run", args.learning_rate)
    assert saved.save_strategy is args.save_strategy
    assert (args.hub_token, args.output_dir) == ("hf_of_the_tests", str(tmp_path / "run"))
