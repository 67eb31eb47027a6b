"""`--cache_features`: with it, an epoch and its evaluation run no image encoder, and losses stay the same."""

import copy
from types import SimpleNamespace

import pytest
import torch
from feature_cached import BOTH, counted_encoders, rows_of, text_row
from training_runs import PARTS, logged

from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.datasets_builder.questions import EvaluationQuestions, MixtureQuestions, Part, TrainingQuestions
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.training import cache_filling
from gemma_lisa.training.cache_filling import frozen_encoders, open_filled, rows_of_run
from gemma_lisa.training.previews import PreviewCallback
from gemma_lisa.training.trainer import GemmaLisaTrainer
from gemma_lisa.training.training_arguments import GemmaLisaTrainingArguments

DATA = SimpleNamespace(learn_masks=True, preview_samples=2, max_new_tokens=3)
TRAINED = ("model.language_model.", "seg_projector.", "sam.mask_decoder.")
# Rounding features to bf16 (8 bits) changes the losses of this model by less than this
TOLERANCE = 5e-3


def args_of(folder, **options):
    fixed = {"use_cpu": True, "dataloader_pin_memory": False, "disable_tqdm": True, "save_strategy": "no"}
    fixed |= {"per_device_train_batch_size": 4, "num_train_epochs": 1, "logging_steps": 1, "learning_rate": 1e-3}
    return GemmaLisaTrainingArguments(output_dir=str(folder / "run"), **fixed, **options)


def questions_of(rows):
    return TrainingQuestions(rows, seed=0, max_questions=2), EvaluationQuestions(rows, with_conversations=False)


@pytest.fixture
def model(small):
    model = copy.deepcopy(small[0])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(TRAINED))
    return model


def trainer_of(model, processor, questions, args, cache):
    return GemmaLisaTrainer(
        model=model,
        args=args,
        data_collator=GemmaLisaCollator(processor, with_sources=True, as_bytes=True, cache=cache),
        train_dataset=questions[0],
        eval_dataset=questions[1],
        processing_class=processor,
        callbacks=[PreviewCallback.of(processor, questions[1], DATA, cache)],
    )


def round_features(model):
    """Round the outputs of both encoders to bf16, as the cache does."""
    for module in (model.sam.vision_encoder.neck, model.model.multi_modal_projector):
        module.register_forward_hook(lambda module, inputs, output: output.bfloat16().float())


@pytest.mark.parametrize("workers, context", [(0, None), (2, "fork"), (1, "spawn")])
def test_an_epoch_with_evaluation_and_previews_runs_no_image_encoder(small, model, tmp_path, workers, context):
    args = args_of(
        tmp_path,
        cache_features=str(tmp_path / "cache"),
        eval_strategy="epoch",
        dataloader_num_workers=workers,
        dataloader_multiprocessing_context=context,
    )
    questions = questions_of(rows_of(range(6), [text_row()] * 2))
    with counted_encoders(model) as calls:
        cache = open_filled(model, small[1], questions, DATA, args, lambda line: None)
        assert calls == {"sam": 6, "gemma": 6}
        calls.clear()
        trainer = trainer_of(model, small[1], questions, args, cache)
        trainer.train()
        assert calls == {}
    assert trainer.state.global_step == 2 and (tmp_path / "run" / "previews" / "step-000002.png").is_file()


def losses_of(model, processor, folder, uses_cache):
    args = args_of(folder, **({"cache_features": str(folder / "cache")} if uses_cache else {}))
    questions = questions_of(rows_of(range(4)))
    model = copy.deepcopy(model)
    cache = open_filled(model, processor, questions, DATA, args, lambda line: None)
    assert (cache is not None) == uses_cache
    trainer = trainer_of(model, processor, questions, args, cache)
    trainer.train()
    return logged(trainer, *PARTS)


def test_losses_are_equal_if_features_are_rounded_in_both_cases(small, model, tmp_path):
    round_features(model)
    with_cache, without = (losses_of(model, small[1], tmp_path, uses_cache) for uses_cache in (True, False))
    assert with_cache == without and len(without) == 1


