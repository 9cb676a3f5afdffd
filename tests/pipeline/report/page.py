"""The page of a report, read."""

import html.parser
import re

from pipeline.artifacts.layout import Layout


class Reader(html.parser.HTMLParser):
    """Collects addresses, scripts and unbalanced tags."""

    VOID = frozenset({"meta", "link", "img", "br", "path", "use", "rect", "!doctype"})

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


def read_page(layout: Layout) -> tuple[str, Reader]:
    """Its text, without what cells are called on narrow screens, and what it consists of."""
    text = re.sub(' data-label="[^"]*"', "", (layout.report / "index.html").read_text())
    reader = Reader()
    reader.feed(text)
    return text, reader
