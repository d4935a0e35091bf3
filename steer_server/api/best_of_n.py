"""best_of_n: draws several answers, scores them, and gives the best.

The candidates are one request for n answers, so they share the prompt's cache; the scores are one batch. A
stream begins when the best is known, and then comes all at once. `usage` counts the tokens of all candidates.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import JSONResponse, Response, StreamingResponse

from steer_server.api.encode import DONE, answer_texts, steering_object
from steer_server.api.respond import Job, run_whole
from steer_server.errors import RequestError
from steer_server.steering.scoring import aggregate, best_first, head_shares


async def best_of_n(job: Job) -> Response:
    """The response: the client's `n` best of `options.n` candidates, the best first."""
    assert job.spec is not None
    num_wanted, has_usage = _num_wanted(job), wants_usage(job)
    found = await run_whole(job, {**job.body, "n": job.spec.candidates})
    candidates = sorted(found["choices"], key=lambda choice: choice["index"])
    scores = await job.score(answer_texts({"choices": candidates}))
    shares = head_shares(job.spec)
    calibrated = [scores.calibrated(i) for i in range(len(candidates))]
    aggregates = [None if one is None else aggregate(one, shares) for one in calibrated]
    chosen = best_first(aggregates)[:num_wanted]
    place = {candidate: index for index, candidate in enumerate(chosen)}
    rewards = {
        **scores.describe(),
        "scores": [scores.answers[i] for i in chosen],
        "cut": [scores.cut[i] for i in chosen],
        "weights": shares,
        "candidates": [
            {"scores": scores.answers[i], "aggregate": aggregates[i], "choice": place.get(i)}
            for i in range(len(candidates))
        ],
    }
    found["choices"] = [{**candidates[i], "index": index} for i, index in place.items()]
    found["steering"] = steering_object(job.plan, job.timings, rewards)
    if not job.body.get("stream"):
        return JSONResponse(found, headers=job.headers)
    return StreamingResponse(
        as_stream(found, has_usage=has_usage), media_type="text/event-stream", headers=job.headers
    )


async def as_stream(body: dict[str, Any], *, has_usage: bool) -> AsyncIterator[str]:
    """The SSE events that say the same as a whole chat answer: each choice in one piece, then its end, then
    usage if asked for, then `steering`."""
    envelope = {
        "id": body["id"],
        "object": "chat.completion.chunk",
        "created": body["created"],
        "model": body["model"],
    }

    def event(choices: list[dict[str, Any]], **more: Any) -> str:
        return f"data: {json.dumps({**envelope, 'choices': choices, **more})}\n\n"

    for choice in body["choices"]:
        delta = {key: value for key, value in choice["message"].items() if value not in (None, [])}
        if "tool_calls" in delta:
            delta["tool_calls"] = [{"index": i, **call} for i, call in enumerate(delta["tool_calls"])]
        index, ending = choice["index"], choice["finish_reason"]
        logprobs = choice.get("logprobs")
        yield event([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}])
        yield event([{"index": index, "delta": {}, "logprobs": None, "finish_reason": ending}])
    if has_usage:
        yield event([], usage=body["usage"])
    yield event([], steering=body["steering"])
    yield f"{DONE}\n\n"


def wants_usage(job: Job) -> bool:
    """Whether a stream is to say its usage. Raises: RequestError; the engine does not see these fields."""
    stream, options = job.body.get("stream"), job.body.get("stream_options")
    if stream is not None and not isinstance(stream, bool):
        raise RequestError("`stream` must be true or false.", param="stream")
    if options is not None and not (stream and isinstance(options, dict)):
        raise RequestError(
            "`stream_options` must be an object, and goes with a stream.", param="stream_options"
        )
    return bool((options or {}).get("include_usage"))


def _num_wanted(job: Job) -> int:
    """Answers that the client wants. Raises: RequestError for what cannot be drawn or chosen."""
    assert job.spec is not None
    num_wanted = 1 if job.body.get("n") is None else job.body["n"]
    if isinstance(num_wanted, bool) or not isinstance(num_wanted, int) or num_wanted < 1:
        raise RequestError("`n` must be a whole number of at least 1.", param="n")
    if num_wanted > job.spec.candidates:
        raise RequestError(
            f"The {num_wanted} best of {job.spec.candidates}: `n` is at most the method's `options.n`.",
            param="n",
        )
    if job.spec.candidates > 1 and job.body.get("temperature") == 0:
        raise RequestError(
            "At temperature 0 all candidates are the same; best_of_n needs a temperature above 0.",
            param="temperature",
        )
    return num_wanted
