"""The trainer: how a step is cut changes nothing, a resumed run is the same run, evaluation only measures."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import EvalPrediction

from gemma_lisa.checkpoints.checksums import CHECKSUMS, check_checksums
from gemma_lisa.checkpoints.training_record import Record, read_stages
from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.datasets_builder.questions import EvaluationQuestions, Part, TrainingQuestions
from gemma_lisa.datasets_builder.rows import ROW_FEATURES
from gemma_lisa.datasets_builder.shards import write_shards
from gemma_lisa.datasets_builder.streams import StreamedQuestions, open_stream
from gemma_lisa.datasets_builder.synthetic.shapes import row_of_scene
from gemma_lisa.datasets_builder.synthetic.shapes_easy import draw_scene
from gemma_lisa.evaluation.metrics import summarize
from gemma_lisa.evaluation.protocols import teacher_forced
from gemma_lisa.scripts.init_tiny import build_tiny
from gemma_lisa.training.atomic_saves import remove_scraps
from gemma_lisa.training.optimizers import build_muon
from gemma_lisa.training.previews import PreviewCallback
from gemma_lisa.training.trainer import GemmaLisaTrainer, measured_scores, scores_of_counts
from gemma_lisa.training.training_arguments import GemmaLisaTrainingArguments

SIZE = 32  # pixels a side
PARTS = ("loss", "language_loss", "mask_bce_loss", "mask_dice_loss")
MUON = (lambda: build_muon, {"muon_lr": 0.01, "adamw_lr": 1e-3, "weight_decay": 0.01, "betas": (0.9, 0.98)})
# What nothing pulls at: SAM's own estimate of the IoU, and the decoder's answers to prompts of several meanings.
UNPULLED = (
    "sam.mask_decoder.iou_prediction_head.",
    "sam.mask_decoder.output_hypernetworks_mlps.1.",
    "sam.mask_decoder.output_hypernetworks_mlps.2.",
    "sam.mask_decoder.output_hypernetworks_mlps.3.",
)


def scene_row(number):
    generator = np.random.default_rng(number)
    return row_of_scene(draw_scene(generator, SIZE), generator, True, f"drawn/{number}")


def without_masks(row):
    """The row's dialogue about its image, and nothing to point at."""
    return {**row, "targets": []}


def without_image(row):
    return {**row, "targets": [], "image": None}


def dataset_of(rows):
    return Dataset.from_list(rows, features=ROW_FEATURES)


class Recorded(TrainingQuestions):
    """Training questions that remember what was asked."""

    def __init__(self, *args):
        super().__init__(*args)
        self.asked = []

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        self.asked.append(words_of(sample))
        return sample


def words_of(sample):
    return sample["source"], tuple(chat.rounds for chat in sample["chats"])


class GradientTrainer(GemmaLisaTrainer):
    """Keeps the gradient of the last step."""

    def training_step(self, model, *args, **kwargs):
        loss = super().training_step(model, *args, **kwargs)
        self.gradient = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        return loss


@pytest.fixture(scope="module")
def tiny():
    return build_tiny(image_size=SIZE)


def trainer_of(tiny, train, folder, kind=GemmaLisaTrainer, evaluation=None, optimizer=None, callbacks=(), **options):
    model, processor = tiny
    arguments = {
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        **options,
    }
    return kind(
        model=copy.deepcopy(model),
        args=GemmaLisaTrainingArguments(output_dir=str(folder), **arguments),
        data_collator=GemmaLisaCollator(processor),
        train_dataset=train,
        eval_dataset=evaluation,
        processing_class=processor,
        callbacks=list(callbacks),
        optimizer_cls_and_kwargs=optimizer,
    )


def logged(trainer, *names):
    return [[entry[name] for name in names] for entry in trainer.state.log_history if "language_loss" in entry]


