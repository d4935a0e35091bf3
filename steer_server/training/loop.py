"""The training loop: AdamW, one-cycle rate, gradient clipping, checkpoints that a killed run goes on from."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from steer_server.progress import Progress

STEPS_BETWEEN_CHECKPOINTS = 20


@dataclass(frozen=True)
class LoopConfig:
    """What the loop itself is told."""

    what: str
    """Shown beside the progress."""
    num_steps: int
    learning_rate: float
    weight_decay: float = 0.0
    warm_up_share: float = 0.1
    max_gradient_norm: float = 1.0


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Identifies a run: a checkpoint of other settings is not gone on from. Hex."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def train(
    parameters: Mapping[str, torch.nn.Parameter],
    loss_of_step: Callable[[int], torch.Tensor],
    config: LoopConfig,
    checkpoint: Path | None = None,
    run: str = "",
) -> float:
    """Steps `num_steps` times on `loss_of_step(step)`, which must depend on the step alone (seeds included),
    so that a run that was stopped and gone on with equals one that was not.

    Args:
        parameters: what is trained, by name; changed in place.
        checkpoint: file that keeps parameters and optimizer; deleting it when all is written is the caller's.
        run: fingerprint of the run's settings.

    Returns: the loss, averaged over the last steps.
    """
    _keep_freed_memory()
    trained = list(parameters.values())
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.num_steps + 1, pct_start=config.warm_up_share
    )
    step, recent = 0, 0.0
    if checkpoint and checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        if saved["run"] == run:
            step, recent = saved["step"], saved["recent"]
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(saved["parameters"][name])
            optimizer.load_state_dict(saved["optimizer"])
            schedule.load_state_dict(saved["schedule"])
    with Progress(config.what, config.num_steps, done=step) as progress:
        while step < config.num_steps:
            loss = loss_of_step(step)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(trained, config.max_gradient_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            recent = loss.item() if step == 0 else 0.95 * recent + 0.05 * loss.item()
            step += 1
            progress.advance(note=f"loss {recent:.3f}")
            if checkpoint and step % STEPS_BETWEEN_CHECKPOINTS == 0:
                _save(
                    checkpoint,
                    run=run,
                    step=step,
                    recent=recent,
                    parameters={name: p.detach() for name, p in parameters.items()},
                    optimizer=optimizer.state_dict(),
                    schedule=schedule.state_dict(),
                )
    return recent


def _keep_freed_memory() -> None:
    """Tells glibc to keep large freed blocks. It returns them to the kernel otherwise, which clears them anew
    for every tensor: measured as a third of the processor time of a training step."""
    m_mmap_max, m_trim_threshold = -4, -1
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)


def _save(path: Path, **state: Any) -> None:
    """Whole or not at all: a kill while writing leaves the checkpoint before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    torch.save(state, unfinished)
    os.replace(unfinished, path)
