"""report.html and the page of a comparison in Chromium, opened from a file: wide, narrow, dark and by keyboard."""

import pytest
from judged_boxes import baseline, contents, image_of, mixed
from page_browser import PHONE, tab_to

from gemma_lisa.evaluation.compare import compare
from gemma_lisa.evaluation.report.comparison import write_comparison
from gemma_lisa.evaluation.report.page import write_report

pytestmark = pytest.mark.slow

WIDE = {"width": 1400, "height": 1000}


@pytest.fixture
def browse_file(chromium):
    """Return a function that opens a file. At the end, no script has failed and nothing else was loaded."""
    contexts, errors = [], []

    def open_file(path, size=WIDE, scheme="light", address=""):
        context = chromium.new_context(viewport=size, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(f"script: {error}"))
        page.on("console", lambda line: errors.append(f"console: {line.text}") if line.type == "error" else None)
        page.on("request", lambda sent: None if sent.url.startswith(("file:", "data:")) else errors.append(sent.url))
        page.goto(f"{path.as_uri()}{address}")
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    judged, truth = mixed(80), baseline("truth", 80)
    truth = [one for one in truth if one.question.kind != "plural"]
    write_report(path, [(contents(judged), judged, image_of), (contents(truth, dataset="other"), truth, None)])
    return path


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "comparison.html"
    a, b = mixed(80), baseline("truth", 80)
    write_comparison(path, compare(contents(a), a, contents(b, model="truth"), b), image_of)
    return path


def overflow(page) -> int:
    """Return by how many pixels the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.mark.parametrize("name", ["report", "comparison"])
@pytest.mark.parametrize("size", [WIDE, PHONE])
def test_the_pages_fit_into_wide_and_narrow_windows(browse_file, request, screenshots, name, size):
    page = browse_file(request.getfixturevalue(name), size)
    page.screenshot(path=screenshots / f"{name}-{size['width']}.png")
    assert overflow(page) <= 0
    widths = page.evaluate("[...document.querySelectorAll('.card img')].map(one => one.getBoundingClientRect().width)")
    assert len(widths) > 20 and min(widths) > 90
    loaded = page.evaluate("Promise.all([...document.images].map(one => (one.loading = 'eager', one.decode())))")
    assert len(loaded) == len(widths)


def test_filters_show_one_data_set_and_one_kind(browse_file, report):
    page = browse_file(report)
    assert page.locator(".dataset:visible").count() == page.locator(".pane:visible").count() == 2
    page.select_option("#kind", "plural")
    assert page.locator(".pane:visible").count() == 1
    assert page.locator(".absent:visible").inner_text() == "This data set has no question of this kind."
    kinds = page.evaluate(
        "[...document.querySelectorAll('.card')].filter(e => e.offsetParent).map(e => e.dataset.kind)"
    )
    assert kinds and set(kinds) == {"plural"}
    assert 'are of the kind "plural"' in page.locator(".filtered:visible").first.inner_text()
    page.select_option("#dataset", "other test")
    assert page.input_value("#kind") == "", "a kind that the data set does not have is deselected"
    assert page.locator(".dataset:visible").get_attribute("data-dataset") == "other test"


def test_the_address_keeps_the_filters(browse_file, report):
    page = browse_file(report)
    page.select_option("#dataset", "boxes test")
    page.select_option("#kind", "absent")
    address = page.url.partition("#")[2]
    again = browse_file(report, address=f"#{address}")
    assert (again.input_value("#dataset"), again.input_value("#kind")) == ("boxes test", "absent")
    assert again.locator(".pane:visible").get_attribute("data-kind") == "absent"
    unknown = browse_file(report, address="#kind=unknown&dataset=")
    assert unknown.input_value("#kind") == "" and unknown.locator(".dataset:visible").count() == 2


def test_the_report_is_used_with_the_keyboard_alone(browse_file, report):
    page = browse_file(report)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    tab_to(page, "#kind", key="Shift+Tab")
    page.keyboard.press("ArrowDown")
    assert page.input_value("#kind") != "" and page.locator(".pane:visible").count() >= 1
    tab_to(page, ".pane summary")
    page.keyboard.press("Enter")
    assert page.locator(".pane details[open]").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(browse_file, report, scheme):
    page = browse_file(report, scheme=scheme)
    for selector in ("h1", ".subtitle", "td.meaning", ".card dt", "svg text.tick", "td.wrong", "td.right"):
        colours = page.evaluate(
            """selector => {
                const element = document.querySelector(selector), style = getComputedStyle(element);
                let behind = element;
                while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
                return [element.tagName === 'text' ? style.fill : style.color,
                        getComputedStyle(behind).backgroundColor];
            }""",
            selector,
        )
        assert contrast(*colours) >= 4.5, (selector, colours)


def contrast(one: str, other: str) -> float:
    """Return the contrast of two CSS colours as in WCAG 2."""

    def luminance(colour: str) -> float:
        channels = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_without_scripts_everything_is_readable(chromium, report):
    context = chromium.new_context(java_script_enabled=False, viewport=WIDE)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator(".filters").is_hidden() and page.locator(".pane:visible").count() == 2
    assert page.locator(".card:visible").count() == page.locator(".card").count() > 20
    context.close()
