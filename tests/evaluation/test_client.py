from __future__ import annotations

import asyncio

import httpx
import pytest

from steer_server.errors import EvaluationError
from steer_server.evaluation.client import MAX_ATTEMPTS, RequestFailed, ServerClient

BUSY = httpx.Response(503, headers={"Retry-After": "0.01"}, json={"error": {"message": "no slot"}})


def client_of(handler: object, **options: object) -> ServerClient:
    transport = httpx.MockTransport(handler)  # type: ignore[arg-type]
    return ServerClient("http://test", transport=transport, longest_wait_seconds=0.01, **options)  # type: ignore[arg-type]


async def test_a_busy_server_is_asked_again_when_it_says_so() -> None:
    answers = [BUSY, BUSY, httpx.Response(200, json={"fine": True})]
    async with client_of(lambda request: answers.pop(0)) as client:
        assert await client.post("/x", {}) == {"fine": True}
        assert (client.num_requests, client.num_retries, client.failures) == (1, 2, [])


async def test_a_refused_request_is_not_repeated_and_is_recorded_without_its_text() -> None:
    asked: list[httpx.Request] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(400, text="bad")

    async with client_of(refuse) as client:
        with pytest.raises(RequestFailed, match="400: bad"):
            await client.post("/x", {"prompt": "a secret question"})
        assert len(asked) == 1
        assert client.describe()["failed"] == 1
        assert "secret" not in str(client.describe())
        with pytest.raises(EvaluationError, match="1 of 1 requests failed"):
            client.check_failures()


async def test_a_request_that_costs_many_questions_is_an_error_though_few_requests_failed() -> None:
    def refuse_one(request: httpx.Request) -> httpx.Response:
        return httpx.Response(400 if request.content == b'{"n": 3}' else 200, json={})

    async with client_of(refuse_one) as client:
        asked = (client.post("/x", {"n": n}) for n in range(200))
        await asyncio.gather(*asked, return_exceptions=True)
    client.check_failures(num_dropped=5, num_asked=100)
    with pytest.raises(
        EvaluationError, match=r"6 of 100 questions .* 1 of 200 requests failed, first: /x: 400"
    ):
        client.check_failures(num_dropped=6, num_asked=100)


async def test_an_answer_counts_only_under_the_plan_that_was_described_at_first() -> None:
    plans = {"/v1/steering/plan": ["one", "two"], "/x": ["one", "two", None]}

    def answer(request: httpx.Request) -> httpx.Response:
        plan = plans[request.url.path].pop(0)
        if request.url.path == "/x":
            return httpx.Response(200, json={"steering": {"plan": plan}} if plan else {})
        return httpx.Response(200, json={"plan": plan})

    async with client_of(answer) as client:
        steering = {"steering": {"cultures": {"a": 1.0}}}
        await client.post_steered("/x", {"n": 1, **steering})
        with pytest.raises(RequestFailed, match="plan two was applied instead of one"):
            await client.post_steered("/x", {"n": 2, **steering})
        with pytest.raises(RequestFailed, match="steering"):
            await client.post_steered("/x", {"n": 3, **steering})
    assert len(client.failures) == 2 and plans["/v1/steering/plan"] == ["two"]


@pytest.mark.parametrize("problem", [BUSY, httpx.ConnectError("refused"), httpx.ReadTimeout("late")])
async def test_a_server_that_never_answers_is_given_up_after_some_attempts(
    problem: httpx.Response | httpx.HTTPError,
) -> None:
    num_asked = 0

    def fail(request: httpx.Request) -> httpx.Response:
        nonlocal num_asked
        num_asked += 1
        if isinstance(problem, httpx.Response):
            return problem
        raise problem

    async with client_of(fail) as client:
        with pytest.raises(RequestFailed):
            await client.post("/x", {})
        assert num_asked == MAX_ATTEMPTS
        assert len(client.failures) == 1


async def test_an_answer_that_is_no_json_object_is_a_failure() -> None:
    async with client_of(lambda request: httpx.Response(200, text="[1")) as client:
        with pytest.raises(RequestFailed, match="not a JSON object"):
            await client.post("/x", {})


async def test_equal_requests_are_sent_once_and_no_more_than_allowed_are_under_way() -> None:
    under_way = most = num_asked = 0

    async def count(request: httpx.Request) -> httpx.Response:
        nonlocal under_way, most, num_asked
        num_asked += 1
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001)
        under_way -= 1
        return httpx.Response(200, json={})

    async with client_of(count, concurrency=3) as client:
        await asyncio.gather(*(client.post("/x", {"n": n % 10, "m": 0}) for n in range(40)))
    assert (num_asked, most) == (10, 3)


async def test_the_key_is_sent_and_something_else_than_our_server_is_an_error() -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["Authorization"])
        return httpx.Response(404)

    async with client_of(answer, api_key="k") as client:
        with pytest.raises(EvaluationError, match="does not answer as a steer-server"):
            await client.info()
    assert seen == ["Bearer k"]
