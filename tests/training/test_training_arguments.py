"""The training arguments: the global batch size, the launcher's settings, and combinations that are refused."""

import json

import pytest
import torch

from gemma_lisa.safety.errors import UsageError
from gemma_lisa.training.training_arguments import GemmaLisaTrainingArguments


def arguments(**options):
    return GemmaLisaTrainingArguments(output_dir="out", use_cpu=True, **options)


def test_gradient_accumulation_follows_from_global_batch_size():
    args = arguments(global_batch_size=160, per_device_train_batch_size=2)
    assert (args.gradient_accumulation_steps, args.samples_per_step) == (80, 160)
    assert arguments(global_batch_size=8).gradient_accumulation_steps == 1


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 80), (8, 10), (80, 1)])
def test_gradient_accumulation_counts_the_started_processes(monkeypatch, processes, accumulation):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    # Starting the processes is not tested here, only the number that is passed to it
    monkeypatch.setattr("transformers.TrainingArguments.__post_init__", lambda self: None)
    args = arguments(global_batch_size=160, per_device_train_batch_size=2)
    assert args.gradient_accumulation_steps == accumulation


def test_without_global_batch_size_a_step_has_gradient_accumulation_steps_micro_batches():
    assert arguments().gradient_accumulation_steps == 1
    args = arguments(gradient_accumulation_steps=3, per_device_train_batch_size=2)
    assert (args.gradient_accumulation_steps, args.samples_per_step) == (3, 6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"global_batch_size": 10}, ["must be a multiple of 4 = 4 per device × 1 process, got 10", "Use 8 or 12."]),
        ({"global_batch_size": 2}, ["a multiple of 4 =", "got 2. Use 4."]),
        ({"global_batch_size": 0}, ["a multiple of 4 =", "got 0. Use 4."]),
        ({"global_batch_size": -3}, ["a multiple of 4 =", "got -3. Use 4."]),
        ({"global_batch_size": 8, "gradient_accumulation_steps": 2}, ["Remove one of them"]),
        ({"global_batch_size": 8, "gradient_accumulation_steps": 1}, ["Remove one of them"]),
        (
            {"muon_learning_rate": 0.02, "bridge_learning_rate": 1e-3},
            ["bridge_learning_rate cannot be combined with muon_learning_rate: Muon has one rate"],
        ),
    ],
    ids=lambda value: "" if isinstance(value, list) else " ".join(value),
)
def test_wrong_batch_sizes_and_combinations_are_usage_errors_with_advice(options, words):
    with pytest.raises(UsageError) as refusal:
        arguments(per_device_train_batch_size=4, **options)
    assert all(word in str(refusal.value) for word in words), refusal.value


@pytest.mark.parametrize(("precision", "bf16"), [("bf16", True), ("BF16", True), ("no", False), (None, False)])
def test_the_precision_of_the_launcher_is_used(monkeypatch, precision, bf16):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if precision is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
    args = arguments()
    assert (args.bf16, args.mixed_precision.lower()) == (bf16, "bf16" if bf16 else "no")


@pytest.mark.parametrize("precision", ["fp16", "fp8"])
def test_an_unsupported_precision_of_the_launcher_is_refused(monkeypatch, precision):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
    with pytest.raises(UsageError, match=f"--mixed_precision {precision} is not supported. Use bf16 or no"):
        arguments(bf16=True)


def test_use_cpu_of_the_launcher_is_used(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert GemmaLisaTrainingArguments(output_dir="out").use_cpu


def test_data_seed_defaults_to_seed():
    assert (arguments(seed=3).order_seed, arguments(seed=3, data_seed=0).order_seed) == (3, 0)


def test_each_part_can_have_its_own_rate():
    args = arguments(lora_learning_rate=3e-4, decoder_learning_rate=1e-5)
    assert args.part_rates == {"lora": 3e-4, "bridge": None, "decoder": 1e-5}


def test_saved_and_logged_arguments_have_no_secrets_and_no_local_paths(tmp_path, monkeypatch):
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
