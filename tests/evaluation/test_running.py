"""Batches follow from the questions alone, and an interrupted evaluation is resumed number for number."""

import json

import pytest

from gemma_lisa.evaluation.parts import PartWriter, open_parts
from gemma_lisa.evaluation.processes import Processes
from gemma_lisa.evaluation.records import Prediction
from gemma_lisa.evaluation.running import answer_all, plan_batches
from gemma_lisa.safety.errors import UsageError

IDS = [f"d/{number}#0" for number in range(10)]
BATCHES = [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
SETTINGS = {"checkpoint_hash": "a", "max_new_tokens": 64}


def answers_of(samples):
    return [Prediction("", [], [], text=f"answer {sample}", tokens=sample) for sample in samples]


def run(folder, answer=answers_of, processes=None, fresh=False, **changed):
    return answer_all(range(10), IDS, BATCHES, answer, folder, SETTINGS | changed, processes or Processes(), fresh)


def test_every_question_is_in_one_batch_and_those_of_an_image_are_together():
    images = [number // 4 for number in range(40)]
    texts = ["x" * (50 - image) for image in images]
    batches = plan_batches(texts, images, 8)
    assert sorted(number for batch in batches for number in batch) == list(range(40))
    assert [len(batch) for batch in batches] == [8] * 5
    assert all(len({images[number] for number in batch}) == 2 for batch in batches)
    lengths = [max(len(texts[number]) for number in batch) for batch in batches]
    assert lengths == sorted(lengths)


def test_questions_without_an_image_come_first_and_a_large_image_is_split():
    batches = plan_batches(["aaa", "b", "cc", "d", "e", "f"], [None, 7, None, 7, 7, 7], 3)
    assert batches == [[2, 0, 1], [3, 4, 5]]
    # An almost full batch is not filled with a part of the next image
    images = [0] * 5 + [1] * 5 + [2] * 5
    assert [len(batch) for batch in plan_batches(["x"] * 15, images, 16)] == [15]
    assert [len(batch) for batch in plan_batches(["x"] * 15, images, 6)] == [5, 5, 5]
    assert [len(batch) for batch in plan_batches(["x"] * 15, images, 8)] == [8, 7]


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_stopped_run_is_resumed_with_the_same_answers(tmp_path, capsys, stop):
    expected = run(tmp_path / "whole.parts")
    calls = []

    def stopped(samples):
        calls.append(samples)
        if len(calls) > stop:
            raise KeyboardInterrupt
        return answers_of(samples)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "r.parts", stopped)
    folder = tmp_path / "r.parts"
    message = f"stopped early: {folder} holds {3 * stop} of 10 answers; the same command resumes here"
    assert message in capsys.readouterr().err.splitlines()
    calls.clear()

    def counted(samples):
        calls.append(samples)
        return answers_of(samples)

    found = run(folder, counted)
    assert f"resume: {3 * stop} of 10 questions are already answered" in capsys.readouterr().err
    assert len(calls) == 4 - stop
    assert [(one.id, one.text, one.tokens) for one in found] == [(one.id, one.text, one.tokens) for one in expected]
    assert [one.id for one in found] == IDS and all(one.seconds is not None for one in found)


def test_processes_share_the_batches_and_each_question_has_one_answer(tmp_path):
    """Two processes in turn, with the gathering of both."""

    class Two(Processes):
        def gather(self, value):
            return [value, value] if value is None or not isinstance(value, dict) else [value, other]

    other = {}
    folder = tmp_path / "r.parts"
    calls = []

    def counted(samples):
        calls.append(list(samples))
        return answers_of(samples)

    with pytest.raises(ValueError, match="d/3#0: this question has no answer"):
        run(folder, counted, Two(rank=0, count=2))
    assert calls == [[0, 1, 2], [6, 7, 8]]
    assert [one.text for one in run(folder)] == [f"answer {number}" for number in range(10)]


def test_processes_resume_what_one_process_began(tmp_path):
    def stopped(samples):
        if samples[0] == 3:
            raise KeyboardInterrupt
        return answers_of(samples)

    class Second(Processes):
        def of_first(self, value):
            return [0]  # the batches that the first process found

        def gather(self, value):
            return [{}, value]

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "r.parts", stopped)
    asked = []
    assert run(tmp_path / "r.parts", lambda part: asked.append(list(part)) or answers_of(part), Second(1, 2)) == []
    assert asked == [[6, 7, 8]]
    found = run(tmp_path / "r.parts", lambda part: asked.append(list(part)) or answers_of(part))
    assert [one.text for one in found] == [f"answer {number}" for number in range(10)]
    assert asked == [[6, 7, 8], [3, 4, 5], [9]]


@pytest.mark.parametrize(("name", "value"), [("checkpoint_hash", "b"), ("max_new_tokens", 32), ("protocol", "x")])
def test_answers_of_another_command_are_refused_until_fresh(tmp_path, name, value):
    folder = tmp_path / "r.parts"
    run(folder)
    with pytest.raises(UsageError, match=rf"another {name} \(.*Repeat that command to finish it, or add --fresh"):
        run(folder, **{name: value})
    run(folder, fresh=True, **{name: value})
    assert json.loads((folder / "settings.json").read_text())[name] == value


def test_an_answer_of_another_question_is_noticed(tmp_path):
    folder = tmp_path / "r.parts"
    open_parts(folder, SETTINGS)
    writer = PartWriter(folder, 0)
    writer.append(0, [Prediction(IDS[number], [], []) for number in (0, 2, 1)])
    writer.close()
    with pytest.raises(ValueError, match="d/1#0: this question has no answer"):
        run(folder)
