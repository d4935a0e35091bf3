"""The churn against the app on FakeEngine: nothing is found where nothing is wrong, and what is wrong is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from steer_server.catalogue.base_model import BaseModel
from steer_server.errors import EvaluationError
from steer_server.evaluation.churn.acts import Kind
from steer_server.evaluation.churn.churn import ChurnOptions, ChurnRun, run_churn
from steer_server.evaluation.churn.reload import ReloadOptions, run_reload
from steer_server.evaluation.churn.reload_report import verdicts as reload_verdicts
from steer_server.evaluation.churn.reload_report import write_reload
from steer_server.evaluation.churn.report import churn_results, verdicts, write_churn
from steer_server.settings import Settings
from tests.support.adapters import TINY, random_adapter, tiny_base_model
from tests.support.servers import NUM_SLOTS, Running, app_server

KEY = "operator-secret"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny_base_model(tmp_path_factory.mktemp("model") / TINY)


@pytest.fixture(scope="module")
async def server(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    folder = tmp_path_factory.mktemp("server")
    random_adapter(folder / "adapters", "stable", base)
    settings = Settings(
        model=base.path,
        served_model_name="fake",
        bank_rank=8,
        adapters=folder / "adapters",
        data=folder / "data",
        admin_key=SecretStr(KEY),
    )
    async with app_server(settings, key=KEY, token_seconds=0.003) as running:
        yield running


@pytest.fixture
def options(server: Running, base: BaseModel, tmp_path: Path) -> ChurnOptions:
    random_adapter(tmp_path, "source", base)
    return ChurnOptions(
        server.url, tmp_path / "source", KEY, streams=3, acts=16, names=2, quiet_seconds=0.2, hang_seconds=60
    )


async def names_served(server: Running) -> set[str]:
    async with server.http() as http:
        listed = (await http.get("/v1/adapters")).raise_for_status().json()["data"]
    return {one["name"] for one in listed}


def shown(run: ChurnRun, options: ChurnOptions) -> dict[str, bool | None]:
    return {verdict.name: verdict.is_shown for verdict in verdicts(churn_results(run, options))}


class Tampering(httpx.AsyncHTTPTransport):
    """A way to the real app on which the fifth steered stream is spoilt, and for "connection" one act too."""

    def __init__(self, wrong: str) -> None:
        super().__init__()
        self.wrong = wrong
        self.num_streams = 0
        self.num_quarantines = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        self.num_quarantines += request.url.path.endswith("/quarantine")
        if (
            self.wrong == "connection"
            and request.url.path.endswith("/quarantine")
            and self.num_quarantines == 1
        ):
            await response.aread()
            return httpx.Response(500, json={"error": {"message": "broken", "code": "internal_error"}})
        if _is_steered(request) and response.status_code == 200:
            self.num_streams += 1
            if self.num_streams == 5:
                return httpx.Response(200, stream=Spoilt(response, self.wrong))
        return response


def _is_steered(request: httpx.Request) -> bool:
    """Not one of those that ask again, which have a salt."""
    is_chat = request.url.path == "/v1/chat/completions"
    return is_chat and b'"cultures"' in request.content and b"cache_salt" not in request.content


class Spoilt(httpx.AsyncByteStream):
    def __init__(self, response: httpx.Response, wrong: str) -> None:
        self.response, self.wrong = response, wrong

    async def __aiter__(self) -> AsyncIterator[bytes]:
        seen = b""
        assert isinstance(self.response.stream, httpx.AsyncByteStream)
        async for piece in self.response.stream:
            seen += piece
            if self.wrong == "connection" and seen.count(b"data: ") > 5:
                raise httpx.RemoteProtocolError("peer closed connection")
            yield piece.replace(b'" w', b'" not w', 1) if self.wrong == "text" else piece

    async def aclose(self) -> None:
        await self.response.aclose()


async def test_where_nothing_is_wrong_all_is_shown_and_everything_is_removed(
    server: Running, options: ChurnOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = await run_churn(options)
    assert run.load.failures == []
    assert set(run.operator.seconds) == set(Kind) and run.operator.num_acts == options.acts
    assert run.texts is not None and run.texts.num_checked.keys() == {"alone", "blend", "unsteered"}
    found = shown(run, options)
    assert found.pop("gaps") is not None  # how long a gap was is not for a test to judge
    found.pop("memory_flat")
    assert found == {"nothing_failed": True, "one_version_per_answer": True, "all_given_back": True}
    assert await names_served(server) == {"stable"}
    results = churn_results(run, options)
    write_churn(results, tmp_path, KEY)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["requests"]["answered"]["churn"] > 0 and report["acts"]["switch"]["count"] >= 1
    assert {"hardware", "commit", "command", "gaps", "memory", "verdicts"} <= report.keys()
    page = (tmp_path / "report.html").read_text()
    assert "<svg" in page and "one_version_per_answer" in page
    assert KEY not in page and KEY not in json.dumps(report) and "rollback" in capsys.readouterr().out


async def test_a_stream_that_is_cut_and_an_act_that_fails_are_failures(
    server: Running, options: ChurnOptions
) -> None:
    run = await run_churn(replace(options, acts=8), Tampering("connection"))
    assert sorted(failure.kind for failure in run.load.failures) == ["act", "cut"]
    assert shown(run, options)["nothing_failed"] is False
    assert await names_served(server) == {"stable"}


async def test_one_wrong_word_in_one_answer_is_seen(server: Running, options: ChurnOptions) -> None:
    run = await run_churn(replace(options, acts=4), Tampering("text"))
    assert run.texts is not None and len(run.texts.unequal) == 1
    assert shown(run, options)["one_version_per_answer"] is False


async def test_interrupted_it_removes_what_it_pushed(server: Running, options: ChurnOptions) -> None:
    task = asyncio.create_task(run_churn(replace(options, acts=10_000)))
    async with asyncio.timeout(60):
        while len(await names_served(server)) < 3:
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await names_served(server) == {"stable"}


async def test_a_folder_that_is_no_lora_is_refused_before_anything_is_pushed(
    server: Running, options: ChurnOptions, base: BaseModel, tmp_path: Path
) -> None:
    random_adapter(tmp_path, "compass", base, axes=["helpful"])
    with pytest.raises(EvaluationError, match="kind is panacea"):
        await run_churn(replace(options, package=tmp_path / "compass"))
    assert await names_served(server) == {"stable"}


async def test_after_many_reloads_slots_and_leases_are_as_before(
    server: Running, options: ChurnOptions, tmp_path: Path
) -> None:
    assert server.steer is not None and server.fake is not None
    resident, num_loads = server.steer.leases.resident, server.fake.num_loads
    _, results = await run_reload(ReloadOptions(server.url, options.package, KEY, cycles=12))
    assert results["failures"] == [] and results["slots"] == NUM_SLOTS
    # Every cycle of either way loads: activation by its probe, pressure because the slots do not suffice.
    assert server.fake.num_loads - num_loads >= 12
    assert server.steer.leases.num_leases == 0 and server.steer.leases.num_waiting == 0
    assert set(server.steer.leases.resident) <= set(resident)
    assert await names_served(server) == {"stable"}
    found = {verdict.name: verdict.is_shown for verdict in reload_verdicts(results)}
    found.pop("memory_flat")
    assert found == {"nothing_failed": True, "same_texts": True, "all_given_back": True}
    write_reload(results, reload_verdicts(results), tmp_path, KEY)
    assert json.loads((tmp_path / "report.json").read_text())["cycles"] == 12
    assert "same_texts" in (tmp_path / "report.html").read_text()
