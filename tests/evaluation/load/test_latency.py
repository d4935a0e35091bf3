"""`bench latency` on the app: what is measured is what was sent, and what fails is counted and not timed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from steer_server.errors import EvaluationError
from steer_server.evaluation.html import write_all
from steer_server.evaluation.load import latency
from steer_server.evaluation.load.latency import LatencyOptions, Timed, run_latency
from steer_server.evaluation.load.latency_report import (
    describe_windows,
    headline,
    latency_results,
    percentiles,
    sections,
    tables,
)
from steer_server.evaluation.load.open_loop import Arrivals, Window
from tests.evaluation.load.load_server import Full, load_server
from tests.support.servers import Running

NUM_TOKENS = 6


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with load_server(tmp_path_factory.mktemp("load")) as running:
        yield running


def options(server: Running, **changed: Any) -> LatencyOptions:
    given = {"seconds": 0.5, "rates": (20.0,), "max_tokens": NUM_TOKENS, "arrivals": Arrivals.EVEN}
    return LatencyOptions(server.url, **{**given, **changed})


async def test_every_method_is_measured_at_every_rate_and_the_report_says_so(
    server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = options(server, rates=(6.0, 12.0))
    results = latency_results(await run_latency(asked), asked)
    methods = ("none", "adapters", "align_pro", "best_of_n", "diffpo")
    assert [(run["method"], run["rate"]) for run in results["runs"]] == [
        (method, rate) for rate in (6.0, 12.0) for method in methods
    ]
    for run in results["runs"]:
        assert run["sent"] == run["answered"] == run["rate"] / 2 and run["errors"] == {}
        assert run["sent_per_second"] == run["rate"]
        first, each, whole = (run[key] for key in ("first_token_seconds", "token_seconds", "seconds"))
        assert 0 < first["p50"] <= whole["p50"] and whole["p50"] <= whole["p90"] <= whole["p99"]
        if run["method"] in ("none", "adapters", "align_pro"):
            assert run["tokens_per_answer"] == NUM_TOKENS and each["p50"] > 0
        else:
            assert each["p50"] is None  # the text came at once
    plans = {run["method"]: run["plans"] for run in results["runs"] if run["rate"] == 12.0}
    assert plans["none"] == 1 and plans["adapters"] == 6
    write_all(tmp_path, "Latency", results, sections(results), tables(results))
    report = json.loads((tmp_path / "report.json").read_text())
    assert {"hardware", "commit", "command", "options", "server"} <= report.keys()
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 3 and "Per output token" in page
    assert "late p99 ms" in capsys.readouterr().out
    assert headline(results)["rate"] == 12.0


async def test_refusals_are_counted_by_code_and_are_in_no_percentile(server: Running) -> None:
    asked = options(server, methods=("none", "adapters"))
    results = latency_results(await run_latency(asked, Full()), asked)
    plain, steered = results["runs"]
    assert plain["answered"] == 10 and plain["errors"] == {}
    assert steered["answered"] == 0 and steered["errors"] == {"no_bank_slot": 10}
    assert steered["seconds"]["p99"] is None and sections(results)


async def test_a_stream_that_does_not_end_in_time_is_an_error(server: Running) -> None:
    asked = options(server, methods=("none",), max_tokens=500, timeout_seconds=0.2, rates=(4.0,))
    results = latency_results(await run_latency(asked), asked)
    assert results["runs"][0]["errors"] == {"timeout": 2}


async def test_the_highest_sustained_rate_is_looked_for(server: Running) -> None:
    asked = options(server, methods=("none",), rates=(10.0,), find_rate=True, timeout_seconds=2)
    results = latency_results(await run_latency(asked), asked)
    found = results["sustained"]["none"]
    sustained = [one["rate"] for one in found["tried"] if one["is_sustained"]]
    assert found["rate"] == max(sustained, default=0.0)
    assert [table.header[2] for table in tables(results)][-1] == "sustained"


async def test_what_is_not_offered_is_an_error(server: Running) -> None:
    with pytest.raises(EvaluationError, match="not offered: magic; there are: adapters"):
        await run_latency(options(server, methods=("magic",)))


def test_a_run_in_which_nothing_was_answered_fails_after_its_report(
    server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = Window("", 0.0, 1.0, [Timed(0.5, 0.5, 0.6, "timeout")])  # type: ignore[arg-type]

    async def ran(_: LatencyOptions) -> Any:
        found = latency.LatencyRun(_info(server), None)  # type: ignore[arg-type]
        found.windows[("none", 1.0)] = [empty]
        return found

    monkeypatch.setattr(latency, "run_latency", ran)
    with pytest.raises(EvaluationError, match="no request was answered"):
        latency.evaluate_latency(options(server), tmp_path)
    assert (tmp_path / "report.html").exists()


def _info(server: Running) -> latency.ServerInfo:
    return latency.ServerInfo(server.url, server.model, (), ())


@pytest.mark.parametrize(
    ("key", "read"),
    [("first_token_seconds", lambda i: 0.001 * i), ("seconds", lambda i: 0.002 * i)],
)
def test_percentiles_are_of_the_answered_requests_of_all_rounds(
    key: str, read: Callable[[int], float]
) -> None:
    sent = [Timed(i, i, i + 0.002 * i, "", 0.001 * i, None, 4, str(i % 3)) for i in range(1, 101)]
    late = Timed(50.0, 51.0, 99.0, "timeout", 40.0)
    found = describe_windows([Window(1.0, 0.0, 51.0, [*sent[:50], late]), Window(1.0, 51.0, 50.0, sent[50:])])
    assert found["sent"] == 101 and found["answered"] == 100 and found["errors"] == {"timeout": 1}
    assert found[key]["p50"] == pytest.approx(read(50), rel=0.02)
    assert found[key]["p95"] == pytest.approx(read(95), rel=0.02)
    assert found[key]["max"] == pytest.approx(read(100)) and found["plans"] == 3
    assert found["late_p99_seconds"] == 0.0 and found["tokens_per_answer"] == 4


def test_nothing_has_no_percentiles() -> None:
    assert set(percentiles([]).values()) == {None}


async def test_a_body_asks_for_all_tokens_and_for_a_vector_of_its_own(server: Running) -> None:
    bodies: list[dict[str, Any]] = []

    class Listening(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.method == "POST":
                bodies.append(json.loads(request.content))
            return await super().handle_async_request(request)

    await run_latency(options(server, methods=("adapters", "diffpo")), Listening())
    assert len({repr(body["steering"]) for body in bodies}) == len(bodies)
    assert len({body["messages"][0]["content"] for body in bodies}) == len(bodies)
    for body in bodies:
        assert body["stream"] and body["stream_options"] == {"include_usage": True}
        # An answer that diffpo changes may end where it ends.
        assert body.get("ignore_eos", False) == (body["steering"]["method"] != "diffpo")
