"""What a reader of a report sees in a browser, in a wide window and in a narrow one."""

import shutil
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import drawing
import numpy as np
import pytest
from helpers import plain
from matplotlib.figure import Figure

from jfedsl import plots
from jfedsl.run.plots.page import page as html_page
from jfedsl.studies.report import write
from studies.recorded import record

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

SETTINGS = 14
WINDOWS = {"wide": 1280, "narrow": 400}

# Boxes of what must not overlap, and how far the page is wider than the window.
LOOK = """() => {
  const box = (element) => {
    const { left, right, top, bottom } = element.getBoundingClientRect();
    return { what: element.tagName + " " + (element.alt || element.textContent).slice(0, 30),
             left, right, top, bottom };
  };
  const all = (selector) => [...document.querySelectorAll(selector)];
  return {
    blocks: all("h1, h2, h3, p, .table, ul").map(box),
    pictures: all("img").map((img) => ({ alt: img.alt, width: img.naturalWidth,
      height: img.naturalHeight, shown: img.getBoundingClientRect().height })),
    excess: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    columns: all(".table").map((t) => t.getBoundingClientRect().right),
  };
}"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on settings with very long names, two seeds each."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", drawing.drawn)
        for n in range(SETTINGS):
            rate, bits = round(0.05 * n, 2), 4 + n % 3
            name = f"cut=pool1, dropout_rate={rate}, cut_gradient_bits={bits}, prune_rate=0.3"
            for seed in (0, 1):
                run = folder / "runs" / name.replace(", ", "_") / f"seed_{seed}"
                config = plain(
                    rounds=40, eval_every=2, seed=seed, dropout_rate=rate, cut_gradient_bits=bits,
                    client_gradient_bits=bits, network="macro_cell", target_accuracy=0.8,
                    prune_kind="mask", prune_rate=0.3,
                )  # fmt: skip
                rows = record(run, config, 0.03 + 0.01 * n + 0.005 * seed)
                if seed == 0 and n < 2:
                    plots.save(plots.masks(rows), run / f"masks.{('svg', 'png')[n]}")
                    counts = np.arange(40).reshape(4, 10) * (n + 1)
                    plots.save(plots.labels(counts), run / "labels.svg")
        write([folder / "runs"], folder, "Settings with long names", None)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Opens a file in a window so wide; nothing may be reported as an error or fetched."""
    contexts: list[Any] = []
    wrong: list[str] = []

    def open_file(path: Path, width: int) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}))
        window = contexts[-1].new_page()
        window.on("console", lambda message: wrong.append(message.text))
        window.on("pageerror", lambda error: wrong.append(str(error)))
        window.on("request", lambda r: r.url.startswith(("file:", "data:")) or wrong.append(r.url))
        window.goto(path.as_uri())
        return window

    yield open_file
    for context in contexts:
        context.close()
    assert wrong == []


def overlap(one: dict[str, Any], other: dict[str, Any], slack: float = 0.5) -> bool:
    """Whether two boxes share more than a rounded edge, in pixels."""
    return (
        min(one["right"], other["right"]) - max(one["left"], other["left"]) > slack
        and min(one["bottom"], other["bottom"]) - max(one["top"], other["top"]) > slack
    )


@pytest.mark.parametrize("width", WINDOWS.values(), ids=WINDOWS)
def test_nothing_overlaps_and_the_page_is_no_wider_than_the_window(
    report: Path, opened: Any, width: int
) -> None:
    seen = opened(report / "report.html", width).evaluate(LOOK)
    assert seen["excess"] == 0
    assert all(right <= width for right in seen["columns"]), "tables scroll by themselves"
    blocks = seen["blocks"]
    assert len(blocks) > 25
    clashes = [(a["what"], b["what"]) for a, b in combinations(blocks, 2) if overlap(a, b)]
    assert clashes == []
    assert all(
        p["alt"] and p["width"] and p["height"] and p["shown"] > 10 for p in seen["pictures"]
    )
    # A line beside each name in three tables and in that of pairs with its caption, the curves,
    # and pictures of runs.
    assert len(seen["pictures"]) == 4 * SETTINGS + 1 + 4


def test_the_legend_of_the_curves_covers_no_axes(report: Path, opened: Any) -> None:
    window = opened(report / "pictures" / "curves.svg", 1280)
    assert clashes_of(window) == []
    texts = window.locator("#legend_1 > g[id^=text_]")
    assert texts.count() == SETTINGS


def clashes_of(window: Any) -> list[str]:
    """Panels, with their labels, that the legend of a picture overlaps."""
    boxes = window.evaluate(
        """() => [...document.querySelectorAll("g[id^=axes_], g[id^=legend_]")].map((element) => {
          const { left, right, top, bottom } = element.getBoundingClientRect();
          return { id: element.id, left, right, top, bottom };
        })"""
    )
    legends = [box for box in boxes if box["id"].startswith("legend")]
    panels = [box for box in boxes if box["id"].startswith("axes")]
    assert len(legends) == 1 and len(panels) == 4
    return [panel["id"] for panel in panels if overlap(panel, legends[0])]


def column(window: Any, table: int, number: int) -> list[str]:
    """The texts of a column."""
    cells = window.locator(f".table >> nth={table}").locator(f"tbody td:nth-child({number})")
    return [text.strip() for text in cells.all_inner_texts()]


def test_tables_are_sorted_by_click_and_by_key(report: Path, opened: Any) -> None:
    window = opened(report / "report.html", 1280)
    table = window.locator(".table >> nth=1")
    heads = table.locator("th")
    cost = heads.all_inner_texts().index("megabytes")
    letters = [chr(ord("A") + n) for n in range(SETTINGS)]
    assert column(window, 1, 1) == letters

    def values() -> list[float]:
        texts = [text.split()[0].replace(",", "") for text in column(window, 1, cost + 1)]
        return [float(text) for text in texts if text != "-"]

    heads.nth(cost).locator("button").click()
    assert heads.nth(cost).get_attribute("aria-sort") == "ascending"
    assert values() == sorted(values()) and values() != sorted(values(), key=str)
    window.keyboard.press("Enter")  # the button still has the focus
    assert heads.nth(cost).get_attribute("aria-sort") == "descending"
    assert values() == sorted(values(), reverse=True)
    reached = [text != "-" for text in column(window, 1, cost + 1)]
    assert reached == sorted(reached, reverse=True) and not all(reached), "no value comes last"
    heads.nth(0).locator("button").focus()
    window.keyboard.press("Space")
    assert column(window, 1, 1) == letters
    assert heads.nth(cost).get_attribute("aria-sort") is None


def test_numbers_sort_by_value_and_texts_by_the_numbers_in_them(
    tmp_path: Path, opened: Any
) -> None:
    rows = ["| S10 | 1,200 |", "| S9 | 900 (1 of 2) |", "| S1 | - |", "| S2 | +1e-05 |"]
    text = "\n".join(["| setting | bytes |", "| --- | ---: |", *rows])
    (tmp_path / "page.html").write_text(html_page(text, "title", {}))
    window = opened(tmp_path / "page.html", 400)
    for name, expected in (
        ("bytes", ["S2", "S9", "S10", "S1"]),
        ("setting", ["S1", "S2", "S9", "S10"]),
    ):
        window.get_by_role("button", name=name).click()
        assert column(window, 0, 1) == expected
