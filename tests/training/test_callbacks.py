"""The callbacks of the trainer: options of a resumed run, streams, and the end of a run."""

import logging
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_runs import MUON, PARTS, dataset_of, logged, scene_row, trainer_of
from transformers import TrainerCallback, TrainerControl, TrainerState

from gemma_lisa.datasets_builder.questions import EvaluationQuestions, Part, TrainingQuestions
from gemma_lisa.datasets_builder.shards import write_shards
from gemma_lisa.datasets_builder.streams import StreamedQuestions, open_stream
from gemma_lisa.training.callbacks import EMPTY_EPOCH, BestOnlyCallback, LastStepCallback
from gemma_lisa.training.training_arguments import GemmaLisaTrainingArguments


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_uses_the_new_learning_rate(small, tmp_path, uninterrupted, optimizer):
    whole, checkpoint = uninterrupted(4, optimizer)
    muon = (MUON[0], {**MUON[1], "muon_lr": MUON[1]["muon_lr"] / 4, "adamw_lr": MUON[1]["adamw_lr"] / 4})
    resumed = trainer_of(
        small,
        TrainingQuestions(whole.train_dataset.rows, 0, 4),
        tmp_path,
        optimizer=muon if optimizer == "muon" else None,
        learning_rate=whole.args.learning_rate / 4,
        max_steps=6,
    )
    resumed.train(resume_from_checkpoint=str(checkpoint))
    before, after = ([rate for [rate] in logged(trainer, "learning_rate")] for trainer in (whole, resumed))
    assert np.allclose(after[3:], np.array(before[3:]) / 4, rtol=1e-6) and after[3] > 0


def test_a_resumed_run_uses_new_betas_and_epsilon(small, tmp_path, uninterrupted):
    whole, checkpoint = uninterrupted(4, "adamw")
    options = {"adam_beta1": 0.5, "adam_beta2": 0.75, "adam_epsilon": 1e-3, "weight_decay": 0.25, "max_steps": 4}
    resumed = trainer_of(small, TrainingQuestions(whole.train_dataset.rows, 0, 4), tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    groups = resumed.optimizer.param_groups
    assert {(*group["betas"], group["eps"]) for group in groups} == {(0.5, 0.75, 1e-3)}
    assert {group["weight_decay"] for group in groups} == {0.0, 0.25}


@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
def test_a_schedule_that_follows_the_scores_is_resumed(small, tmp_path, schedule):
    rows = dataset_of([scene_row(number) for number in range(4)])

    def run(steps, resume=None):
        trainer = trainer_of(
            small,
            TrainingQuestions(rows, 0, 4),
            tmp_path,
            evaluation=EvaluationQuestions(rows.select(range(1)), with_conversations=False),
            lr_scheduler_type=schedule,
            lr_scheduler_kwargs={"patience": 0},
            metric_for_best_model="count",  # it never changes, so the rate falls
            eval_strategy="steps",
            eval_steps=1,
            save_strategy="steps",
            save_steps=2,
            max_steps=steps,
        )
        trainer.train(resume_from_checkpoint=resume)
        return [rate for [rate] in logged(trainer, "learning_rate")]

    whole = run(4)
    assert len(set(whole)) > 1
    assert run(4, str(tmp_path / "checkpoint-2")) == whole


@contextmanager
def transformers_warnings():
    """Yields the messages that Trainer logs."""
    logger, messages = logging.getLogger("transformers.trainer"), []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)


def test_a_stream_resumes_only_with_the_same_distribution(small, tmp_path):
    write_shards({"train": dataset_of([scene_row(number) for number in range(6)])}, tmp_path / "rows", "six", shards=2)

    def run(steps, resume=None, **options):
        questions = StreamedQuestions([Part("six", open_stream(str(tmp_path / "rows"), "train", None), 1.0)], 0, 4)
        options = {"max_steps": steps, "save_strategy": "steps", "save_steps": 2, **options}
        trainer = trainer_of(small, questions, tmp_path / "out", **{"gradient_accumulation_steps": 2, **options})
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole, checkpoint = run(3), str(tmp_path / "out" / "checkpoint-2")
    names = (*PARTS, "grad_norm", "learning_rate", "epoch")
    assert logged(run(3, checkpoint), *names) == logged(whole, *names)
    for changed in ("gradient_accumulation_steps", "per_device_train_batch_size", "seed"):
        with pytest.raises(ValueError, match=f"distributed differently: {changed} was [0-9]+ and is 3"):
            run(3, checkpoint, **{changed: 3})
    with transformers_warnings() as said:
        finished = run(2, checkpoint)  # all its steps are trained, so no step follows
    assert finished.state.global_step == 2 and logged(finished, *names) == logged(whole, *names)[:2]
    assert not any("single sample" in message for message in said)
    with transformers_warnings() as said:  # a run that really has no rows still gets the warning
        run(3, str(tmp_path / "out" / "checkpoint-2"), ignore_data_skip=True)
        logging.getLogger("transformers.trainer").warning(EMPTY_EPOCH)
    assert any("single sample" in message for message in said)


