"""The server's page in a real browser: fields, seeds, copied calls, links, keys and errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpt2ja_serve.api.parameters import PARAMETERS
from tests.chromium import CHROMIUM
from tests.serving.running import in_thread
from tests.serving.visiting import IDLE, PROMPT, READY, TEXTS, open_page, run_until, texts, write

if TYPE_CHECKING:
    from tests.chromium import Page
    from tests.serving.running import Running

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt install chromium)")


def test_every_setting_has_a_field_and_its_meaning(page: Page) -> None:
    described = dict(
        page.evaluate(
            "[...document.querySelectorAll('.setting')].map(e => ["
            "  e.querySelector('label').textContent, e.querySelector('p').textContent])"
        )
    )
    known = {name for name, parameter in PARAMETERS.items() if parameter.group is not None}
    assert set(described) == known - {"n", "logprobs"}
    assert all(len(meaning) > 10 for meaning in described.values())


def test_settings_reach_the_server(page: Page, served: Running) -> None:
    write(page, PROMPT, n=1, max_tokens=20, seed=1)
    run_until(page, 20)
    free = texts(page)
    tokenizer = served.model.tokenizer
    letter = free[0].strip()[0]
    banned = [token for token in range(tokenizer.vocab_size) if letter in tokenizer.piece(token)]
    write(page, PROMPT, suppress_tokens="[1, 2", n=1)
    page.click("#run")  # is held back by the field that cannot be read
    page.wait("document.getElementById('set-suppress_tokens').matches(':invalid:focus')")
    assert texts(page) == free
    write(page, PROMPT, suppress_tokens=json.dumps(banned), stop="。\n、", n=1)
    page.click("#run")
    page.wait(f"{IDLE} && {TEXTS}[0] !== {json.dumps(free[0])}")
    assert not any(character in texts(page)[0] for character in (letter, "。", "、"))
    assert page.complaints == []


def test_a_beam_search_comes_whole(page: Page, served: Running) -> None:
    write(page, PROMPT, n=2, max_tokens=8, best_of=4)
    page.evaluate("document.getElementById('set-use_beam_search').click()")
    page.click("#run")
    page.wait(f"{IDLE} && document.querySelectorAll('#texts .tokens > span').length > 8")
    searched = served.texts(prompt=PROMPT, n=2, max_tokens=8, best_of=4, use_beam_search=True)
    assert texts(page) == searched
    assert page.complaints == []


def test_a_seed_brings_the_texts_back(page: Page) -> None:
    write(page, PROMPT, n=2, max_tokens=10)
    run_until(page, 20)
    first = texts(page)
    page.click("#seed button")
    page.click("#run")
    page.wait(f"{IDLE} && {TEXTS}.join('').length > 9")
    assert texts(page) == first
    assert page.complaints == []


@pytest.mark.parametrize(
    "chosen",
    [
        {"temperature": "0.8", "top_k": 20},
        {"regex": "[ぁ-ん]{10,}'?"},
        {"choices": "京都'の寺院を長い間研究している人々の数\n-大学の研究者である人々の数の統計"},
        {"json_schema": '{"type": "string", "minLength": 30}'},
    ],
)
def test_the_calls_give_the_texts_of_the_page(
    page: Page, tmp_path: Path, chosen: dict[str, str | int]
) -> None:
    write(page, PROMPT, n=2, max_tokens=10, seed=5, **chosen)
    page.click("#run")
    page.wait(f"{IDLE} && {TEXTS}.join('').length > 19")
    expected = texts(page)
    written = {}
    for kind in ("curl", "python", "command"):
        page.click(f"[data-call={kind}]")
        written[kind] = page.evaluate("document.querySelector('#call code').textContent")

    def output(command: list[str]) -> str:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        ran = subprocess.run(
            command, env={**os.environ, "PATH": path}, capture_output=True, check=False, timeout=60
        )
        assert ran.returncode == 0, ran.stderr.decode()
        return ran.stdout.decode()

    answer = json.loads(output(["bash", "-c", written["curl"]]))
    assert [choice["text"] for choice in answer["choices"]] == expected
    program = tmp_path / "call.py"
    # If it hangs, the failure shows where.
    watched = "import faulthandler\nfaulthandler.dump_traceback_later(50, exit=True)\n"
    program.write_text(watched + written["python"], encoding="utf-8")
    assert output([sys.executable, str(program)]).splitlines() == expected
    lines = output(["bash", "-c", written["command"]]).splitlines()
    assert lines == [PROMPT + text for text in expected]


def test_fields_survive_a_reload_and_travel_in_a_link(page: Page, url: str) -> None:
    write(page, "江戸 & #時代", n=3, temperature="0.7", stop="。\n！", seed=9)
    fields = (
        "['prompt', 'n', 'set-temperature', 'set-stop', 'set-seed']"
        ".map(id => document.getElementById(id).value)"
    )
    expected = page.evaluate(fields)
    page.evaluate("navigator.clipboard.writeText = async text => { window.copied = text }")
    page.click("#copy-link")
    page.wait("window.copied")
    link = page.evaluate("window.copied")
    open_page(page, url)
    assert page.evaluate(fields) == expected
    page.evaluate("localStorage.clear()")
    open_page(page, link)
    assert page.evaluate(fields) == expected
    assert page.evaluate("location.hash") == ""  # later edits must not be undone by a reload
    assert page.complaints == []


def test_errors_are_shown_plainly(page: Page) -> None:
    error = "document.getElementById('error')"
    write(page, "")
    page.click("#run")
    page.wait(f"!{error}.hidden")
    write(page, "あ" * 2000)
    page.click("#run")
    page.wait(f"{IDLE} && /\\d/.test({error}.textContent)")
    assert "{" not in page.evaluate(f"{error}.textContent")
    write(page, PROMPT, max_tokens=3, n=1)
    run_until(page, 3)
    assert page.evaluate(f"{error}.hidden")
    assert len(page.complaints) == 1  # the browser's own note of the 400
    assert "400" in page.complaints[0]


def test_a_key_is_asked_for_and_kept_for_the_tab(browser: Page) -> None:
    with in_thread(keys=("sesame",)) as locked:
        open_page(browser, f"{locked.url}/")
        browser.wait("!document.getElementById('key').hidden")
        browser.click("#secret")
        browser.type("sesame")
        browser.press("Enter")
        browser.wait(READY)
        browser.complaints.clear()  # the browser's note of the 401
        write(browser, PROMPT, n=1, max_tokens=3)
        run_until(browser, 3)
        assert "sesame" not in browser.evaluate("JSON.stringify(localStorage)")
        assert "sesame" not in browser.evaluate("document.documentElement.innerText")
        assert browser.complaints == []