# --- one step, however it is cut -------------------------------------------------------------------------------------
ROWS_OF_A_STEP = {
    "masks everywhere": [scene_row(number) for number in range(8)],
    # Micro-batches of 2 and of 1 among these: with masks, with an image only, with words only, mixed
    "masks in the first micro-batch only": [
        scene_row(0),
        scene_row(1),
        *[without_masks(scene_row(number)) for number in (2, 3)],
        *[without_image(scene_row(number)) for number in (4, 5)],
        without_masks(scene_row(6)),
        without_image(scene_row(7)),
    ],
    "no masks at all": [
        *[without_image(scene_row(number)) for number in range(4)],
        *[without_masks(scene_row(number)) for number in range(4, 8)],
    ],
}


@pytest.mark.parametrize("name", ROWS_OF_A_STEP)
def test_a_step_is_the_same_however_it_is_cut_and_equals_the_models_own_loss(tiny, tmp_path, name):
    questions = TrainingQuestions(dataset_of(ROWS_OF_A_STEP[name]), 0, 4)

    model = copy.deepcopy(tiny[0]).train()
    output = model(**GemmaLisaCollator(tiny[1])([questions[at] for at in range(8)]))
    output.loss.backward()
    plain = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    # Some gradients are zero but for rounding, as a bias of keys under softmax
    negligible = 1e-3 * torch.stack([gradient.norm() for gradient in plain.values()]).norm()
    weights = {"language_loss": 1.0, "mask_bce_loss": 2.0, "mask_dice_loss": 0.5}
    expected = {name: 0.0 if output[name] is None else output[name].item() for name in weights}
    expected["loss"] = sum(weight * expected[name] for name, weight in weights.items())
    assert (expected["mask_dice_loss"] > 0) == (name != "no masks at all")

    for batch_size, accumulation in ((8, 1), (2, 4), (1, 8)):
        trainer = trainer_of(
            tiny,
            questions,
            tmp_path,
            GradientTrainer,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            max_grad_norm=0.0,
            train_sampling_strategy="sequential",
        )
        trainer.train()
        cut = f"{batch_size} x {accumulation}"
        assert trainer.gradient.keys() == plain.keys(), cut
        for parameter, gradient in plain.items():
            scale = max(gradient.norm(), negligible)
            assert (trainer.gradient[parameter] - gradient).norm() / scale < 1e-5, (cut, parameter)
        [found] = logged(trainer, *PARTS)
        assert found == pytest.approx([expected[part] for part in PARTS], rel=1e-5), cut


def test_what_a_step_is_divided_by_survives_an_engine_that_rounds_inputs_to_bf16(tiny, tmp_path):
    trainer = trainer_of(tiny, TrainingQuestions(dataset_of([scene_row(0)]), 0, 3), tmp_path)
    given = {}

    def model(**inputs):
        given.update(inputs)
        return {"loss": torch.ones(())}

    trainer.compute_loss(model, {}, num_items_in_batch=torch.tensor([1001.0, 259.0], dtype=torch.float64))
    # FSDP2 casts what is floating, and 1001 and 259 are 1000 and 260 in bf16
    counts = [given["num_items_in_batch"], given["num_masks_in_batch"]]
    assert not any(count.is_floating_point() for count in counts) and [int(count) for count in counts] == [1001, 259]


def test_logged_parts_are_means_over_the_steps_between_two_logs(tiny, tmp_path):
    questions = TrainingQuestions(dataset_of(ROWS_OF_A_STEP["masks everywhere"]), 0, 4)
    every = trainer_of(tiny, questions, tmp_path, max_steps=4)
    every.train()
    second = trainer_of(tiny, questions, tmp_path, max_steps=4, logging_steps=2)
    second.train()
    means = np.array(logged(every, *PARTS)).reshape(2, 2, len(PARTS)).mean(1)
    assert np.allclose(logged(second, *PARTS), means, rtol=1e-6)


def test_frozen_parameters_stay_and_trained_ones_move(tiny, tmp_path):
    model = copy.deepcopy(tiny[0])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(("model.language_model.", "seg_projector.", "sam.mask_decoder.")))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    trainer = trainer_of(
        (model, tiny[1]), TrainingQuestions(dataset_of([scene_row(0)] * 4), 0, 4), tmp_path, max_steps=2
    )
    trainer.train()
    moved = {name for name, parameter in trainer.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not name.startswith(UNPULLED)
    }


