"""report.html as text: complete, safe and bounded. tests/end_to_end/test_report_in_a_browser.py opens it."""

import base64
import hashlib
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from judged_boxes import answered, baseline, box, contents, image_of, mixed, question

from gemma_lisa.evaluation.metrics import MEANINGS
from gemma_lisa.evaluation.report.page import FOLDER, VQA_SHOWN, model_of, report_of, write_report
from gemma_lisa.evaluation.report.pane import MAX_KINDS

ROOT = Path(__file__).parents[3]
EVIL = "</script><script>alert('x')</script><img src=x onerror=alert(1)> \"'&"


def test_the_report_shows_scores_kinds_and_how_it_was_made(tmp_path):
    judged = mixed(40)
    write_report(tmp_path / "report.html", [(contents(judged), judged, image_of)])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and "outputs/demo" in page and "40 questions of boxes test" in page
    for words in ("gIoU", MEANINGS["gIoU"], "Wrong refusals", "abababab", "Kinds of questions", "Protocol: generate"):
        assert words in page, words
    assert page.count('<svg class="chart"') == 3 * 4 + 2  # absent targets have no IoU and no size
    assert "Shown: 5 of 5 questions" in page


@pytest.mark.parametrize(
    "given, shown",
    [
        ("org/name", "org/name"),
        ("outputs/demo/", "outputs/demo"),
        ("/home/alice/demo", "demo"),
        (None, "unknown system"),
    ],
)
def test_the_name_of_a_model_does_not_show_local_folders(given, shown):
    assert model_of({"model": given}) == shown


def test_texts_of_the_data_are_escaped():
    evil = answered(
        question(0, [box(0, 0)], id=EVIL, kind=EVIL, text=EVIL, expected=EVIL), [box(0, 0)], text=EVIL, phrases=[EVIL]
    )
    vqa = answered(question(1, None, text=EVIL, expected=EVIL), text=EVIL + EVIL)
    judged = [evil, vqa]
    page = report_of([(contents(judged, model=EVIL, dataset=EVIL, command=EVIL), judged, None)])
    assert page.count("<script>") == 1 and "<img src=x" not in page
    assert page.count("&lt;script&gt;alert") > 10


def test_nothing_is_loaded_from_elsewhere():
    judged = mixed(40)
    page = report_of([(contents(judged), judged, image_of)])
    assert not re.search(r"https?://|//cdn|@import|url\(", page)
    assert {uri[:11] for uri in re.findall(r'(?:src|href)="([^"]*)"', page)} == {"data:image/", "#main"}
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_every_picture_and_chart_has_a_text():
    judged = mixed(40)
    page = report_of([(contents(judged), judged, image_of)])
    assert all('alt="' in tag and 'alt=""' not in tag for tag in re.findall(r"<img [^>]*>", page))
    assert all('aria-label="' in tag for tag in re.findall(r'<svg class="chart"[^>]*>', page))


def test_missing_images_are_mentioned():
    judged = mixed(16)
    remark = "The images could not be loaded"
    assert remark in report_of([(contents(judged), judged, None)])
    assert remark not in report_of([(contents(judged), judged, image_of)])


def test_a_single_missing_image_is_mentioned_on_its_card():
    judged = mixed(16)
    page = report_of([(contents(judged), judged, lambda index: None if index == 0 else image_of(index))])
    cards = re.findall(r"<article.*?</article>", page, re.DOTALL)
    missing = [card for card in cards if "The image could not be read." in card]
    assert 0 < len(missing) < len(cards)
    assert all(f'<dd class="id">{judged[0].question.id}</dd>' in card for card in missing)


def test_equal_results_give_equal_reports():
    judged = mixed(16)
    assert report_of([(contents(judged), judged, image_of)]) == report_of([(contents(judged), judged, image_of)])


def test_several_data_sets_are_listed_and_equal_names_get_the_system():
    judged, truth = mixed(16), baseline("truth")
    page = report_of(
        [
            (contents(judged, model="base"), judged, None),
            (contents(truth, model="tuned"), truth, None),
            (contents(truth, dataset="other"), truth, None),
        ]
    )
    assert "All data sets" in page
    for name in ("boxes test, base", "boxes test, tuned", "other test"):
        assert f'<option value="{name}">' in page and f'data-dataset="{name}"' in page


def test_kinds_beyond_the_limit_stay_in_the_table():
    judged = [answered(question(at, [box(0, 0)], kind=f"kind {at}"), [box(0, 0)]) for at in range(MAX_KINDS + 3)]
    page = report_of([(contents(judged), judged, None)])
    assert f"The filter offers the {MAX_KINDS} most frequent kinds of {MAX_KINDS + 3}." in page
    assert page.count("<option") == MAX_KINDS + 3 and page.count('<th scope="row">kind ') == MAX_KINDS + 3


def test_wrong_answers_in_words_are_listed_up_to_a_limit():
    judged = [answered(question(at, None, expected="7"), text="8") for at in range(VQA_SHOWN + 5)]
    page = report_of([(contents(judged), judged, None)])
    assert f"{VQA_SHOWN + 5} questions, {VQA_SHOWN + 5} answered wrongly. Shown: {VQA_SHOWN}." in page


def test_secrets_and_local_paths_are_not_in_the_report(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "Q7x2" * 9)
    judged = mixed(8)
    page = report_of([(contents(judged, command="eval.py --token hf_" + "Q7x2" * 9), judged, None)])
    assert "Q7x2Q7x2" not in page


def test_the_size_does_not_grow_with_the_number_of_questions():
    few, many = mixed(160), []
    for copy in range(10):
        for one in few:
            asked = replace(one.question, id=f"{copy}/{one.question.id}", source=f"{copy}/{one.question.source}")
            many.append(replace(one, question=asked))
    sizes = [len(report_of([(contents(judged), judged, image_of)])) for judged in (few, many)]
    assert sizes[1] < 1.2 * sizes[0] < 4_000_000


def test_results_without_questions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="needs at least one question"):
        write_report(tmp_path / "report.html", [])
    with pytest.raises(ValueError, match="needs at least one question"):
        write_report(tmp_path / "report.html", [(contents([]), [], None)])
    assert not list(tmp_path.iterdir())


def test_the_report_and_the_comparison_import_neither_torch_nor_transformers():
    code = (
        "import sys; import gemma_lisa.evaluation.report.page, gemma_lisa.evaluation.report.comparison, "
        "gemma_lisa.interfaces.compare_command; print([one for one in ('torch', 'transformers') if one in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_templates_are_installed():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    files = [path for path in FOLDER.iterdir() if path.suffix not in (".py", "") and path.is_file()]
    assert len(files) == 6
    assert all(any(path.match(one) for one in patterns["gemma_lisa.evaluation.report"]) for path in files)
