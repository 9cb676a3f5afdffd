"""The page as a browser shows it, at a desk and on a phone."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from pipeline.artifacts.layout import Layout

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
WIDTHS = (1440, 390)

TABLES = """() => [...document.querySelectorAll("table")].map(table => {
    const card = table.closest(".card").getBoundingClientRect();
    const cells = [...table.querySelectorAll("th, td")].filter(cell => cell.offsetParent);
    return {
        name: table.closest(".card").querySelector("h3")?.textContent ?? "success",
        shown: cells.length > 0,
        out: cells.filter(cell => {
            const place = cell.getBoundingClientRect();
            return place.left < card.left || place.right > card.right
                || cell.scrollWidth > cell.clientWidth + 1;
        }).map(cell => cell.textContent.trim()),
    };
})"""
IMAGES = """async () => {
    const images = [...document.images];
    images.forEach(image => image.loading = "eager");
    await Promise.allSettled(images.map(image => image.decode()));
    return images.filter(image => !image.naturalWidth).map(image => image.alt);
}"""
FIRST_COLUMNS = """() => [...document.querySelector("#results table").rows[1].cells]
    .map(cell => cell.dataset.label).slice(1, 3)"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("needs Chromium (apt-get install chromium)")
    with sync_playwright() as play:
        launched = play.chromium.launch(executable_path=found, args=list(QUIET))
        yield launched
        launched.close()


@pytest.fixture(params=WIDTHS)
def page(
    request: pytest.FixtureRequest, browser: Browser, run: Layout
) -> Iterator[tuple[Page, list[str]]]:
    """The page of a run, and what the browser complains about or asks the network for."""
    opened = browser.new_page(viewport={"width": request.param, "height": 900})
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    address = (run.report / "index.html").absolute().as_uri()
    opened.on(
        "request",
        lambda asked: (
            asked.url == address or asked.url.startswith("data:") or complaints.append(asked.url)
        ),
    )
    opened.goto(address)
    yield opened, complaints
    opened.close()


def test_every_image_loads_and_nobody_complains(page: tuple[Page, list[str]]) -> None:
    opened, complaints = page
    assert opened.evaluate("document.images.length") >= 14
    assert opened.evaluate(IMAGES) == []
    assert complaints == []


def test_nothing_is_cut_off(page: tuple[Page, list[str]]) -> None:
    tables = page[0].evaluate(TABLES)
    assert len(tables) >= 10
    assert all(table["shown"] for table in tables)
    assert {table["name"]: table["out"] for table in tables if table["out"]} == {}
    width = page[0].evaluate("document.documentElement.clientWidth")
    assert page[0].evaluate("document.documentElement.scrollWidth") == width


def test_what_was_learned_comes_first(page: tuple[Page, list[str]]) -> None:
    assert page[0].evaluate(FIRST_COLUMNS) == ["WAM BC", "WAM PPO"]
