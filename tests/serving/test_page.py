"""The server's page in a real browser: what a visitor sees."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from tests.chromium import CHROMIUM
from tests.serving.visiting import (
    IDLE,
    PROMPT,
    READY,
    open_page,
    run_until,
    texts,
    wait_for_tokens,
    write,
)

if TYPE_CHECKING:
    from tests.chromium import Page
    from tests.serving.running import Running

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt install chromium)")

# A phone's innerWidth grows with what overflows; the root's width stays.
CLIPPED = """
[...document.querySelectorAll("body *:not(pre *)")].filter(element => {
  const box = element.getBoundingClientRect(), width = document.documentElement.clientWidth;
  return box.width > 0 && (box.right > width + 1 || box.left < -1);
}).map(element => element.outerHTML.slice(0, 80))
"""
CONTROL = 2  # the protocol's number of the modifier


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 768, 1280])
def test_texts_stream_side_by_side(
    page: Page, served: Running, url: str, width: int, scheme: str
) -> None:
    open_page(page, url, width, scheme)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 24, 28)"}[scheme]
    write(page, PROMPT, n=8, max_tokens=100, seed=11)
    assert page.evaluate(CLIPPED) == []
    page.evaluate(
        "window.seen = new Set(); new MutationObserver(() => window.seen.add("
        "  document.getElementById('texts').textContent.length))"
        ".observe(document.getElementById('texts'), {subtree: true, childList: true})"
    )
    page.click("#run")
    page.wait(f"{IDLE} && document.querySelectorAll('#texts article').length === 8")
    assert page.evaluate("window.seen.size") > 20  # it grew in many steps
    assert texts(page) == served.texts(prompt=PROMPT, n=8, max_tokens=100, seed=11)
    tops = page.evaluate(
        "[...document.querySelectorAll('#texts article')].slice(0, 2)"
        ".map(e => e.getBoundingClientRect().top)"
    )
    assert (tops[0] == tops[1]) == (width >= 768)
    assert page.evaluate(CLIPPED) == []
    assert page.complaints == []


def test_a_long_word_and_open_settings_do_not_overflow(page: Page, url: str) -> None:
    open_page(page, url, 390)
    write(page, "w" * 300)
    page.click("#score")
    page.wait(f"{IDLE} && document.querySelector('.scored')")
    page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert page.evaluate(CLIPPED) == []
    assert page.complaints == []


@pytest.mark.parametrize("how", ["button", "escape"])
def test_stopping(page: Page, served: Running, how: str) -> None:
    write(page, PROMPT, n=8, max_tokens=480)
    page.click("#run")
    page.wait("document.querySelectorAll('#texts .tokens > span').length > 40")
    if how == "button":
        page.click("#run")
    else:
        page.press("Escape")
    page.wait(IDLE, 2)
    stopped = texts(page)
    notes = page.evaluate("document.getElementById('texts').textContent")
    assert "stopped" in notes or "停止" in notes
    time.sleep(0.3)
    assert texts(page) == stopped
    served.wait_idle(2)
    assert page.complaints == []


@pytest.mark.parametrize("way", ["mouse", "touch", "keyboard"])
def test_a_token_shows_what_else_could_stand_there(page: Page, url: str, way: str) -> None:
    open_page(page, url, 390 if way == "touch" else 1280)
    write(page, PROMPT, n=1, max_tokens=12, seed=3)
    run_until(page, 12)
    assert page.evaluate("document.getElementById('token').hidden")
    sixth = "#texts .tokens > span:nth-child(6)"
    if way == "mouse":
        page.hover(sixth)
    elif way == "touch":
        page.call("Emulation.setTouchEmulationEnabled", enabled=True)
        page.tap(sixth)
    else:
        page.evaluate("document.querySelector('#texts .tools button').focus()")
        page.press("Tab", modifiers=8)  # backwards, into the tokens
        for _ in range(5):
            page.press("ArrowRight")
    page.wait("!document.getElementById('token').hidden")
    assert page.evaluate(f"document.querySelector('{sixth}').classList.contains('shown')")
    shown = page.evaluate(
        "[...document.querySelectorAll('#token li')].map(e =>"
        " [...e.querySelectorAll('span')].map(s => s.textContent))"
    )
    assert len(shown) in (5, 6)
    assert all(chance.endswith("%") for _, chance in shown)
    assert page.evaluate("document.querySelectorAll('#token [aria-current]').length") == 1
    before = page.evaluate(
        "[...document.querySelectorAll('#texts .tokens > span')].slice(0, 5)"
        ".map(e => e.textContent).join('')"
    )
    other = "#token li button:not([aria-current])"
    rival = page.evaluate(f"document.querySelector('{other} span').textContent").replace("␣", " ")
    if way == "mouse":
        page.click(other)
    elif way == "touch":
        page.tap(other)
        page.call("Emulation.setTouchEmulationEnabled", enabled=False)
    else:
        page.press("Enter")
        page.evaluate(f"document.querySelector('{other}').focus()")
        page.press("Enter")
    prompt = "document.getElementById('prompt').value"
    page.wait(f"{prompt} === {json.dumps(PROMPT + before + rival)}")
    wait_for_tokens(page, 12)
    page.evaluate("history.back()")
    page.wait(f"{prompt} === {json.dumps(PROMPT)}")
    assert page.complaints == []


def test_scoring_shows_where_the_model_was_surprised(page: Page, served: Running) -> None:
    text = "吾輩は猫である。名前はまだ無い。"
    write(page, text)
    page.click("#score")
    page.wait(f"{IDLE} && document.querySelector('.scored')")
    (score,) = served.model.score(text)
    assert score.perplexity
    perplexity, *_, count = page.evaluate(
        "[...document.querySelectorAll('dd')].map(e => e.textContent)"
    )
    assert perplexity == f"{score.perplexity:,.1f}"
    assert int(count) == score.tokens
    bands = page.evaluate(
        "[...document.querySelectorAll('.scored .tokens > span')].map(e => e.dataset.band ?? null)"
    )
    assert len(bands) == score.tokens
    assert bands[0] is None
    for band, logprob in zip(bands[1:], score.token_logprobs[1:], strict=True):
        assert logprob is not None
        assert (band == "4") == (logprob < -4.6052)  # ln 0.01
    page.click(".scored li button")
    page.wait("!document.getElementById('token').hidden")
    assert page.complaints == []


def test_both_languages_say_everything(page: Page) -> None:
    page.wait(READY)
    names = {}
    for language in ("ja", "en"):
        page.click(f"[data-language={language}]")
        page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
        assert page.evaluate("document.documentElement.lang") == language
        tree = page.call("Accessibility.getFullAXTree")["nodes"]
        controls = [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in tree
            if not node["ignored"]
            and node["role"]["value"] in ("button", "textbox", "spinbutton", "checkbox")
        ]
        assert len(controls) > 30
        assert all(name for _, name in controls), controls
        names[language] = page.evaluate("document.querySelector('#desk').innerText")
    assert "続きを書く" in names["ja"]
    assert "Continue" in names["en"]
    assert page.complaints == []


def test_keyboard_alone(page: Page) -> None:
    page.wait(READY)
    page.evaluate("document.getElementById('prompt').focus()")
    page.type(PROMPT)
    page.press("Enter", CONTROL)
    page.wait("document.body.classList.contains('busy')")
    page.wait(f"{IDLE} && document.querySelectorAll('#texts .tokens > span').length > 100")
    assert page.evaluate("document.getElementById('prompt').value") == PROMPT
    assert page.complaints == []
