"""The parts of a churn that need no server: what was possible when, which acts are, and the verdicts."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from steer_server.evaluation.churn.acts import Kind, Shown
from steer_server.evaluation.churn.report import verdicts
from steer_server.evaluation.churn.streams import Answered, Ask
from steer_server.evaluation.churn.texts import compare
from steer_server.evaluation.churn.timeline import Timeline
from steer_server.evaluation.server_memory import is_flat, trend
from steer_server.evaluation.streaming import Refused, StreamFailed, read_stream


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_while_an_act_is_under_way_both_outcomes_may_be_met_and_then_only_the_new_one() -> None:
    clock = Clock()
    timeline = Timeline(clock)
    for sent, answered, version in ((1.0, 2.0, "1"), (5.0, 6.0, "2"), (8.0, 9.0, None)):
        clock.now = sent
        timeline.begins("a", version)
        clock.now = answered
        timeline.ended("a")
    may = timeline.may_meet
    assert may("a", None, 0.0, 0.5) and not may("a", "1", 0.0, 0.5)
    assert may("a", None, 1.5, 1.6) and may("a", "1", 1.5, 1.6)
    assert not may("a", None, 2.5, 4.0) and may("a", "1", 2.5, 4.0) and not may("a", "2", 2.5, 4.0)
    assert may("a", "1", 5.5, 7.0) and may("a", "2", 5.5, 7.0)
    assert not may("a", "1", 6.5, 7.0) and not may("a", None, 6.5, 7.0)
    assert not may("a", "2", 9.5, 10.0) and may("a", None, 9.5, 10.0)
    assert timeline.active("a") is None and timeline.active("never seen") is None


def name_as_shown(states: dict[str, str], last: tuple[str, str | None] | None = None) -> Shown:
    """Args: last: action and previous version of the last move."""
    active = next((version for version, state in states.items() if state == "active"), None)
    versions = [{"version": v, "state": s, "digest": f"d{v}"} for v, s in states.items()]
    history = [{"action": last[0], "previous": last[1] and f"d{last[1]}"}] if last else []
    return Shown.of("a", {"versions": versions, "history": history, "active": active and f"d{active}"})


@pytest.mark.parametrize(
    ("states", "last", "expected"),
    [
        ({}, None, {("push", "1.0.0"), ("push", "2.0.0")}),
        (
            {"1.0.0": "retired", "2.0.0": "active"},
            ("activate", "1.0.0"),
            {
                ("rollback", "1.0.0"),
                ("switch", "1.0.0"),
                ("remove", "1.0.0"),
                ("quarantine", "2.0.0"),
                ("deactivate", "2.0.0"),
            },
        ),
        (
            {"1.0.0": "draining", "2.0.0": "quarantined"},
            ("deactivate", "1.0.0"),
            {
                ("rollback", "1.0.0"),
                ("activate", "1.0.0"),
                ("remove", "1.0.0"),
                ("release", "2.0.0"),
                ("remove", "2.0.0"),
            },
        ),
        (
            {"1.0.0": "quarantined"},
            ("quarantine", "1.0.0"),
            {("release", "1.0.0"), ("remove", "1.0.0"), ("push", "2.0.0")},
        ),
    ],
)
def test_only_acts_that_the_server_must_not_refuse_are_possible(
    states: dict[str, str], last: tuple[str, str | None] | None, expected: set[tuple[str, str]]
) -> None:
    acts = name_as_shown(states, last).possible_acts()
    assert {(act.kind.value, act.version) for act in acts} == expected
    switching = {Kind.SWITCH, Kind.ACTIVATE, Kind.ROLLBACK}
    assert all((act.leads_to == act.version) for act in acts if act.kind in switching)


def event(content: str, **more: Any) -> str:
    return f"data: {json.dumps({'choices': [{'delta': {'content': content}}], **more})}\n\n"


LAST = f"data: {json.dumps({'choices': [], 'steering': {'applied': [{'adapter': 'a@1'}]}})}\n\n"
DONE = "data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, event("x") + LAST, "cut"),
        (200, event("x") + DONE, "unusable"),
        (200, event("x") + 'data: {"error": {"code": "engine_error"}}\n\n' + DONE, "error_after_first_byte"),
        (200, "data: {]\n\n", "unusable"),
        (500, "Internal Server Error", "server_error"),
        (503, '{"error": {"code": "no_bank_slot", "message": "full"}}', "server_error"),
        (401, '{"error": {"code": "invalid_api_key", "message": "no"}}', "unusable"),
        (400, "what?", "unusable"),
    ],
)
async def test_streams_that_are_not_whole_are_told_apart(status: int, body: str, kind: str) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, text=body))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as http:
        with pytest.raises(StreamFailed) as failed:
            await read_stream(http, {})
    assert failed.value.kind == kind


async def test_a_whole_stream_is_read_and_a_clean_refusal_is_no_failure() -> None:
    bodies = {200: event("x") + event(" y") + LAST + DONE, 400: '{"error": {"code": "c", "message": "m"}}'}
    statuses = iter((200, 400))

    def answer(_: httpx.Request) -> httpx.Response:
        status = next(statuses)
        return httpx.Response(status, text=bodies[status])

    transport = httpx.MockTransport(answer)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as http:
        assert await read_stream(http, {}) == (("a@1",), "x y")
        with pytest.raises(Refused):
            await read_stream(http, {})


def test_a_text_of_the_other_version_is_told_from_one_that_batching_changed() -> None:
    ask = Ask((("a", 1.0),), "p")
    references = {(ask, ("a@1",)): "one", (ask, ("a@2",)): "two"}
    answers = [
        Answered(ask, (title,), text) for title, text in (("a@1", "one"), ("a@2", "one"), ("a@2", "2"))
    ]
    checked = compare(answers, references)
    assert checked.steered_share == pytest.approx(1 / 3) and checked.unsteered_share is None
    assert len(checked.of_another) == 1 and len(checked.unequal) == 2


def results(**changed: Any) -> dict[str, Any]:
    texts = {"steered_equal_share": 1.0, "unsteered_equal_share": 1.0, "of_another_version": 0}
    total = {"before_mib": 1000.0, "after_mib": 1001.0, "second_half_growth_mib": 1.0}
    return {
        "acts": {"push": {"count": 3}},
        "requests": {"answered": {"churn": 9}, "failed": 0},
        "failures": [],
        "texts": texts | changed.pop("texts", {}),
        "gap_ratio_p99": 1.5,
        "memory": {"total": total},
        "in_use": {"steer_slots": (1.0, 1.0), "steer_running": (None, 0.0)},
        **changed,
    }


@pytest.mark.parametrize(
    ("changed", "name", "is_shown"),
    [
        ({"requests": {"answered": {"churn": 9}, "failed": 1}}, "nothing_failed", False),
        ({"texts": {"steered_equal_share": 0.9}}, "one_version_per_answer", False),
        (
            {"texts": {"steered_equal_share": 0.9, "unsteered_equal_share": 0.9}},
            "one_version_per_answer",
            None,
        ),
        (
            {"texts": {"unsteered_equal_share": 0.9, "of_another_version": 1}},
            "one_version_per_answer",
            False,
        ),
        ({"gap_ratio_p99": 2.1}, "gaps", False),
        ({"gap_ratio_p99": None}, "gaps", None),
        ({"memory": None}, "memory_flat", None),
        ({"in_use": {"steer_slots": (1.0, 2.0)}}, "all_given_back", False),
        ({"in_use": {"steer_slots_resident": (0.0, 1.0)}}, "all_given_back", False),
        (
            {"in_use": {"steer_slots_resident": (0.0, 1.0), "steer_adapters_active": (1.0, 1.0)}},
            "all_given_back",
            True,
        ),
        ({"in_use": {"bank.slots": (8.0, 8.0)}}, "all_given_back", None),
    ],
)
def test_each_verdict_falls_with_its_own_number(
    changed: dict[str, Any], name: str, is_shown: bool | None
) -> None:
    assert all(verdict.is_shown for verdict in verdicts(results()))
    found = {verdict.name: verdict.is_shown for verdict in verdicts(results(**changed))}
    assert found[name] is is_shown
    assert all(value for key, value in found.items() if key != name)


def test_memory_that_only_grows_at_first_is_flat_and_a_leak_is_not() -> None:
    warming = [1000.0 + 100 * min(i, 30) / 30 for i in range(100)]
    leaking = [1000.0 + i for i in range(100)]
    progress = list(range(100))
    assert is_flat(trend(warming, progress)) and not is_flat(trend(leaking, progress))
    assert trend(leaking, progress)["slope_mib_per_100"] == pytest.approx(100.0)
    assert trend([1.0], [0])["second_half_growth_mib"] == 0.0
