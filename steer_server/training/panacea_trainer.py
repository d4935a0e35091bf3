"""The trainer of a preference adapter: what every step does, and the accuracy of what comes out.

Every step draws a preference vector λ, writes it into the adapter's diagonal, and goes down the aggregate of
the axes' DPO losses: `Σ_i λ_i L_i` (linear) or `max_i λ_i (L_i - z_i)` (Tchebycheff), as in Panacea
(arXiv 2402.02030), with linear also `Σ_i λ_i L_i + h (1 - λ_i) H_i`, which keeps what weight 0 promises: H_i
is least at the base model. `svd_lora.py` has the layer, `preference_loss.py` the losses,
`preference_data.py` the pairs.

The Tchebycheff aggregate is of minibatch losses, whose maximum lies above the maximum of the true losses.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from steer_server.catalogue.manifest import file_sha256
from steer_server.progress import Progress
from steer_server.training.answers import Batch, answer_log_probs, position_logits
from steer_server.training.base_weights import load_base
from steer_server.training.loop import LoopConfig, fingerprint, train
from steer_server.training.panacea_recipe import PanaceaRecipe
from steer_server.training.preference_baselines import baselines
from steer_server.training.preference_data import (
    PairSampler,
    PreferencePair,
    axis_split,
    spread,
    without_near_copies,
)
from steer_server.training.preference_loss import (
    PairEncoder,
    dpo_loss,
    draw_axes,
    hardest_axis,
    held_certainty,
    margins,
    per_token,
    pull,
    sample_preference,
    sft_loss,
)
from steer_server.training.svd_lora import SvdLora

PAIRS_PER_SCORING_BATCH = 4
"""The LM head's float32 outputs for four pairs are some hundred megabytes."""

LogProbs = tuple[float, float]
"""Of (chosen, rejected); per token if the recipe says so."""


