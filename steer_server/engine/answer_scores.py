"""Scores of answers while they are generated: the last reading of each choice of the requests that ask.

The reward tap scores the rows that such a request's tokens are sampled from, in every step. vLLM's engine
gives each step's reading with that step's token (`EngineCoreOutput.prompt_token_id_logprobs`). What it then
gives its handlers has the readings of one choice alone, and loses some when it joins steps; so they are
taken from the steps' outputs as these arrive in the API process. A token that comes behind a stop string, or
behind an abort, counts for nothing.

Not covered: speculative decoding, where the row of the last token is known only afterwards.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from steer_server.engine.reward_tap import ANSWER_ID

Readings = dict[int, Any]
"""Choice -> pairs (head id, raw) `[K, 2]`."""


class AnswerScores:
    """The readings of one API process. It keeps nothing of a request that has ended."""

    def __init__(self, output_processor: Any) -> None:
        self._known = output_processor.request_states
        self._process = output_processor.process_outputs
        self._readings: dict[str, Readings] = {}
        """By request id, of those that ask and run."""
        output_processor.process_outputs = self._note_and_process

    def __len__(self) -> int:
        return len(self._readings)

    async def note(self, request_id: str, readings: Readings, outputs: Any) -> AsyncIterator[Any]:
        """The same outputs; by each of them, `readings` has the last reading of every choice.

        Args:
            request_id: an `answer_id` of its own.
        """
        self._readings[request_id] = readings
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    yield output
        finally:
            del self._readings[request_id]

    def _note_and_process(self, outputs: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        if self._readings:
            self._note(outputs)
        return self._process(outputs, *args, **kwargs)

    def _note(self, outputs: Sequence[Any]) -> None:
        for output in outputs:
            # One that has ended here, by a stop string, may go on in the engine for a step.
            if output.prompt_token_id_logprobs is None or output.request_id not in self._known:
                continue
            found = ANSWER_ID.fullmatch(output.request_id)
            readings = self._readings.get(found[2]) if found else None
            if found and readings is not None:
                readings[int(found[1] or 0)] = output.prompt_token_id_logprobs
