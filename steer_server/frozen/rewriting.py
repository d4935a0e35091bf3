"""A prompter's rewrite of a message, checked and kept; in its place the message itself, and why.

Greedy, and of the message alone, so that equal messages have equal rewrites whoever sends them. Requests for
the same one at the same time share it; later ones find it in a cache, keyed by message, plan (which has the
prompter's digest and its gate) and the request's `cache_salt`. The template and the limits are the same for
all of one server.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from steer_server.errors import EngineRefusal, RequestError, SteerError
from steer_server.frozen.prompter_template import prompter_messages
from steer_server.frozen.rewrite_cache import SharedCache
from steer_server.frozen.rewrite_checks import Problem, Reason, check_leak, check_rewrite
from steer_server.frozen.wording import words
from steer_server.metrics import Metrics
from steer_server.steering.plan import SteeringPlan

CHARACTERS_PER_TOKEN = 4
"""A message of more characters than this, times the most tokens of a rewrite, has no room in one."""


@dataclass(frozen=True)
class Written:
    """What a prompter wrote."""

    text: str
    has_ended: bool
    """By itself, not at the most tokens."""


@dataclass(frozen=True)
class Rewrite:
    """What is sent for a message."""

    status: Literal["rewritten", "cached", "original"]
    original: str | None
    """None: there is no message to rewrite."""
    prompt: str | None
    """What is sent: the rewrite, or the original."""
    problem: Problem | None = None
    """Why it is the original."""

    def describe(self) -> dict[str, Any]:
        """As in a response's `steering`."""
        problem = self.problem
        return {
            "prompt": self.prompt,
            "rewrite": {
                "status": self.status,
                "reason": problem and problem.reason,
                "detail": problem and problem.detail,
            },
        }


Write = Callable[[Mapping[str, Any]], Awaitable[Written]]
"""Asks the prompter, with the body of a chat request without its model. Raises: SteerError."""


@dataclass(frozen=True)
class _Checked:
    text: str
    """Empty when there is a problem."""
    problem: Problem | None


class Rewriter:
    """All rewriting of one server."""

    def __init__(self, *, max_tokens: int, cache_characters: int, metrics: Metrics) -> None:
        """
        Args:
            max_tokens: of a rewrite.
            cache_characters: of all rewrites that are kept.
        """
        self._max_tokens, self._metrics = max_tokens, metrics
        self._cache = SharedCache[_Checked](cache_characters, lambda kept: len(kept.text))

    async def rewrite(
        self, original: str | None, plan: SteeringPlan, write: Write, *, secrets: Iterable[str], salt: str
    ) -> Rewrite:
        """What is sent for `original` under the prompter's plan.

        Args:
            secrets: texts that must not show in it, such as the system prompt.
            salt: separates the caches of clients that give different ones.

        Raises: SteerError when the prompter could not be asked.
        """
        try:
            found = await self._find(original, plan, write, secrets, salt)
        except SteerError:
            self._metrics.rewrites_total.labels("error").inc()
            raise
        outcome = found.problem.reason if found.problem else found.status
        self._metrics.rewrites_total.labels(outcome).inc()
        return found

    async def _find(
        self, original: str | None, plan: SteeringPlan, write: Write, secrets: Iterable[str], salt: str
    ) -> Rewrite:
        if original is None or not words(original):
            problem = Problem(Reason.NO_TEXT, "The last user message has no words.")
            return Rewrite("original", original, original, problem)
        if plan.is_base:
            problem = Problem(Reason.STRENGTH_0, "At strength 0 the prompter has no part in it.")
            return Rewrite("original", original, original, problem)
        limit = CHARACTERS_PER_TOKEN * self._max_tokens
        if len(original) > limit:
            problem = Problem(Reason.TOO_LONG_TO_REWRITE, f"It has {len(original)} characters; over {limit}.")
            return Rewrite("original", original, original, problem)
        key = hashlib.sha256(original.encode(errors="surrogatepass")).digest(), plan.digest, salt
        checked, was_there = await self._cache.get(key, lambda: self._written(original, write, salt))
        self._metrics.rewrites_kept.set(len(self._cache))
        self._metrics.rewrite_cache_characters.set(self._cache.num_characters)
        # Here, so that a system prompt that changes with every request leaves the cache of use.
        if leak := checked.problem or check_leak(original, checked.text, secrets):
            return Rewrite("original", original, original, leak)
        return Rewrite("cached" if was_there else "rewritten", original, checked.text)

    async def _written(self, original: str, write: Write, salt: str) -> _Checked:
        body: dict[str, Any] = {
            "messages": prompter_messages(original),
            "max_tokens": self._max_tokens,
            "temperature": 0,
        }
        if salt:
            body["cache_salt"] = salt
        with self._metrics.rewrite_seconds.time():
            try:
                written = await write(body)
            except EngineRefusal as refusal:
                if refusal.http_status != RequestError.status:
                    raise
                # Nothing of the body but the message's length varies.
                return _Checked("", Problem(Reason.TOO_LONG_TO_REWRITE, str(refusal)))
            # In a thread: the first check loads a model of languages.
            return await asyncio.to_thread(_checked, original, written)


def _checked(original: str, written: Written) -> _Checked:
    rewrite = written.text.strip()
    if not written.has_ended:
        return _Checked("", Problem(Reason.CUT, "The prompter did not come to an end."))
    problem = check_rewrite(original, rewrite)
    return _Checked("" if problem else rewrite, problem)
