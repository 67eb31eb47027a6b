"""Training of masks only: each text is read once, and the language model does not change."""

import copy
from types import SimpleNamespace

import pytest
import torch
from training_runs import SIZE, dataset_of, scene_row, trainer_of, without_image, without_masks

from gemma_lisa.checkpoints.lora import add_lora
from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.datasets_builder.questions import EvaluationQuestions, TrainingQuestions
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.scripts.init_tiny import build_tiny
from gemma_lisa.training.text_states import TextStates, freeze_text_model

NO_ENGINE = SimpleNamespace(deepspeed=None, fsdp=None, fsdp_config=None, self_check=False)


@pytest.fixture(scope="module", params=["token", "previous"])
def mapped(request):
    model, processor = build_tiny(image_size=SIZE, bridge="heat_map", seg_state=request.param)
    return model.eval(), processor


@pytest.fixture
def batch(mapped):
    questions = TrainingQuestions(dataset_of([scene_row(number) for number in range(3)]), 0, 4)
    return GemmaLisaCollator(mapped[1])([questions[at] for at in range(3)])


def read_alone(model, text):
    return model.model.language_model(input_ids=torch.tensor([text])).last_hidden_state[0, -1]


def test_each_state_is_that_of_its_own_question_without_the_image(mapped, batch):
    model, processor = mapped
    states = TextStates(model)
    found = states.in_place_of_tokens(dict(batch))["seg_states"].states
    assert len(found) == batch["prepared"].num_masks > 3
    texts = states._texts(batch["input_ids"], batch["question_ids"], batch["prepared"].seg_positions)
    seg, image = processor.seg_token_id, model.config.image_token_id
    is_token = model.config.seg_state == "token"
    for state, text in zip(found, texts, strict=True):
        assert image not in text and (text[-1] == seg) == is_token
        with torch.no_grad():
            torch.testing.assert_close(state, read_alone(model, text), rtol=1e-4, atol=1e-5)
    spoken = [processor.tokenizer.decode(text) for text in texts]
    assert all(text.count("<start_of_turn>model") == 1 for text in spoken)  # no other question of the row


def test_a_text_is_read_once(mapped, batch):
    states, calls = TextStates(mapped[0]), []
    hook = mapped[0].model.language_model.register_forward_pre_hook(lambda *_: calls.append(1))
    first = states.in_place_of_tokens(dict(batch))["seg_states"].states
    again = states.in_place_of_tokens(dict(batch))["seg_states"].states
    hook.remove()
    assert len(calls) == 1 and torch.equal(first, again)


def test_masks_are_of_the_image_of_each_state(mapped, batch):
    model, _ = mapped
    given = TextStates(model).in_place_of_tokens(dict(batch))
    output = model(**given)
    assert output.seg_image_index.tolist() == model(**batch).seg_image_index.tolist()
    assert output.language_loss is None and torch.isfinite(output.loss)


@pytest.mark.parametrize(
    "row", [scene_row(0), without_masks(scene_row(0)), without_image(scene_row(0))], ids=["masks", "no mask", "text"]
)
def test_a_step_changes_the_bridge_and_not_the_language_model(mapped, tmp_path, row):
    questions = TrainingQuestions(dataset_of([row, row]), 0, 4)
    trainer = trainer_of(mapped, questions, tmp_path, max_steps=1)
    freeze_text_model(trainer.model, NO_ENGINE)
    trainer.text_states = TextStates(trainer.model)
    trainer.train()
    pairs = zip(mapped[0].named_parameters(), trainer.model.parameters(), strict=True)
    changed = {name.split(".")[0] + "." + name.split(".")[1] for (name, old), new in pairs if not torch.equal(old, new)}
    assert "model.language_model" not in changed
    assert ("seg_projector.query" in changed) == (len(row["targets"]) > 0)


def test_engines_that_split_the_model_are_refused(mapped):
    with pytest.raises(UsageError, match="learn_text"):
        freeze_text_model(mapped[0], SimpleNamespace(deepspeed="zero3.json", fsdp=None, self_check=False))


def test_self_check_is_refused(mapped):
    with pytest.raises(UsageError, match="self_check"):
        freeze_text_model(mapped[0], SimpleNamespace(deepspeed=None, fsdp=None, self_check=True))


def test_a_trained_vision_encoder_that_no_mask_depends_on_is_refused(small):
    model = copy.deepcopy(small[0]).requires_grad_(True)
    with pytest.raises(UsageError, match="vision_tower"):
        freeze_text_model(model, NO_ENGINE)


def test_evaluation_reads_the_images(mapped, tmp_path):
    questions = TrainingQuestions(dataset_of([scene_row(0), scene_row(1)]), 0, 4)
    evaluation = EvaluationQuestions(dataset_of([scene_row(2)]), with_conversations=False)
    trainer = trainer_of(
        mapped, questions, tmp_path, evaluation=evaluation, max_steps=1, eval_strategy="steps", eval_steps=1
    )
    freeze_text_model(trainer.model, NO_ENGINE)
    trainer.text_states = TextStates(trainer.model)
    trainer.train()
    assert any("eval_gIoU" in entry for entry in trainer.state.log_history)


def test_kept_states_do_not_depend_on_dropout(mapped, batch):
    model = copy.deepcopy(mapped[0])
    adapted = add_lora(model, 4, dropout=0.5, trainable=["seg_projector.*"])
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    adapted.train()
    first, second = (TextStates(adapted).in_place_of_tokens(dict(batch))["seg_states"].states for _ in range(2))
    assert torch.equal(first, second) and adapted.get_base_model().model.language_model.training
