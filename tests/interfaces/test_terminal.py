"""A conversation in a terminal: masks are numbered through, what cannot be done is said and the talk goes on."""

from pathlib import Path

import pytest
from PIL import Image

from gemma_lisa.checkpoints.loading import EXAMPLE, load_checkpoint
from gemma_lisa.interfaces.terminal_chat import HELP, Talk, converse

SCENE = Path(__file__).resolve().parents[2] / "docs" / "scene.png"


@pytest.fixture(scope="module")
def example():
    return load_checkpoint(EXAMPLE)


@pytest.fixture
def talk(example, tmp_path):
    model, processor = example
    return Talk(model.start(SCENE, processor), tmp_path / "talk.png", {"max_new_tokens": 64})


def typed(*lines):
    left = iter(lines)

    def read(prompt):
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    return read


def test_answers_are_printed_with_the_numbers_of_their_masks(talk, capsys):
    converse(talk, typed("all the blue triangles", "", "/help"))
    said = capsys.readouterr()
    assert said.out.count(HELP) == 2 and said.err == ""
    assert "[1]" in said.out and "[2]" in said.out and "[SEG]" not in said.out
    assert f"{talk.output}: 2 masks" in said.out
    assert Image.open(talk.output).width >= 512 and len(talk.masks) == 2


def test_numbers_go_on_through_the_talk_until_it_begins_anew(talk):
    first = talk.answer("all the blue triangles")
    second = talk.answer("the red circle")
    assert "[1]" in first and "[2]" in first and "[3]" in second
    assert "anew" in talk.answer("/new") and talk.masks == [] and talk.session.pointed_at == []
    assert "[1]" in talk.answer("the red circle")


def test_a_correction_redraws_the_picture(talk):
    talk.answer("the red circle")
    before = talk.session.pointed_at[0].logits
    said = talk.answer("/box 1 0 0 60 60")
    assert "mask 1 has" in said
    assert (talk.session.pointed_at[0].logits != before).any()
    assert talk.session.pointed_at[0].box == (0, 0, 60, 60)
    talk.answer("/point 1 3 4 0")
    assert talk.session.pointed_at[0].points == [(3, 4, 0)]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("/quiz", "/quiz is no command"),
        ("/point 1 2", "/point takes other numbers"),
        ("/box 1 2 3 4", "/box takes other numbers"),
        ("/point one 2 3", "takes whole numbers"),
        ("/point 2 3 4", "There is no mask 2"),
        ("/point 0 3 4", "There is no mask 0"),
        ("/point 1 500 4", "not all inside the image"),
        ("/point 1 5 4 7", "labels of points"),
    ],
)
def test_what_cannot_be_done_is_said_and_the_talk_goes_on(talk, capsys, line, complaint):
    converse(talk, typed("the red circle", line, "/new", "/quit", "never read"))
    said = capsys.readouterr()
    assert complaint in said.err and said.err.count("\n") == 1
    assert "begins anew" in said.out and "never" not in said.out
