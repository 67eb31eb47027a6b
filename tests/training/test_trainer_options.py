"""Options of transformers in the trainer: they change the losses if they should, and only then."""

import pytest
import torch
from training_runs import dataset_of, logged, scene_row, trainer_of

from gemma_lisa.datasets_builder.questions import TrainingQuestions


def losses_with(small, folder, num_rows=6, **options):
    questions = TrainingQuestions(dataset_of([scene_row(number) for number in range(num_rows)]), 0, 4)
    trainer = trainer_of(small, questions, folder, **{"max_steps": 2, **options})
    trainer.train()
    return trainer, [loss for [loss] in logged(trainer, "loss")]


@pytest.mark.parametrize(
    "options",
    [
        {"neftune_noise_alpha": 50.0},
        {"data_seed": 9},
        {"train_sampling_strategy": "sequential"},
        {"adam_epsilon": 1.0},
        {"adam_beta1": 0.0, "adam_beta2": 0.5},
        {"weight_decay": 10.0},
        {"max_grad_norm": 1e-3},
        {"optim": "sgd"},
        {"optim": "sgd", "optim_args": "momentum=0.9"},
        {"warmup_steps": 0.9},
        {"lr_scheduler_type": "constant"},
        {"bf16": True},
    ],
    ids=lambda options: " ".join(options),
)
def test_an_option_changes_the_losses(small, tmp_path, options):
    plain = {"optim": "sgd"} if "optim_args" in options else {}
    assert losses_with(small, tmp_path / "a", max_steps=3, **plain)[1] != pytest.approx(
        losses_with(small, tmp_path / "b", max_steps=3, **options)[1], rel=1e-7
    )


@pytest.mark.parametrize(
    "options",
    [
        {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"every_n_layers": 2}},
        {"dataloader_num_workers": 1, "dataloader_prefetch_factor": 3, "dataloader_multiprocessing_context": "fork"},
        {"skip_memory_metrics": False, "include_num_input_tokens_seen": True, "debug": "underflow_overflow"},
    ],
    ids=lambda options: " ".join(options),
)
def test_an_option_that_must_not_change_the_losses_keeps_them(small, tmp_path, options):
    trainer, losses = losses_with(small, tmp_path / "a", **options)
    assert losses == pytest.approx(losses_with(small, tmp_path / "b")[1], rel=1e-6)
    if "skip_memory_metrics" in options:
        assert "train_mem_cpu_alloc_delta" in trainer.state.log_history[-1]
        assert trainer.state.log_history[0]["num_input_tokens_seen"] > 0
    if "activation_checkpointing" in options:
        assert trainer.model.is_activation_checkpointing


def test_the_last_rows_of_an_epoch_can_be_dropped(small, tmp_path):
    for drop, steps in ((False, 2), (True, 1)):
        options = {"dataloader_drop_last": drop, "max_steps": -1, "num_train_epochs": 1}
        trainer, _ = losses_with(small, tmp_path, num_rows=3, **options)
        assert trainer.state.global_step == steps


def test_full_determinism_is_switched_on(small, tmp_path):
    try:
        losses_with(small, tmp_path, max_steps=1, full_determinism=True)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("warmup", "epochs", "warning"),
    [(3, 1, None), (4, 1, "all 4 steps are warm-up (warmup_steps 4)"), (9, 2, "all 8 steps are warm-up")]
    + [(8, 2, "all 8 steps"), (7, 2, None), (0.9, 1, None), (0, 1, None), (2, 0.25, "the only step is warm-up")],
)
def test_a_run_that_consists_of_warmup_steps_gives_a_warning(small, tmp_path, caplog, warmup, epochs, warning):
    rows = dataset_of([scene_row(number) for number in range(4)])
    trainer = trainer_of(
        small,
        TrainingQuestions(rows, 0, 4),
        tmp_path,
        **{"warmup_steps": warmup, "num_train_epochs": epochs, "per_device_train_batch_size": 1},
    )
    *_, steps = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    trainer.create_optimizer_and_scheduler(steps)
    found = [record.getMessage() for record in caplog.records if "warm-up" in record.getMessage()]
    assert len(found) == (warning is not None)
    if warning:
        assert warning in found[0] and "the learning rate never reaches its value; set a lower" in found[0]
