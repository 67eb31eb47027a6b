"""The text of a saved web page, without its scripts."""

import pytest

from gemma_lisa.checkpoints.page_text import text_of_page

TEXT = "<h2>Section 1</h2><p>You must\n  accept <b>all</b> terms.</p><ul><li>one &amp; two<li>three</ul>"
EXPECTED = "Section 1\n\nYou must accept all terms.\n\none & two\n\nthree\n"


def test_the_text_has_one_line_for_each_paragraph():
    assert text_of_page(f"<html><head><title>x</title></head><body>{TEXT}</body></html>") == EXPECTED


def test_only_the_article_of_the_page_is_read():
    page = f'<body><nav>menu</nav><div class="a devsite-article-body"><div>{TEXT}</div></div><p>footer</p></body>'
    assert text_of_page(page) == EXPECTED


def test_scripts_and_styles_are_not_text():
    page = f"<body><script>key = 'AI'</script>{TEXT}<style>p {{}}</style></body><script>more</script>"
    assert text_of_page(page) == EXPECTED


@pytest.mark.parametrize("page", ["", "text without a body", "<body><script>a</script> </body>"])
def test_a_page_without_text_is_an_error(page):
    with pytest.raises(ValueError, match="the page has no text"):
        text_of_page(page)