def test_losses_are_close_without_rounding(small, model, tmp_path):
    with_cache, without = (losses_of(model, small[1], tmp_path, uses_cache) for uses_cache in (True, False))
    assert with_cache != without
    assert with_cache == pytest.approx([pytest.approx(values, abs=TOLERANCE) for values in without])


def test_without_the_option_nothing_is_cached(small, model, tmp_path):
    questions = questions_of(rows_of([0]))
    assert open_filled(model, small[1], questions, DATA, args_of(tmp_path), pytest.fail) is None
    assert questions[0].cache is None


def test_a_trained_encoder_is_not_cached_and_reported(model):
    lines = []
    assert frozen_encoders(model, DATA, lines.append) == BOTH and lines == []
    next(model.model.vision_tower.parameters()).requires_grad_(True)
    assert frozen_encoders(model, DATA, lines.append) == ["sam"]
    assert lines == ["the features of Gemma's image encoder are not cached, because it is trained"]
    next(model.sam.vision_encoder.parameters()).requires_grad_(True)
    with pytest.raises(UsageError, match="cache_features has no effect.*Gemma's image encoder and of SAM's"):
        frozen_encoders(model, DATA, lines.append)


def test_training_on_text_only_caches_one_encoder(model):
    words = SimpleNamespace(learn_masks=False)
    assert frozen_encoders(model, words, pytest.fail) == ["gemma"]
    next(model.model.vision_tower.parameters()).requires_grad_(True)
    with pytest.raises(UsageError, match="has no effect"):
        frozen_encoders(model, words, pytest.fail)


def test_an_engine_that_shards_weights_needs_a_complete_cache(small, model, tmp_path, monkeypatch):
    args = args_of(tmp_path, cache_features=str(tmp_path / "cache"))
    questions = questions_of(rows_of(range(3)))
    monkeypatch.setattr(cache_filling, "shards_weights", lambda _: True)
    assert open_filled(model, small[1], questions, DATA, args, lambda line: None).must_be_complete
    args.cache_gb, args.cache_features = 1e-6, str(tmp_path / "other")
    monkeypatch.setattr(cache_filling, "engine_of", lambda _: "FSDP2")
    with pytest.raises(UsageError, match="cache_features with FSDP2 needs the features of all images, but 3 images"):
        open_filled(model, small[1], questions, DATA, args, lambda line: None)


def test_an_incomplete_cache_trains_with_the_encoders(small, model, tmp_path):
    args = args_of(tmp_path, cache_features=str(tmp_path / "cache"), cache_gb=1e-5)
    questions = questions_of(rows_of(range(6)))
    cache = open_filled(model, small[1], questions, DATA, args, lambda line: None)
    cached = [cache.find(row["image"], "") is not None for row in questions[0].rows]
    assert any(cached) and not all(cached)
    with counted_encoders(model) as calls:
        trainer_of(model, small[1], questions, args, cache).train()
        assert calls["sam"] == calls["gemma"] > 0


def test_only_rows_that_the_run_reads_are_cached(tmp_path):
    first, second = rows_of(range(6)), rows_of(range(10, 14))
    mixture = MixtureQuestions([Part("a", first, 1.0), Part("b", second, 1.0)], 0, 2, epoch_length=4)
    evaluation = EvaluationQuestions(rows_of([20], [text_row()]), with_conversations=False)
    for options, sizes in (
        ({"max_steps": 1}, [2, 2]),
        ({"max_steps": 2}, [4, 4]),
        ({"max_steps": 9}, [6, 4]),
        ({"max_steps": 1, "eval_strategy": "steps"}, [2, 2, 1]),
    ):
        rows = rows_of_run((mixture, evaluation), args_of(tmp_path, **options))
        assert [len(indices) for _, indices in rows] == sizes
        epochs = -(-options["max_steps"] * 4 // 4)
        read = {mixture.place(epoch, index) for epoch in range(epochs) for index in range(4)}
        assert read == {(part, int(at)) for part, (_, indices) in enumerate(rows[:2]) for at in indices}


def test_values_are_gathered_in_one_process():
    assert cache_filling.gather(torch.ones(1)) == [torch.ones(1)]
