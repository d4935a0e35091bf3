"""The page is served whole by the server itself, open to whoever comes, and allows nothing from elsewhere."""

from __future__ import annotations

import gzip
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from steer_server.app import attach
from steer_server.catalogue.base_model import BaseModel
from steer_server.playground.pages import DIST
from steer_server.settings import Settings
from tests.support.servers import Running, app_server

MAX_BYTES = 100_000
FILES = sorted(path for path in DIST.rglob("*") if path.is_file())


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    attach(app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://h") as client:
        yield client


async def test_the_page_and_all_that_it_names_are_there(http: httpx.AsyncClient) -> None:
    page = await http.get("/playground/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    named = re.findall(r'(?:src|href)="\./(.*?)"', page.text)
    assert {f"assets/{path.name}" for path in FILES if path.name != "index.html"} == set(named)
    for name in named:
        assert (await http.get(f"/playground/{name}")).status_code == 200
    assert (await http.get("/playground/assets/absent.js")).status_code == 404


@pytest.mark.parametrize("prefix", ["", "/behind/a/proxy"])
async def test_without_its_slash_the_page_is_found_too(prefix: str, http: httpx.AsyncClient) -> None:
    found = await http.get("/playground")
    assert found.status_code == 308
    assert httpx.URL(f"http://h{prefix}/playground").join(found.headers["location"]).path == (
        f"{prefix}/playground/"
    )


async def test_nothing_may_be_loaded_from_elsewhere_and_no_script_stand_in_the_page(
    http: httpx.AsyncClient,
) -> None:
    page = await http.get("/playground/")
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert set(policy.values()) == {"'none'", "'self'"}
    assert not re.search(r"<script(?![^>]*\bsrc=)|\bon\w+=|style=", page.text)


async def test_files_named_by_their_content_are_kept_and_the_page_is_not(http: httpx.AsyncClient) -> None:
    (script,) = [path.name for path in FILES if path.suffix == ".js"]
    assert "immutable" in (await http.get(f"/playground/assets/{script}")).headers["cache-control"]
    assert (await http.get("/playground/")).headers["cache-control"] == "no-cache"


def test_all_of_it_is_less_than_100_kb_compressed() -> None:
    total = sum(len(gzip.compress(path.read_bytes(), mtime=0)) for path in FILES)
    assert 10_000 < total < MAX_BYTES


async def test_the_page_is_open_and_what_it_asks_for_is_not(
    base: BaseModel, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("server")
    settings = Settings(
        model=base.path,
        served_model_name="fake",
        data=folder,
        api_key=SecretStr("static"),
        admin_key=SecretStr("admin"),
    )
    async with app_server(settings, key="static") as running, running.http(key="") as stranger:
        assert (await stranger.get("/playground/")).status_code == 200
        assert (await stranger.get("/playground")).status_code == 308
        assert (await stranger.get("/v1/steering")).status_code == 401
        assert (await stranger.get("/playgrounds")).status_code == 401


async def test_the_page_stands_in_no_openapi_document(site: Running) -> None:
    async with site.http() as http:
        assert "/playground" not in (await http.get("/openapi.json")).text
