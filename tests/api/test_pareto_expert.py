"""A `pareto-expert` from push to answer, on the fake engine, over a real socket and by commands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from steer_server.catalogue.base_model import BaseModel
from steer_server.cli import app
from steer_server.settings import Settings
from tests.support.adapters import TINY, random_adapter, tiny_base_model
from tests.support.administration import PROMPT, get, push, refused
from tests.support.experts import write_expert
from tests.support.servers import Running, app_server

VECTORS = {"amber": {"frank": 1.0}, "blue": {"gentle": 1.0}, "coral": {"frank": 0.4, "gentle": 0.6}}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny_base_model(tmp_path_factory.mktemp("model") / TINY)


@pytest.fixture(scope="module")
def folder(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight ranks, of three anchors."""
    parent = tmp_path_factory.mktemp("experts")
    for name, rank in (("amber", 4), ("blue", 2), ("coral", 2)):
        random_adapter(parent, name, base, rank=rank)
    return write_expert(parent, parent / "out", "experts", Settings(model=base.path), VECTORS)


@pytest.fixture(scope="module")
async def server(
    base: BaseModel, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Running]:
    settings = Settings(
        model=base.path,
        served_model_name="fake",
        bank_rank=8,
        data=tmp_path_factory.mktemp("server"),
        admin_key=SecretStr("admin"),
    )
    async with app_server(settings, key="admin") as running:
        pushed = await push(running, folder)
        assert pushed.status_code == 201, pushed.text
        yield running


async def ask(server: Running, steering: Any) -> dict[str, Any]:
    body = {"model": "fake", "messages": PROMPT, "max_tokens": 8, "steering": steering}
    async with server.http() as http:
        answer: dict[str, Any] = (
            (await http.post("/v1/chat/completions", json=body)).raise_for_status().json()
        )
    return {"text": answer["choices"][0]["message"]["content"], **answer["steering"]}


async def test_its_axes_can_be_asked_for(server: Running) -> None:
    offered = (await get(server, "/v1/steering"))["values"]
    assert offered == [
        {"id": axis, "description": f"made up, {axis}", "adapter": "experts@1.0.0", "range": [0.0, 1.0]}
        for axis in ("frank", "gentle")
    ]


async def test_preference_vectors_steer_and_the_answer_says_what_was_applied(server: Running) -> None:
    plain = await ask(server, {"method": "none"})
    answers = [await ask(server, {"values": vector}) for vector in VECTORS.values()]
    assert len({one["text"] for one in (plain, *answers)}) == 4
    assert answers[2]["applied"] == [{"adapter": "experts@1.0.0", "weight": 1.0}]
    assert answers[2]["values"] == {"frank": 0.4, "gentle": 0.6}
    scaled = await ask(server, {"values": {"gentle": 3, "frank": 2}})
    assert (scaled["plan"], scaled["text"]) == (answers[2]["plan"], answers[2]["text"])
    off = await ask(server, {"values": {"gentle": 1}, "strength": 0})
    assert (off["plan"], off["text"], off["applied"]) == (plain["plan"], plain["text"], [])


async def test_it_is_listed_and_shown_with_its_anchors(server: Running, folder: Path) -> None:
    (listed,) = (await get(server, "/v1/adapters"))["data"]
    assert (listed["kind"], listed["axes"]) == ("pareto-expert", ["frank", "gentle"])
    assert listed["anchors"] == [
        {"vector": VECTORS["amber"], "ranks": [0, 4]},
        {"vector": VECTORS["blue"], "ranks": [4, 6]},
        {"vector": VECTORS["coral"], "ranks": [6, 8]},
    ]
    arguments = ["adapters", "show", "experts", "--url", server.url]
    shown = await asyncio.to_thread(CliRunner().invoke, app, arguments, env={"STEER_ADMIN_KEY": "admin"})
    assert "carries      axes frank, gentle\n" in shown.output
    assert "anchors      frank 1; gentle 1; frank 0.4, gentle 0.6\n" in shown.output


async def test_an_axis_belongs_to_one_adapter_of_whatever_kind(
    server: Running, base: BaseModel, tmp_path: Path
) -> None:
    random_adapter(tmp_path, "compass", base, axes=["gentle", "brief"])
    error = refused(await push(server, tmp_path / "compass"), 409, "axis_taken")
    assert "experts@1.0.0" in error["message"]
