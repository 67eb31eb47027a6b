"""A conversation in the terminal: masks are numbered through, and an error does not end it."""

from pathlib import Path

import pytest
from PIL import Image

from gemma_lisa.checkpoints.loading import EXAMPLE, load_checkpoint
from gemma_lisa.interfaces.terminal import TerminalConversation, run_conversation

SCENE = Path(__file__).resolve().parents[2] / "docs" / "scene.png"
ORIENTATION, TURN_RIGHT = 0x0112, 6  # EXIF: the stored picture is shown turned by 90 degrees clockwise


@pytest.fixture(scope="module")
def example():
    return load_checkpoint(EXAMPLE)


@pytest.fixture
def start(example, tmp_path):
    """Start a conversation about an image file."""

    def begin(path):
        model, processor = example
        options = {"max_new_tokens": 64}
        return TerminalConversation(model.start(path, processor), tmp_path / "conversation.png", options)

    return begin


@pytest.fixture
def conversation(start):
    return start(SCENE)


def typed(*lines):
    left = iter(lines)

    def read(prompt):
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    return read


def test_answers_are_printed_with_the_numbers_of_their_masks(conversation, capsys):
    run_conversation(conversation, typed("all the blue triangles", "", "/help"))
    printed = capsys.readouterr()
    assert printed.out.count(conversation.help) == 2 and printed.err == ""
    assert "[1]" in printed.out and "[2]" in printed.out and "[SEG]" not in printed.out
    assert "2 masks: [1] upper leftmost" in printed.out and f"; wrote {conversation.output}" in printed.out
    assert Image.open(conversation.output).width >= 512 and len(conversation.masks) == 2


def test_masks_are_numbered_through_until_a_new_conversation(conversation):
    first = conversation.answer("all the blue triangles")
    second = conversation.answer("the red circle")
    assert "[1]" in first and "[2]" in first and "[3]" in second and "1 mask: [3] " in second
    assert conversation.answer("/new") == "New conversation about the same image."
    assert conversation.masks == [] and conversation.session.masks == []
    assert "[1]" in conversation.answer("the red circle")


def test_a_correction_redraws_the_picture(conversation):
    conversation.answer("the red circle")
    before = conversation.session.masks[0].logits
    text = conversation.answer("/box 1 0 0 60 60")
    assert "mask 1 now has" in text and "pixels: bottom left (score " in text
    assert (conversation.session.masks[0].logits != before).any()
    assert conversation.session.masks[0].box == (0, 0, 60, 60)
    conversation.answer("/point 1 3 4 0")
    assert conversation.session.masks[0].points == [(3, 4, 0)]


def test_an_uncertain_and_an_empty_mask_are_named_in_the_terminal(conversation, monkeypatch):
    conversation.answer("the red circle")
    corrected = conversation.session.correct
    monkeypatch.setattr(conversation.session, "correct", lambda *args, **more: (corrected(*args, **more)[0], 0.05))
    assert "(score 0.05, low confidence); wrote" in conversation.answer("/point 1 40 108")
    monkeypatch.setattr(
        conversation.session, "correct", lambda *args, **more: (corrected(*args, **more)[0] & False, 0.9)
    )
    assert "mask 1 now has 0 pixels: bottom left (empty mask); wrote" in conversation.answer("/point 1 40 108")
    conversation.options["threshold"] = 1e9  # above every logit, so all masks are empty
    text = conversation.answer("the red circle")
    assert "(nothing found: the mask is empty)" in text and "no mask: [2] " in text and "(empty mask); wrote" in text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/quiz", "unknown command /quiz; type /help"),
        ("/point 1 2", "/point got 2 numbers, expected /point N X Y [0]"),
        ("/box 1 2 3 4", "/box got 4 numbers, expected /box N LEFT TOP RIGHT BOTTOM"),
        ("/point one 2 3", "/point needs whole numbers: /point N X Y [0]"),
        ("/point 2 3 4", "there is no mask 2; number of masks so far: 1"),
        ("/point 0 3 4", "there is no mask 0"),
        ("/point 1 500 4", "inside the image"),
        ("/point 1 5 4 7", "label"),
        ("/" + "x" * 5_000, "unknown command /xxx"),
    ],
)
def test_an_error_is_printed_in_one_line_and_the_conversation_continues(conversation, capsys, line, message):
    run_conversation(conversation, typed("the red circle", line, "/new", "/quit", "never read"))
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and message in printed.err and printed.err.count("\n") == 1
    assert len(printed.err) < 300
    assert "New conversation" in printed.out and "never" not in printed.out


def test_points_are_pixels_of_the_image_as_shown_also_if_it_is_rotated_by_exif(start, tmp_path):
    with Image.open(SCENE) as scene:
        shown = scene.convert("RGB").resize((300, 600))
    exif = Image.Exif()
    exif[ORIENTATION] = TURN_RIGHT
    photo = tmp_path / "rotated.jpg"
    shown.transpose(Image.Transpose.ROTATE_90).save(photo, exif=exif, quality=95)
    with Image.open(photo) as stored:
        assert stored.size == (600, 300)
    conversation = start(photo)
    assert "pixels of the image as shown, 300 x 600; (0, 0) is the top left corner." in conversation.help
    assert "enlarged" not in conversation.help
    conversation.answer("the red circle")
    written = Image.open(conversation.output)
    assert written.width == 384 and written.height > 600  # the image, with a legend below it
    conversation.answer("/point 1 100 599")  # outside the stored picture, inside the shown one
    with pytest.raises(ValueError, match="inside the image"):
        conversation.answer("/point 1 599 100")
    assert conversation.masks[0].shape == (600, 300)


def test_points_on_a_large_photo_are_pixels_of_its_full_size(start, tmp_path):
    with Image.open(SCENE) as scene:
        scene.convert("RGB").resize((2400, 1800)).save(tmp_path / "large.jpg")
    conversation = start(tmp_path / "large.jpg")
    assert "as shown, 2400 x 1800;" in conversation.help and "enlarged" not in conversation.help
    conversation.answer("the red circle")
    conversation.answer("/point 1 2399 1799 0")
    assert conversation.masks[0].shape == (1800, 2400) and Image.open(conversation.output).width == 2400
    with pytest.raises(ValueError, match="inside the image"):
        conversation.answer("/point 1 2401 0")


def test_help_explains_how_much_a_small_image_is_enlarged(conversation):
    assert "as shown, 128 x 128;" in conversation.help
    assert (
        "conversation.png shows the image enlarged 4 times: divide pixels that you read there by 4."
        in conversation.help
    )
