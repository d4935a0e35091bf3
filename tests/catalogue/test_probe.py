from __future__ import annotations

import asyncio
from typing import Any

import pytest

from steer_server.catalogue.probe import ProbeAnswer, probe_adapter, probe_base
from steer_server.catalogue.snapshot import LoadedAdapter
from steer_server.engine.base import Answer
from steer_server.engine.fake import FakeEngine, FakeRun
from steer_server.engine.leases import SlotLeases
from steer_server.errors import CapacityError, CatalogueError, EngineError
from tests.support.adapters import planned_catalogue

(ADAPTER, OTHER) = planned_catalogue(["a", "b"]).adapters


class ScriptedEngine(FakeEngine):
    """Answers probes with the log-probabilities that it is given, steered and base in turn."""

    def __init__(self, *answers: tuple[str, list[float]]) -> None:
        super().__init__(num_slots=1)
        self.answers = list(answers)

    def run(self, *args: Any) -> FakeRun:
        text, prompt_logprobs = self.answers.pop(0)
        run = super().run(*args)

        async def answer() -> Answer:
            positions = [None, *({"7": {"logprob": value}} for value in prompt_logprobs)]
            choice = {"text": text, "logprobs": {"token_logprobs": [-1.0]}, "prompt_logprobs": positions}
            return Answer(body={"choices": [choice]})

        run.answer = answer  # type: ignore[method-assign]
        return run


def leases_of(engine: FakeEngine, max_wait_seconds: float = 60.0) -> SlotLeases:
    return SlotLeases(
        engine.num_slots,
        engine.load_slot,
        engine.clear_slot,
        max_waiting=1,
        max_wait_seconds=max_wait_seconds,
    )


async def probed(*answers: tuple[str, list[float]]) -> None:
    engine = ScriptedEngine(*answers)
    base = await probe_base(engine)
    await probe_adapter(engine, leases_of(engine), ADAPTER, base)


async def test_an_adapter_that_changes_something_passes_though_rounding_moves_the_base() -> None:
    await probed(("x", [-1.0, -2.0]), ("y", [-1.5, -2.0]), ("x", [-1.2, -2.1]))


@pytest.mark.parametrize(
    ("reason", "answers"),
    [
        ("probe_no_effect", [("x", [-1.0]), ("x", [-1.0]), ("x", [-1.0])]),
        ("probe_not_finite", [("x", [-1.0]), ("y", [float("nan")]), ("x", [-1.0])]),
        ("probe_base_changed", [("x", [-1.0]), ("y", [-2.0]), ("x", [-4.0])]),
    ],
)
async def test_an_adapter_that_does_harm_or_nothing_is_refused(
    reason: str, answers: list[tuple[str, list[float]]]
) -> None:
    with pytest.raises(CatalogueError) as caught:
        await probed(*answers)
    assert caught.value.reason == reason


async def test_an_adapter_that_cannot_be_loaded_is_refused_and_a_full_bank_is_not_its_fault() -> None:
    engine = FakeEngine(num_slots=1)
    base = await probe_base(engine)
    leases = leases_of(engine, max_wait_seconds=0.05)
    engine.failing_digests.add(ADAPTER.digest)
    with pytest.raises(CatalogueError, match="probe_failed"):
        await probe_adapter(engine, leases, ADAPTER, base)
    engine.failing_digests.clear()
    held = await leases.acquire([OTHER])
    with pytest.raises(CapacityError):
        await probe_adapter(engine, leases, ADAPTER, base)
    held.release()
    await probe_adapter(engine, leases, ADAPTER, base)
    await asyncio.sleep(0)


async def test_what_the_engine_says_of_a_failed_probe_is_in_the_log_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Telling(FakeEngine):
        async def load_slot(self, slot: int, adapter: LoadedAdapter) -> None:
            raise EngineError(f"no file {adapter.folder}/adapter_model.safetensors")

    engine = Telling(num_slots=1)
    with pytest.raises(CatalogueError) as caught:
        await probe_adapter(engine, leases_of(engine), ADAPTER, await probe_base(engine))
    assert caught.value.reason == "probe_failed" and "safetensors" not in str(caught.value)
    assert "no file" in caplog.text


def test_without_the_prompts_log_probabilities_answers_must_be_equal() -> None:
    one = ProbeAnswer("x", (-1.0,), ())
    assert one.is_near(ProbeAnswer("x", (-1.0,), ()))
    assert not one.is_near(ProbeAnswer("x", (-1.1,), ()))
