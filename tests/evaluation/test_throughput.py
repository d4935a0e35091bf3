import json
from pathlib import Path

import pytest

from steer_server.evaluation.throughput import run_throughput
from steer_server.settings import Settings


def test_ratios_are_taken_within_a_round_and_the_report_says_where_it_was_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A machine that is twice as fast in the second round does not change a ratio."""
    speed = {"bare": 100.0, "stock_one": 30.0, "stock_each": 29.0, "bank_blends": 80.0}
    num_runs = dict.fromkeys(speed, 0)

    def run_variant(_: Settings, variant: str, batches: list[int]) -> dict[int, float]:
        num_runs[variant] += 1
        return {batch: speed[variant] * num_runs[variant] for batch in batches}

    run_throughput(Settings(), [8, 32], repeats=2, out=tmp_path, run=run_variant)
    report = json.loads((tmp_path / "throughput.json").read_text())
    assert report["variants"]["bank_blends"]["ratio_to_bare"] == {"8": 0.8, "32": 0.8}
    assert {"hardware", "versions", "commit", "command"} <= report.keys()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["stock_one"] == {"8": 0.3, "32": 0.3}
