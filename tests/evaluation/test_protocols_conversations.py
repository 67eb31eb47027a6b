"""Each turn of a conversation is a question: it is asked after the right answers before it, and has its likelihood."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset

from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.datasets_builder.questions import EvaluationQuestions
from gemma_lisa.datasets_builder.rows import ROW_FEATURES, encode_mask, new_row, new_target
from gemma_lisa.evaluation import protocols
from gemma_lisa.evaluation.benchmark import list_questions, write_questions
from gemma_lisa.evaluation.cached_answers import to_device
from gemma_lisa.evaluation.protocols import by_generation, likelihoods
from gemma_lisa.losses_gemma_lisa import IGNORE_INDEX
from gemma_lisa.scripts.init_tiny import build_tiny

TURNS = [("How many circles?", "Two."), ("And squares?", "One of them."), ("Sure?", "Yes.")]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Return a row with a target and three turns, and a text-only row with one turn."""
    from PIL import Image

    path = tmp_path_factory.mktemp("photos") / "a.png"
    Image.new("RGB", (32, 32), "red").save(path)
    mask = encode_mask(np.ones((32, 32), dtype=np.uint8))
    turns = [{"question": question, "answer": answer} for question, answer in TURNS]
    table = [new_row(path, "a", [new_target(["the wall"], [mask])], turns), new_row(None, "b", [], turns[:1])]
    return Dataset.from_list(table, features=ROW_FEATURES)


@pytest.fixture(scope="module")
def tiny():
    model, processor = build_tiny(image_size=32)
    return model.eval(), processor


def test_every_turn_of_every_conversation_is_in_the_denominator(rows):
    benchmark, samples = list_questions(rows, "d", True), EvaluationQuestions(rows, with_conversations=True)
    assert benchmark.ids == ["a#0", "a#1", "a#2", "a#3", "b#0"] and len(samples) == 5
    asked = [(question.text, question.expected) for question in benchmark]
    assert asked == [("the wall", "It is {seg}."), *TURNS, TURNS[0]]
    assert [benchmark.history(number) for number in range(5)] == [[], [], TURNS[:1], TURNS[:2], []]
    assert [question.targets is None for question in benchmark] == [False, True, True, True, True]


def test_questions_file_has_the_turns_before_a_question(rows, tmp_path):
    write_questions(list_questions(rows, "d", True), tmp_path / "q.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    assert [line.get("history") for line in lines] == [None, None, [list(TURNS[0])], [list(t) for t in TURNS[:2]], None]


def test_the_model_sees_the_image_and_the_right_answers_before_the_question(rows, tiny, monkeypatch):
    model, processor = tiny
    seen = []
    monkeypatch.setattr(model, "segment", lambda **inputs: seen.append(inputs["input_ids"]) or _stop())
    samples = EvaluationQuestions(rows, with_conversations=True)
    with pytest.raises(StopIteration):
        by_generation(model, processor, [samples[3]], 4)
    text = processor.tokenizer.decode(seen[0][0])
    places = [text.index(part) for pair in TURNS[:2] for part in pair] + [text.index(TURNS[2][0])]
    assert places == sorted(places) and TURNS[2][1] not in text.split(TURNS[2][0])[1]
    assert (seen[0] == processor.tokenizer.image_token_id).sum() > 0


def _stop():
    raise StopIteration


def test_likelihood_of_a_turn_is_that_of_its_own_answer_given_the_right_answers_before_it(rows, tiny):
    model, processor = tiny
    samples = EvaluationQuestions(rows, with_conversations=True)
    chosen = [samples[number] for number in range(5)]
    found = likelihoods(model, processor, chosen)
    assert found[0] is None and all(value < 0 for value in found[1:])
    # Each alone, with the tokens of all answers: those of the last answer are at the end
    for number in (1, 2, 3, 4):
        batch = to_device(GemmaLisaCollator(processor, learn_masks=False)([chosen[number]]), model.device)
        batch.pop("sample_ids", None)
        labels = batch["labels"][0, 1:]
        tokens = labels[labels != IGNORE_INDEX]
        with torch.no_grad():
            each = model(**batch).logits.float().log_softmax(1).gather(1, tokens[:, None])[:, 0]
        answer = chosen[number]["conversations"][0].turns[-1][1]
        length = len(processor.tokenizer(answer, add_special_tokens=False)["input_ids"]) + 1  # and <end_of_turn>
        assert found[number] == pytest.approx(each[-length:].mean().item(), abs=1e-5)


def test_only_the_last_run_of_labels_is_kept():
    learned = torch.tensor([[0, 1, 1, 0, 1, 0], [1, 1, 0, 0, 0, 0], [0, 1, 0, 1, 1, 1]], dtype=torch.bool)
    expected = torch.tensor([[0, 0, 0, 0, 1, 0], [1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1]], dtype=torch.bool)
    assert torch.equal(protocols._last_runs(learned), expected)