# --- words and order by epoch, and resuming --------------------------------------------------------------------------
@pytest.fixture(scope="module")
def uninterrupted(tiny, tmp_path_factory):
    """6 steps, by (rows, optimizer), each run once."""
    runs = {}

    def run(num_rows, optimizer):
        if (num_rows, optimizer) not in runs:
            questions = Recorded(dataset_of([scene_row(number) for number in range(num_rows)]), 0, 4)
            folder = tmp_path_factory.mktemp("uninterrupted")
            trainer = trainer_of(
                tiny,
                questions,
                folder,
                optimizer=MUON if optimizer == "muon" else None,
                max_steps=6,
                save_strategy="steps",
                save_steps=3,
            )
            trainer.train()
            runs[num_rows, optimizer] = trainer, folder / "checkpoint-3"
        return runs[num_rows, optimizer]

    return run


def test_every_epoch_asks_every_row_in_its_own_words_and_order(uninterrupted):
    trainer, _ = uninterrupted(4, "adamw")
    questions = TrainingQuestions(trainer.train_dataset.rows, 0, 4)
    orders = []
    for epoch in range(3):
        questions.set_epoch(epoch)
        words = [words_of(questions[at]) for at in range(4)]
        asked = trainer.train_dataset.asked[4 * epoch : 4 * epoch + 4]
        assert sorted(asked) == sorted(words), epoch
        orders.append([source for source, _ in asked])
    assert orders[0] != orders[1] or orders[1] != orders[2]


@pytest.mark.parametrize("workers", ["one worker", "one worker that stays"])
def test_a_loader_process_asks_the_same_words(tiny, tmp_path, uninterrupted, workers):
    trainer, _ = uninterrupted(4, "adamw")
    again = trainer_of(
        tiny,
        TrainingQuestions(trainer.train_dataset.rows, 0, 4),
        tmp_path,
        max_steps=6,
        dataloader_num_workers=1,
        dataloader_persistent_workers=workers == "one worker that stays",
    )
    again.train()
    assert logged(again, *PARTS, "grad_norm") == logged(trainer, *PARTS, "grad_norm")


@pytest.mark.parametrize(
    ("num_rows", "optimizer", "workers"),
    [
        (4, "adamw", 0),  # stopped in the middle of the second epoch, goes on into the third
        (4, "muon", 0),
        (4, "adamw", 1),
        (6, "adamw", 0),  # stopped between two epochs
    ],
)
def test_a_resumed_run_is_the_uninterrupted_run(tiny, tmp_path, uninterrupted, num_rows, optimizer, workers):
    whole, checkpoint = uninterrupted(num_rows, optimizer)
    questions = Recorded(whole.train_dataset.rows, 0, 4)
    other = copy.deepcopy(tiny[0])
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()  # everything must come from the checkpoint
    resumed = trainer_of(
        (other, tiny[1]),
        questions,
        tmp_path,
        optimizer=MUON if optimizer == "muon" else None,
        max_steps=6,
        save_strategy="steps",
        save_steps=3,
        dataloader_num_workers=workers,
    )
    resumed.train(resume_from_checkpoint=str(checkpoint))

    if workers == 0:
        assert questions.asked == whole.train_dataset.asked[6:]
    names = (*PARTS, "grad_norm", "learning_rate", "epoch")
    assert logged(resumed, *names) == logged(whole, *names)
    expected = whole.model.state_dict()
    for name, tensor in resumed.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_that_goes_on_at_another_rate_takes_it(tiny, tmp_path, uninterrupted, optimizer):
    whole, checkpoint = uninterrupted(4, optimizer)
    muon = (MUON[0], {**MUON[1], "muon_lr": MUON[1]["muon_lr"] / 4, "adamw_lr": MUON[1]["adamw_lr"] / 4})
    resumed = trainer_of(
        tiny,
        TrainingQuestions(whole.train_dataset.rows, 0, 4),
        tmp_path,
        optimizer=muon if optimizer == "muon" else None,
        learning_rate=whole.args.learning_rate / 4,
        max_steps=6,
    )
    resumed.train(resume_from_checkpoint=str(checkpoint))
    before, after = ([rate for [rate] in logged(trainer, "learning_rate")] for trainer in (whole, resumed))
    assert np.allclose(after[3:], np.array(before[3:]) / 4, rtol=1e-6) and after[3] > 0


