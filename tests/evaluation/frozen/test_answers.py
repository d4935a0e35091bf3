"""Answers of two ways on a server of a few lines, which fails when a test says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from steer_server.errors import EvaluationError
from steer_server.evaluation.client import ServerClient
from steer_server.evaluation.frozen.answers import KeptLines, Work, collect, in_order
from steer_server.evaluation.frozen.asking import Asker, ask_once, base_way
from steer_server.evaluation.frozen.ways import Aim
from steer_server.evaluation.judge_prompts import Messages
from steer_server.evaluation.samples import CHAT_PATH, Sampling

PROMPTS: list[Messages] = [(("user", f"ask {n}"),) for n in range(4)]
WAYS = (base_way("plain", ask_once), base_way("told", ask_once, "Be kind."))

Refuse = Callable[[dict[str, Any]], httpx.Response | None]


class Answering:
    """Says again what it was asked, and scores an answer by its length."""

    def __init__(self, refuse: Refuse = lambda body: None) -> None:
        self.refuse = refuse
        self.asked: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        if request.url.path != CHAT_PATH:
            scores = [{"kind": {"calibrated": len(answer) / 100}} for answer in body["answers"]]
            return httpx.Response(200, json={"scores": scores, "usage": {"prompt_tokens": 3}})
        if refusal := self.refuse(body):
            return refusal
        text = " | ".join(message["content"] for message in body["messages"])
        self.asked.append(text)
        choice = {"index": 0, "message": {"content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 5, "completion_tokens": 7}
        return httpx.Response(
            200, json={"choices": [choice], "usage": usage, "steering": {"plan": "base", "rewards": {}}}
        )


async def collected(server: Answering, path: Path, prompts: list[Messages] = PROMPTS) -> tuple[Work, int]:
    transport = httpx.MockTransport(server)
    async with ServerClient("http://test", transport=transport, longest_wait_seconds=0.0) as client:
        plans = {way.name: {"plan": "base"} for way in WAYS}
        asker = Asker(client, "m", "m", "kind", 5, Sampling(), plans, "salt")
        work = Work(Aim("kind", "Be kind.", WAYS), asker, prompts)
        return work, await collect([work], KeptLines(path, {"ways": 2}), 1)


async def test_ways_take_turns_in_going_first(tmp_path: Path) -> None:
    server = Answering()
    work, num_kept = await collected(server, tmp_path / "answers.jsonl")
    assert num_kept == 0
    asked = [text for text in server.asked if "ask" in text]
    assert asked[:4] == ["ask 0", "Be kind. | ask 0", "Be kind. | ask 1", "ask 1"]
    assert asked[4:] == ["ask 2", "Be kind. | ask 2", "Be kind. | ask 3", "ask 3"]
    for (prompt, answered), expected in zip(in_order(work), PROMPTS, strict=True):
        told = answered.given["told"]
        assert prompt == expected and told.score == len(told.text) / 100
        assert (told.prefilled, told.generated) == (5, 7) and told.seconds is not None


async def test_a_prompt_with_a_failed_way_is_kept_and_asked_again_by_the_next_run(tmp_path: Path) -> None:
    def refuse(body: dict[str, Any]) -> httpx.Response | None:
        texts = [message["content"] for message in body["messages"]]
        return httpx.Response(400, text="too long") if texts == ["Be kind.", "ask 2"] else None

    path = tmp_path / "answers.jsonl"
    work, _ = await collected(Answering(refuse), path)
    answered = work.answered[PROMPTS[2]]
    assert set(answered.given) == {"plain"} and "too long" in answered.failed["told"]
    server = Answering()
    work, num_kept = await collected(server, path)
    assert num_kept == 3 and not work.answered[PROMPTS[2]].failed
    assert {text for text in server.asked if "ask" in text} == {"ask 2", "Be kind. | ask 2"}


async def test_an_answer_that_took_a_retry_has_no_time(tmp_path: Path) -> None:
    refused: list[str] = []

    def refuse(body: dict[str, Any]) -> httpx.Response | None:
        text = body["messages"][-1]["content"]
        if text != "ask 1" or refused:
            return None
        refused.append(text)
        return httpx.Response(503)

    work, _ = await collected(Answering(refuse), tmp_path / "answers.jsonl")
    seconds = [work.answered[prompt].given["told"].seconds for prompt in PROMPTS]
    assert [one is None for one in seconds] == [False, True, False, False]


async def test_what_was_kept_is_the_same_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    before, _ = await collected(Answering(), path)
    server = Answering()
    after, num_kept = await collected(server, path)
    assert num_kept == 4 and server.asked == [] and after.answered == before.answered


async def test_a_way_that_does_not_work_at_all_ends_it_at_once(tmp_path: Path) -> None:
    server = Answering(lambda body: httpx.Response(400, text="no") if len(body["messages"]) > 1 else None)
    with pytest.raises(EvaluationError, match="kind, told: 400: no"):
        await collected(server, tmp_path / "answers.jsonl")
    assert len(server.asked) == 1


def test_of_lines_with_one_key_the_last_counts_and_one_that_was_cut_does_not(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    kept = KeptLines(path, {"seed": 1})
    kept.add("a", {"n": 1})
    kept.add("a", {"n": 2})
    kept.add("b", {"n": 3})
    path.write_text(path.read_text()[:-3])
    again = KeptLines(path, {"seed": 1})
    assert again.get("a") == {"n": 2} and again.get("b") is None
    again.add("b", {"n": 4})
    assert KeptLines(path, {"seed": 1}).get("b") == {"n": 4}
    with pytest.raises(EvaluationError, match=r"lines.jsonl holds answers of a run with other seed; remove"):
        KeptLines(path, {"seed": 2})
