"""The trainer: micro-batches, frozen parameters and evaluations do not change what is trained."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import RandomSampler, SequentialSampler
from training_runs import PARTS, dataset_of, logged, scene_row, trainer_of, without_image, without_masks
from transformers import EvalPrediction

from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.datasets_builder.questions import EvaluationQuestions, MixtureQuestions, Part, TrainingQuestions
from gemma_lisa.evaluation.benchmark import list_questions
from gemma_lisa.evaluation.judging import judge
from gemma_lisa.evaluation.metrics import NUM_COUNTS, summarize, summarize_counts
from gemma_lisa.evaluation.protocols import teacher_forced
from gemma_lisa.training.previews import PreviewCallback
from gemma_lisa.training.trainer import GemmaLisaTrainer, measured_scores, scores_of_counts

# Parameters without a gradient: SAM's estimate of the IoU, and the decoder's further masks for ambiguous prompts
NO_GRADIENT = (
    "sam.mask_decoder.iou_prediction_head.",
    "sam.mask_decoder.output_hypernetworks_mlps.1.",
    "sam.mask_decoder.output_hypernetworks_mlps.2.",
    "sam.mask_decoder.output_hypernetworks_mlps.3.",
)


class GradientTrainer(GemmaLisaTrainer):
    """Stores the gradient of the last step."""

    def training_step(self, model, *args, **kwargs):
        loss = super().training_step(model, *args, **kwargs)
        self.gradient = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        return loss


ROWS_OF_A_STEP = {
    "masks everywhere": [scene_row(number) for number in range(8)],
    # Includes micro-batches of 2 and 1 with masks, with an image only, with text only, and mixed
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
def test_a_step_does_not_depend_on_the_micro_batch_size_and_equals_the_models_loss(small, tmp_path, name):
    questions = TrainingQuestions(dataset_of(ROWS_OF_A_STEP[name]), 0, 4)

    model = copy.deepcopy(small[0]).train()
    output = model(**GemmaLisaCollator(small[1])([questions[at] for at in range(8)]))
    output.loss.backward()
    plain = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    # Some gradients are zero up to rounding, such as a key bias under softmax
    negligible = 1e-3 * torch.stack([gradient.norm() for gradient in plain.values()]).norm()
    weights = {"language_loss": 1.0, "mask_bce_loss": 2.0, "mask_dice_loss": 0.5}
    expected = {name: 0.0 if output[name] is None else output[name].item() for name in weights}
    expected["loss"] = sum(weight * expected[name] for name, weight in weights.items())
    assert (expected["mask_dice_loss"] > 0) == (name != "no masks at all")

    for batch_size, accumulation in ((8, 1), (2, 4), (1, 8)):
        trainer = trainer_of(
            small,
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


def test_the_divisors_of_a_step_survive_rounding_of_inputs_to_bf16(small, tmp_path):
    trainer = trainer_of(small, TrainingQuestions(dataset_of([scene_row(0)]), 0, 3), tmp_path)
    given = {}

    def model(**inputs):
        given.update(inputs)
        return {"loss": torch.ones(())}

    trainer.compute_loss(model, {}, num_items_in_batch=torch.tensor([1001.0, 259.0], dtype=torch.float64))
    # FSDP2 casts floating-point inputs, and 1001 and 259 become 1000 and 260 in bf16
    counts = [given["num_items_in_batch"], given["num_masks_in_batch"]]
    assert not any(count.is_floating_point() for count in counts) and [int(count) for count in counts] == [1001, 259]


def test_logged_parts_are_means_over_the_steps_between_two_logs(small, tmp_path):
    questions = TrainingQuestions(dataset_of(ROWS_OF_A_STEP["masks everywhere"]), 0, 4)
    every = trainer_of(small, questions, tmp_path, max_steps=4)
    every.train()
    second = trainer_of(small, questions, tmp_path, max_steps=4, logging_steps=2)
    second.train()
    means = np.array(logged(every, *PARTS)).reshape(2, 2, len(PARTS)).mean(1)
    assert np.allclose(logged(second, *PARTS), means, rtol=1e-6)


def test_frozen_parameters_do_not_change_and_trained_ones_do(small, tmp_path):
    model = copy.deepcopy(small[0])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(("model.language_model.", "seg_projector.", "sam.mask_decoder.")))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    trainer = trainer_of(
        (model, small[1]), TrainingQuestions(dataset_of([scene_row(0)] * 4), 0, 4), tmp_path, max_steps=2
    )
    trainer.train()
    moved = {name for name, parameter in trainer.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not name.startswith(NO_GRADIENT)
    }


def test_scores_do_not_depend_on_eval_accumulation_steps(small, tmp_path):
    rows = dataset_of([scene_row(number) for number in range(3)])
    questions = EvaluationQuestions(rows, with_conversations=False)
    found = []
    for options in ({}, {"eval_accumulation_steps": 1}):
        options = {"evaluation": questions, "per_device_eval_batch_size": 2, **options}
        trainer = trainer_of(small, TrainingQuestions(rows, 0, 4), tmp_path, **options)
        scores = trainer.evaluate()
        found.append({name: value for name, value in scores.items() if "second" not in name and "time" not in name})
    assert found[0] == pytest.approx(found[1])


def test_the_measurable_scores_are_those_of_an_evaluation(small, tmp_path):
    def measured_and_found(rows):
        questions = EvaluationQuestions(dataset_of(rows), with_conversations=False)
        trainer = trainer_of(small, TrainingQuestions(dataset_of(rows), 0, 4), tmp_path, evaluation=questions)
        return measured_scores(questions), {name.removeprefix("eval_") for name in trainer.evaluate()}

    rows = [scene_row(number) for number in range(4)]
    measured, found = measured_and_found(rows)
    assert measured == found - {"epoch", "runtime", "samples_per_second", "steps_per_second", "model_preparation_time"}
    targets = [target for target in rows[0]["targets"] if len(target["masks"]) == 1]
    measured, found = measured_and_found([{**rows[0], "targets": targets}])
    assert not {"N-acc", "gIoU_plural"} & (measured | found) and "gIoU" in measured & found


def test_an_evaluation_equals_scores_computed_directly(small, tmp_path):
    first, second = scene_row(0), scene_row(1)
    rows = dataset_of([first, {**second, "targets": second["targets"][:1]}])
    questions = EvaluationQuestions(rows, with_conversations=False)
    assert len(questions) == 5  # an odd number: the last batch of 2 is not full
    trainer = trainer_of(small, None, tmp_path, evaluation=questions, per_device_eval_batch_size=2)
    found = trainer.evaluate()
    model, samples = copy.deepcopy(small[0]).eval(), [questions[at] for at in range(5)]
    asked = list_questions(rows, "shapes", with_conversations=False)
    predictions = [one for pair in (0, 2, 4) for one in teacher_forced(model, small[1], samples[pair : pair + 2])]
    expected = summarize(
        judge(question, replace(prediction, id=question.id))
        for question, prediction in zip(asked, predictions, strict=True)
    )
    assert expected["count"] == 5 and 0 < expected["cIoU"] < 1
    names = {name for name in summarize_counts(np.zeros((0, NUM_COUNTS), dtype=np.int64)) if name != "gIoU_all"}
    assert {"gIoU", "cIoU", "T-acc", "count"} <= names
    for name in names:
        value = expected[name]
        assert found.get(f"eval_{name}") == (value if value is None else pytest.approx(value)), name


def test_evaluation_and_previews_do_not_change_the_training(small, tmp_path, uninterrupted):
    whole, _ = uninterrupted(4, "adamw")
    questions = EvaluationQuestions(dataset_of([scene_row(9)]), with_conversations=False)
    preview = PreviewCallback(small[1], [questions[0]], max_new_tokens=4)
    watched = trainer_of(
        small,
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


def test_samples_that_pad_the_last_batch_are_counted_once():
    counts = np.array([[5, 10, 1, 1, 1], [0, 10, 1, 1, 1], [5, 10, 1, 1, 1]])
    scores = scores_of_counts(EvalPrediction(predictions=counts, label_ids=np.array([4, 7, 4])))
    assert (scores["count"], scores["gIoU"]) == (2, 0.25)
    assert "N-acc" not in scores  # a score without questions does not exist, and logs cannot hold None


def test_a_mixture_keeps_its_own_order(small, tmp_path):
    rows = dataset_of([scene_row(number) for number in range(4)])
    questions = MixtureQuestions([Part("scenes", rows, 1.0)], 0, 4, 4)
    trainer = trainer_of(small, questions, tmp_path)
    trainer.data_collator.with_sources = True
    sources = [source for batch in trainer.get_train_dataloader() for source in batch["sources"]]
    assert sources == [questions[at]["source"] for at in range(4)]


def test_a_mixture_does_not_change_shared_arguments(small, tmp_path):
    rows = dataset_of([scene_row(number) for number in range(4)])
    mixture = trainer_of(small, MixtureQuestions([Part("scenes", rows, 1.0)], 0, 4, 4), tmp_path)
    assert isinstance(mixture.get_train_dataloader().batch_sampler.sampler, SequentialSampler)
    plain = trainer_of(small, TrainingQuestions(rows, 0, 4), tmp_path, args=mixture.args)
    assert plain.args is mixture.args and plain.args.train_sampling_strategy == "random"
    assert isinstance(plain.get_train_dataloader().batch_sampler.sampler, RandomSampler)
    mixture.save_model()
    assert torch.load(tmp_path / "training_args.bin", weights_only=False).train_sampling_strategy == "random"


def test_the_gradient_norm_equals_that_of_clipping_and_keeps_the_gradient(small, tmp_path):
    trainer = trainer_of(small, TrainingQuestions(dataset_of([scene_row(0)]), 0, 3), tmp_path, GradientTrainer)
    trainer.args.max_grad_norm = 0.0
    trainer.args.max_steps = 1
    trainer.train()
    for name, parameter in trainer.model.named_parameters():
        parameter.grad = trainer.gradient.get(name)
    norm = trainer._gradient_norm(trainer.model)
    assert norm > 0 and norm == trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), float("inf"))
    assert [norm.item()] == logged(trainer, "grad_norm")[0]
