"""A session with its KV cache gives the same answers as stateless calls with the same conversation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scripted_answers import ask_both, assert_same, stateless, turn

from gemma_lisa import session_gemma_lisa
from gemma_lisa.checkpoints.loading import EXAMPLE, load_checkpoint
from gemma_lisa.session_gemma_lisa import MAX_GUESSED

SCENE = Path(__file__).resolve().parents[1] / "docs" / "scene.png"
QUESTIONS = [
    "the red circle",
    "all the blue triangles",
    "the green square",
    "Where is the blue square?",
    "the red triangle",
    "all the triangles",
    "the circle",
    "Segment the red shape.",
    "the square",
    "all the blue shapes",
]


@pytest.fixture(scope="module")
def example():
    return load_checkpoint(EXAMPLE)


@pytest.fixture
def session(example):
    model, processor = example
    return model.start(SCENE, processor)


def test_ten_questions_of_a_session_are_equal_to_ten_stateless_calls(example, session):
    model, processor = example
    messages, n_masks = [], 0
    for question in QUESTIONS:
        answer = session.ask(question)
        messages.append(turn(question, None if messages else Image.open(SCENE)))
        expected, output = stateless(model, processor, messages)
        assert_same(answer, expected)
        for kept, logits in zip(session.masks[n_masks:], output.pred_masks, strict=True):
            torch.testing.assert_close(kept.logits[0], logits, rtol=1e-4, atol=1e-3)
        n_masks = len(session.masks)
        messages.append({"role": "assistant", "content": answer["raw_text"]})
    assert n_masks >= 8
    assert [message["role"] for message in session.messages] == [message["role"] for message in messages]


def test_question_after_reset_starts_a_new_conversation(example, session):
    model, processor = example
    for question in QUESTIONS[:3]:
        answer = session.ask(question)
        assert_same(answer, stateless(model, processor, [turn(question, Image.open(SCENE))])[0])
        session.reset()
        assert session.messages == [] and session.masks == []


def test_session_never_processes_tokens_or_the_image_twice(example, session, monkeypatch):
    model, _ = example
    read, encoded = [], []
    gemma = model.model
    monkeypatch.setattr(gemma.language_model, "forward", counted(gemma.language_model.forward, "input_ids", read))
    for shown in (gemma, model.sam.vision_encoder):
        monkeypatch.setattr(shown, "forward", counted(shown.forward, None, encoded))
    for question in ("the red circle", "all the blue triangles"):
        read.clear()
        session.ask(question)
        assert 0 < sum(read) < 60, "the image has 64 tokens, which were processed at the start of the session"
    assert encoded == []


@pytest.mark.parametrize("seg_state", ["token", "previous"])
def test_repeated_answers_are_guessed_and_need_fewer_passes(windowed, make_picture, seg_state, monkeypatch):
    model, processor = windowed
    monkeypatch.setattr(model.config, "seg_state", seg_state)
    picture = make_picture(40, 60)
    session = model.start(picture, processor)
    read, messages, reads = [], [], []
    monkeypatch.setattr(session, "_read", counted(session._read, None, read))
    for name in ("cup", "cup", "jug"):
        answer = f"It is [SEG], a {name}."
        script = [*processor.tokenizer.encode(answer, add_special_tokens=False), model.stop_token_ids[-1]]
        messages.append(turn(f"the {name}", None if messages else picture))
        read.clear()
        found = ask_both(script, session, messages)
        reads.append(len(read))
        assert found["raw_text"] == answer and found["complete"] and len(found["masks"]) == 1
        messages.append({"role": "assistant", "content": answer})
    assert 8 < len(script) <= 2 * MAX_GUESSED
    assert reads[0] > 5 and reads[1] <= 3, "the same answer as before is guessed, several tokens at once"
    assert 2 <= reads[2] < reads[0], "another answer is guessed up to the first difference"


def test_image_tokens_are_never_guessed(windowed, make_picture):
    model, processor = windowed
    picture = make_picture(40, 60)
    it = processor.tokenizer.encode(" it", add_special_tokens=False)
    script = [*it, model.config.boi_token_index, *it, model.stop_token_ids[-1]]
    ask_both(script, model.start(picture, processor), [turn("the cup", picture)])


def counted(forward, name, counts):
    def call(*args, **kwargs):
        counts.append(kwargs[name].shape[1] if name else 1)
        return forward(*args, **kwargs)

    return call


@pytest.mark.parametrize("seg_state", ["token", "previous"])
def test_sessions_longer_than_the_sliding_window_are_equal_to_stateless_calls(
    windowed, make_picture, seg_state, monkeypatch
):
    model, processor = windowed
    monkeypatch.setattr(model.config, "seg_state", seg_state)
    picture = make_picture(40, 60)
    session = model.start(picture, processor)
    messages = []
    for question, answer in (("the red circle", "It is [SEG]."), ("and the square", "[SEG] and [SEG]"), ("why", "So.")):
        messages.append(turn(question, None if messages else picture))
        script = processor.tokenizer.encode(answer, add_special_tokens=False)
        # Cut off at the last token, which is [SEG] in the second answer
        found = ask_both(script, session, messages, max_new_tokens=len(script))
        assert found["raw_text"] == answer and not found["complete"]
        assert len(found["masks"]) == answer.count("[SEG]")
        messages.append({"role": "assistant", "content": answer})


def test_streamed_answer_grows_by_tokens_and_masks_appear_with_their_seg(session):
    states = list(session.stream("all the blue triangles"))
    assert len(states) > 5 and states[-1]["complete"] and not states[0]["complete"]
    for before, after in zip(states, states[1:], strict=False):
        assert after["raw_text"].startswith(before["raw_text"].rstrip("\ufffd"))
    counts = [len(state["masks"]) for state in states]
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == 2
    assert all(len(state["masks"]) == state["raw_text"].count("[SEG]") == len(state["phrases"]) for state in states)


def test_stopping_a_stream_early_discards_the_turn(session):
    expected = session.ask("the red circle")
    session.reset()
    listening = session.stream("all the blue triangles")
    next(listening), next(listening)
    listening.close()
    assert session.messages == [] and session.masks == []
    assert_same(session.ask("the red circle"), expected)


def test_session_continues_after_an_error_inside_the_model(example, session, monkeypatch):
    model, _ = example
    expected = session.ask("the red circle")
    session.reset()
    layer = model.model.language_model.layers[2]
    with monkeypatch.context() as patched:
        patched.setattr(layer, "forward", lambda *args, **kwargs: (_ for _ in ()).throw(MemoryError("no more")))
        with pytest.raises(MemoryError):
            session.ask("the square")
    assert_same(session.ask("the red circle"), expected)


def test_correction_changes_only_its_mask_and_is_stored(session):
    session.ask("all the blue triangles")
    before = [kept.logits.clone() for kept in session.masks]
    mask, score = session.correct(1, points=[(4, 4, 0)])
    assert mask.shape == (128, 128) and mask.dtype == torch.bool and 0 <= score <= 1.5
    assert torch.equal(session.masks[0].logits, before[0])
    assert not torch.equal(session.masks[1].logits, before[1])
    session.correct(1, points=[(100, 100, 1)], box=(2, 2, 120, 120))
    assert session.masks[1].points == [(4, 4, 0), (100, 100, 1)]
    assert session.masks[1].box == (2, 2, 120, 120)


def test_points_and_boxes_are_equal_to_those_of_segment(example, session):
    model, processor = example
    hints = {"points": [(60, 60, 1), (5, 100, 0)], "box": (10, 20, 90, 110)}
    answer = session.ask("the red circle", **hints)
    expected, _ = stateless(
        model, processor, [turn("the red circle", Image.open(SCENE))], points=[hints["points"]], boxes=[hints["box"]]
    )
    assert_same(answer, expected)


@pytest.mark.parametrize(
    ("call", "error_text"),
    [
        (lambda session: session.ask("  \n"), "question is empty"),
        (lambda session: session.ask("it", points=[(3, 500, 1)]), "must be inside the image of 128 × 128"),
        (lambda session: session.ask("it", points=[(3, 5, 7)]), "label of a point must be 1 .* got"),
        (lambda session: session.ask("it", points=[(3, 5)]), "x, y and label"),
        (lambda session: session.ask("it", box=(30, 30, 10, 40)), "left, top, right, bottom"),
        (lambda session: session.ask("it", max_new_tokens=0), "max_new_tokens must be at least 1, got 0"),
        (lambda session: session.correct(0, points=[(1, 1, 1)]), "Mask 0 does not exist. Number of masks .*: 0"),
    ],
)
def test_invalid_question_is_an_error_and_changes_nothing(session, call, error_text):
    with pytest.raises(ValueError, match=error_text):
        call(session)
    assert session.messages == []


@pytest.mark.parametrize("points", [None, [], np.zeros((0, 3))])
def test_correction_without_points_and_box_is_an_error(session, points):
    session.ask("the red circle")
    with pytest.raises(ValueError, match="needs points or a box"):
        session.correct(0, points=points)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_points_can_be_lists_arrays_or_tensors(session, kind):
    answer = session.ask("the red circle", points=kind([[40, 108, 1]]))
    assert len(answer["masks"]) == 1
    session.correct(0, points=kind([[3, 4, 0]]))
    assert session.masks[0].points == [(40, 108, 1), (3, 4, 0)]


def test_points_refine_the_mask_and_a_box_starts_again(session, monkeypatch):
    session.ask("the red circle")
    given, decode = [], session_gemma_lisa.decode_masks

    def recorded(*args, mask_inputs=None, **options):
        given.append(mask_inputs is not None)
        return decode(*args, mask_inputs=mask_inputs, **options)

    monkeypatch.setattr(session_gemma_lisa, "decode_masks", recorded)
    session.correct(0, points=[(3, 4, 0)])
    session.correct(0, box=(20, 80, 70, 126))
    session.correct(0, points=[(40, 108, 1)])
    assert given == [True, False, True]


def test_file_that_is_not_an_image_is_an_error(example, tmp_path):
    model, processor = example
    (tmp_path / "notes.png").write_text("no picture", encoding="utf-8")
    with pytest.raises(ValueError, match="notes.png cannot be read"):
        model.start(tmp_path / "notes.png", processor)


def test_masks_have_the_size_of_any_image(example):
    model, processor = example
    session = model.start(Image.fromarray(np.full((50, 200, 3), 90, dtype=np.uint8)), processor)
    assert session.ask("the red circle")["masks"].shape[1:] == (50, 200)