class PanaceaTrainer:
    """The base model with one SVD-LoRA, and everything that a step number decides.

    Args:
        work: directory for the checkpoint and the reference's log-probabilities.
    """

    def __init__(self, model_path: Path, recipe: PanaceaRecipe, data: Path, work: Path) -> None:
        from transformers import AutoTokenizer

        self.recipe, self.work = recipe, work
        settings = recipe.training
        splits = [axis_split(recipe, axis.axis, data) for axis in recipe.axes]
        distinct = [without_near_copies(held_out, training) for training, held_out in splits]
        self.num_pairs = {
            axis.axis: {
                "trained": len(training),
                "held_out": len(held_out),
                "near_copies": len(held_out) - len(apart),
            }
            for axis, (training, held_out), apart in zip(recipe.axes, splits, distinct, strict=True)
        }
        self.training_pairs = [training for training, _ in splits]
        self.samplers = [PairSampler(pairs, settings.batch_size) for pairs in self.training_pairs]
        self.scored = [spread(pairs, settings.scored_pairs, settings.seed) for pairs in distinct]
        files = sorted({source.file for source in recipe.sources.values() if (data / source.file).exists()})
        self.run = fingerprint(
            {
                "model": str(model_path),
                "recipe": recipe.model_dump(mode="json"),
                "data": {file: file_sha256(data / file) for file in files},
            }
        )
        self.encoder = PairEncoder(
            AutoTokenizer.from_pretrained(model_path), settings.max_prompt_tokens, settings.max_answer_tokens
        )
        self.model = load_base(model_path)
        self.device = self.model.device
        self.lora = SvdLora(
            self.model,
            settings.num_shared_ranks,
            len(recipe.axes),
            settings.initial_scale,
            settings.seed,
            settings.ranks_per_axis,
        )
        self.reference: dict[PreferencePair, LogProbs] = {}

    def plan(self, step: int) -> tuple[list[float], list[tuple[int, list[PreferencePair]]]]:
        """λ and the minibatches (axis index, pairs) of a step, which follow from seed and step alone."""
        settings, num_axes = self.recipe.training, len(self.recipe.axes)
        key = f"{settings.seed}:{step}"
        preference = sample_preference(
            num_axes, settings.concentration, settings.vertex_share, f"{key}:preference"
        )
        counted = [pull(weight, settings.hold) for weight in preference]
        if self._draws_axes:
            axes = draw_axes(counted, settings.axes_per_step, f"{key}:axes")
        else:
            axes = [i for i, count in enumerate(counted) if count > 0]
        return preference, [(axis, self.samplers[axis].draw(f"{key}:{n}")) for n, axis in enumerate(axes)]

    @property
    def _draws_axes(self) -> bool:
        settings = self.recipe.training
        return settings.aggregation == "linear" and settings.axes_per_step > 0

    def train(self) -> dict[str, Any]:
        """Trains the adapter, or goes on where a stopped run was. Returns: scores for the card."""
        settings = self.recipe.training
        started = time.monotonic()
        self._read_reference()
        last_loss = train(
            self.lora.parameters,
            self.loss,
            LoopConfig(self.recipe.name, settings.num_steps, settings.learning_rate),
            self.checkpoint,
            self.run,
        )
        seconds = round(time.monotonic() - started)
        return {"last_loss": last_loss, "training_seconds": seconds, "pairs": self.num_pairs, **self.scores()}

    @property
    def trained_units(self) -> set[str]:
        """Prompts of the pairs that minibatches are drawn from."""
        return {pair.unit for pairs in self.training_pairs for pair in pairs}

    @property
    def checkpoint(self) -> Path:
        return self.work / "panacea.checkpoint"

    @property
    def reference_file(self) -> Path:
        return self.work / "reference.pt"

    def loss(self, step: int) -> torch.Tensor:
        """The aggregated loss of one step."""
        preference, minibatches = self.plan(step)
        self.lora.set_preference(preference)
        if self.recipe.training.aggregation == "tchebycheff":
            # Only the hardest axis has a gradient, so the others need no backward pass.
            with torch.no_grad():
                losses = [self.axis_loss(axis, pairs).item() for axis, pairs in minibatches]
            ideals = [self.recipe.axes[axis].ideal for axis, _ in minibatches]
            hardest = hardest_axis(losses, [preference[axis] for axis, _ in minibatches], ideals)
            axis, pairs = minibatches[hardest]
            return preference[axis] * (self.axis_loss(axis, pairs) - ideals[hardest])
        found = torch.stack([self.axis_loss(axis, pairs, preference[axis]) for axis, pairs in minibatches])
        if self._draws_axes:
            return found.mean()
        hold = self.recipe.training.hold
        weights = torch.tensor([pull(preference[axis], hold) for axis, _ in minibatches], device=found.device)
        return (weights * found).sum()

    def axis_loss(self, axis: int, pairs: Sequence[PreferencePair], weight: float = 1.0) -> torch.Tensor:
        """A minibatch's loss under the λ that is set: DPO, plus the chosen answers' likelihood if asked.

        *Semantics*: `(λ_i L_i + h (1 - λ_i) H_i) / v_i`, so L_i at weight 1.
        """
        hold = self.recipe.training.hold
        batch = self.encoder.pairs(pairs).to(self.device)
        log_probs = torch.stack(answer_log_probs(position_logits(self.model, batch), batch))
        reference = torch.tensor([self.reference[pair] for pair in pairs], device=self.device)
        certainty = torch.tensor([pair.certainty for pair in pairs], device=self.device)
        certainty = held_certainty(certainty, weight, hold)
        loss = dpo_loss(
            margins(self._compared(log_probs, batch), reference), certainty, self.recipe.axes[axis].beta
        )
        if (sft_weight := self.recipe.training.sft_weight * weight / pull(weight, hold)) > 0:
            loss = loss + sft_weight * sft_loss(log_probs, batch)
        return loss

    def _compared(self, log_probs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """What Δ is of: log-probabilities of answers, or theirs per token."""
        return per_token(log_probs, batch) if self.recipe.training.per_token else log_probs

    def _read_reference(self) -> None:
        """The base model's log-probabilities of every pair that the run will meet, once per run."""
        steps = range(self.recipe.training.num_steps)
        met = [pair for step in steps for _, pairs in self.plan(step)[1] for pair in pairs]
        unique = list(dict.fromkeys([*met, *(pair for pairs in self.scored for pair in pairs)]))
        # What is scored may change between versions while the run and its checkpoint stay the same.
        run = fingerprint({"run": self.run, "pairs": [asdict(pair) for pair in unique]})
        if self.reference_file.exists():
            saved = torch.load(self.reference_file, weights_only=True)
            if saved["run"] == run:
                rows = saved["log_probs"].tolist()
                self.reference = {pair: (row[0], row[1]) for pair, row in zip(unique, rows, strict=True)}
                return
        with self.lora.reference():
            self.reference = self.log_probs(unique, f"{self.recipe.name}, base model")
        log_probs = torch.tensor([self.reference[pair] for pair in unique], dtype=torch.float64)
        self.work.mkdir(parents=True, exist_ok=True)
        unfinished = self.reference_file.with_suffix(".unfinished")
        torch.save({"run": run, "log_probs": log_probs}, unfinished)
        os.replace(unfinished, self.reference_file)

    @torch.no_grad()
    def log_probs(self, pairs: Sequence[PreferencePair], what: str) -> dict[PreferencePair, LogProbs]:
        """What Δ is of, of (chosen, rejected), under the λ that is set."""
        found: dict[PreferencePair, LogProbs] = {}
        ordered = sorted(pairs, key=lambda p: len(p.messages[-1][1]) + len(p.chosen) + len(p.rejected))
        with Progress(what, len(ordered), unit="pairs") as progress:
            for start in range(0, len(ordered), PAIRS_PER_SCORING_BATCH):
                chunk = ordered[start : start + PAIRS_PER_SCORING_BATCH]
                batch = self.encoder.pairs(chunk).to(self.device)
                log_probs = torch.stack(answer_log_probs(position_logits(self.model, batch), batch))
                for pair, both in zip(chunk, self._compared(log_probs, batch), strict=True):
                    found[pair] = (float(both[0]), float(both[1]))
                progress.advance(len(chunk))
        return found

    def scores(self) -> dict[str, Any]:
        """Preference accuracy per axis on held-out pairs, for the base model, at every vertex of the simplex
        and at the uniform λ; measures as in `preference_scores`, baselines as in `preference_baselines`."""
        axes = [axis.axis for axis in self.recipe.axes]
        num_axes = len(axes)
        asked: list[tuple[str, list[float] | None]] = [("base model", None)]
        asked += [(f"{axis} alone", [float(axis == a) for a in axes]) for axis in axes]
        if num_axes > 1:
            asked.append(("uniform", [1 / num_axes] * num_axes))
        settings = []
        for label, preference in asked:
            self.lora.set_preference(preference)
            rows = {}
            for axis, pairs in zip(self.recipe.axes, self.scored, strict=True):
                found = self.reference
                if preference is not None:
                    found = self.log_probs(pairs, f"{label}: {axis.axis}")
                rows[axis.axis] = preference_scores(
                    [found[pair] for pair in pairs], [self.reference[pair] for pair in pairs], axis.beta
                )
            settings.append({"label": label, "preference": preference, "axes": rows})
        last: dict[str, dict[str, float]] = settings[-1]["axes"]  # type: ignore[assignment]
        return {
            "pairs_scored": {axis: len(pairs) for axis, pairs in zip(axes, self.scored, strict=True)},
            "baselines": {
                axis: baselines(scored, training)
                for axis, scored, training in zip(axes, self.scored, self.training_pairs, strict=True)
            },
            "settings": settings,
            "worst_axis": min(axes, key=lambda axis: last[axis]["log_ratio"]),
        }


def preference_scores(
    log_probs: Sequence[LogProbs], reference: Sequence[LogProbs], beta: float
) -> dict[str, float]:
    """Over pairs, ties counting half; 0.5 for the reference itself but where said.

    *Semantics*: `likelihood`: share with `log π(y_w) > log π(y_l)`, also for the reference; `log_ratio`:
    share with `Δ > 0`; `objective`: mean of `σ(βΔ)`, which counts how far a pair moved, too.
    """

    def share(differences: Sequence[float]) -> float:
        return sum(1.0 if d > 0 else 0.5 if d == 0 else 0.0 for d in differences) / len(differences)

    plain = [chosen - rejected for chosen, rejected in log_probs]
    base = [chosen - rejected for chosen, rejected in reference]
    deltas = [p - b for p, b in zip(plain, base, strict=True)]
    return {
        "likelihood": share(plain),
        "log_ratio": share(deltas),
        "objective": sum(0.5 + 0.5 * math.tanh(0.5 * beta * delta) for delta in deltas) / len(deltas),
    }
