"""A model's answers: one per question, VQA questions apart, with settings that a resumed evaluation must share."""

import argparse
import json
from dataclasses import replace

import pytest
from feature_cached import counted_encoders, rows_of, text_row

from gemma_lisa.evaluation import of_model
from gemma_lisa.evaluation.benchmark import list_questions
from gemma_lisa.evaluation.of_model import Opened, answer_and_judge
from gemma_lisa.evaluation.parts import SETTINGS
from gemma_lisa.evaluation.processes import Processes
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.scripts.init_tiny import build_tiny

FACTS = {"checkpoint_hash": "a" * 64, "weights": None, "device": "cpu"}


@pytest.fixture(scope="module")
def opened():
    model, processor = build_tiny(image_size=32)
    return Opened(model.eval(), processor, FACTS)


@pytest.fixture
def rows():
    return rows_of(range(2), [text_row()])


def options(**changed):
    plain = {"protocol": "generate", "max_new_tokens": 3, "batch_size": 8, "cache_features": None, "cache_gb": None}
    return argparse.Namespace(**{**plain, "fresh": False, **changed})


def answers(opened, rows, folder, benchmark=None, processes=None, **changed):
    args = options(**changed)
    benchmark = benchmark or list_questions(rows, "drawn", args.protocol == "generate")
    return answer_and_judge(opened, rows, benchmark, args, "test", folder / "r.parts", processes or Processes())


@pytest.mark.parametrize("protocol", ["generate", "teacher_forced"])
def test_each_question_has_its_own_answer(opened, rows, tmp_path, protocol):
    benchmark = list_questions(rows, "drawn", protocol == "generate")
    judged, facts = answers(opened, rows, tmp_path, protocol=protocol)
    assert [one.question for one in judged] == list(benchmark)
    assert [one.prediction.id for one in judged] == benchmark.ids
    assert facts["processes"] == 1 and facts["seconds"] > 0
    for one in judged:
        is_vqa = one.question.targets is None
        assert (one.prediction.likelihood is not None) == (one.is_right is not None) == is_vqa
        assert (one.prediction.text is None) == (protocol == "teacher_forced")
    assert any(one.question.targets is None for one in judged) == (protocol == "generate")


def test_questions_that_are_not_those_of_the_rows_are_an_error(opened, rows, tmp_path):
    other = list_questions(rows.select([0]), "drawn", True)
    with pytest.raises(AssertionError, match=f"samples, but {len(other)} questions"):
        answers(opened, rows, tmp_path, other)
    assert not list(tmp_path.iterdir())


def test_vqa_questions_are_in_their_own_batches(opened, rows, tmp_path, monkeypatch):
    kinds, by_generation = [], of_model.by_generation

    def seen(model, processor, samples, *more):
        kinds.append({(sample["image"] is None, sample["masks"][0] is None) for sample in samples})
        return by_generation(model, processor, samples, *more)

    monkeypatch.setattr(of_model, "by_generation", seen)
    questions = len(answers(opened, rows, tmp_path, batch_size=2)[0])
    assert len(kinds) < questions
    mixed = [kind for kind in kinds if len({is_vqa for _, is_vqa in kind}) > 1]
    assert len(mixed) <= 1, "only a batch that would be almost empty is filled with other questions"
    assert {True, False} == {is_vqa for kind in kinds for _, is_vqa in kind}


def test_what_the_answers_depend_on_is_recorded_and_a_change_is_refused(opened, rows, tmp_path, monkeypatch):
    calls, by_generation = [], of_model.by_generation

    def stopped(*given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return by_generation(*given)

    monkeypatch.setattr(of_model, "by_generation", stopped)
    with pytest.raises(KeyboardInterrupt):
        answers(opened, rows, tmp_path, batch_size=2)
    settings = json.loads((tmp_path / "r.parts" / SETTINGS).read_text())
    fingerprint = list_questions(rows, "drawn", True).fingerprint
    expected = {
        **{"dataset": "drawn", "split": "test", "fingerprint": fingerprint, "cached": False, "type": "torch.float32"},
        **{**FACTS, "protocol": "generate", "max_new_tokens": 3, "batch_size": 2},
    }
    assert {name: settings.pop(name) for name in expected} == expected
    assert set(settings) == {"commit", "versions"}
    for changed, name in (
        ({"max_new_tokens": 4}, "max_new_tokens"),
        ({"batch_size": 3}, "batch_size"),
        ({"protocol": "teacher_forced"}, "protocol"),
        ({"cache_features": tmp_path / "features"}, "cached"),
    ):
        with pytest.raises(UsageError, match=f"another {name}"):
            answers(opened, rows, tmp_path, **{"batch_size": 2, **changed})
    with pytest.raises(UsageError, match="another checkpoint_hash"):
        answers(replace(opened, facts={**FACTS, "checkpoint_hash": "b" * 64}), rows, tmp_path, batch_size=2)
    assert len(calls) == 2


def test_a_cache_is_filled_before_the_questions_are_answered_without_an_encoder(opened, rows, tmp_path, monkeypatch):
    counted, by_generation = [], of_model.by_generation

    def without_encoders(*given):
        with counted_encoders(opened.model) as calls:
            found = by_generation(*given)
        counted.append(dict(calls))
        return found

    monkeypatch.setattr(of_model, "by_generation", without_encoders)
    judged, _ = answers(opened, rows, tmp_path, cache_features=tmp_path / "features")
    assert counted and not any(counted) and any((tmp_path / "features").iterdir())
    assert [one.prediction.id for one in judged] == list_questions(rows, "drawn", True).ids


def test_only_the_first_process_judges(opened, rows, tmp_path, monkeypatch):
    predictions, _ = answers(opened, rows, tmp_path)
    monkeypatch.setattr(of_model, "answer_all", lambda *_: [one.prediction for one in predictions])
    assert answers(opened, rows, tmp_path, processes=Processes(rank=1, count=2))[0] == []
    assert answers(opened, rows, tmp_path, processes=Processes(rank=0, count=2))[0] == predictions
