"""One server of the demo model for all tests that leave it as it was, and a browser on its page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chromium import open_chromium
from tests.serving.running import Running, in_thread
from tests.serving.visiting import READY, open_page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.chromium import Page


@pytest.fixture(scope="session")
def served() -> Iterator[Running]:
    with in_thread() as running:
        yield running


@pytest.fixture
def url(served: Running) -> str:
    return f"{served.url}/"


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def page(browser: Page, url: str) -> Page:
    """The page as one sees it for the first time."""
    open_page(browser, url)
    browser.wait(READY)  # what comes late would be saved again
    browser.evaluate("localStorage.clear(); sessionStorage.clear()")
    browser.complaints.clear()
    open_page(browser, url)
    return browser
