"""What the page's parts are given."""

from gemma_lisa.interfaces.web.parts import SCENES, examples, message


def test_what_is_shown_in_a_message_is_text():
    assert "<b>" not in message("<b>x</b>")
    assert "<script" not in examples("en")
    assert all(path.is_file() for path, _ in SCENES)
