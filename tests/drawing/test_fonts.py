"""Text is drawn in a font that has its letters. If none is installed, a warning names the letters."""

import logging

import pytest
from matplotlib import font_manager
from PIL import Image, ImageDraw

from gemma_lisa.drawing import fonts
from gemma_lisa.drawing.fonts import font_for, width_of


@pytest.fixture(autouse=True)
def without_fonts(monkeypatch):
    """Hide all fonts except matplotlib's, which has Greek and Cyrillic but no Japanese."""
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    for cached in (fonts._find, fonts._opened):
        cached.cache_clear()
    yield
    for cached in (fonts._find, fonts._opened):
        cached.cache_clear()


def drawn(text: str) -> Image.Image:
    picture = Image.new("L", (200, 40))
    ImageDraw.Draw(picture).text((5, 5), text, fill=255, font=font_for(text, 20))
    return picture


def test_ascii_is_drawn_in_the_built_in_font():
    assert font_for("the red circle: [SEG] (0.97)", 20).getname()[0].startswith("Aileron")
    assert font_for("", 20).getname() == font_for("a", 20).getname()


def test_other_letters_are_drawn_in_a_system_font():
    assert font_for("caf\u00e9", 20).getname()[0] == "DejaVu Sans"
    assert font_for("красный круг and a red one", 20).getname()[0] == "DejaVu Sans"
    assert drawn("красный").tobytes() != drawn("круглый").tobytes()
    assert width_of("красный круг", 20) > width_of("красный", 20) > 0


def test_letters_without_a_font_are_reported_once(caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert font_for("赤い円", 20).getname()[0].startswith("Aileron")
    assert [record.getMessage() for record in caplog.records] == [
        "No installed font has the letters い円赤; pictures show boxes instead. Install a font such as fonts-noto-cjk."
    ]


def test_upright_fonts_without_serifs_come_first():
    names = ["a/NotoSerifCJK-Regular.ttc", "a/NotoSansCJK-Bold.ttc", "a/DejaVuSans.ttf", "b/NotoSansCJK-Regular.ttc"]
    assert sorted(names, key=fonts._rank) == [names[3], names[1], names[2], names[0]]
