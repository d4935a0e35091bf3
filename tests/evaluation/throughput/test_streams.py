"""`bench streams` on the real app with the FakeEngine, which stands for both servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from steer_server.errors import EvaluationError
from steer_server.evaluation.overhead.servers import OURS, STOCK, MeasuredServer
from steer_server.evaluation.throughput import streams
from steer_server.evaluation.throughput.streams import (
    STEERED_WAY,
    STOCK_WAY,
    STREAMED,
    StreamsOptions,
    evaluate_streams,
    run_streams,
    verdicts,
)
from steer_server.settings import Settings
from tests.support.adapters import TINY, random_adapter, tiny_base_model
from tests.support.servers import Running


def both(fake: Running) -> dict[str, MeasuredServer]:
    ours = MeasuredServer(OURS, fake.url, fake.model, psutil.Process(), engine=())
    return {STOCK: replace(ours, name=STOCK), OURS: ours}


async def test_every_way_is_compared_with_the_stock_server_in_its_round(fake: Running) -> None:
    found = await run_streams(
        StreamsOptions(streams=3, num_tokens=2, rounds=2), both(fake), fake.cultures[:4]
    )
    assert list(found["ways"]) == [way.label for way in STREAMED]
    stock = found["ways"][STOCK_WAY.label]
    assert stock["all_ratios"] == stock["all_first_token_ratios"] == [1, 1]
    # Of one round, as medians over rounds may be of different ones.
    found = await run_streams(
        StreamsOptions(streams=3, num_tokens=2, rounds=1), both(fake), fake.cultures[:4]
    )
    for one in found["ways"].values():
        assert one["tokens_per_second"] > 0
        # Two answers of a stream take longer than the first token of one.
        assert 0 < one["first_token_ms"] < 2 * 3 * 2 * 1000 / one["tokens_per_second"]


async def test_what_is_missed_ends_it_after_the_report(
    fake: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = []

    @contextmanager
    def start(
        settings: Settings, arguments: Sequence[str], logs: Path
    ) -> Iterator[dict[str, MeasuredServer]]:
        yield both(fake)
        stopped.append(list(arguments))

    base = tiny_base_model(tmp_path / TINY)
    for name in fake.cultures[:2]:
        random_adapter(tmp_path / "adapters", name, base)
    settings = Settings(model=base.path, adapters=tmp_path / "adapters")
    options = StreamsOptions(streams=2, num_tokens=2, rounds=1)
    monkeypatch.setattr(streams, "LEAST_SPEED", 1000.0)
    with pytest.raises(EvaluationError, match="not shown: speed"):
        await asyncio.to_thread(
            evaluate_streams, options, settings, ["--max-model-len", "512"], tmp_path / "out", start
        )
    assert stopped == [["--max-model-len", "512"]]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["verdicts"][0]["is_shown"] is False
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("ratio", "first", "shown"),
    [(0.9, 1.1, [True, True]), (0.89, 1.0, [False, True]), (1.0, 1.2, [True, False])],
)
def test_speed_and_first_tokens_are_judged(ratio: float, first: float, shown: list[bool]) -> None:
    results = {"ways": {STEERED_WAY.label: {"ratio": ratio, "first_token_ratio": first}}}
    assert [verdict.is_shown for verdict in verdicts(results)] == shown
