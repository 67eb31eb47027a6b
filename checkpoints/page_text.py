"""Read the text of a web page, such as saved license terms. The page itself can contain scripts and keys."""

import re
from html.parser import HTMLParser

BLOCKS = {"p", "div", "section", "ul", "ol", "li", "table", "tr", "h1", "h2", "h3", "h4", "br"}
NOT_TEXT = {"script", "style", "template", "noscript"}
ARTICLE = "devsite-article-body"  # class of the element with the text on Google's pages


class _Reader(HTMLParser):
    """Collect the text inside the element with the class ARTICLE, or inside <body> if there is none."""

    def __init__(self, has_article: bool):
        super().__init__()
        self.has_article = has_article
        self.element, self.depth, self.hidden = None, 0, 0
        self.parts: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if self.depth == 0:
            classes = (dict(attributes).get("class") or "").split()
            if ARTICLE in classes if self.has_article else tag == "body":
                self.element, self.depth = tag, 1
            return
        self.depth += tag == self.element
        self.hidden += tag in NOT_TEXT
        if tag in BLOCKS:
            self.parts.append("\n\n")

    def handle_endtag(self, tag: str) -> None:
        if self.depth == 0:
            return
        self.depth -= tag == self.element
        self.hidden -= tag in NOT_TEXT and self.hidden > 0
        if tag in BLOCKS:
            self.parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        if self.depth and not self.hidden:
            self.parts.append(" ".join(re.split(r"\s+", data)))


def text_of_page(page: str) -> str:
    """Return the text of an HTML page: one line for each paragraph, with an empty line between them.

    Raises:
        ValueError: it has no text.
    """
    reader = _Reader(ARTICLE in page)
    reader.feed(page)
    paragraphs = [" ".join(part.split()) for part in "".join(reader.parts).split("\n\n")]
    if not any(paragraphs):
        raise ValueError("the page has no text")
    return "\n\n".join(filter(None, paragraphs)) + "\n"
