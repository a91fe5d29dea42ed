"""Who may ask: hosts, origins, keys, pages of other sites."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from tests.serving.running import Running, in_thread
from tests.serving.test_errors import told

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def guarded() -> Iterator[Running]:
    with in_thread(
        keys=("first-key", "second-key"),
        cors_origins=("https://app.example",),
        allowed_hosts=("llm.example",),
    ) as running:
        yield running


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8000", "127.0.0.1:9", "[::1]:8000", "my.localhost", "LOCALHOST"],
)
def test_names_of_the_loopback_interface(served: Running, host: str) -> None:
    assert served.client.get("/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "", "10.0.0.1", "[::"],
)
def test_other_names_are_refused(served: Running, host: str) -> None:
    answer = served.client.get("/v1/models", headers={"host": host})
    assert told(answer, 403)["code"] == "host_not_allowed"


def test_a_name_that_is_allowed(guarded: Running) -> None:
    assert guarded.client.get("/health", headers={"host": "llm.example"}).status_code == 200
    told(guarded.client.get("/health", headers={"host": "other.example"}), 403)


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "file://", "http://localhost.evil"]
)
def test_pages_of_other_sites_are_refused(served: Running, origin: str) -> None:
    answer = served.client.post("/v1/completions", json={"prompt": "x"}, headers={"origin": origin})
    assert told(answer, 403)["code"] == "origin_not_allowed"
    assert "access-control-allow-origin" not in answer.headers


def test_its_own_page_is_not(served: Running) -> None:
    answer = served.client.get("/v1/models", headers={"origin": served.url})
    assert answer.status_code == 200


def test_cors_where_it_is_asked_for(guarded: Running) -> None:
    headers = {
        "origin": "https://app.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    preflight = guarded.client.options("/v1/completions", headers=headers)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://app.example"
    answer = guarded.client.get("/v1/models", headers={"origin": "https://app.example"})
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    told(guarded.client.get("/v1/models", headers={"origin": "https://other.example"}), 403)


@pytest.mark.parametrize("key", ["first-key", "second-key"])
def test_any_of_the_keys_lets_in(guarded: Running, key: str) -> None:
    headers = {"authorization": f"Bearer {key}"}
    assert guarded.client.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "value",
    ["", "Bearer", "Bearer wrong", "Basic first-key", "first-key", "Bearer \xe9"],
)
@pytest.mark.parametrize(
    "path", ["/v1/models", "/metrics", "/version", "/openapi.json", "/tokenize"]
)
def test_without_a_key_nothing_is_told(guarded: Running, value: str, path: str) -> None:
    headers = [(b"authorization", value.encode("latin-1"))]
    answer = httpx.request(
        "POST" if path == "/tokenize" else "GET",
        guarded.url + path,
        headers=headers,
        trust_env=False,
    )
    assert told(answer, 401)["code"] == "invalid_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/health", "/ready", "/page/settings.json"])
def test_what_needs_no_key(guarded: Running, path: str) -> None:
    assert httpx.get(guarded.url + path, trust_env=False).status_code == 200


@pytest.mark.parametrize("value", ["Bearer", "Bearer anything", None])
def test_any_key_passes_where_none_is_set(served: Running, value: str | None) -> None:
    headers = {} if value is None else {"authorization": value}
    answer = httpx.get(f"{served.url}/v1/models", headers=headers, trust_env=False)
    assert answer.status_code == 200


def test_the_pages_files_and_no_others(tmp_path: Path) -> None:
    import asyncio

    from gpt2ja_serve.app import make_app
    from gpt2ja_serve.service import Service
    from gpt2ja_serve.settings import ServeSettings

    page = tmp_path / "page"
    (page / "parts").mkdir(parents=True)
    (page / "index.html").write_text("<p>頁</p>", encoding="utf-8")
    (page / "parts" / "view.js").write_text("export {}", encoding="utf-8")
    (page / "notes.txt").write_text("secret", encoding="utf-8")
    (tmp_path / "outside.js").write_text("secret", encoding="utf-8")
    app = make_app(Service(ServeSettings(keys=("key",))), page)

    async def fetch() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.get("/")
            assert answer.text == "<p>頁</p>"
            assert answer.headers["content-type"] == "text/html; charset=utf-8"
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'self';")
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            again = await client.get("/", headers={"if-none-match": answer.headers["etag"]})
            assert (again.status_code, again.text) == (304, "")
            script = await client.get("/parts/view.js")
            assert script.headers["content-type"] == "text/javascript; charset=utf-8"
            for path in ("/notes.txt", "/outside.js", "/../outside.js", "/parts/%2e%2e/outside.js"):
                assert (await client.get(path)).status_code in (401, 404)

    asyncio.run(fetch())
