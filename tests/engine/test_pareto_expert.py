"""Anchors side by side in one slot of the real bank give what each gives in a slot of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from steer_server.settings import Settings
from tests.engine.test_live import BFLOAT16_TOLERANCE, PROMPTS, chat, complete
from tests.support.administration import act, push
from tests.support.experts import write_expert
from tests.support.servers import Running

pytestmark = pytest.mark.engine

VECTORS = {"amber": {"frank": 1.0}, "blue": {"gentle": 1.0}}


async def test_an_anchors_vector_gives_the_text_and_numbers_of_that_anchors_own_adapter(
    vllm: Running, live_adapters: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder = write_expert(live_adapters[0], tmp_path, "experts", Settings.read(), VECTORS)
    pushed = await push(vllm, folder)
    assert pushed.status_code == 201, pushed.text
    try:
        for name, vector in VECTORS.items():
            for prompt in PROMPTS[:2]:
                alone = await chat(vllm, prompt, {"cultures": {name: 1.0}})
                among = await chat(vllm, prompt, {"values": vector})
                assert among.choices[0].message.content == alone.choices[0].message.content
                assert among.steering["applied"] == [{"adapter": "experts@1.0.0", "weight": 1.0}]
        blend = {"cultures": {"amber": 0.7, "blue": 0.3}}
        values = {"values": {"frank": 0.7, "gentle": 0.3}}
        apart, together = [
            (await complete(vllm, PROMPTS[0], steering, max_tokens=1, logprobs=5)).choices[0].logprobs
            for steering in (blend, values)
        ]
        wanted, found = apart.top_logprobs[0], together.top_logprobs[0]
        shared = wanted.keys() & found.keys()
        assert len(shared) >= 3
        assert max(abs(wanted[token] - found[token]) for token in shared) < BFLOAT16_TOLERANCE
    finally:
        await act(vllm, "experts/deactivate")
        async with vllm.http() as http:
            (await http.delete("/v1/adapters/experts")).raise_for_status()
