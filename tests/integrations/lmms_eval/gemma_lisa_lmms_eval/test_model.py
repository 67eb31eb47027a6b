"""Gemma-LISA as a model of lmms-eval: order, batches, JSON for mask tasks and text for others."""

import json

import numpy as np
import pytest
from PIL import Image

from gemma_lisa.datasets_builder.rows import encode_mask

MASK = np.zeros((4, 6), dtype=np.uint8)
MASK[1:3, 2:5] = 1


def answer_of(text):
    number = int(text)
    masks = [encode_mask(MASK)] * (number % 2)
    said = "It is [SEG]." if masks else "No."
    scores = np.full(len(masks), 0.5, np.float32)
    return {"masks": masks, "scores": scores, "text": f"answer {text}", "raw_text": said, "complete": True, "tokens": 3}


@pytest.fixture
def asked(monkeypatch):
    """Return (model, batches, make): batches of texts that were answered, and a function that makes requests."""
    pytest.importorskip("lmms_eval", reason="lmms-eval is not installed; run `make lmms-eval`")
    from gemma_lisa_lmms_eval import model as module
    from lmms_eval.api.instance import Instance

    batches = []

    def answer(model, processor, questions, max_new_tokens):
        batches.append((max_new_tokens, [question["text"] for question in questions]))
        assert all(question["image"].mode == "RGB" for question in questions)
        return [answer_of(question["text"]) for question in questions]

    monkeypatch.setattr(module, "load_checkpoint", lambda *args, **options: (None, None))
    monkeypatch.setattr(module, "answer_batch", answer)
    model = module.GemmaLisa("folder", batch_size="2", max_batch_size=None)
    documents = [[Image.new("L", (6, 4))] for _ in range(9)]
    model.task_dict = {"t": {"test": documents}}

    def make(*settings):
        return [
            Instance(
                request_type="generate_until",
                arguments=(str(at), given, lambda shown: shown, at, "t", "test"),
                idx=0,
                metadata={"task": "t", "doc_id": at, "repeats": 1},
            )
            for at, given in enumerate(settings)
        ]

    return model, batches, make, documents


def test_answers_are_in_the_order_of_the_requests_and_batches_share_their_settings(asked):
    model, batches, make, _ = asked
    masks, words = {"answer_format": "masks", "max_new_tokens": 8}, {"until": ["\n"]}
    found = model.generate_until(make(masks, words, masks, masks, words))
    assert batches == [(8, ["0", "2"]), (8, ["3"]), (64, ["1", "4"])]
    assert [found[at].text for at in (1, 4)] == ["answer 1", "answer 4"]
    assert json.loads(found[0].text)["masks"] == []
    content = json.loads(found[3].text)
    assert content == {
        "masks": [encode_mask(MASK)],
        "boxes": [[2.0, 1.0, 3.0, 2.0]],
        "scores": [0.5],
        "text": "It is [SEG].",
        "complete": True,
    }
    assert found[0].token_counts.output_tokens == 3


def test_several_images_and_videos_are_refused(asked):
    model, _, make, documents = asked
    for shown in ([Image.new("L", (6, 4))] * 2, ["video.mp4"]):
        documents[0] = shown
        with pytest.raises(ValueError, match="t: document 0 must have at most one image and no video"):
            model.generate_until(make({}))


def test_unknown_arguments_and_other_kinds_of_requests_are_refused(asked):
    model, *_ = asked
    with pytest.raises(ValueError, match="model_args: pretraned is unknown"):
        type(model)("folder", pretraned="x")
    for method in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(NotImplementedError, match="generate_until"):
            method([])
