from __future__ import annotations

from typing import Any

from steer_server.evaluation.client import ServerClient
from steer_server.evaluation.named_settings import BASE, read_plans
from steer_server.evaluation.samples import Sample, Sampling, describe_samples, sample_answers
from tests.evaluation.values_server import ValuesServer

PROMPT = (("user", "hello"), ("assistant", "yes?"), ("user", "go on"))


def test_cut_and_empty_answers_are_counted() -> None:
    samples = {(("user", str(i)),): s for i, s in enumerate([Sample(" \n", 1, False), Sample("x", 9, True)])}
    assert describe_samples(samples) == {"answers": 2, "cut": 1, "empty": 1}


async def test_a_dialogue_is_sent_turn_by_turn_and_answered_once_per_cell() -> None:
    server = ValuesServer({}, lambda cultures, before, option: 1.0)
    async with ServerClient("http://test", transport=server.transport()) as client:
        plans = await read_plans(client, [BASE])
        sampling = Sampling(seed=7)
        cells = [(BASE, sampling.seed), (BASE, sampling.other_seed)]
        samples = await sample_answers(client, "tiny", cells, [PROMPT], sampling, plans)
    assert samples["base", 7][PROMPT].text == "plain 1 go on"
    assert samples["base", 8][PROMPT].text == "plain 0 go on"
    sent: list[dict[str, Any]] = [body for path, body in server.requests]
    assert [m["role"] for m in sent[0]["messages"]] == ["user", "assistant", "user"] and len(sent) == 2
