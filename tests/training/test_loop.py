from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steer_server.training import loop
from steer_server.training.loop import LoopConfig, fingerprint, train

CONFIG = LoopConfig("line", num_steps=60, learning_rate=0.1)
STOP = 45


def loss_of(parameter: torch.nn.Parameter, step: int, stop_at: int | None = None) -> torch.Tensor:
    if step == stop_at:
        raise KeyboardInterrupt
    noise = torch.randn(3, generator=torch.Generator().manual_seed(step))
    return ((parameter - 2.0 + 0.1 * noise) ** 2).sum()


def test_training_goes_down_the_loss() -> None:
    p = torch.nn.Parameter(torch.zeros(3))
    before = loss_of(p, 0).item()
    assert train({"p": p}, lambda step: loss_of(p, step), CONFIG) < before / 5
    assert torch.allclose(p, torch.full((3,), 2.0), atol=0.3)


def test_a_run_that_was_stopped_ends_where_one_in_one_go_does(tmp_path: Path) -> None:
    whole = torch.nn.Parameter(torch.zeros(3))
    train({"p": whole}, lambda step: loss_of(whole, step), CONFIG)

    file = tmp_path / "work" / "p.checkpoint"
    stopped = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(KeyboardInterrupt):
        train({"p": stopped}, lambda step: loss_of(stopped, step, stop_at=STOP), CONFIG, file, run="r")
    seen = []
    again = torch.nn.Parameter(torch.zeros(3))
    train({"p": again}, lambda step: seen.append(step) or loss_of(again, step), CONFIG, file, run="r")
    assert seen[0] == STOP // loop.STEPS_BETWEEN_CHECKPOINTS * loop.STEPS_BETWEEN_CHECKPOINTS
    assert torch.equal(again, whole)


def test_a_checkpoint_of_other_settings_is_not_gone_on_from(tmp_path: Path) -> None:
    file = tmp_path / "p.checkpoint"
    for run in ("one", "other"):
        assert first_step(file, run) == 0
    assert first_step(file, "other") == CONFIG.num_steps, "the same settings are gone on from"


def first_step(file: Path, run: str) -> int:
    seen = []
    p = torch.nn.Parameter(torch.zeros(3))
    train({"p": p}, lambda step: seen.append(step) or loss_of(p, step), CONFIG, file, run=run)
    return seen[0] if seen else CONFIG.num_steps


def test_a_fingerprint_changes_with_every_setting() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})
