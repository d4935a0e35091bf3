"""The methods that a request may name, each a small program over the engine, in one dict."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from typing import Any

from starlette.responses import Response

from steer_server.api.align_pro import align_pro
from steer_server.api.best_of_n import best_of_n
from steer_server.api.diffpo import diffpo
from steer_server.api.held import HeldStream
from steer_server.api.key_guard import caller_of
from steer_server.api.respond import Job, respond
from steer_server.api.scoring import as_conversation, check_heads, check_length
from steer_server.errors import RequestError
from steer_server.steering.scoring import heads_of_spec

PROGRAMS: Mapping[str, Callable[[Job], Coroutine[Any, Any, Response]]] = {
    "adapters": respond,
    "align_pro": align_pro,
    "best_of_n": best_of_n,
    "diffpo": diffpo,
    "none": respond,
}
"""By the plan's method."""


async def run_program(job: Job) -> Response:
    """The response of the job's method. Its heads stay loaded until it has ended, so that an answer is scored
    by the versions that it was planned with, whatever is removed meanwhile.

    Raises: SteerError.
    """
    holds = AsyncExitStack()
    if job.heads:
        await holds.enter_async_context(job.server.rewards.hold(job.heads))
    try:
        response = await PROGRAMS[job.plan.method](job)
    except BaseException:
        await holds.aclose()
        raise
    if isinstance(response, HeldStream):
        response.on_end = holds.aclose
    else:
        await holds.aclose()
    return response


def add_heads(job: Job, param: str) -> None:
    """Gives the job the heads that its spec names, and the conversation that they read.

    Raises: RequestError: an unknown or denied head, too large an n, messages that heads cannot read, or a
        route that has none.
    """
    assert job.spec is not None
    heads = heads_of_spec(job.spec, job.catalogue, job.server.policy, param=param)
    check_heads(caller_of(job.request), heads)
    place = f"{param}.reward_heads"
    if job.route != "chat":
        raise RequestError(
            "Reward heads read conversations; use /v1/chat/completions.",
            param=place,
            code="reward_heads_unavailable",
        )
    if job.body.get("continue_final_message") or job.body.get("echo"):
        raise RequestError(
            "Reward heads read whole answers; leave out `continue_final_message` and `echo`.",
            param=place,
            code="reward_heads_unavailable",
        )
    can_read = job.server.engine.can_read_heads and not job.body.get("use_beam_search")
    if job.spec.read == "generation" and not can_read:
        raise RequestError(
            "With beam search, and on a server that decodes speculatively, heads do not read the generation; "
            "leave out `read`.",
            param=f"{param}.options.read",
            code="reward_heads_unavailable",
        )
    job.heads = tuple(heads.values())
    job.conversation = as_conversation(job.body.get("messages"))
    check_length(job.conversation, [""], param="messages")
