"""The two stages of a prompter's training: rewrites that are shown to it, then its own, by what they earn.

`align_pro_loss.py` has the objective, `prompter_policy.py` the model, `align_pro_answers.py` the rewards.
Every rollout is of the weights that its gradient is taken at: one step of the optimizer for each group.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from steer_server.catalogue.manifest import file_sha256
from steer_server.errors import TrainingError
from steer_server.frozen.prompter_template import TEMPLATE_VERSION
from steer_server.frozen.rewrite_checks import Reason, check_rewrite
from steer_server.frozen.rewriting import CHARACTERS_PER_TOKEN
from steer_server.training.align_pro_answers import Asked, FrozenModel
from steer_server.training.align_pro_data import RewritePair, drawn, read_align_pro_data
from steer_server.training.align_pro_loss import divergence_per_position, policy_loss
from steer_server.training.align_pro_recipe import AlignProRecipe
from steer_server.training.align_pro_rollouts import Rollout, RolloutFile
from steer_server.training.answers import Batch, position_logits
from steer_server.training.loop import LoopConfig, fingerprint, train
from steer_server.training.prompter_policy import Prompter, group_example, pair_example

CURVE_PARTS = 10


@dataclass(frozen=True)
class Rewrite:
    """What a prompter makes of a prompt, and whether it may be sent."""

    ids: tuple[int, ...]
    text: str
    reason: str
    """Why it may not; empty when it may."""


class AlignProTrainer:
    """Everything that a step number decides, and the files that a stopped run goes on from.

    Args:
        work: directory of these files.
    """

    def __init__(
        self, model_path: Path, recipe: AlignProRecipe, data: Path, work: Path, frozen: FrozenModel
    ) -> None:
        self.recipe, self.work, self.frozen = recipe, work, frozen
        self.served = frozen.describe()
        found = read_align_pro_data(recipe, data)
        self.prompter = Prompter(
            model_path, recipe.rank, recipe.alpha, recipe.rewriting.temperature, recipe.seed
        )
        self.held_out = found.held_out
        self.prompts = tuple(prompt for prompt in found.prompts if self.is_short(prompt))
        self.pairs = tuple(pair for pair in found.pairs if self._is_usable(pair))
        self.held_out_pairs = tuple(pair for pair in found.held_out_pairs if self._is_usable(pair))
        self.trained_units = {*self.prompts, *(pair.prompt for pair in self.pairs)}
        num_pairs = len(found.pairs) + len(found.held_out_pairs)
        self.counts = {
            "pairs_trained": len(self.pairs),
            "pairs_held_out": len(self.held_out_pairs),
            "pairs_left_out": num_pairs - len(self.pairs) - len(self.held_out_pairs),
            "prompts_trained": len(self.prompts),
            "prompts_left_out": len(found.prompts) - len(self.prompts),
            "prompts_held_out": len(self.held_out),
        }
        if not self.pairs or not self.prompts:
            raise TrainingError(
                f"{recipe.name}: nothing to train on is within the limits of `rewriting`: {self.counts}"
            )
        files = sorted({source.file for source in (*recipe.pairs, *recipe.prompts)})
        inputs = {
            "model": str(model_path),
            "template": TEMPLATE_VERSION,
            "data": {file: file_sha256(data / file) for file in files},
        }
        first = recipe.model_dump(
            mode="json", include={"pairs", "rank", "alpha", "warm_start", "rewriting", "seed"}
        )
        whole = recipe.model_dump(mode="json", exclude={"description", "licence", "known_failures"})
        self.warm_start_run = fingerprint({**inputs, "recipe": first})
        """One warm start serves several ways of rewarding what follows."""
        self.policy_run = fingerprint({**inputs, "recipe": whole, "served": self.served})
        self.warm_start_checkpoint = work / "warm-start.checkpoint"
        self.policy_checkpoint = work / "policy.checkpoint"
        self.rollouts = RolloutFile(work / "rollouts.jsonl", self.policy_run)

    def train(self) -> dict[str, Any]:
        """Trains the prompter, or goes on where a stopped run was. Returns: scores for the card."""
        warm_start = self.start_warm()
        policy = self.recipe.policy
        train(
            self.prompter.parameters,
            self.policy_loss,
            LoopConfig(f"{self.recipe.name}, policy", policy.num_steps, policy.learning_rate),
            self.policy_checkpoint,
            self.policy_run,
        )
        return {**self.counts, "warm_start": warm_start, "curve": self.rollouts.curve(CURVE_PARTS)}

    def forget(self) -> None:
        """Removes what only a stopped run needs; the warm start stays for a run with other rewards."""
        for path in (self.warm_start_checkpoint, self.policy_checkpoint, self.rollouts.path):
            path.unlink(missing_ok=True)

    def start_warm(self) -> dict[str, float]:
        """Stage 1, which a later run finds in the work directory. Returns: nats per token on the pairs that
        are held out, before and after; empty when none are."""
        path = self.work / f"warm-start-{self.warm_start_run[:16]}.safetensors"
        before = self._held_out_nats()
        if not path.exists():
            settings = self.recipe.warm_start
            train(
                self.prompter.parameters,
                self.warm_start_loss,
                LoopConfig(f"{self.recipe.name}, warm start", settings.num_steps, settings.learning_rate),
                self.warm_start_checkpoint,
                self.warm_start_run,
            )
            unfinished = path.with_suffix(".unfinished")
            save_file(self.prompter.state(), unfinished)
            os.replace(unfinished, path)
        self.prompter.start_from(load_file(path))
        after = self._held_out_nats()
        return {"before": before, "after": after} if before is not None and after is not None else {}

    def warm_start_loss(self, step: int) -> torch.Tensor:
        """Mean negative log-likelihood of the rewrites' tokens, nats."""
        settings = self.recipe.warm_start
        return self._nats(drawn(self.pairs, settings.batch_size, step, self.recipe.seed))

    def policy_loss(self, step: int) -> torch.Tensor:
        """Stage 2: the loss of one step, with rollouts of the weights as they are."""
        rollouts = self.rollouts.get(step)
        if rollouts is None:
            rollouts = self.rollouts.add(step, self.roll_out(step))
        size = self.recipe.policy.group_size
        groups = [rollouts[n : n + size] for n in range(0, len(rollouts), size)]
        batch = self.prompter.batch([group_example(g[0].prompt, [r.ids for r in g]) for g in groups])
        log_prob_N_G, divergence_N_G = self.log_prob_and_divergence(batch)
        rewards_N_G = torch.tensor([[r.reward for r in group] for group in groups])
        return policy_loss(
            log_prob_N_G, divergence_N_G, rewards_N_G.to(log_prob_N_G), self.recipe.policy.beta
        )

    def roll_out(self, step: int) -> list[Rollout]:
        """Rewrites of the step's prompts with their rewards, each prompt's side by side.

        Raises: TrainingError when the server fails.
        """
        policy = self.recipe.policy
        prompts = drawn(self.prompts, policy.prompts_per_step, step, self.recipe.seed)
        groups = self.prompter.sample(
            prompts, policy.group_size, self.recipe.rewriting.max_tokens, seed=self.recipe.seed + step
        )
        sampled = [
            (prompt, self.checked(prompt, ids))
            for prompt, group in zip(prompts, groups, strict=True)
            for ids in group
        ]
        first_seed = self.recipe.seed + step * len(sampled)
        asked = [
            Asked(prompt, rewrite.text, first_seed + n)
            for n, (prompt, rewrite) in enumerate(sampled)
            if not rewrite.reason
        ]
        answered = iter(self.frozen.answers(asked))
        return [
            Rollout(
                prompt,
                rewrite.ids,
                rewrite.text,
                rewrite.reason,
                policy.failure_reward if rewrite.reason else self.recipe.reward(next(answered).scores),
            )
            for prompt, rewrite in sampled
        ]

    def log_prob_and_divergence(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """`log ρ(x')` and `K(x')` of sampled groups, each `[N, G]`."""
        with self.prompter.warm_start():
            log_q_P_V = self.prompter.log_policy(batch)
        log_p_P_V = self.prompter.log_policy(batch)
        token_P = log_p_P_V.gather(1, batch.tokens_P[:, None]).squeeze(1)
        divergence_P = divergence_per_position(log_p_P_V, log_q_P_V)
        num_answers = sum(len(shares) for shares in batch.shares)
        both = [
            torch.zeros(num_answers, device=token_P.device).index_add(0, batch.answers_P, each)
            for each in (token_P, divergence_P)
        ]
        return both[0].view(len(batch.shares), -1), both[1].view(len(batch.shares), -1)

    def is_short(self, prompt: str) -> bool:
        """Whether the prompter is asked at all."""
        return len(prompt) <= CHARACTERS_PER_TOKEN * self.recipe.rewriting.max_tokens

    def checked(self, prompt: str, ids: tuple[int, ...]) -> Rewrite:
        """What the prompter wrote, checked as when served."""
        encoder = self.prompter.encoder
        text = encoder.text(ids)
        if not encoder.has_ended(ids):
            return Rewrite(ids, text, Reason.CUT.value)
        problem = check_rewrite(prompt, text)
        return Rewrite(ids, text, problem.reason.value if problem else "")

    def _is_usable(self, pair: RewritePair) -> bool:
        """Within the limits, and such as would be served."""
        encoder = self.prompter.encoder
        is_short = encoder.num_text_tokens(pair.rewrite) < self.recipe.rewriting.max_tokens
        return is_short and self.is_short(pair.prompt) and check_rewrite(pair.prompt, pair.rewrite) is None

    def _nats(self, pairs: Sequence[RewritePair]) -> torch.Tensor:
        batch = self.prompter.batch([pair_example(pair.prompt, pair.rewrite) for pair in pairs])
        return F.cross_entropy(position_logits(self.prompter.model, batch), batch.tokens_P)

    @torch.no_grad()
    def _held_out_nats(self) -> float | None:
        pairs = self.held_out_pairs
        return sum(float(self._nats([pair])) for pair in pairs) / len(pairs) if pairs else None
