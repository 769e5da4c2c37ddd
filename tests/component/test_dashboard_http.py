"""The files of the dashboard and the API's page over HTTP: what browsers may keep, and what they must not do."""

import re

import pytest

from tests.component.test_http import App, app

__all__ = ["app"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

each_page = pytest.mark.parametrize("path", ["/", "/docs"])


async def named(app: App) -> list[str]:
    """The files that the pages name."""
    pages = [await app.get(path) for path in ("/", "/docs")]
    return sorted({name for page in pages for name in re.findall(r'"(/dashboard/[^"]+)"', page.text)})


@each_page
async def test_a_page_is_looked_up_each_time_and_sent_only_when_it_changed(app: App, path: str) -> None:
    page = await app.get(path)
    assert page.status_code == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.headers["Cache-Control"] == "no-cache"
    again = await app.client.get(path, headers={"If-None-Match": page.headers["ETag"]})
    assert again.status_code == 304
    assert not again.content


async def test_the_page_knows_the_zone_and_the_currency_of_the_platform(app: App) -> None:
    page = await app.get("/")
    assert 'data-timezone="Africa/Lagos"' in page.text
    assert 'data-currency="NGN"' in page.text


async def test_its_files_may_be_kept_for_ever(app: App) -> None:
    files = await named(app)
    assert {path.rpartition(".")[2] for path in files} == {"css", "js", "svg"}
    for path in files:
        answer = await app.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert answer.headers["Content-Type"].startswith(("text/css", "text/javascript", "image/svg+xml"))


async def test_the_files_of_another_release_are_there_but_not_kept(app: App) -> None:
    answer = await app.get("/dashboard/0123456789abcdef/app.js")
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"


async def test_what_is_no_file_of_it_is_not_found(app: App) -> None:
    for path in (
        "/dashboard/x/index.html",
        "/dashboard/x/docs.html",
        "/dashboard/x/nothing.js",
        "/dashboard/x/..%2F__init__.py",
    ):
        assert (await app.get(path)).status_code == 404, path


async def test_files_are_packed_for_those_who_take_it(app: App) -> None:
    script = next(path for path in await named(app) if path.endswith("app.js"))
    packed = await app.client.get(script, headers={"Accept-Encoding": "br, gzip"})
    plain = await app.client.get(script, headers={"Accept-Encoding": "gzip;q=0"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain.headers
    assert int(packed.headers["Content-Length"]) < int(plain.headers["Content-Length"])
    assert packed.text == plain.text
    assert packed.headers["Vary"] == "Accept-Encoding"


@each_page
async def test_nothing_inline_and_nothing_from_elsewhere_may_run(app: App, path: str) -> None:
    page = await app.get(path)
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert not re.search(r"<style|style=|<script>|\son\w+=|https?://", page.text)


async def test_it_is_no_part_of_the_documented_api(app: App) -> None:
    schema = await app.get_json("/schema")
    assert not [path for path in schema["paths"] if path == "/" or path.startswith(("/dashboard", "/docs"))]