def test_a_resumed_run_takes_other_betas_and_another_epsilon(tiny, tmp_path, uninterrupted):
    whole, checkpoint = uninterrupted(4, "adamw")
    options = {"adam_beta1": 0.5, "adam_beta2": 0.75, "adam_epsilon": 1e-3, "weight_decay": 0.25, "max_steps": 4}
    resumed = trainer_of(tiny, TrainingQuestions(whole.train_dataset.rows, 0, 4), tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    groups = resumed.optimizer.param_groups
    assert {(*group["betas"], group["eps"]) for group in groups} == {(0.5, 0.75, 1e-3)}
    assert {group["weight_decay"] for group in groups} == {0.0, 0.25}


@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
def test_a_schedule_that_follows_the_scores_is_resumed(tiny, tmp_path, schedule):
    rows = dataset_of([scene_row(number) for number in range(4)])

    def run(steps, resume=None):
        trainer = trainer_of(
            tiny,
            TrainingQuestions(rows, 0, 4),
            tmp_path,
            evaluation=EvaluationQuestions(rows.select(range(1)), with_conversations=False),
            lr_scheduler_type=schedule,
            lr_scheduler_kwargs={"patience": 0},
            metric_for_best_model="count",  # it stays as it is, so that the rate falls
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


# --- options of transformers that pass through this trainer ----------------------------------------------------------
def losses_with(tiny, folder, num_rows=6, **options):
    questions = TrainingQuestions(dataset_of([scene_row(number) for number in range(num_rows)]), 0, 4)
    trainer = trainer_of(tiny, questions, folder, **{"max_steps": 2, **options})
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
def test_an_option_changes_the_losses(tiny, tmp_path, options):
    plain = {"optim": "sgd"} if "optim_args" in options else {}
    assert losses_with(tiny, tmp_path / "a", max_steps=3, **plain)[1] != pytest.approx(
        losses_with(tiny, tmp_path / "b", max_steps=3, **options)[1], rel=1e-7
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
def test_an_option_that_must_not_change_the_losses_does_not(tiny, tmp_path, options):
    trainer, losses = losses_with(tiny, tmp_path / "a", **options)
    assert losses == pytest.approx(losses_with(tiny, tmp_path / "b")[1], rel=1e-6)
    if "skip_memory_metrics" in options:
        assert "train_mem_cpu_alloc_delta" in trainer.state.log_history[-1]
        assert trainer.state.log_history[0]["num_input_tokens_seen"] > 0
    if "activation_checkpointing" in options:
        assert trainer.model.is_activation_checkpointing


def test_the_last_rows_of_an_epoch_can_be_dropped(tiny, tmp_path):
    for drop, steps in ((False, 2), (True, 1)):
        options = {"dataloader_drop_last": drop, "max_steps": -1, "num_train_epochs": 1}
        trainer, _ = losses_with(tiny, tmp_path, num_rows=3, **options)
        assert trainer.state.global_step == steps


def test_full_determinism_is_switched_on(tiny, tmp_path):
    try:
        losses_with(tiny, tmp_path, max_steps=1, full_determinism=True)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_an_evaluation_counts_the_same_however_its_counts_are_kept(tiny, tmp_path):
    rows = dataset_of([scene_row(number) for number in range(3)])
    questions = EvaluationQuestions(rows, with_conversations=False)
    found = []
    for options in ({}, {"eval_accumulation_steps": 1}):
        options = {"evaluation": questions, "per_device_eval_batch_size": 2, **options}
        trainer = trainer_of(tiny, TrainingQuestions(rows, 0, 4), tmp_path, **options)
        scores = trainer.evaluate()
        found.append({name: value for name, value in scores.items() if "second" not in name and "time" not in name})
    assert found[0] == pytest.approx(found[1])


def test_the_scores_that_questions_can_measure_are_those_that_an_evaluation_gives(tiny, tmp_path):
    def measured_and_found(rows):
        questions = EvaluationQuestions(dataset_of(rows), with_conversations=False)
        trainer = trainer_of(tiny, TrainingQuestions(dataset_of(rows), 0, 4), tmp_path, evaluation=questions)
        return measured_scores(questions), {name.removeprefix("eval_") for name in trainer.evaluate()}

    rows = [scene_row(number) for number in range(4)]
    measured, found = measured_and_found(rows)
    assert measured == found - {"epoch", "runtime", "samples_per_second", "steps_per_second", "model_preparation_time"}
    targets = [target for target in rows[0]["targets"] if len(target["masks"]) == 1]
    measured, found = measured_and_found([{**rows[0], "targets": targets}])
    assert not {"N-acc", "gIoU_plural"} & (measured | found) and "gIoU" in measured & found


def test_a_stream_is_gone_on_with_as_it_was_dealt_out_and_not_otherwise(tiny, tmp_path):
    write_shards({"train": dataset_of([scene_row(number) for number in range(6)])}, tmp_path / "rows", "six", shards=2)

    def run(steps, resume=None, **options):
        questions = StreamedQuestions([Part("six", open_stream(str(tmp_path / "rows"), "train", None), 1.0)], 0, 4)
        options = {"max_steps": steps, "save_strategy": "steps", "save_steps": 2, **options}
        trainer = trainer_of(tiny, questions, tmp_path / "out", **{"gradient_accumulation_steps": 2, **options})
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole, checkpoint = run(3), str(tmp_path / "out" / "checkpoint-2")
    names = (*PARTS, "grad_norm", "learning_rate", "epoch")
    assert logged(run(3, checkpoint), *names) == logged(whole, *names)
    for changed in ("gradient_accumulation_steps", "per_device_train_batch_size", "seed"):
        with pytest.raises(ValueError, match=f"dealt out in another way: {changed} 3, not "):
            run(3, checkpoint, **{changed: 3})
    finished = run(2, checkpoint)  # all its steps were trained: none is taken
    assert finished.state.global_step == 2 and logged(finished, *names) == logged(whole, *names)[:2]


def test_muons_checkpoint_holds_the_state_of_both_optimizers(uninterrupted):
    _, checkpoint = uninterrupted(4, "muon")
    saved = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    for name, key in (("muon", "momentum_buffer"), ("adamw", "exp_avg")):
        state = saved[name]["state"]
        assert state
        assert sum(entry[key].abs().sum() for entry in state.values()) > 0


# --- evaluation ------------------------------------------------------------------------------------------------------
def test_evaluation_gives_the_scores_of_all_questions_taken_directly(tiny, tmp_path):
    first, second = scene_row(0), scene_row(1)
    rows = dataset_of([first, {**second, "targets": second["targets"][:1]}])
    questions = EvaluationQuestions(rows, with_conversations=False)
    assert len(questions) == 5  # odd: the last batch of 2 is not full
    trainer = trainer_of(tiny, None, tmp_path, evaluation=questions, per_device_eval_batch_size=2)
    found = trainer.evaluate()
    model, samples = copy.deepcopy(tiny[0]).eval(), [questions[at] for at in range(5)]
    expected = summarize(
        answer.result for pair in (0, 2, 4) for answer in teacher_forced(model, tiny[1], samples[pair : pair + 2])
    )
    assert expected["count"] == 5
    del expected["gIoU_all"]
    assert 0 < expected["cIoU"] < 1
    for name, value in expected.items():
        assert found.get(f"eval_{name}") == (value if value is None else pytest.approx(value)), name


def test_evaluation_and_previews_leave_the_training_as_it_was(tiny, tmp_path, uninterrupted):
    whole, _ = uninterrupted(4, "adamw")
    questions = EvaluationQuestions(dataset_of([scene_row(9)]), with_conversations=False)
    preview = PreviewCallback(tiny[1], [questions[0]], max_new_tokens=4)
    watched = trainer_of(
        tiny,
        TrainingQuestions(whole.train_dataset.rows, 0, 4),
        tmp_path,
        evaluation=questions,
        callbacks=[preview],
        max_steps=6,
        eval_strategy="steps",
        eval_steps=1,
    )
    watched.train()
    assert sum("eval_gIoU" in entry for entry in watched.state.log_history) == 6
    assert logged(watched, *PARTS, "grad_norm") == logged(whole, *PARTS, "grad_norm")
    expected = whole.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in watched.model.state_dict().items())
    assert {path.name for path in (tmp_path / "previews").iterdir()} == {f"step-{at:06d}.png" for at in range(1, 7)}
    assert (tmp_path / "curve.png").stat().st_size > 0


def test_samples_that_fill_up_the_last_batch_are_counted_once():
    counts = np.array([[5, 10, 1, 1, 1], [0, 10, 1, 1, 1], [5, 10, 1, 1, 1]])
    scores = scores_of_counts(EvalPrediction(predictions=counts, label_ids=np.array([4, 7, 4])))
    assert (scores["count"], scores["gIoU"]) == (2, 0.25)
    assert "N-acc" not in scores  # over no question there is no score, and a log takes no None


# --- what is saved, and what is not learned from ---------------------------------------------------------------------
def test_the_last_checkpoints_are_kept_and_nothing_else_lies_about(tiny, tmp_path):
    questions = TrainingQuestions(dataset_of([scene_row(number) for number in range(4)]), 0, 4)
    trainer = trainer_of(
        tiny, questions, tmp_path, max_steps=5, save_strategy="steps", save_steps=1, save_total_limit=2
    )
    trainer.record = Record("some/model", [], None)
    trainer.train()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-4", "checkpoint-5"}
    assert read_stages(tmp_path / "checkpoint-5")[-1]["steps"] == 5
    trainer.save_model()
    names = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors", "trainer_state.json", "training.json"} <= names
    assert not any(name.startswith(".") for name in names)


def test_a_checkpoint_appears_when_all_of_it_is_written(tiny, tmp_path, monkeypatch):
    questions = TrainingQuestions(dataset_of([scene_row(number) for number in range(4)]), 0, 4)
    trainer = trainer_of(tiny, questions, tmp_path, max_steps=2, save_strategy="steps", save_steps=1)
    save_rng_state = trainer._save_rng_state

    def fail_at_the_second(folder):
        if trainer.state.global_step == 2:
            raise OSError("no space left")
        save_rng_state(folder)

    monkeypatch.setattr(trainer, "_save_rng_state", fail_at_the_second)
    with pytest.raises(OSError, match="no space"):
        trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]
    assert (tmp_path / ".saving" / "checkpoint-2" / "model.safetensors").exists()
    remove_scraps(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_a_full_disk_is_told_with_the_place_and_leaves_no_half_of_a_checkpoint(tiny, tmp_path, monkeypatch):
    questions = TrainingQuestions(dataset_of([scene_row(number) for number in range(4)]), 0, 4)
    trainer = trainer_of(tiny, questions, tmp_path, max_steps=2, save_strategy="steps", save_steps=1)
    save = torch.save

    def fill_up(content, path, *args, **kwargs):
        if Path(path).name == "optimizer.pt" and trainer.state.global_step == 2:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 2860096 vs 2859984")
        save(content, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", fill_up)
    with pytest.raises(OSError, match=f"^{tmp_path / 'checkpoint-2'}: cannot be written") as refusal:
        trainer.train()
    assert "\n" not in str(refusal.value)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]
    assert not list((tmp_path / ".saving").glob("*"))


def test_what_is_saved_has_checksums_and_arguments_without_the_token(tiny, tmp_path):
    questions = TrainingQuestions(dataset_of([scene_row(number) for number in range(4)]), 0, 4)
    trainer = trainer_of(tiny, questions, tmp_path, max_steps=1, save_strategy="steps", save_steps=1)
    trainer.args.hub_token = "hf_of_the_tests"
    trainer.train()
    trainer.save_model()
    for folder in (tmp_path, tmp_path / "checkpoint-1"):
        assert (folder / CHECKSUMS).is_file()
        check_checksums(folder)
        for path in (path for path in folder.iterdir() if path.is_file()):
            assert b"hf_of_the_tests" not in path.read_bytes(), path
        assert str(tmp_path).encode() not in (folder / "training_args.bin").read_bytes()
    assert trainer.args.hub_token == "hf_of_the_tests" and trainer.args.output_dir == str(tmp_path)


class Spoiled(GemmaLisaTrainer):
    """Whose loss is nan in the second micro-batch of the second step."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        is_it = (self.state.global_step, len(self.step_losses)) == (1, 1)
        hook = model.register_forward_hook(lambda *_: _spoil(_[2])) if is_it else None
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if hook is not None:
            hook.remove()
        return result


def _spoil(outputs):
    outputs["language_loss"] = outputs["language_loss"] * float("nan")
    outputs["loss"] = outputs["loss"] * float("nan")
    return outputs


def test_a_loss_that_is_not_finite_ends_the_run_and_names_its_rows(tiny, tmp_path):
    questions = TrainingQuestions(dataset_of([scene_row(number) for number in range(8)]), 0, 4)
    trainer = trainer_of(
        tiny,
        questions,
        tmp_path,
        Spoiled,
        max_steps=3,
        gradient_accumulation_steps=2,
        save_strategy="steps",
        save_steps=1,
        train_sampling_strategy="sequential",
    )
    trainer.data_collator.with_sources = True
    with pytest.raises(FloatingPointError, match=r"step 2: the loss is not finite.*checkpoint-1") as stop:
        trainer.train()
    assert "\n" not in str(stop.value)
    found = json.loads((tmp_path / "nonfinite.json").read_text())
    assert (found["step"], found["grad_norm"]) == (2, "nan")
    assert [batch["sources"] for batch in found["micro_batches"]] == [["drawn/4", "drawn/5"], ["drawn/6", "drawn/7"]]
    good, bad = found["micro_batches"]
    assert isinstance(good["loss"], float) and (bad["loss"], bad["language_loss"], bad["rank"]) == ("nan", "nan", 0)
    assert isinstance(bad["mask_dice_loss"], float)
    saved = load_file(tmp_path / "checkpoint-1" / "model.safetensors")
    for name, parameter in trainer.model.named_parameters():
        if name in saved:
            assert torch.equal(parameter, saved[name]), name  # the step was not taken


def test_an_overflow_ends_the_run(tiny, tmp_path):
    questions = TrainingQuestions(dataset_of([scene_row(number) for number in range(4)]), 0, 4)
    trainer = trainer_of(tiny, questions, tmp_path, max_steps=6, learning_rate=1e30)
    with pytest.raises(FloatingPointError, match="is not finite.*--fresh true"):
        trainer.train()
    assert trainer.state.global_step < 6
    assert (tmp_path / "nonfinite.json").exists()


def test_a_checkpoint_of_the_last_step_is_not_trained_on(tiny, tmp_path, uninterrupted):
    whole, _ = uninterrupted(4, "adamw")
    last = whole.args.output_dir + "/checkpoint-6"
    resumed = trainer_of(tiny, TrainingQuestions(whole.train_dataset.rows, 0, 4), tmp_path, max_steps=6)
    resumed.train(resume_from_checkpoint=last)
    assert resumed.state.global_step == 6
    expected = whole.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.model.state_dict().items())
