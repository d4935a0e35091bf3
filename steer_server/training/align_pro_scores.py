"""What a prompter gains on prompts that it never saw: its warm start's and its own, beside the plain prompt.

plain prompt              what the frozen model answers to the user's own words
plain prompt, other seed  the same again: what no difference looks like
warm start                rewrites of the prompter before policy optimisation
trained                   rewrites of the prompter

All but the first are answered with one seed. Rewrites are greedy, and one that fails its checks is replaced
by the prompt, both as when served. Rewards are of the heads that training maximised, so they say how well it
did that and not how much better people would find the answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from steer_server.evaluation.intervals import bootstrap_95
from steer_server.evaluation.win_rate.scores import Duel, compare
from steer_server.frozen.rewrite_checks import Reason
from steer_server.progress import Progress
from steer_server.training.align_pro_answers import Answered, Asked
from steer_server.training.align_pro_trainer import AlignProTrainer, Rewrite
from steer_server.training.prompter_policy import group_example

PLAIN, NOISE, WARM_START, TRAINED = "plain prompt", "plain prompt, other seed", "warm start", "trained"
PROMPTS_PER_BATCH = 8

Rewrites = Mapping[str, Rewrite]
"""By prompt; prompts that are too long to be rewritten are not there."""


def held_out_scores(trainer: AlignProTrainer) -> dict[str, Any]:
    """A row for each of the four ways.

    Raises: TrainingError when the server fails.
    """
    recipe, prompts = trainer.recipe, trainer.held_out
    short = [prompt for prompt in prompts if trainer.is_short(prompt)]
    with trainer.prompter.warm_start():
        before = _rewrites(trainer, short, WARM_START)
    after = _rewrites(trainer, short, TRAINED)
    sent = {
        PLAIN: list(prompts),
        NOISE: list(prompts),
        WARM_START: [_sent(prompt, before) for prompt in prompts],
        TRAINED: [_sent(prompt, after) for prompt in prompts],
    }
    asked = [
        Asked(prompt, text, recipe.seed + (way != PLAIN))
        for way, texts in sent.items()
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    answered = iter(trainer.frozen.answers(asked, f"{recipe.name}, held out"))
    answers = {way: [next(answered) for _ in prompts] for way in sent}
    rows = {way: _row(trainer, found, answers[PLAIN], way) for way, found in answers.items()}
    num_long = len(prompts) - len(short)
    for way, rewrites in ((WARM_START, before), (TRAINED, after)):
        rows[way] |= _describe(trainer, rewrites, num_long)
    rows[WARM_START]["divergence"] = 0.0
    rows[TRAINED]["divergence"] = divergence(trainer, short)
    return {"prompts": len(prompts), "ways": rows}


def _rewrites(trainer: AlignProTrainer, prompts: Sequence[str], what: str) -> dict[str, Rewrite]:
    found: dict[str, Rewrite] = {}
    with Progress(f"{trainer.recipe.name}, {what}", len(prompts), "rewrites") as progress:
        for start in range(0, len(prompts), PROMPTS_PER_BATCH):
            some = prompts[start : start + PROMPTS_PER_BATCH]
            written = trainer.prompter.greedy(some, trainer.recipe.rewriting.max_tokens)
            found |= {p: trainer.checked(p, ids) for p, ids in zip(some, written, strict=True)}
            progress.advance(len(some))
    return found


def _sent(prompt: str, rewrites: Rewrites) -> str:
    rewrite = rewrites.get(prompt)
    return prompt if rewrite is None or rewrite.reason else rewrite.text


def _row(
    trainer: AlignProTrainer, answers: Sequence[Answered], plain: Sequence[Answered], way: str
) -> dict[str, Any]:
    recipe = trainer.recipe
    reward_N = np.array([recipe.reward(answer.scores) for answer in answers])
    bounds = bootstrap_95(len(reward_N), lambda drawn: float(reward_N[drawn].mean()), recipe.seed)
    row: dict[str, Any] = {
        "mean_reward": _rounded(float(reward_N.mean())),
        "mean_reward_95": [_rounded(bound) for bound in bounds],
        "heads": {h: _rounded(float(np.mean([a.scores[h] for a in answers]))) for h in recipe.heads},
    }
    if way != PLAIN:
        duels = [
            Duel(
                recipe.reward(ours.scores),
                recipe.reward(theirs.scores),
                ours.num_tokens,
                theirs.num_tokens,
                ours.text == theirs.text,
            )
            for ours, theirs in zip(answers, plain, strict=True)
        ]
        row["against_plain"] = compare(duels, recipe.seed)
    return row


def _describe(trainer: AlignProTrainer, rewrites: Rewrites, num_long: int) -> dict[str, Any]:
    """What the rewrites are, those that fail among them."""
    reasons = Counter(rewrite.reason for rewrite in rewrites.values() if rewrite.reason)
    reasons[Reason.TOO_LONG_TO_REWRITE.value] = num_long
    count = trainer.prompter.encoder.num_text_tokens
    passed = {prompt: rewrite.text for prompt, rewrite in rewrites.items() if not rewrite.reason}
    ratios = [count(text) / count(prompt) for prompt, text in passed.items()]
    return {
        "replaced": {reason: num for reason, num in sorted(reasons.items()) if num},
        "replaced_share": _rounded(reasons.total() / (len(rewrites) + num_long)),
        "unchanged_share": _rounded(_mean([text == prompt for prompt, text in passed.items()])),
        "length_ratio": _rounded(_mean(ratios)),
        "mean_tokens": _rounded(_mean([count(text) for text in passed.values()])),
    }


@torch.no_grad()
def divergence(trainer: AlignProTrainer, prompts: Sequence[str]) -> float:
    """KL(ρ ‖ ρ_sft) in nats, estimated from one sampled rewrite of each prompt: the mean of `K(x')`."""
    recipe = trainer.recipe
    groups = trainer.prompter.sample(prompts, 1, recipe.rewriting.max_tokens, recipe.seed)
    examples = [group_example(prompt, group) for prompt, group in zip(prompts, groups, strict=True)]
    found: list[float] = []
    for start in range(0, len(examples), PROMPTS_PER_BATCH):
        batch = trainer.prompter.batch(examples[start : start + PROMPTS_PER_BATCH])
        found += trainer.log_prob_and_divergence(batch)[1].flatten().tolist()
    return _rounded(_mean(found))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
