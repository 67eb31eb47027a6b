"""The page of a comparison."""

import re

import pytest
from judged_boxes import baseline, contents, image_of, mixed

from gemma_lisa.evaluation.compare import compare
from gemma_lisa.evaluation.report.comparison import (
    PER_SHEET,
    comparison_of,
    difference_rows,
    distinct_models,
    find,
    signed,
    write_comparison,
)


def compared(a, b, names=("base", "tuned")):
    return compare(contents(a, model=names[0]), a, contents(b, model=names[1]), b)


def test_the_page_shows_differences_changes_errors_and_pictures(tmp_path):
    path = tmp_path / "comparison.html"
    write_comparison(path, compared(mixed(80), baseline("truth", 80)), image_of)
    page = path.read_text(encoding="utf-8")
    for words in (
        "base",
        "tuned",
        "B is better in gIoU by",
        "Changed errors",
        "B: selection",
        "The largest gains of IoU.",
    ):
        assert words in page, words
    assert f"Shown: {PER_SHEET} of" in page and page.count("<article") == PER_SHEET
    assert page.count("<img ") == 3 * PER_SHEET and "data:image/jpeg" in page
    assert not re.search(r"https?://", page)


def test_the_sentences_name_certain_and_uncertain_differences():
    better = find(compared(mixed(80), baseline("truth", 80)))
    assert better[0].startswith("B is better in gIoU by ") and "95% CI: +" in better[0]
    worse = find(compared(baseline("truth", 80), mixed(80)))
    assert worse[0].startswith("B is worse in gIoU by ")
    same = find(compared(mixed(80), mixed(80)))
    assert same[0].startswith("gIoU is the same") and "higher IoU for 0 questions" in same[-1]
    near = find(compared(mixed(80, shift=2), mixed(80, shift=3)))
    assert any("No certain difference" in one or "is the same" in one for one in near)


def test_without_images_the_reason_is_given():
    page = comparison_of(compared(mixed(), baseline("truth")), None, "the folder <x> does not exist.")
    assert "the images could not be loaded: the folder &lt;x&gt; does not exist." in page
    page = comparison_of(compared(mixed(), baseline("truth")), lambda index: None)
    assert "The image could not be read." in page


def test_equal_names_get_letters():
    assert distinct_models(compared(mixed(), mixed(), ("m", "m"))) == ("m (A)", "m (B)")


@pytest.mark.parametrize(("number", "text"), [(0.12345, "+0.123"), (-0.5, "−0.500"), (-0.00001, "+0.000")])
def test_differences_have_a_sign(number, text):
    assert signed(number) == text


def test_amounts_have_no_picture_and_certain_rows_are_marked():
    of = {"a": 1.0, "b": 3.0, "difference": 2.0, "low": 1.5, "high": 2.5}
    rows = difference_rows({"tokens": of, "gIoU": {**of, "difference": 0.1, "low": -0.1, "high": 0.2}})
    assert rows[0]["picture"] == "" and rows[0]["is_certain"]
    assert "<svg" in rows[1]["picture"] and not rows[1]["is_certain"]