def test_resuming_from_the_last_step_trains_no_step(small, tmp_path, uninterrupted):
    whole, _ = uninterrupted(4, "adamw")
    last = whole.args.output_dir + "/checkpoint-6"
    resumed = trainer_of(small, TrainingQuestions(whole.train_dataset.rows, 0, 4), tmp_path, max_steps=6)
    resumed.train(resume_from_checkpoint=last)
    assert resumed.state.global_step == 6
    expected = whole.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.model.state_dict().items())


class StopAtEvaluation(TrainerCallback):
    def on_evaluate(self, args, state, control, **kwargs):
        control.should_training_stop = True


def test_a_run_stopped_by_an_evaluation_at_its_start_trains_one_step_as_in_trainer(small, tmp_path):
    rows = dataset_of([scene_row(number) for number in range(4)])
    trainer = trainer_of(
        small,
        TrainingQuestions(rows, 0, 4),
        tmp_path,
        evaluation=EvaluationQuestions(rows.select(range(1)), with_conversations=False),
        callbacks=[StopAtEvaluation()],
        eval_on_start=True,
        save_strategy="epoch",
        max_steps=4,
    )
    trainer.train()
    assert trainer.state.global_step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def control_after(callback, step, max_steps):
    """Return a run's flags at a step, after an epoch whose end asks for logging, evaluation and saving."""
    state, control = TrainerState(global_step=step, max_steps=max_steps), TrainerControl()
    callback.on_epoch_begin(None, state, control)
    control.should_log = control.should_evaluate = control.should_save = True
    callback.on_epoch_end(None, state, control)
    return control.should_training_stop, control.should_log, control.should_evaluate, control.should_save


def test_only_a_finished_run_ends_with_its_next_epoch_and_saves_nothing():
    assert control_after(LastStepCallback(), 6, 6) == (True, False, False, False)
    assert control_after(LastStepCallback(), 5, 6) == (False, True, True, True)


def test_a_run_that_finished_within_an_epoch_trains_no_step_and_saves_nothing(small, tmp_path, uninterrupted):
    whole, checkpoint = uninterrupted(4, "adamw")  # checkpoint-3 is in the middle of the second epoch
    saving = {"save_strategy": "epoch", "logging_strategy": "epoch"}
    resumed = trainer_of(small, TrainingQuestions(whole.train_dataset.rows, 0, 4), tmp_path, max_steps=3, **saving)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.state.global_step == 3 and not list(tmp_path.iterdir())
    saved = load_file(checkpoint / "model.safetensors")
    weights = dict(resumed.model.named_parameters())
    assert all(torch.equal(weights[name], tensor) for name, tensor in saved.items() if name in weights)


@pytest.mark.parametrize(
    ("limit", "best", "kept"),
    [
        (1, "checkpoint-2", {"checkpoint-2"}),
        (2, "checkpoint-2", None),
        (1, None, None),
        (1, "elsewhere/checkpoint-2", None),
    ],
)
def test_only_the_best_checkpoint_is_kept_at_the_end_with_save_total_limit_1(tmp_path, limit, best, kept):
    names = {"checkpoint-2", "checkpoint-4"}
    for name in names:
        (tmp_path / "run" / name).mkdir(parents=True)
    args = GemmaLisaTrainingArguments(str(tmp_path / "run"), use_cpu=True, save_total_limit=limit)
    folder = tmp_path if best is not None and "/" in best else tmp_path / "run"
    state = TrainerState(best_model_checkpoint=None if best is None else str(folder / best))
    BestOnlyCallback().on_train_end(args, state, TrainerControl())
    assert {path.name for path in (tmp_path / "run").iterdir()} == (kept or names)
