"""`bench throughput` without engines: what is made of seconds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from steer_server.catalogue.base_model import BaseModel
from steer_server.engine.bench_worker import ENGINE_OF, specs
from steer_server.errors import EvaluationError
from steer_server.evaluation.throughput.engines import Measure, running_engines
from steer_server.evaluation.throughput.throughput import (
    NUM_TOKENS,
    WORKLOADS,
    bank_share,
    run_throughput,
)
from steer_server.settings import Settings
from tests.support.tiny_model import tiny_model_with_weights

SPEED = {
    "bare": 100.0,
    "stock_one": 30.0,
    "stock_each": 29.0,
    "bank_none": 91.0,
    "bank_zero": 91.0,
    "bank_same": 90.0,
    "bank_weights": 90.5,
    "bank_one": 91.0,
    "bank_three": 88.0,
    "bank_eight": 87.0,
}
"""Steps per second."""


def test_a_way_is_compared_with_the_reference_just_before_it_and_verdicts_follow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A machine that drifts to twice its speed and back does not change a ratio."""
    asked: list[tuple[str, int, int]] = []

    @contextmanager
    def start(settings: Settings, most: int, logs: Path) -> Iterator[Measure]:
        def measure(workload: str, batch: int, num_tokens: int) -> tuple[float, float]:
            # A pair of runs has one speed, the next pair another.
            num_timed = sum(tokens == NUM_TOKENS for *_, tokens in asked)
            factor = 1 + num_timed // 2 % 2
            asked.append((workload, batch, num_tokens))
            return 1 / SPEED[workload] / factor, num_tokens / SPEED[workload] / factor

        assert most == 64
        yield measure

    model = str(tiny_model_with_weights(tmp_path / "tiny"))
    with pytest.raises(
        EvaluationError, match=r"not shown: same 3: first tokens.*3 of 8: decode, to no LoRA at batch 32"
    ):
        run_throughput(Settings(model=model), [8, 32, 64], repeats=2, out=tmp_path, start=start)
    report = json.loads((tmp_path / "report.json").read_text())
    found = report["workloads"]
    assert set(found["bare"]["all_decode_ratios"]["8"]) == {1.0}
    assert found["bank_three"]["decode_ratio"] == {"8": 0.88, "32": 0.88, "64": 0.88}
    assert found["bank_three"]["first_token_ratio"]["8"] == pytest.approx(100 / 88, abs=1e-3)
    assert found["bank_three"]["ratio_to_stock"]["8"] == pytest.approx(88 / 29, abs=1e-3)
    timed = [(workload, batch) for workload, batch, tokens in asked if tokens == NUM_TOKENS]
    assert timed[0::2] == [("bare", batch) for batch in (8, 32, 64) for _ in range(2 * len(WORKLOADS))]
    assert sorted(timed[1::2]) == sorted([(w, b) for w in WORKLOADS for b in (8, 32, 64)] * 2)
    shown = {verdict["name"]: verdict["is_shown"] for verdict in report["verdicts"]}
    assert shown == {
        **{f"{w}: decode, to no LoRA at batch 8": True for w in ("same 3", "3 of 8")},
        "same 3: decode, to no LoRA at batch 32": True,
        "3 of 8: decode, to no LoRA at batch 32": False,
        **{
            f"{w}: decode, to stock LoRA at batch {b}": True
            for w in ("same 3", "3 of 8")
            for b in (8, 32, 64)
        },
        "same 3: decode, to one blend for all at batch 64": True,
        **{
            f"{w}: first tokens, to no LoRA at batch {b}": False
            for w in ("same 3", "3 of 8")
            for b in (8, 32, 64)
        },
    }
    assert {"hardware", "versions", "commit", "command"} <= report.keys()
    printed = capsys.readouterr().out.splitlines()
    assert json.loads(printed[-1])["stock_one"] == {"8": 0.3, "32": 0.3, "64": 0.3}
    assert "<svg" in (tmp_path / "report.html").read_text()


def test_every_workload_is_measured_by_one_engine() -> None:
    assert list(ENGINE_OF) == list(WORKLOADS) == list(SPEED)


def test_an_engine_that_does_not_start_says_why(tmp_path: Path) -> None:
    settings = Settings(model="builtin", adapters=tmp_path / "none")
    with pytest.raises(EvaluationError, match="an engine has ended"), running_engines(settings, 1, tmp_path):
        pass
    assert (tmp_path / "bare.log").read_text()


@pytest.mark.parametrize(
    ("workload", "size", "num_used"),
    [("bank_weights", 3, 3), ("bank_one", 1, 8), ("bank_three", 3, 8), ("bank_eight", 8, 8)],
)
def test_all_blends_of_a_batch_are_different(workload: str, size: int, num_used: int) -> None:
    names = [f"c{i}" for i in range(8)]
    asked = specs(workload, names, 64)
    assert len({name for spec in asked for name in spec.cultures}) == num_used
    assert len({tuple(sorted(spec.cultures.items())) for spec in asked}) == 64
    assert {len(spec.cultures) for spec in asked} == {size}


def test_the_floor_is_the_share_of_weights(tmp_path: Path) -> None:
    """Of 2 slots of rank 4 in a model of known shapes."""
    from transformers import AutoConfig

    folder = tiny_model_with_weights(tmp_path / "tiny")
    settings = Settings(model=str(folder), bank_slots=2, bank_rank=4)
    shapes = BaseModel.of(settings).linear_shapes.values()
    config = AutoConfig.from_pretrained(folder)
    layers = sum(o * i for o, i in shapes)
    bank = 8 * sum(o + i for o, i in shapes)
    share = bank / (layers + config.vocab_size * config.hidden_size)
    assert bank_share(settings) == {
        "slots": 2,
        "rank": 4,
        "share": pytest.approx(share, abs=1e-4),
        "floor": pytest.approx(1 / (1 + share), abs=1e-3),
        "first_token_floor": pytest.approx(1 + bank / layers, abs=1e-3),
    }
