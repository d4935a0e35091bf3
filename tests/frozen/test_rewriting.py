"""What is sent for a message, whatever the prompter writes or does not."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from steer_server.errors import CapacityError, EngineError, EngineRefusal
from steer_server.frozen.prompter_template import prompter_messages
from steer_server.frozen.rewrite_checks import Reason
from steer_server.frozen.rewriting import Rewriter, Written
from steer_server.metrics import Metrics
from steer_server.steering.plan import BASE_PLAN, AdapterGate, SteeringPlan

ORIGINAL, BETTER = "Why do cats purr?", "Please explain why cats purr."
PLAN = SteeringPlan("align_pro", (AdapterGate("p", "1.0.0", "d" * 64, 1.0),))


class World:
    """A rewriter, and a prompter that writes `writes`."""

    def __init__(self, writes: Any = BETTER, **options: Any) -> None:
        self.metrics = Metrics(CollectorRegistry())
        self.rewriter = Rewriter(
            **{"max_tokens": 128, "cache_characters": 1000, "metrics": self.metrics, **options}
        )
        self.writes = writes
        self.bodies: list[Mapping[str, Any]] = []

    async def write(self, body: Mapping[str, Any]) -> Written:
        self.bodies.append(body)
        await asyncio.sleep(0)
        if isinstance(self.writes, Exception):
            raise self.writes
        return self.writes if isinstance(self.writes, Written) else Written(self.writes, True)

    async def rewrite(
        self,
        original: str | None = ORIGINAL,
        plan: SteeringPlan = PLAN,
        secrets: tuple[str, ...] = (),
        salt: str = "",
    ) -> tuple[str, str | None, str | None]:
        """Status, what is sent, and why."""
        found = await self.rewriter.rewrite(original, plan, self.write, secrets=secrets, salt=salt)
        assert found.original == original
        assert found.describe()["prompt"] == found.prompt
        return found.status, found.prompt, found.problem and found.problem.reason

    def counted(self, outcome: str) -> float:
        return self.metrics.rewrites_total.labels(outcome)._value.get()

    @property
    def kept(self) -> tuple[float, float]:
        """Rewrites in the cache, and their characters, as exported."""
        metrics = self.metrics
        return metrics.rewrites_kept._value.get(), metrics.rewrite_cache_characters._value.get()


async def test_what_the_cache_holds_is_exported() -> None:
    world = World(cache_characters=50)
    assert world.kept == (0, 0)
    await world.rewrite()
    await world.rewrite()
    assert world.kept == (1, len(BETTER))
    await world.rewrite(salt="of another client")
    assert world.kept == (1, len(BETTER)), "there is no room for two"


async def test_a_rewrite_is_made_once_and_then_comes_from_the_cache() -> None:
    world = World(f"  {BETTER}\n")
    assert await world.rewrite() == ("rewritten", BETTER, None)
    assert await world.rewrite() == ("cached", BETTER, None)
    (body,) = world.bodies
    assert body == {"messages": prompter_messages(ORIGINAL), "max_tokens": 128, "temperature": 0}
    assert (world.counted("rewritten"), world.counted("cached")) == (1, 1)


async def test_another_message_plan_or_salt_is_another_rewrite() -> None:
    world = World()
    await world.rewrite()
    half = SteeringPlan("align_pro", (AdapterGate("p", "1.0.0", "d" * 64, 0.5),))
    newer = SteeringPlan("align_pro", (AdapterGate("p", "1.0.1", "e" * 64, 1.0),))
    for options in ({"original": "Why do cats purr"}, {"plan": half}, {"plan": newer}, {"salt": "mine"}):
        assert (await world.rewrite(**options))[0] == "rewritten"  # type: ignore[arg-type]
    assert len(world.bodies) == 5
    assert world.bodies[-1]["cache_salt"] == "mine"


async def test_messages_at_the_same_time_share_one_rewrite() -> None:
    world = World()
    found = await asyncio.gather(*(world.rewrite() for _ in range(10)))
    assert found == [("rewritten", BETTER, None)] * 10 and len(world.bodies) == 1


async def test_a_bad_rewrite_is_replaced_by_the_original_which_is_remembered() -> None:
    world = World("Paris is the capital of France.")
    for _ in range(2):
        assert await world.rewrite() == ("original", ORIGINAL, Reason.CONTENT_LOST)
    assert len(world.bodies) == 1 and world.counted("content_lost") == 2


async def test_a_rewrite_that_was_cut_is_not_used_however_good() -> None:
    world = World(Written(BETTER, has_ended=False))
    assert await world.rewrite() == ("original", ORIGINAL, Reason.CUT)


async def test_a_leak_is_found_whatever_is_cached() -> None:
    secret = "You explain cats to children. Please explain why cats purr whenever you can."
    world = World(f"{ORIGINAL} Please explain why cats purr whenever you can.")
    assert (await world.rewrite())[0] == "rewritten"
    assert await world.rewrite(secrets=(secret,)) == ("original", ORIGINAL, Reason.LEAK)
    assert (await world.rewrite(secrets=("Be kind, and brief, and clear, always.",)))[0] == "cached"
    assert len(world.bodies) == 1


@pytest.mark.parametrize("original", [None, "", "  ", "?!", "👍"])
async def test_without_words_nobody_is_asked(original: str | None) -> None:
    world = World()
    assert await world.rewrite(original) == ("original", original, Reason.NO_TEXT)
    assert not world.bodies


async def test_at_strength_0_nobody_is_asked() -> None:
    world = World()
    assert await world.rewrite(plan=BASE_PLAN) == ("original", ORIGINAL, Reason.STRENGTH_0)
    assert not world.bodies


async def test_a_message_that_has_no_room_in_a_rewrite_is_not_rewritten() -> None:
    world = World(max_tokens=4)
    assert await world.rewrite("a" * 17) == ("original", "a" * 17, Reason.TOO_LONG_TO_REWRITE)
    assert not world.bodies
    world.writes = "b" * 16
    await world.rewrite("b" * 16)
    assert len(world.bodies) == 1


async def test_a_message_that_the_engine_finds_too_long_is_sent_as_it_is() -> None:
    world = World(EngineRefusal({"error": {"message": "maximum context length"}}, 400))
    status, prompt, reason = await world.rewrite()
    assert (status, prompt, reason) == ("original", ORIGINAL, Reason.TOO_LONG_TO_REWRITE)


@pytest.mark.parametrize(
    "error", [EngineError("dead"), CapacityError("full"), EngineRefusal({"error": {"message": "busy"}}, 503)]
)
async def test_a_prompter_that_cannot_be_asked_is_an_error_and_the_next_request_asks_again(
    error: Exception,
) -> None:
    world = World(error)
    with pytest.raises(type(error)):
        await world.rewrite()
    assert world.counted("error") == 1
    world.writes = BETTER
    assert (await world.rewrite())[0] == "rewritten"


async def test_without_a_cache_every_message_is_rewritten_anew() -> None:
    world = World(cache_characters=0)
    assert [(await world.rewrite())[0] for _ in range(2)] == ["rewritten"] * 2


async def test_half_of_a_surrogate_pair_is_no_reason_to_fail() -> None:
    world = World("Why do cats purr \ud83d so loudly?")
    assert (await world.rewrite("Why do cats purr \ud83d ?"))[0] == "rewritten"
