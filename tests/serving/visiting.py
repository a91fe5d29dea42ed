"""What a visitor of the server's page does, by the tests' browser."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.chromium import Page

PROMPT = "京都の寺院は、"
IDLE = "!document.body.classList.contains('busy')"
READY = f"{IDLE} && document.getElementById('model').textContent"
TEXTS = "[...document.querySelectorAll('#texts .tokens')].map(e => e.textContent)"


def open_page(browser: Page, url: str, width: int = 1280, scheme: str = "light") -> None:
    browser.may_ask = (url.partition("#")[0],)
    browser.visit("about:blank", width, scheme)  # an address that differs in its fragment is new
    browser.visit(url, width, scheme)
    browser.wait("document.querySelector('#fields *') || !document.getElementById('error').hidden")


def write(page: Page, prompt: str, **settings: object) -> None:
    """Fill in the prompt and settings."""
    page.wait(READY)
    for name, value in {"prompt": prompt, **settings}.items():
        field = name if name in ("prompt", "n") else f"set-{name}"
        page.evaluate(
            f"(field => {{ field.value = {json.dumps(value)};"
            " for (const kind of ['input', 'change'])"
            "   field.dispatchEvent(new Event(kind, {bubbles: true})); })"
            f"(document.getElementById('{field}'))"
        )


def texts(page: Page) -> list[str]:
    found: list[str] = page.evaluate(TEXTS)
    return found


def run_until(page: Page, tokens: int) -> None:
    """Press the button, and wait until the texts have ended with so many tokens in all."""
    page.click("#run")
    wait_for_tokens(page, tokens)


def wait_for_tokens(page: Page, tokens: int) -> None:
    """Wait until the texts have ended with so many tokens in all."""
    page.wait(f"{IDLE} && document.querySelectorAll('#texts .tokens > span').length === {tokens}")
