"""Answers from cached features equal those from images, for questions with and without an image."""

import pytest
import torch
from feature_cached import BOTH, all_of, counted_encoders, rows_of, text_row

from gemma_lisa.datasets_builder.questions import EvaluationQuestions
from gemma_lisa.evaluation.protocols import by_generation, teacher_forced
from gemma_lisa.feature_cache.encoders import open_cache
from gemma_lisa.feature_cache.filling import fill
from gemma_lisa.scripts.init_tiny import build_tiny


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """(model, processor, cache, samples): the encoders return features that bf16 represents exactly."""
    model, processor = build_tiny(image_size=32)
    for module in (model.sam.vision_encoder.neck, model.model.multi_modal_projector):
        module.register_forward_hook(lambda module, inputs, output: output.bfloat16().float())
    rows = rows_of(range(2), [text_row()])
    cache = open_cache(tmp_path_factory.mktemp("cache"), model.eval(), processor, BOTH)
    assert fill(cache, model, processor, all_of(rows), show_progress=False) == 0
    questions = EvaluationQuestions(rows, with_conversations=True)
    questions.cache = cache
    return model, processor, cache, [questions[at] for at in range(len(questions))]


@pytest.mark.parametrize("answer", [lambda *given: by_generation(*given[:3], 6, *given[3:]), teacher_forced])
@pytest.mark.parametrize("chosen", [slice(None), slice(-1, None)])
def test_answers_are_those_of_the_images_without_an_encoder(asked, answer, chosen):
    model, processor, cache, samples = asked
    samples = samples[chosen]
    with counted_encoders(model) as calls:
        cached = answer(model, processor, samples, cache)
        assert calls == {}
    images = [{**sample, "image": sample["image"] and sample["image"].lazy()} for sample in samples]
    plain = answer(model, processor, images)
    assert len(cached) == len(plain)
    for mine, expected in zip(cached, plain, strict=True):
        assert (mine.text, mine.phrases, mine.tokens) == (expected.text, expected.phrases, expected.tokens)
        assert (mine.masks, mine.refused, mine.complete) == (expected.masks, expected.refused, expected.complete)
        assert torch.allclose(torch.tensor(mine.scores), torch.tensor(expected.scores), atol=1e-5)


@pytest.mark.parametrize("is_cached", [True, False])
def test_each_image_of_a_batch_is_encoded_once(asked, is_cached):
    model, processor, cache, samples = asked
    about_first = [sample for sample in samples if sample["image"] is not None][:2]
    assert about_first[0]["source"] == about_first[1]["source"]
    seen, segment = [], model.segment
    model.segment = lambda **inputs: seen.append(inputs) or segment(**inputs)
    try:
        if is_cached:
            by_generation(model, processor, about_first, 2, cache)
        else:
            images = [{**sample, "image": sample["image"].lazy()} for sample in about_first]
            by_generation(model, processor, images, 2)
    finally:
        del model.segment
    name = "image_features" if is_cached else "pixel_values"
    assert len(seen[0][name]) == 1 and seen[0]["image_index"].tolist() == [0, 0]
    assert len(seen[0]["original_sizes"]) == 2
