"""report.html and the READMEs' picture in a real browser, at the widths of phones and desks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpt2ja_bench.reporting.html import render_html
from gpt2ja_bench.reporting.plots.speed import speed_by_batch
from gpt2ja_bench.reporting.plots.style import drawing, standalone
from tests.chromium import CHROMIUM, open_chromium

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gpt2ja_bench.report import Report
    from tests.chromium import Page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt install chromium)")

_PLOTS = """
[...document.querySelectorAll("figure svg")].map(svg => {
  const box = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll("text")].map(text => text.getBoundingClientRect());
  return {
    width: box.width,
    height: box.height,
    left: box.left,
    right: box.right,
    lines: svg.querySelectorAll("path").length,
    texts: texts.length,
    smallest: Math.min(...texts.map(text => Math.min(text.width, text.height))),
    outside: texts.filter(t => t.left < box.left - 1 || t.right > box.right + 1
                            || t.top < box.top - 1 || t.bottom > box.bottom + 1).length,
  };
})
"""
# A phone's innerWidth grows with what overflows; the root's width stays.
_CLIPPED = """
[...document.querySelectorAll("body *:not(svg *)")].filter(element => {
  const scroller = element.closest(".scroll"), width = document.documentElement.clientWidth;
  return !scroller && element.getBoundingClientRect().right > width + 1;
}).length
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def report_page(noisy: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_html(noisy), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("width", "scheme"), [(360, "light"), (768, "dark"), (1280, "light"), (1280, "dark")]
)
def test_the_page(page: Page, report_page: Path, width: int, scheme: str) -> None:
    page.open(report_page, width, scheme)
    assert page.evaluate(
        "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )
    assert page.evaluate(_CLIPPED) == 0
    plots = page.evaluate(_PLOTS)
    assert len(plots) == 10
    for plot in plots:
        assert plot["width"] > 300
        assert plot["height"] > 200
        assert plot["left"] >= 0
        assert plot["right"] <= width
        assert plot["lines"] > 10
        assert plot["texts"] > 10
        assert plot["smallest"] > 5
        assert plot["outside"] == 0
    assert page.complaints == []


def test_colours_follow_the_reader(page: Page, report_page: Path) -> None:
    seen = {}
    for scheme in ("light", "dark"):
        page.open(report_page, 768, scheme)
        seen[scheme] = page.evaluate(
            "[getComputedStyle(document.body).backgroundColor,"
            " getComputedStyle(document.querySelector('figure svg text')).fill]"
        )
    assert seen["light"] == ["rgb(255, 255, 255)", "rgb(28, 31, 35)"]
    assert seen["dark"] == ["rgb(21, 24, 28)", "rgb(232, 234, 237)"]


def test_a_wide_table_scrolls_inside_itself(page: Page, report_page: Path) -> None:
    page.open(report_page, 360)
    assert page.evaluate(
        "[...document.querySelectorAll('.scroll')].some(e => e.scrollWidth > e.clientWidth)"
    )


def test_the_readmes_picture(page: Page, noisy: Report, tmp_path: Path) -> None:
    with drawing():
        picture = speed_by_batch(noisy)
    assert picture
    path = tmp_path / "speed.svg"
    path.write_text(standalone(picture.svg), encoding="utf-8")
    html = tmp_path / "page.html"
    html.write_text('<!doctype html><link rel="icon" href="data:,"><img src="speed.svg">')
    page.open(html, 600)
    width, height = page.evaluate(
        "[document.images[0].naturalWidth, document.images[0].naturalHeight]"
    )
    assert width > 300
    assert height > 300
    assert page.complaints == []
