"""The soak on the app: nothing is found where nothing is wrong, and what is wrong is."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import httpx
import pytest

from steer_server.errors import EvaluationError
from steer_server.evaluation.client import ServerInfo
from steer_server.evaluation.html import write_all
from steer_server.evaluation.load import soak
from steer_server.evaluation.load.offer import Offer, Vectors
from steer_server.evaluation.load.open_loop import Window
from steer_server.evaluation.load.server_watch import ServerWatch, numbers_held
from steer_server.evaluation.load.soak import SoakOptions, SoakRun, run_soak
from steer_server.evaluation.load.soak_load import SHARES, Asked, End, Mix
from steer_server.evaluation.load.soak_report import sections, soak_results, tables, verdicts
from tests.evaluation.load.load_server import Proxy, Wrong, load_server
from tests.support.servers import Running

ALL = ("nothing_hangs", "good_are_answered", "bad_are_refused", "all_given_back")
NUM_BAD = 12
ERROR = {"message": "full", "type": "ServiceUnavailableError", "param": None, "code": "no_bank_slot"}


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with load_server(tmp_path_factory.mktemp("load")) as running:
        yield running


def options(server: Running, **changed: Any) -> SoakOptions:
    given = {
        "minutes": 0.025,
        "rate": 20.0,
        "max_tokens": 12,
        "oversized_bytes": 500_000,
        "pause_seconds": 0.01,
        "hang_seconds": 60.0,
        "settle_seconds": 30.0,
        "sample_seconds": 0.05,
    }
    return SoakOptions(server.url, **{**given, **changed})


def shown(run: SoakRun, asked: SoakOptions) -> dict[str, bool | None]:
    found = {verdict.name: verdict.is_shown for verdict in verdicts(soak_results(run, asked))}
    # This process is server, client and test in one.
    found.pop("memory_flat")
    found.pop("handles_given_back")
    return found


async def test_where_nothing_is_wrong_all_is_shown_of_every_kind_of_request(
    server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = options(server)
    run = await run_soak(asked, Proxy())
    results = soak_results(run, asked)
    assert results["failures"] == []
    assert shown(run, asked) == dict.fromkeys(ALL, True)
    kinds = set(results["kinds"])
    assert {kind for kind in kinds if "/" not in kind} == set(SHARES) - {"bad"}
    assert len(kinds - set(SHARES)) == NUM_BAD
    assert results["kinds"]["left_stream"]["ends"].keys() == {"left"}
    assert results["kinds"]["bad/oversized_body"]["ends"].keys() == {"refused"}
    assert results["watched"]["most_held"]["steer_plans_in_flight"] >= 1
    assert run.left == {} and results["load"]["sent"] > 10
    write_all(tmp_path, "Soak", results, sections(results), tables(results))
    report = json.loads((tmp_path / "report.json").read_text())
    assert {"hardware", "commit", "command", "watched", "verdicts"} <= report.keys()
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 2 and "all_given_back" in page
    assert "bad/two_sources" in capsys.readouterr().out


async def test_what_is_wrong_is_found_and_nothing_else(server: Running) -> None:
    asked = options(server, hang_seconds=15.0)
    run = await run_soak(asked, Wrong())
    expected = dict.fromkeys(("nothing_hangs", "good_are_answered", "bad_are_refused"), False)
    assert shown(run, asked) == {**expected, "all_given_back": True}
    failures = soak_results(run, asked)["failures"]
    ends = Counter((one["kind"], one["end"]) for one in failures)
    assert ends.pop(("bad/unknown_culture", End.WRONG)) >= 2
    # The first steered stream of all is that of the first round of every kind, the second score another.
    assert ends == {("steered_stream", End.HANG): 1, ("scoring", End.WRONG): 1}
    details = {one["kind"]: one["detail"] for one in failures}
    assert "200 in place of 400" in details["bad/unknown_culture"]
    assert details["scoring"] == "500: Internal Server Error"


async def test_what_is_not_given_back_or_closed_is_seen(server: Running, tmp_path: Path) -> None:
    opened: list[TextIOWrapper] = []

    async def leak() -> None:
        while True:
            opened.append((tmp_path / str(len(opened))).open("w"))
            await asyncio.sleep(0.02)

    assert server.steer is not None
    lease = await server.steer.leases.acquire([server.steer.catalogue.snapshot.cultures["amber"]])
    asked = options(server, settle_seconds=1.0, minutes=0.08, rate=5.0)
    leaking = asyncio.create_task(leak())
    try:
        run = await run_soak(asked, Proxy())
    finally:
        lease.release()
        leaking.cancel()
        with suppress(asyncio.CancelledError):
            await leaking
        for one in opened:
            one.close()
    assert shown(run, asked) == {**dict.fromkeys(ALL, True), "all_given_back": False}
    assert run.left == {"steer_slots_leased": 1.0, "steer_slot_leases": 1.0}
    assert run.settled_seconds >= 1.0
    results = soak_results(run, asked)
    found = {verdict.name: verdict.is_shown for verdict in verdicts(results)}
    assert found["handles_given_back"] is False
    # Processes that other tests left running are watched too; they open nothing.
    trends = [trend for trend in results["watched"]["handles_trend"].values() if trend]
    assert max(trend["growth"] for trend in trends) > 10


async def test_a_plan_that_stays_in_flight_is_seen_on_the_page(server: Running) -> None:
    from steer_server.steering.plan import AdapterGate, SteeringPlan

    assert server.steer is not None
    plan = SteeringPlan("adapters", (AdapterGate("amber", "1.0.0", "d", 0.5),))
    async with server.http() as http:
        before = await numbers_held(http)
        server.steer.metrics.begin_run(plan)
        during = await numbers_held(http)
        server.steer.metrics.end_run(plan)
        after = await numbers_held(http)
    assert (
        before is not None and during is not None and after == before | {"steer_requests_running adapters": 0}
    )
    assert during["steer_plans_in_flight"] == during["steer_plans_distinct"] == 1
    assert (
        during["steer_requests_running adapters"] == during["steer_adapter_requests_running amber@1.0.0"] == 1
    )


async def test_the_rate_is_looked_for_when_none_is_given(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak, "FIRST_RATE", 10.0)
    asked = options(server, rate=0.0, search_seconds=1.0, minutes=0.01)
    run = await run_soak(asked, Proxy())
    assert run.window.rate == run.rate == max(one.rate for one in run.tried if one.is_sustained)
    found = sections(soak_results(run, asked))
    assert any("sustained" in table.header for section in found for table in section.tables)


def mix(transport: httpx.AsyncBaseTransport) -> Mix:
    offer = Offer("m", ("adapters", "none"), ("amber",), (), (), (), 1.0, 4, 4)
    http = httpx.AsyncClient(transport=transport, base_url="http://server")
    return Mix(http, http, Vectors(offer, random.Random(1)), random.Random(1), [], 4, 0.0, 60.0)


@pytest.mark.parametrize(
    ("response", "end"),
    [
        (httpx.Response(503, headers={"Retry-After": "1"}, json={"error": ERROR}), End.NO_ROOM),
        (httpx.Response(502, json={"error": ERROR | {"code": "engine_error"}}), End.WRONG),
        (httpx.Response(400, json={"error": ERROR | {"code": "unknown_culture"}}), End.WRONG),
        (httpx.Response(200, text="what?"), End.WRONG),
    ],
)
async def test_good_requests_end_as_the_answer_says(response: httpx.Response, end: End) -> None:
    asked = await mix(httpx.MockTransport(lambda _: response)).send_each_once()
    assert {one.kind for one in asked} >= {"stream", "whole", "completion", "slow_reader"}
    assert {one.end for one in asked} == {end}
    assert {one.problem for one in asked} == {end.value}


async def test_a_full_server_that_does_not_say_when_to_come_back_is_wrong() -> None:
    full = httpx.MockTransport(lambda _: httpx.Response(503, json={"error": ERROR}))
    ends = {one.kind: one.end for one in await mix(full).send_each_once()}
    assert ends["whole"] == ends["steered_whole"] == End.WRONG


def described(**changed: Any) -> dict[str, Any]:
    flat = {"first": 1000.0, "middle": 1000.0, "last": 1001.0, "growth": 1.0, "noise": 0.5}
    kinds = {"stream": {"ends": {"answered": 200}}, "bad/too_much": {"ends": {"refused": 3}}}
    watched = {"memory_trend": {"p 1": flat}} | changed.pop("watched", {})
    return {
        "options": {"hang_seconds": 60.0},
        "kinds": kinds | changed.pop("kinds", {}),
        "watched": watched,
        "left": {},
        "settled_seconds": 0.1,
        "handles_before_and_after": {"p 1": (50, 52)},
        **changed,
    }


GROWN = {"first": 1000.0, "middle": 1000.0, "last": 1020.0, "growth": 20.0, "noise": 1.0}


@pytest.mark.parametrize(
    ("changed", "name", "is_shown"),
    [
        ({"kinds": {"slow_reader": {"ends": {"hang": 1}}}}, "nothing_hangs", False),
        ({"kinds": {"whole": {"ends": {"wrong": 1}}}}, "good_are_answered", False),
        ({"kinds": {"whole": {"ends": {"no_room": 2}}}}, "good_are_answered", True),
        ({"kinds": {"whole": {"ends": {"no_room": 3}}}}, "good_are_answered", False),
        ({"kinds": {"bad/broken_json": {"ends": {"wrong": 1}}}}, "bad_are_refused", False),
        ({"kinds": {"bad/too_much": {"ends": {}}}}, "bad_are_refused", False),
        ({"left": {"steer_slot_leases": 1.0}}, "all_given_back", False),
        ({"left": None}, "all_given_back", None),
        ({"watched": {"memory_trend": {"p 1": GROWN}}}, "memory_flat", False),
        ({"watched": {"memory_trend": {"p 1": {**GROWN, "noise": 7.0}}}}, "memory_flat", True),
        ({"watched": {"memory_trend": {"p 1": {**GROWN, "first": 3000.0}}}}, "memory_flat", True),
        ({"watched": {"memory_trend": {"p 1": None}}}, "memory_flat", None),
        ({"watched": {"memory_trend": {}}}, "memory_flat", None),
        ({"handles_before_and_after": {"p 1": (50, 55)}}, "handles_given_back", False),
        ({"handles_before_and_after": {}}, "handles_given_back", None),
    ],
)
def test_each_verdict_falls_with_its_own_number(
    changed: dict[str, Any], name: str, is_shown: bool | None
) -> None:
    assert all(verdict.is_shown for verdict in verdicts(described()))
    found = {verdict.name: verdict.is_shown for verdict in verdicts(described(**changed))}
    assert found[name] is is_shown
    assert all(value for key, value in found.items() if key != name)


def test_a_verdict_that_falls_is_an_error_after_the_report(
    server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = options(server)
    window: Window[Asked] = Window(1.0, 0.0, 1.0, [])
    info = ServerInfo(server.url, server.model, (), ())
    watched = ServerWatch(httpx.AsyncClient(), []).describe()

    async def ran(_: SoakOptions) -> SoakRun:
        return SoakRun(info, 1.0, [], window, [], [], watched, 0.0, {"steer_slot_leases": 1.0}, {})

    monkeypatch.setattr(soak, "run_soak", ran)
    with pytest.raises(EvaluationError, match=r"not shown: .*all_given_back"):
        soak.evaluate_soak(asked, tmp_path)
    assert (tmp_path / "report.html").exists()
