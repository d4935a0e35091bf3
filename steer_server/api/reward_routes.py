"""`POST /v1/rewards`: scores of answers that the client brings, by any of the loaded reward heads."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from steer_server.api.bodies import Body, in_openapi, read_body
from steer_server.api.key_guard import caller_of
from steer_server.api.respond import started_now, until_disconnect
from steer_server.api.scoring import (
    as_conversation,
    check_heads,
    check_length,
    num_characters_of,
)
from steer_server.api.watch import RequestWatch
from steer_server.catalogue.snapshot import Catalogue, LoadedRewardHead
from steer_server.errors import NotFoundError, RequestError, short
from steer_server.observing.timings import Timings
from steer_server.state import Server
from steer_server.steering.policy import Policy
from steer_server.steering.scoring import find_heads

router = APIRouter(tags=["rewards"])

MAX_ANSWERS = 256
"""Of one request, its whole batch together."""
MAX_CHARACTERS_TOGETHER = 2_000_000
"""Of all answers, each with its conversation, which is read anew for every one. Splitting so many into tokens
takes 3 to 8 s, in which no other request's texts can be."""

Answers = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=MAX_ANSWERS)]
Heads = Annotated[list[str], Field(min_length=1, max_length=64)]
Messages = Annotated[list[dict[str, Any]], Field(min_length=1, max_length=1024)]


class Entry(Body):
    """One conversation, answers to it, and the heads that score them."""

    messages: Messages
    answers: Answers
    heads: Heads


class RewardsBody(Body):
    """One entry, or several as `batch`."""

    model: str | None = None
    """The base model's name, if anything: heads score under the base model."""
    messages: Messages | None = None
    answers: Answers | None = None
    heads: Heads | None = None
    batch: Annotated[list[Entry], Field(min_length=1, max_length=MAX_ANSWERS)] | None = None
    cache_salt: Annotated[str, Field(min_length=1)] | None = None
    """As in a chat request: the prefix cache is shared with requests that have the same."""

    @model_validator(mode="after")
    def _is_one_or_many(self) -> RewardsBody:
        alone = (self.messages, self.answers, self.heads)
        if self.batch is not None and any(part is not None for part in alone):
            raise ValueError("give `batch`, or `messages`, `answers` and `heads`; not both")
        if self.batch is None and any(part is None for part in alone):
            raise ValueError("`messages`, `answers` and `heads` are needed, or `batch` of such objects")
        return self

    def entries(self) -> dict[str, Entry]:
        """By the place of each in the body, a prefix of its fields' names."""
        if self.batch is not None:
            return {f"batch[{i}].": entry for i, entry in enumerate(self.batch)}
        assert self.messages is not None and self.answers is not None and self.heads is not None
        return {"": Entry(messages=self.messages, answers=self.answers, heads=self.heads)}


@router.post("/v1/rewards", openapi_extra=in_openapi(RewardsBody))
async def post_rewards(request: Request) -> Response:
    """Raw and calibrated scores, an entry per answer, with the plan and the heads' versions."""
    timings = started_now()
    watch = RequestWatch(request.app.state.steer.metrics, "rewards", timings, method="none")
    return await watch.response(_answer(request, timings))


async def _answer(request: Request, timings: Timings) -> Response:
    """Raises: SteerError."""
    server: Server = request.app.state.steer
    body = await read_body(request, RewardsBody)
    if body.model is not None and body.model != server.engine.served_name:
        raise NotFoundError(f"The model `{short(body.model)}` does not exist.", param="model")
    return await until_disconnect(request, _score(server, request, body, timings))


async def _score(server: Server, request: Request, body: RewardsBody, timings: Timings) -> Response:
    entries = body.entries()
    if (num := sum(len(entry.answers) for entry in entries.values())) > MAX_ANSWERS:
        raise RequestError(
            f"The batch has {num} answers; at most {MAX_ANSWERS}.", param="batch", code="invalid_body"
        )
    catalogue = server.catalogue.snapshot
    work, num_characters = [], 0
    for prefix, entry in entries.items():
        heads = _heads(prefix, entry, catalogue, server.policy)
        check_heads(caller_of(request), heads)
        conversation = as_conversation(entry.messages, param=f"{prefix}messages")
        check_length(conversation, entry.answers, param=f"{prefix}answers")
        num_characters += sum(map(len, entry.answers)) + len(entry.answers) * num_characters_of(conversation)
        texts = [(conversation, answer) for answer in entry.answers]
        work.append((tuple(heads.values()), texts))
    if num_characters > MAX_CHARACTERS_TOGETHER:
        raise RequestError(
            f"The answers with their conversations have {num_characters} characters; at most "
            f"{MAX_CHARACTERS_TOGETHER} together.",
            param="answers" if body.batch is None else "batch",
            code="invalid_body",
        )
    everyone = {head.digest: head.title for heads, _ in work for head in heads}
    with timings.stage("scoring") as scoring:
        scoring.set({"steer.reward_heads": sorted(everyone.values())})
        scoring_all = server.rewards.score_all(work, cache_salt=body.cache_salt)
        scored = await server.running.result_of(scoring_all, everyone)
    described = [scores.describe() for scores in scored]
    num_tokens = sum(scores.num_tokens for scores in scored)
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    answer = {"batch": described} if body.batch is not None else described[0]
    return JSONResponse({**answer, "usage": usage})


def _heads(prefix: str, entry: Entry, catalogue: Catalogue, policy: Policy) -> dict[str, LoadedRewardHead]:
    for i, name in enumerate(entry.heads):
        if name in entry.heads[:i]:
            raise RequestError(
                f"{short(name)!r} is named twice.", param=f"{prefix}heads[{i}]", code="invalid_body"
            )
    return find_heads({f"{prefix}heads[{i}]": name for i, name in enumerate(entry.heads)}, catalogue, policy)
