from __future__ import annotations

from pathlib import Path

import pytest

from steer_server.training.align_pro_rollouts import Rollout, RolloutFile


def rollout(reward: float, reason: str = "") -> Rollout:
    return Rollout("Ask", (3, 4, 0), "Please ask", reason, reward)


def test_a_file_gives_back_what_was_added_but_for_a_line_that_a_kill_cut(tmp_path: Path) -> None:
    path = tmp_path / "work" / "rollouts.jsonl"
    first = RolloutFile(path, "run")
    assert first.get(0) is None
    first.add(0, [rollout(0.5), rollout(0.25, "cut")])
    first.add(1, [rollout(1.0)])
    path.write_text(path.read_text()[:-5])
    again = RolloutFile(path, "run")
    assert again.get(0) == (rollout(0.5), rollout(0.25, "cut"))
    assert again.get(1) is None
    again.add(1, [rollout(0.75)])
    assert RolloutFile(path, "run").get(1) == (rollout(0.75),)


def test_a_file_of_another_run_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    RolloutFile(path, "one").add(0, [rollout(0.5)])
    assert RolloutFile(path, "other").get(0) is None
    assert RolloutFile(path, "one").get(0) is None


def test_the_curve_is_of_equal_parts_of_the_steps(tmp_path: Path) -> None:
    file = RolloutFile(tmp_path / "rollouts.jsonl", "run")
    assert file.curve(10) == []
    for step in range(5):
        file.add(step, [rollout(step / 10), rollout(0.0, "empty")])
    early, late = file.curve(2)
    assert early == {"last_step": 2, "mean_reward": pytest.approx(0.025), "failed_share": 0.5}
    assert late == {"last_step": 5, "mean_reward": pytest.approx(0.15), "failed_share": 0.5}
    assert len(file.curve(10)) == 5
